package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leafd/leafd/internal/testkit"
)

const accountsConfig = `
system_account: SYS
accounts {
  SYS { users: [ { user: sys, password: p } ] }
  A {
    users: [ { user: a, password: p }, { user: a2, password: p, permissions { subscribe { deny: "in.secret" } } } ]
    exports: [
      { stream: "pub.>" }, { stream: "priv.*", accounts: [ B ] }
      { service: "svc.one" }, { service: "svc.many.*", response_type: stream }, { service: "svc.chunk", response_type: chunked }, { service: "swap.*.*" }
      { service: "deep" }
    ]
  }
  B {
    users: [ { user: b, password: p }, { user: b2, password: p, permissions { subscribe: { allow: ">", deny: "got.pub.no" } } }
      { user: b3, password: p, permissions { publish: [ "one" ], subscribe: [ "in.>" ] } } ]
    imports: [
      { stream: { account: A, subject: "pub.>" }, prefix: "got" }
      { stream: { account: A, subject: "priv.*" }, to: "mine.*.x" }
      { service: { account: A, subject: "svc.one" }, to: "one" }
      { service: { account: A, subject: "svc.many.*" } }
      { service: { account: A, subject: "svc.chunk" } }
      { service: { account: A, subject: "swap.*.*" }, to: "swapped.$2.$1" }
      { service: { account: A, subject: "deep" }, to: "deeper" }
    ]
    exports: [ { service: "deeper" }, { stream: "got.>" } ]
  }
  C {
    users: [ { user: c, password: p } ]
    imports: [ { service: { account: B, subject: "deeper" }, to: "deepest" }, { stream: { account: B, subject: "got.>" } } ]
    default_permissions { publish { deny: "x" } }
  }
  L { users: [ { user: l, password: p } ], limits { max_connections: 1, max_subscriptions: 2, max_payload: 10 } }
}
authorization { users: [ { user: g, password: p } ] }
no_auth_user: c
`

func TestTwinAccounts(t *testing.T) {
	w := startTwins(t, accountsConfig)
	nobody := "CONNECT {\"verbose\":false}\r\n"
	answering := `CONNECT {"verbose":false,"headers":true,"no_responders":true,"user":"b","pass":"p"}` + "\r\n"
	for _, c := range []struct {
		name   string
		script []step
	}{
		// First, while nobody can be there: the clients of another script may be gone a moment later.
		{"nobody answers", []step{{"b", answering + "SUB in.* 1\r\nPUB one in.1 1\r\na\r\nPUB other in.1 1\r\nb\r\n"}}},
		{"apart", []step{{"a", as("a") + "SUB > 1\r\n"}, {"b", as("b") + "SUB > 1\r\n"}, {"g", as("g") + "SUB > 1\r\n"}, {"n", nobody + "SUB > 1\r\n"},
			{"a", "PUB x 1\r\na\r\n"}, {"b", "PUB x 1\r\nb\r\n"}, {"g", "PUB x 1\r\ng\r\n"}, {"n", "PUB x 1\r\nn\r\nPUB y 1\r\nm\r\n"}}},
		{"stream with prefix", []step{{"b", as("b") + "SUB got.pub.> 1\r\nSUB got.pub.x 2\r\nSUB got.*.x q 3\r\nSUB pub.> 4\r\nSUB > 5\r\n"}, {"a", as("a") + "SUB > 1\r\nPUB pub.x r 1\r\na\r\nPUB pub.x.y 1\r\nb\r\nPUB pub.x r 1\r\nc\r\nPUB pub 1\r\nd\r\nPUB got.pub.x 1\r\ne\r\n"},
			{"b", "PUB got.pub.x 1\r\nf\r\nUNSUB 1\r\nUNSUB 5\r\n"}, {"a", "PUB pub.x 1\r\ng\r\n"}}},
		{"private stream, mapped", []step{{"b", as("b") + "SUB mine.> 1\r\nSUB mine.1.x 2\r\nSUB priv.* 3\r\n"}, {"a", as("a") + "PUB priv.1 1\r\na\r\nPUB priv.2 1\r\nb\r\n"}}},
		{"stream of a stream", []step{{"c", as("c") + "SUB got.> 1\r\nSUB > 2\r\n"}, {"a", as("a") + "PUB pub.x 1\r\na\r\n"}, {"b", as("b") + "PUB got.x 1\r\nb\r\n"}}},
		{"denied where it comes", []step{{"b", as("b2") + "SUB got.> 1\r\nSUB got.pub.no 2\r\n"}, {"a", as("a") + "PUB pub.no 1\r\na\r\nPUB pub.yes 1\r\nb\r\n"}}},
		{"one answer", []step{{"a", as("a") + "SUB svc.> 1\r\n"}, {"b", as("b") + "SUB in.* 1\r\nPUB one in.1 1\r\na\r\n"}}},
		{"no reply", []step{{"a", as("a") + "SUB svc.> 1\r\n"}, {"b", as("b") + "PUB one 1\r\na\r\nPUB svc.one 1\r\nb\r\nPUB svc.many.1 1\r\nc\r\n"}}},
		{"swapped", []step{{"a", as("a") + "SUB > 1\r\n"}, {"b", as("b") + "SUB > 1\r\nPUB swapped.1.2 1\r\na\r\n"}}},
		{"several accounts away", []step{{"a", as("a") + "SUB deep 1\r\n"}, {"c", as("c") + "SUB in.* 1\r\nPUB deepest in.1 1\r\na\r\nPUB deepest 1\r\nb\r\n"}}},
		{"permissions of who asks", []step{{"a", as("a") + "SUB svc.> 1\r\n"}, {"b", as("b3") + "SUB in.1 1\r\nPUB one in.1 1\r\na\r\nPUB svc.many.1 in.1 1\r\nb\r\n"}}},
		{"made-up replies", []step{{"b", as("b") + "PUB one _R_.a.b 1\r\na\r\nPUB x $JS.ACK.1 1\r\nb\r\n"}}},
		{"limits", []step{{"l", as("l") + "SUB a 1\r\nSUB b 2\r\nSUB c 3\r\nPUB a 10\r\n0123456789\r\n"}, {"m", as("l")}, {"l", "PUB a 11\r\n01234567890\r\n"}}},
	} {
		w.run(c.name, c.script...)
	}
}

// Answers find their way back: one, or any number, or up to an empty one.
func TestServicesAcrossAccounts(t *testing.T) {
	w := startTwins(t, accountsConfig)
	for i, name := range []string{"leafd", "nats-server"} {
		t.Run(name, func(t *testing.T) {
			url := "nats://" + w.addr[i]
			a, b, c := connect(t, url, nats.UserInfo("a", "p")), connect(t, url, nats.UserInfo("b", "p")), connect(t, url, nats.UserInfo("c", "p"))
			serve := func(subject string, answers ...string) {
				t.Helper()
				if _, err := a.Subscribe(subject, func(m *nats.Msg) {
					for _, s := range answers {
						m.Respond([]byte(s + m.Header.Get("Nats-Request-Info")[:10]))
					}
				}); err != nil {
					t.Fatal(err)
				}
			}
			serve("svc.one", "1", "2")
			serve("svc.many.*", "1", "2", "3")
			serve("deep", "deep")
			if _, err := a.Subscribe("svc.chunk", func(m *nats.Msg) {
				for _, s := range []string{"1", "2", "", "3"} {
					m.Respond([]byte(s))
				}
			}); err != nil {
				t.Fatal(err)
			}
			a.Flush()
			for _, q := range []struct {
				nc      *nats.Conn
				subject string
				want    string
			}{
				{b, "one", `[1{"acc":"B"]`}, {b, "svc.many.x", `[1{"acc":"B" 2{"acc":"B" 3{"acc":"B"]`}, {b, "svc.chunk", "[1 2 ]"}, {c, "deepest", `[deep{"acc":"C"]`},
			} {
				in := nats.NewInbox()
				s, err := q.nc.SubscribeSync(in)
				if err != nil {
					t.Fatal(err)
				}
				forged := &nats.Msg{Subject: q.subject, Reply: in, Header: nats.Header{"Nats-Request-Info": {`{"acc":"EVIL"}`}}}
				if err := q.nc.PublishMsg(forged); err != nil {
					t.Fatal(err)
				}
				var got []string
				for len(fmt.Sprint(got)) < len(q.want) {
					m, err := s.NextMsg(testkit.Patience)
					if err != nil {
						t.Fatalf("%s: %v after %q", q.subject, err, got)
					}
					got = append(got, string(m.Data))
				}
				if fmt.Sprint(got) != q.want {
					t.Errorf("%s: %v, want %s", q.subject, got, q.want)
				}
				a.Flush() // whatever it has answered has been routed
				q.nc.Flush()
				if m, err := s.NextMsg(time.Millisecond); err == nil {
					t.Errorf("%s: %q is too much", q.subject, m.Data)
				}
			}
		})
	}
}

// A link is of one account. What another account imports from that one comes from
// the hub, services may be at the hub, and the hub may ask for one here.
func TestAccountsAcrossTheLink(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{})
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}, Config: `
server_name: edge
host: "127.0.0.1", port: $LEAFD_NATS_PORT
accounts {
  A { users: [ { user: a, password: p } ]
      exports: [ { stream: "pub.>" }, { service: "at.hub" } ]
      imports: [ { service: { account: B, subject: "here" }, to: "at.edge" } ] }
  B { users: [ { user: b, password: p } ]
      imports: [ { stream: { account: A, subject: "pub.>" }, prefix: got }, { service: { account: A, subject: "at.hub" }, to: far } ]
      exports: [ { service: here } ] }
}
leafnodes { remotes: [ { url: $LEAFD_HUB_URL, account: A } ] }
`})
	testkit.Eventually(t, func() bool { return len(hub.Leafz()) == 1 }, "the link up")
	far, a, b := connect(t, hub.ClientURL()), connect(t, l.NATSURL(), nats.UserInfo("a", "p")), connect(t, l.NATSURL(), nats.UserInfo("b", "p"))
	seen(t, far, a)
	sub, err := b.SubscribeSync("got.pub.*")
	if err != nil {
		t.Fatal(err)
	}
	b.Flush()
	testkit.Eventually(t, func() bool {
		far.Publish("pub.x", []byte("1"))
		m, err := sub.NextMsg(50 * time.Millisecond)
		return err == nil && m.Subject == "got.pub.x" && string(m.Data) == "1"
	}, "the hub's message in the importing account")
	answer := func(nc *nats.Conn, subject, queue string) {
		if _, err := nc.QueueSubscribe(subject, queue, func(m *nats.Msg) { m.Respond([]byte("from " + m.Subject)) }); err != nil {
			t.Fatal(err)
		}
		nc.Flush()
	}
	answer(far, "at.hub", "q")
	answer(b, "here", "q")
	for _, c := range []struct {
		nc            *nats.Conn
		subject, want string
	}{{b, "far", "from at.hub"}, {far, "at.edge", "from here"}, {a, "at.edge", "from here"}, {a, "at.hub", "from at.hub"}} {
		var got string
		testkit.Eventually(t, func() bool {
			m, err := c.nc.Request(c.subject, nil, time.Second)
			if err == nil {
				got = string(m.Data)
			}
			return err == nil
		}, "an answer from %s", c.subject)
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.subject, got, c.want)
		}
	}
	if _, err := b.Request("at.hub", nil, time.Second); err == nil {
		t.Error("an account has what it did not import")
	}
}
