package leaf

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// Here the hub is a stock nats-server.

// linkTo runs a link to a hub until the test ends, and waits until it is up.
func linkTo(t testing.TB, o LinkOptions) *Link {
	t.Helper()
	o.ServerName = "edge"
	l := newTestLink(t, o)
	runLink(t, l)
	waitUp(t, l)
	return l
}

// clientOf connects a stock client.
func clientOf(t testing.TB, url string, o ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, append([]nats.Option{nats.Timeout(testkit.Patience)}, o...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// gateway is a link, the router behind it and the address of its clients.
func gateway(t testing.TB, o LinkOptions) (l *Link, url string) {
	t.Helper()
	s, addr := startServer(t, Options{})
	o.ServerName, o.Logger = "edge", slog.New(slog.DiscardHandler)
	l, err := NewLink(o, s.Router())
	if err != nil {
		t.Fatal(err)
	}
	runLink(t, l)
	waitUp(t, l)
	return l, "nats://" + addr
}

// leafz is what the hub says of the only link, its own mark left out.
func leafz(t testing.TB, h *testkit.Hub) (subjects []string) {
	t.Helper()
	for _, leaf := range h.Leafz() {
		for _, s := range leaf.Subjects {
			if !strings.HasPrefix(s, "$LDS.") {
				subjects = append(subjects, s)
			}
		}
	}
	slices.Sort(subjects)
	return subjects
}

func waitLeafz(t testing.TB, h *testkit.Hub, want ...string) {
	t.Helper()
	testkit.Eventually(t, func() bool { return slices.Equal(leafz(t, h), want) }, "the hub knows %q and not %q", want, leafz(t, h))
}

func seedOf(t testing.TB, kp nkeys.KeyPair) (public, seed string) {
	t.Helper()
	public, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	b, err := kp.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return public, string(b)
}

func newKey(t testing.TB, create func() (nkeys.KeyPair, error)) nkeys.KeyPair {
	t.Helper()
	kp, err := create()
	if err != nil {
		t.Fatal(err)
	}
	return kp
}

func TestHubAuthentication(t *testing.T) {
	public, seed := seedOf(t, newKey(t, nkeys.CreateUser))
	_, wrongSeed := seedOf(t, newKey(t, nkeys.CreateUser))
	for _, tc := range []struct {
		name, config, user string
		o                  LinkOptions
		up                 bool
	}{
		{"user and password", `authorization { user: "u", password: "p w" }`, "u:p%20w", LinkOptions{}, true},
		{"wrong password", `authorization { user: "u", password: "p" }`, "u:x", LinkOptions{}, false},
		{"nobody", `authorization { user: "u", password: "p" }`, "", LinkOptions{}, false},
		{"users", `authorization { users: [ { user: a, password: b }, { user: c, password: d } ] }`, "c:d", LinkOptions{}, true},
		{"nkey", `authorization { nkey: ` + public + ` }`, "", LinkOptions{NKeySeed: seed}, true},
		{"wrong nkey", `authorization { nkey: ` + public + ` }`, "", LinkOptions{NKeySeed: wrongSeed}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := testkit.StartHub(t, testkit.HubOptions{Leafnodes: tc.config})
			tc.o.URLs = []string{strings.Replace(h.LeafURL(), "//", "//"+tc.user+"@", 1)}
			if tc.up {
				linkTo(t, tc.o)
				return
			}
			l := newTestLink(t, tc.o)
			runLink(t, l)
			testkit.Eventually(t, func() bool { return strings.Contains(l.Status().LastError, "Authorization Violation") }, "it says why: %+v", l.Status())
			if !isDown(l) {
				t.Errorf("status %+v", l.Status())
			}
		})
	}
}

// The token of the whole hub, which has no place in a leafnodes block.
func TestHubToken(t *testing.T) {
	h := testkit.StartHub(t, testkit.HubOptions{Config: `authorization { token: "s3cret" }`})
	linkTo(t, LinkOptions{URLs: []string{strings.Replace(h.LeafURL(), "//", "//s3cret@", 1)}})
}

// credentials makes an operator's hub configuration, and what makes a .creds file for a
// user of its account.
func credentials(t testing.TB) (config string, creds func(limit func(*jwt.UserClaims)) []byte) {
	t.Helper()
	operator, account, system, user := newKey(t, nkeys.CreateOperator), newKey(t, nkeys.CreateAccount), newKey(t, nkeys.CreateAccount), newKey(t, nkeys.CreateUser)
	opPub, _ := seedOf(t, operator)
	accPub, _ := seedOf(t, account)
	sysPub, _ := seedOf(t, system)
	userPub, userSeed := seedOf(t, user)
	encode := func(c jwt.Claims, by nkeys.KeyPair) string {
		s, err := c.Encode(by)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	op := jwt.NewOperatorClaims(opPub)
	op.SystemAccount = sysPub
	config = fmt.Sprintf("operator: %s\nresolver: MEMORY\nresolver_preload: { %s: %s, %s: %s }\n", encode(op, operator),
		accPub, encode(jwt.NewAccountClaims(accPub), operator), sysPub, encode(jwt.NewAccountClaims(sysPub), operator))
	return config, func(limit func(*jwt.UserClaims)) []byte {
		uc := jwt.NewUserClaims(userPub)
		limit(uc)
		creds, err := jwt.FormatUserConfig(encode(uc, account), []byte(userSeed))
		if err != nil {
			t.Fatal(err)
		}
		return creds
	}
}

func TestHubCredentials(t *testing.T) {
	config, issue := credentials(t)
	creds := issue(func(*jwt.UserClaims) {})
	h := testkit.StartHub(t, testkit.HubOptions{Config: config})
	path := filepath.Join(t.TempDir(), "edge.creds")
	l := newTestLink(t, LinkOptions{URLs: []string{h.LeafURL()}, CredsFile: path})
	runLink(t, l)
	for _, tc := range []struct{ file, want string }{
		{"", "no such file or directory; put a file"},
		{"nothing in it", "credentials " + path},
		{strings.Replace(string(creds), "SU", "SX", 1), "credentials " + path},
	} {
		if tc.file != "" {
			if err := os.WriteFile(path, []byte(tc.file), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		testkit.Eventually(t, func() bool { return strings.Contains(l.Status().LastError, tc.want) }, "%q", tc.want)
	}
	if err := os.WriteFile(path, creds, 0o600); err != nil { // it is read again
		t.Fatal(err)
	}
	waitUp(t, l)
}

// A JWT that runs out ends the link, and says what to do.
func TestHubCredentialsExpire(t *testing.T) {
	config, creds := credentials(t)
	h := testkit.StartHub(t, testkit.HubOptions{Config: config})
	path := filepath.Join(t.TempDir(), "edge.creds")
	for life := 2 * time.Second; ; life *= 2 { // where the machine is too slow to join within it
		err := os.WriteFile(path, creds(func(c *jwt.UserClaims) { c.Expires = time.Now().Add(life).Unix() }), 0o600)
		if err != nil {
			t.Fatal(err)
		}
		l := newTestLink(t, LinkOptions{URLs: []string{h.LeafURL()}, CredsFile: path, ServerName: "edge", ReconnectMin: time.Hour, ReconnectMax: time.Hour})
		stop := runLink(t, l)
		testkit.Eventually(t, func() bool { return l.Status().State == LinkBackingOff }, "it waits")
		stop()
		st := l.Status()
		if strings.Contains(st.LastError, "Authentication Expired; renew the credentials file") {
			return
		}
		if life > testkit.Patience/4 {
			t.Fatalf("a JWT of %v: %+v", life, st)
		}
	}
}

func TestHubWrongPort(t *testing.T) {
	h := testkit.StartHub(t, testkit.HubOptions{})
	for url, want := range map[string]string{h.ClientURL(): "not a leafnode port", strings.Replace(h.MonitorURL(), "http", "nats", 1): "no INFO in time"} {
		l := newTestLink(t, LinkOptions{URLs: []string{url}, FirstInfoTimeout: 100 * time.Millisecond})
		runLink(t, l)
		testkit.Eventually(t, func() bool { return strings.Contains(l.Status().LastError, want) }, "%s: %q", url, want)
	}
}

func TestHubRequestsBothWays(t *testing.T) {
	h := testkit.StartHub(t, testkit.HubOptions{})
	l, url := gateway(t, LinkOptions{URLs: []string{h.LeafURL()}})
	here, there := clientOf(t, url), clientOf(t, h.ClientURL())
	answer := func(m *nats.Msg) {
		r := nats.NewMsg(m.Reply)
		r.Header.Set("Was", m.Header.Get("Is"))
		r.Data = append([]byte("re: "), m.Data...)
		if err := m.RespondMsg(r); err != nil {
			t.Error(err)
		}
	}
	for _, dir := range []struct {
		name     string
		from, to *nats.Conn
	}{{"up", here, there}, {"down", there, here}} {
		t.Run(dir.name, func(t *testing.T) {
			subject := "svc." + dir.name
			sub, err := dir.to.QueueSubscribe(subject, "workers", answer)
			if err != nil {
				t.Fatal(err)
			}
			req := nats.NewMsg(subject)
			req.Header.Set("Is", "x")
			req.Data = []byte(strings.Repeat("y", 100000))
			var got *nats.Msg
			testkit.Eventually(t, func() bool { got, err = dir.from.RequestMsg(req, testkit.Patience/6); return err == nil }, "an answer")
			if got.Header.Get("Was") != "x" || string(got.Data) != "re: "+string(req.Data) {
				t.Errorf("answer of %d bytes, header %v", len(got.Data), got.Header)
			}
			if err := sub.Unsubscribe(); err != nil {
				t.Fatal(err)
			}
			testkit.Eventually(t, func() bool {
				_, err := dir.from.RequestMsg(req, time.Second) // the last of them may cross the LS- of its responder
				return errors.Is(err, nats.ErrNoResponders)
			}, "no responders")
		})
	}
	if st := l.Status(); st.InMsgs < 2 || st.OutMsgs < 2 || st.RTT <= 0 {
		t.Errorf("status %+v", st)
	}
}

// Queue groups have members on both sides: each message has one taker; those
// here come first, and the hub weighs the links by their members.
func TestHubQueueGroups(t *testing.T) {
	h := testkit.StartHub(t, testkit.HubOptions{})
	l, url := gateway(t, LinkOptions{URLs: []string{h.LeafURL()}})
	here, there := clientOf(t, url), clientOf(t, h.ClientURL())
	inbox := make(chan *nats.Msg, 1000)
	for range 3 {
		if _, err := here.ChanQueueSubscribe("jobs", "q", inbox); err != nil {
			t.Fatal(err)
		}
	}
	flush(t, here)
	waitLeafz(t, h, "jobs")
	for range 100 {
		publish(t, there, "jobs")
	}
	testkit.Eventually(t, func() bool { return len(inbox) == 100 }, "100 from the hub")
	far, err := there.QueueSubscribeSync("jobs", "q")
	if err != nil {
		t.Fatal(err)
	}
	flush(t, there)
	testkit.Eventually(t, func() bool { return slices.Contains(hubWants(l), "jobs") }, "the hub's member is known")
	for range 100 {
		publish(t, here, "jobs")
	}
	flush(t, here)
	testkit.Eventually(t, func() bool { return len(inbox) == 200 }, "100 from here, %d in all", len(inbox))
	if n, _, _ := far.Pending(); n != 0 {
		t.Errorf("the hub's member got %d", n)
	}
	if _, err := there.Request("sync.nobody", nil, testkit.Patience); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("request: %v", err)
	}
	here.Close()
	waitLeafz(t, h)
	elsewhere := clientOf(t, url)
	for range 100 {
		publish(t, elsewhere, "jobs")
	}
	flush(t, elsewhere)
	testkit.Eventually(t, func() bool { n, _, _ := far.Pending(); return n == 100 }, "100 at the hub")
}

// hubWants is what the router has subscribed for the hub.
func hubWants(l *Link) (subjects []string) {
	s := l.live.Load()
	if s == nil {
		return nil
	}
	l.router.mu.RLock()
	defer l.router.mu.RUnlock()
	for _, sub := range s.port.subs.Keys() {
		subjects = append(subjects, sub.Subject)
	}
	return subjects
}

func publish(t testing.TB, nc *nats.Conn, subject string) {
	t.Helper()
	if err := nc.Publish(subject, []byte("x")); err != nil {
		t.Fatal(err)
	}
}

func flush(t testing.TB, nc *nats.Conn) {
	t.Helper()
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestHubSeesInterest(t *testing.T) {
	h := testkit.StartHub(t, testkit.HubOptions{})
	l := linkTo(t, LinkOptions{URLs: []string{h.LeafURL()}})
	waitLeafz(t, h)
	local := l.router.Attach("local", &testkit.Sink{}, EachSub)
	subs := []*msg.Sub{{Subject: "a.>"}, {Subject: "a.>"}, {Subject: "b.*", Queue: "q"}, {Subject: "$KV.x"}}
	for _, s := range subs {
		if err := local.Subscribe(s); err != nil {
			t.Fatal(err)
		}
	}
	waitLeafz(t, h, "a.>", "b.*")
	local.Unsubscribe(subs[0])
	local.Unsubscribe(subs[2])
	waitLeafz(t, h, "a.>")
	local.Close()
	waitLeafz(t, h)
}

// Bare JetStream subjects of local clients stay here, as with a nats-server leaf
// that has no JetStream; those with a domain, and what Send is given, do not.
func TestHubJetStream(t *testing.T) {
	h := testkit.StartHub(t, testkit.HubOptions{JetStream: true, Domain: "dom"})
	l, url := gateway(t, LinkOptions{URLs: []string{h.LeafURL()}})
	nc := clientOf(t, url)
	testkit.Eventually(t, func() bool { return slices.Contains(hubWants(l), "$JS.API.>") }, "the hub offers its API")
	if _, err := nc.Request("$JS.API.INFO", nil, testkit.Patience); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("without a domain: %v", err)
	}
	if m, err := nc.Request("$JS.dom.API.INFO", nil, testkit.Patience); err != nil || !strings.Contains(string(m.Data), `"domain":"dom"`) {
		t.Errorf("with the domain: %v", err)
	}
	if domain, most := l.Hub(); domain != "dom" || most != 1<<20 {
		t.Errorf("hub %q %d", domain, most)
	}
	inbox, err := nc.SubscribeSync("inbox.1")
	if err != nil {
		t.Fatal(err)
	}
	flush(t, nc)
	testkit.Eventually(t, func() bool { return slices.Contains(leafz(t, h), "inbox.1") }, "the hub knows the inbox")
	if err := l.Send(&msg.Msg{Subject: []byte("$JS.API.INFO"), Reply: []byte("inbox.1")}); err != nil {
		t.Fatal(err)
	}
	l.Flush()
	if m, err := inbox.NextMsg(testkit.Patience); err != nil || !strings.Contains(string(m.Data), `"domain":"dom"`) {
		t.Errorf("sent: %v", err)
	}
}

// The hub's permissions are known here, so the hub never has to cut the link.
func TestHubPermissions(t *testing.T) {
	h := testkit.StartHub(t, testkit.HubOptions{Config: `accounts { A { users: [ { user: u, password: p, permissions { publish: { allow: ["up.>"], deny: ["up.no"] }, subscribe: { allow: ["down.>"], deny: ["down.no"] } } }, { user: boss, password: p } ] } }`})
	l := linkTo(t, LinkOptions{URLs: []string{strings.Replace(h.LeafURL(), "//", "//u:p@", 1)}, DenyExports: []string{"up.secret"}})
	down := l.Down()
	boss := clientOf(t, h.ClientURL(), nats.UserInfo("boss", "p"))
	all, err := boss.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	flush(t, boss)
	testkit.Eventually(t, func() bool { return slices.Contains(hubWants(l), ">") }, "the hub wants all")
	sink := &testkit.Sink{}
	local := l.router.Attach("local", sink, EachSub)
	for _, s := range []string{">", "down.x", "down.no", "up.x"} {
		if err := local.Subscribe(&msg.Sub{Subject: s}); err != nil {
			t.Fatal(err)
		}
	}
	waitLeafz(t, h, ">", "down.x")
	for _, s := range []string{"elsewhere", "up.no", "up.secret", "up.x"} {
		local.Publish(text(s))
		local.Flush()
		if err := l.Send(text(s)); (err == nil) != (s == "up.x") {
			t.Errorf("send %s: %v", s, err)
		}
	}
	l.Flush()
	for range 2 {
		if m, err := all.NextMsg(testkit.Patience); err != nil || m.Subject != "up.x" {
			t.Errorf("at the hub: %v %v", m, err)
		}
	}
	before := len(sink.Got())
	for _, s := range []string{"elsewhere", "down.no", "down.y"} {
		publish(t, boss, s)
	}
	flush(t, boss)
	testkit.Eventually(t, func() bool { return len(sink.Got()) > before }, "a message from the hub")
	if got := sink.Subjects()[before:]; fmt.Sprint(got) != "[down.y]" {
		t.Errorf("from the hub: %q", got)
	}
	select {
	case <-down:
		t.Errorf("the link was cut: %+v", l.Status())
	default:
	}
}

func TestHubMaxPayload(t *testing.T) {
	h := testkit.StartHub(t, testkit.HubOptions{Config: "max_payload: 1000"})
	l := linkTo(t, LinkOptions{URLs: []string{h.LeafURL()}})
	down := l.Down()
	nc := clientOf(t, h.ClientURL())
	sub, err := nc.SubscribeSync("a")
	if err != nil {
		t.Fatal(err)
	}
	flush(t, nc)
	testkit.Eventually(t, func() bool { return slices.Contains(hubWants(l), "a") }, "the hub wants a")
	local := l.router.Attach("local", &testkit.Sink{}, EachSub)
	for _, n := range []int{1001, 1000} {
		local.Publish(&msg.Msg{Subject: []byte("a"), Data: make([]byte, n)})
		local.Flush()
	}
	if m, err := sub.NextMsg(testkit.Patience); err != nil || len(m.Data) != 1000 {
		t.Errorf("at the hub: %v", err)
	}
	if err := l.Send(&msg.Msg{Subject: []byte("a"), Data: make([]byte, 1001)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("send: %v", err)
	}
	select {
	case <-down:
		t.Errorf("the link was cut: %+v", l.Status())
	default:
	}
}

// After the hub was killed, the link comes back by itself, and so does interest.
func TestHubComesBack(t *testing.T) {
	h := testkit.StartHub(t, testkit.HubOptions{})
	l := linkTo(t, LinkOptions{URLs: []string{h.LeafURL()}})
	if err := l.router.Attach("local", &testkit.Sink{}, EachSub).Subscribe(&msg.Sub{Subject: "a"}); err != nil {
		t.Fatal(err)
	}
	waitLeafz(t, h, "a")
	for i := range 2 {
		down := l.Down()
		h.Kill()
		<-down
		if err := l.Send(text("a")); err != ErrLinkDown {
			t.Errorf("send: %v", err)
		}
		h.Restart()
		start := time.Now()
		waitUp(t, l)
		t.Logf("up %v after the hub was ready", time.Since(start).Round(time.Millisecond))
		waitLeafz(t, h, "a")
		if st := l.Status(); st.Reconnects != i+1 {
			t.Errorf("status %+v", st)
		}
	}
}

// With two hubs that are a cluster, the link moves to the one that lives.
func TestHubFailover(t *testing.T) {
	a, b := testkit.StartHub(t, testkit.HubOptions{}), testkit.StartHub(t, testkit.HubOptions{})
	l := linkTo(t, LinkOptions{URLs: []string{a.LeafURL(), b.LeafURL()}, NoRandomize: true})
	if st := l.Status(); st.URL != a.LeafURL() {
		t.Errorf("status %+v", st)
	}
	down := l.Down()
	a.Kill()
	<-down
	waitUp(t, l)
	if st := l.Status(); st.URL != b.LeafURL() {
		t.Errorf("status %+v", st)
	}
	down = l.Down()
	b.Kill()
	a.Restart()
	<-down
	waitUp(t, l)
	if st := l.Status(); st.URL != a.LeafURL() {
		t.Errorf("status %+v", st)
	}
}

// Two links of the same name take turns at the hub; it says so.
func TestHubDuplicate(t *testing.T) {
	h := testkit.StartHub(t, testkit.HubOptions{})
	first := linkTo(t, LinkOptions{URLs: []string{h.LeafURL()}})
	down := first.Down()
	linkTo(t, LinkOptions{URLs: []string{h.LeafURL()}})
	<-down
	testkit.Eventually(t, func() bool { return strings.Contains(first.Status().LastError, "give each its own") }, "it says why: %q", first.Status().LastError)
}
