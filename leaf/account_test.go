package leaf

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

func TestSubjectMap(t *testing.T) {
	for _, c := range []struct{ from, to, subject, want string }{
		{"a", "b", "a", "b"}, {"a", "b", "b", ""}, {"a.*", "b.*.c", "a.x", "b.x.c"}, {"a.*", "b.*.c", "a.x.y", ""},
		{"*.*", "z.$2.$1", "p.q", "z.q.p"}, {"a.>", "b.>", "a.x.y", "b.x.y"}, {"a.>", "b.>", "a", ""}, {">", "p.>", "a.b", "p.a.b"},
		{"a.*.>", "b.$1.c.>", "a.1.2.3", "b.1.c.2.3"}, {"a.*", "a.*", "a", ""},
	} {
		m, err := newSubjectMap(c.from, c.to)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := m.subject([]byte(c.subject))
		if string(got) != c.want || ok != (c.want != "") {
			t.Errorf("%s to %s: %q becomes %q, want %q", c.from, c.to, c.subject, got, c.want)
		}
		if back, _ := m.reverse().subject(got); ok && string(back) != c.subject {
			t.Errorf("%s to %s: %q comes back as %q", c.from, c.to, c.subject, back)
		}
	}
	for _, c := range []struct{ from, to, filter, want string }{
		{"a.>", "p.a.>", "a.*.c", "p.a.*.c"}, {"a.*", "b.*", "a.>", "b.*"}, {"a.*", "b.*", ">", "b.*"}, {"a.*", "b.*", "c.>", ""},
		{"*.x", "$1", "q.>", "q"}, {"a.>", "b.>", "*.*", "b.*"},
	} {
		m, err := newSubjectMap(c.from, c.to)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := m.filter(c.filter); got != c.want || ok != (c.want != "") {
			t.Errorf("%s to %s: filter %q becomes %q, want %q", c.from, c.to, c.filter, got, c.want)
		}
	}
	for _, c := range [][2]string{{"a.*", "b"}, {"a.*", "b.*.*"}, {"a.*.*", "b.$1.$1"}, {"a.*", "b.$2"}, {"a.>", "b"}, {"a", "b.>"}, {"a..", "b"}, {"a", ""}, {"a.*", "b.$0"}} {
		if m, err := newSubjectMap(c[0], c[1]); err == nil {
			t.Errorf("%q to %q is taken: %+v", c[0], c[1], m)
		}
	}
}

// Maps are written by people: whatever they write, it is refused or goes both ways.
func FuzzSubjectMap(f *testing.F) {
	f.Add("a.*", "b.$1", "a.x")
	f.Add("a.*.>", "b.>.*", "a.1.2")
	f.Add("*.*", "$2.$1", "..")
	f.Fuzz(func(t *testing.T, from, to, subject string) {
		m, err := newSubjectMap(from, to)
		if err != nil || !msg.ValidSubject(subject) {
			return
		}
		there, ok := m.subject([]byte(subject))
		if ok != msg.Match(m.source(), subject) {
			t.Fatalf("%q matches %q: %v", m.source(), subject, ok)
		}
		if !ok {
			return
		}
		if !msg.ValidSubject(there) || !msg.Match(m.target(), string(there)) {
			t.Fatalf("%q becomes %q, which is not of %q", subject, there, m.target())
		}
		if back, ok := m.reverse().subject(there); !ok || string(back) != subject {
			t.Fatalf("%q becomes %q and comes back as %q", subject, there, back)
		}
	})
}

// accounts makes an Auth with these accounts and returns their routers.
func accounts(t testing.TB, cfg AuthConfig) (*Auth, func(name string) *Router) {
	t.Helper()
	a, err := NewAuth(cfg, NewRouter())
	if err != nil {
		t.Fatal(err)
	}
	return a, func(name string) *Router {
		t.Helper()
		r, ok := a.Router(name)
		if !ok {
			t.Fatalf("no account %q", name)
		}
		return r
	}
}

func streamAndService() AuthConfig {
	return AuthConfig{Accounts: []AccountConfig{
		{Name: "A", Exports: []Export{{Subject: "pub.>"}, {Subject: "svc", Service: true, Threshold: time.Minute}}},
		{Name: "B", Imports: []Import{{Account: "A", Subject: "pub.>", Prefix: "p"}, {Account: "A", Subject: "svc", Service: true, To: "ask"}}},
	}}
}

// A hub is told what its account wants for others: subscriptions to what they
// import, requests that they send on, answers on their way; and of each change.
func TestInterestAcrossAccounts(t *testing.T) {
	a, router := accounts(t, streamAndService())
	watch := func(r *Router) map[string]int {
		seen := map[string]int{}
		r.Interest(func(subject, queue string, n int) {
			if strings.HasPrefix(subject, "_R_.") {
				subject = "answers"
			}
			if seen[subject+" "+queue] = n; n == 0 {
				delete(seen, subject+" "+queue)
			}
		})
		return seen
	}
	early := router("A")
	inA, inB := watch(early), watch(router("B"))
	check := func(what string, got, want map[string]int) {
		t.Helper()
		if !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
		if got, late := got, watch(early); maps.Equal(got, inA) && !maps.Equal(late, inA) {
			t.Errorf("%s: who looks later sees %v", what, late)
		}
	}
	check("A at first", inA, map[string]int{"answers ": 1})
	check("B at first", inB, map[string]int{"ask ": 1})
	p := router("B").Attach("b", takesAll{}, EachSub)
	all, some, group := &msg.Sub{Subject: ">"}, &msg.Sub{Subject: "p.pub.x"}, &msg.Sub{Subject: "p.*.*", Queue: "q"}
	for _, s := range []*msg.Sub{all, some, group} {
		if err := p.Subscribe(s); err != nil {
			t.Fatal(err)
		}
	}
	check("A", inA, map[string]int{"answers ": 1, "pub.> ": 1, "pub.x ": 1, "pub.* q": 1})
	p.Unsubscribe(all)
	check("A without one", inA, map[string]int{"answers ": 1, "pub.x ": 1, "pub.* q": 1})
	cfg := streamAndService()
	cfg.Accounts[1].Imports = nil
	if err := a.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	check("A without imports", inA, map[string]int{})
	check("B without imports", inB, map[string]int{"p.pub.x ": 1, "p.*.* q": 1})
	if err := a.Apply(streamAndService()); err != nil {
		t.Fatal(err)
	}
	check("A with them again", inA, map[string]int{"answers ": 1, "pub.x ": 1, "pub.* q": 1})
	p.Close()
	check("A at the end", inA, map[string]int{"answers ": 1})
}

// A match that was remembered goes stale with what it saw in another account, at any
// distance.
func TestMatchesSeeOtherAccountsChange(t *testing.T) {
	cfg := streamAndService()
	cfg.Accounts[1].Exports = []Export{{Subject: "ask", Service: true}}
	cfg.Accounts = append(cfg.Accounts, AccountConfig{Name: "C", Imports: []Import{{Account: "B", Subject: "ask", Service: true}}})
	_, router := accounts(t, cfg)
	from := map[string]*Port{}
	for _, name := range []string{"A", "C"} {
		from[name] = router(name).Attach("pub", nil, EachSub)
	}
	taken := func(account, subject string, want int) {
		t.Helper()
		for range 3 { // so that it is remembered
			if rc := from[account].Publish(&msg.Msg{Subject: []byte(subject)}); rc.Taken != want {
				t.Fatalf("%s in %s: taken by %d, want %d", subject, account, rc.Taken, want)
			}
		}
		from[account].Flush()
	}
	taken("A", "pub.x", 0)
	taken("C", "ask", 0)
	b, svc := router("B").Attach("b", takesAll{}, EachSub), router("A").Attach("svc", takesAll{}, EachSub)
	one, two := &msg.Sub{Subject: "p.pub.*"}, &msg.Sub{Subject: "svc"}
	for range 2 {
		if b.Subscribe(one) != nil || svc.Subscribe(two) != nil {
			t.Fatal("not subscribed")
		}
		taken("A", "pub.x", 1)
		taken("C", "ask", 1)
		b.Unsubscribe(one)
		svc.Unsubscribe(two)
		taken("A", "pub.x", 0)
		taken("C", "ask", 0)
	}
}

// A request from a hub goes to one member of each group that answers, though the hub
// names none.
func TestRequestFromHubReachesGroups(t *testing.T) {
	_, router := accounts(t, streamAndService())
	svc := router("A").Attach("svc", takesAll{}, EachSub)
	for range 2 {
		if err := svc.Subscribe(&msg.Sub{Subject: "svc", Queue: "q"}); err != nil {
			t.Fatal(err)
		}
	}
	hub := router("B").Attach("link", takesAll{}, Uplink)
	if rc := hub.Publish(&msg.Msg{Subject: []byte("ask"), Reply: []byte("r")}); rc.Taken != 1 {
		t.Errorf("%+v", rc)
	}
}

// Requests under way are bounded, grow old, and are told from one another.
func TestRepliesAreBounded(t *testing.T) {
	r := NewRouter()
	r.replies.begin()
	s := &serviceImport{from: &account{router: NewRouter()}, to: &account{router: r}, limit: time.Minute}
	first := r.replies.open(s, []byte("in.1"))
	if w := r.replies.find(first); w == nil || w.subject != "in.1" || !w.take(1) || w.take(1) || r.replies.find(first) != nil {
		t.Errorf("the first: %+v", w)
	}
	seen := map[string]bool{}
	for i := range 3 * maxReplies {
		seen[string(r.replies.open(s, fmt.Appendf(nil, "in.%d", i)))] = true
	}
	if len(seen) != 3*maxReplies || len(r.replies.waiting) > maxReplies+1 || len(r.replies.queue) > 2*maxReplies+1 {
		t.Errorf("%d reply subjects, %d under way, %d remembered", len(seen), len(r.replies.waiting), len(r.replies.queue))
	}
	s.response, s.limit = Streamed, -time.Second
	if old := r.replies.open(s, []byte("in")); r.replies.find(old) != nil {
		t.Error("one that is over may still be answered")
	}
}

func TestAccountsAreChecked(t *testing.T) {
	export := func(e ...Export) AccountConfig { return AccountConfig{Name: "A", Exports: e} }
	imports := func(i ...Import) AccountConfig { return AccountConfig{Name: "B", Imports: i} }
	for _, c := range []struct {
		accounts []AccountConfig
		want     string
	}{
		{[]AccountConfig{{Name: GlobalAccount}}, "reserved"}, {[]AccountConfig{{Name: "a b"}}, "white space"}, {[]AccountConfig{{Name: "A"}, {Name: "A"}}, "twice"},
		{[]AccountConfig{export(Export{Subject: "a..b"})}, "not a subject"},
		{[]AccountConfig{export(Export{Subject: "a", Accounts: []string{"C"}}), imports(Import{Account: "A", Subject: "a"})}, "no account"},
		{[]AccountConfig{export(Export{Subject: "a", Accounts: []string{"A"}}), imports(Import{Account: "A", Subject: "a"})}, "does not export"},
		{[]AccountConfig{export(Export{Subject: "a"}), imports(Import{Account: "A", Subject: "a", Service: true})}, "does not export"},
		{[]AccountConfig{export(Export{Subject: "a"}), imports(Import{Account: "A", Subject: "a"}, Import{Account: "A", Subject: "a", To: "b"})}, "imported twice"},
		{[]AccountConfig{export(Export{Subject: "a"}), imports(Import{Account: "A", Subject: "a", Prefix: "*"})}, "no wildcards"},
		{[]AccountConfig{{Name: "A", Exports: []Export{{Subject: "a"}}, Imports: []Import{{Account: "A", Subject: "a"}}}}, "cycle"},
	} {
		if _, err := NewAuth(AuthConfig{Accounts: c.accounts}, NewRouter()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.accounts, err, c.want)
		}
	}
}

type takesAll struct{}

func (takesAll) Deliver(*msg.Msg, *msg.Sub) msg.Drop { return msg.Taken }

// Behind its first PONG a client that takes an INFO at any time learns its account.
func TestConnectInfo(t *testing.T) {
	cfg := AuthConfig{SystemAccount: "S", Accounts: []AccountConfig{{Name: "A", Limits: Limits{MaxPayload: 100}}, {Name: "S"}}}
	cfg.Users = []User{{Name: "a", Account: "A"}, {Name: "s", Account: "S"}, {Name: "g"}}
	_, addr := startAuth(t, cfg, Options{})
	for user, want := range map[string]clientInfo{
		"a": {Account: "A", MaxPayload: 100}, "s": {Account: "S", System: true, MaxPayload: 1 << 20}, "g": {Account: GlobalAccount, MaxPayload: 1 << 20},
	} {
		c := dial(t, addr, fmt.Sprintf(`{"user":%q}`, user)) // without "protocol"
		c.expect("", "")
		c.expect("", "")
		c.send(`CONNECT {"verbose":false,"pedantic":false,"protocol":1}` + "\r\n") // now it does
		c.expect("", "")
		if got := c.where(); got.Account != want.Account || got.System != want.System || got.MaxPayload != want.MaxPayload {
			t.Errorf("%s is told %+v", user, got)
		}
		c.expect("", "") // once
		c.expect("", "")
	}
}
