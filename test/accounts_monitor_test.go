package test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/leafd/leafd/internal/testkit"
)

// watchedAccounts is a configuration of which monitoring and system requests tell.
var watchedAccounts = fmt.Sprintf(`
server_name: edge
system_account: SYS
max_pending: 8MB, max_connections: 4096
accounts {
  SYS { users: [ { user: sys, password: p } ] }
  A {
    users: [ { user: a, password: p }, { nkey: %s } ]
    exports: [
      { stream: "pub.>" }, { stream: "priv.*", accounts: [ B ] }
      { service: "svc.one" }, { service: "svc.many.*", response_type: stream }, { service: "svc.chunk", response_type: chunked, accounts: [ B, C ] }
    ]
  }
  B {
    users: [
      { user: b, password: p }
      { user: limited, password: p, permissions: {
          publish: { allow: [ "x", "in.>", "$SYS.REQ.USER.INFO" ], deny: "x.secret" }, subscribe: { allow: [ "y", "_INBOX.>" ], deny: [ "z", "q w" ] }, allow_responses: { max: 3, expires: "1m" } } }
      { user: answers, password: p, permissions: { publish: [ "x", "$SYS.REQ.USER.INFO" ], allow_responses: true, subscribe: "_INBOX.>" } }
      { user: lists, password: p, permissions: { publish: [ "x", "y", "$SYS.REQ.>" ], subscribe: ">" } }
      { user: nothing, password: p, permissions: { subscribe: { deny: "z" } } }
    ]
    imports: [
      { stream: { account: A, subject: "pub.>" }, prefix: got }, { stream: { account: A, subject: "priv.*" }, to: "mine.*" }
      { service: { account: A, subject: "svc.one" }, to: one }, { service: { account: A, subject: "svc.many.*" } }
    ]
  }
  C { }
}
`, twinUser)

func startWatched(t *testing.T) (both [2]monitored) {
	t.Helper()
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: "host: 127.0.0.1\nport: $LEAFD_NATS_PORT\nhttp: $LEAFD_HTTP_PORT\n" + watchedAccounts})
	return [2]monitored{{"leafd", l.NATSURL(), l.HTTPURL()}, startNATSServer(t, watchedAccounts)}
}

// workInAccounts has clients of two accounts talk within each and across, and returns
// those that stay.
func workInAccounts(t *testing.T, url string) (a, b *nats.Conn) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	a = connect(t, url, nats.UserInfo("a", "p"), nats.Name("a"))
	b = connect(t, url, nats.UserInfo("b", "p"), nats.Name("b"))
	connect(t, url, nats.Nkey(twinUser, twinKey.Sign), nats.Name("key"))
	gone := connect(t, url, nats.UserInfo("b", "p"), nats.Name("gone"))
	_, err := a.Subscribe("svc.one", func(m *nats.Msg) { must(m.Respond([]byte("answer"))) })
	must(err)
	got, err := b.SubscribeSync("got.pub.>")
	must(err)
	_, err = b.QueueSubscribe("within", "q", func(*nats.Msg) {})
	must(err)
	must(a.Flush())
	must(b.Flush())
	for range 5 {
		_, err := b.Request("one", []byte("ask"), testkit.Patience)
		must(err)
		must(a.Publish("pub.x", make([]byte, 100)))
		must(b.Publish("within", []byte("1")))
		must(gone.Publish("nobody", []byte("22")))
	}
	must(a.Flush())
	must(b.Flush())
	for range 5 {
		_, err := got.NextMsg(testkit.Patience)
		must(err)
	}
	must(gone.Flush())
	gone.Close()
	return a, b
}

var inbox = regexp.MustCompile(`_INBOX\.\S+`)

// volatile fields differ from one run to the next.
var volatileFields = strings.Fields(`server_id id now start stop last_activity rtt uptime idle port cid client_id update_time seq time timestamp host
	pending_bytes sid cpu mem feature_flags`)

// plain is an answer as text, a field each line, without what is volatile; lists are
// sorted.
func plain(v any) string {
	var lines []string
	var walk func(path string, v any) []string
	walk = func(path string, v any) (lines []string) {
		switch v := v.(type) {
		case map[string]any:
			for k, e := range v {
				if !slices.Contains(volatileFields, k) && e != nil {
					lines = append(lines, walk(path+"."+k, e)...)
				}
			}
			slices.Sort(lines)
		case []any:
			var all []string
			for _, e := range v {
				all = append(all, strings.Join(walk(path+"[]", e), "\n"))
			}
			slices.Sort(all)
			lines = append(all, fmt.Sprintf("%s has %d", path, len(v)))
		case string:
			lines = []string{path + " " + inbox.ReplaceAllString(v, "_INBOX")}
		default:
			lines = []string{fmt.Sprint(path, " ", v)}
		}
		return lines
	}
	lines = walk("", v)
	return strings.Join(lines, "\n")
}

// wantSame compares answers to one question of leafd and of nats-server.
func wantSame(t *testing.T, what string, answers [2]any) {
	t.Helper()
	got, want := plain(answers[0]), plain(answers[1])
	if got == want {
		return
	}
	ours, theirs := strings.Split(got, "\n"), strings.Split(want, "\n")
	more := func(a, b []string) []string {
		return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
	}
	t.Errorf("%s\nonly leafd:\n  %s\nonly nats-server:\n  %s", what, strings.Join(more(ours, theirs), "\n  "), strings.Join(more(theirs, ours), "\n  "))
}

// withoutSystem leaves out the exports and imports of $SYS subjects, which are no such
// thing in leafd.
func withoutSystem(z map[string]any) map[string]any {
	detail, _ := z["account_detail"].(map[string]any)
	if detail == nil {
		detail, _ = z["data"].(map[string]any)
	}
	if detail == nil {
		return z
	}
	for _, k := range []string{"imports", "exports"} {
		list, _ := detail[k].([]any)
		list = slices.DeleteFunc(list, func(v any) bool {
			s, _ := v.(map[string]any)["subject"].(string)
			return strings.HasPrefix(s, "$SYS.")
		})
		if detail[k] = list; len(list) == 0 {
			delete(detail, k)
		}
	}
	for _, v := range []string{"sublist_stats", "subscriptions"} { // with caches, and the services of the server itself
		delete(detail, v)
	}
	return z
}

// withoutServices leaves out what has to do with how a server is built: how many
// subscriptions its own services have, what it adds to requests between accounts, and
// which of its subscriptions an import counts at.
func withoutServices(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if k == "num_subscriptions" || k == "out_bytes" || k == "bytes" || k == "msgs" && v["subject"] != nil {
				delete(v, k)
				continue
			}
			withoutServices(e)
		}
	case []any:
		for _, e := range v {
			withoutServices(e)
		}
	}
	return v
}

// Pages about accounts with traffic say the same as those of nats-server, field by field.
func TestMonitoringOfAccounts(t *testing.T) {
	both := startWatched(t)
	for _, m := range both {
		workInAccounts(t, m.nats)
		testkit.Eventually(t, func() bool { return number(m.get(t, "/connz?state=closed&user=b")["num_connections"]) == 1 }, "one connection closed at %s", m.name)
	}
	for _, page := range []string{
		"/connz?auth=1", "/connz?auth=1&subs=1", "/connz?auth=1&subs=detail", "/connz?acc=A&auth=1", "/connz?acc=B&auth=1&state=any", "/connz?acc=$G", "/connz?acc=B&user=b&auth=1&state=closed",
		"/connz?acc=B&filter_subject=within&auth=1",
		"/accountz", "/accountz?acc=A", "/accountz?acc=B", "/accountz?acc=C", "/accountz?acc=SYS", "/accountz?acc=$G",
		"/accstatz", "/accstatz?unused=1",
	} {
		var answers [2]any
		for i, m := range both {
			answers[i] = withoutServices(withoutSystem(m.get(t, page)))
		}
		wantSame(t, page, answers)
	}
	for _, m := range both { // answers count where they are delivered: 5 of 6 bytes, and 5 of 1 within
		for _, v := range m.get(t, "/accstatz")["account_statz"].([]any) {
			stat := v.(map[string]any)
			if sent := stat["sent"].(map[string]any); stat["acc"] == "B" && number(sent["bytes"]) != 35 {
				t.Errorf("%s: B was sent %v", m.name, sent)
			}
		}
	}
}

// A slow consumer counts for the account that it is in.
func TestSlowConsumersOfAccounts(t *testing.T) {
	config := "server_name: edge\nmax_pending: 64KB, max_payload: 64KB\naccounts { A { users: [ { user: a, password: p } ] }, B { users: [ { user: b, password: p } ] } }\nauthorization { users: [ { user: g, password: p } ] }\n"
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: "host: 127.0.0.1\nport: $LEAFD_NATS_PORT\nhttp: $LEAFD_HTTP_PORT\n" + config})
	for _, m := range []monitored{{"leafd", l.NATSURL(), l.HTTPURL()}, startNATSServer(t, config)} {
		for _, user := range []string{"b", "g", "a"} {
			connect(t, m.nats, nats.UserInfo(user, "p"))
		}
		deaf := dial(t, strings.TrimPrefix(m.nats, "nats://"))
		fmt.Fprintf(deaf, "%sSUB flood 1\r\nPING\r\n", as("a"))
		testkit.Eventually(t, func() bool {
			return number(m.get(t, "/connz?acc=A&filter_subject=flood")["num_connections"]) == 1 || number(m.get(t, "/subsz?test=flood&subs=1")["total"]) == 1
		}, "the deaf client at %s", m.name)
		pub := connect(t, m.nats, nats.UserInfo("a", "p"))
		var slow map[string]float64
		testkit.Eventually(t, func() bool {
			for range 32 {
				pub.Publish("flood", make([]byte, 32<<10))
			}
			pub.Flush()
			slow = map[string]float64{}
			for _, v := range m.get(t, "/accstatz?unused=1")["account_statz"].([]any) {
				stat := v.(map[string]any)
				slow[stat["acc"].(string)] = number(stat["slow_consumers"])
			}
			return slow["A"] > 0
		}, "a slow consumer at %s", m.name)
		if v := m.get(t, "/varz"); slow["A"] != 1 || slow["B"] != 0 || slow["$G"] != 0 || number(v["slow_consumers"]) != 1 {
			t.Errorf("%s: %v, /varz has %v", m.name, slow, v["slow_consumers"])
		}
	}
}

// askBoth asks both servers one question of a system account, with the server's id for
// $ID.
func askBoth(t *testing.T, both [2]monitored, user, subject, body string) (answers [2]any) {
	t.Helper()
	for i, m := range both {
		answers[i] = askOne(t, connect(t, m.nats, nats.UserInfo(user, "p")), m.fill(t, subject), body)
	}
	return answers
}

func (m monitored) fill(t *testing.T, subject string) string {
	return strings.ReplaceAll(subject, "$ID", fmt.Sprint(m.get(t, "/varz")["server_id"]))
}

func askOne(t *testing.T, nc *nats.Conn, subject, body string) (v map[string]any) {
	t.Helper()
	m, err := nc.Request(subject, []byte(body), testkit.Patience)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	if err := json.Unmarshal(m.Data, &v); err != nil {
		t.Fatalf("%s: %v in %s", subject, err, m.Data)
	}
	return v
}

// What a client learns of itself is what nats-server tells it.
func TestTwinUserInfo(t *testing.T) {
	both := startWatched(t)
	for _, user := range []string{"a", "sys", "limited", "answers", "lists", "nothing"} {
		wantSame(t, user, askBoth(t, both, user, "$SYS.REQ.USER.INFO", ""))
	}
}

// What the system account is told of accounts and their clients is what nats-server
// tells.
func TestTwinSystemRequests(t *testing.T) {
	both := startWatched(t)
	for _, m := range both {
		workInAccounts(t, m.nats)
		testkit.Eventually(t, func() bool { return number(m.get(t, "/connz?state=closed&user=b")["num_connections"]) == 1 }, "one connection closed at %s", m.name)
	}
	for _, q := range [][2]string{
		{"$SYS.REQ.ACCOUNT.A.CONNZ", `{"auth":true}`}, {"$SYS.REQ.ACCOUNT.B.CONNZ", `{"auth":true,"subscriptions":true,"state":2}`}, {"$SYS.REQ.ACCOUNT.A.INFO", ""}, {"$SYS.REQ.ACCOUNT.B.INFO", ""},
		{"$SYS.REQ.ACCOUNT.A.STATZ", ""}, {"$SYS.REQ.ACCOUNT.B.STATZ", ""}, {"$SYS.REQ.ACCOUNT.PING.STATZ", `{"accounts":["A","B"]}`}, {"$SYS.REQ.ACCOUNT.A.CONNS", ""}, {"$SYS.REQ.ACCOUNT.none.INFO", ""},
		{"$SYS.REQ.ACCOUNT.A.LEAFZ", ""}, {"$SYS.REQ.SERVER.$ID.ACCOUNTZ", ""}, {"$SYS.REQ.SERVER.PING.IDZ", ""},
		{"$SYS.REQ.SERVER.$ID.KICK", `{"cid":999999}`}, {"$SYS.REQ.SERVER.$ID.LDM", `{"cid":999999}`}, {"$SYS.REQ.SERVER.$ID.RELOAD", ""}, {"$SYS.REQ.SERVER.$ID.RELOAD", "{"},
	} {
		answers := askBoth(t, both, "sys", q[0], q[1])
		for i := range answers {
			answers[i] = withoutServices(withoutSystem(answers[i].(map[string]any)))
		}
		wantSame(t, q[0]+" "+q[1], answers)
	}
}
