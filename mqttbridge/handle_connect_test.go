package mqttbridge

import (
	"bytes"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/leafd/leafd/internal/testkit"
	"github.com/leafd/leafd/leaf"
	"github.com/leafd/leafd/mqttbridge/packet"
)

func hello(change func(*packet.Connect)) []byte {
	p := packet.Connect{Version: packet.V311, CleanStart: true, ClientID: []byte("dev")}
	change(&p)
	return p.Append(nil)
}

func nothing(*packet.Connect) {}

// What is answered to a CONNECT, byte by byte; a nil answer is a connection closed
// without one.
func TestConnectAnswers(t *testing.T) {
	b := startBroker(t, Options{})
	if err := b.opts.Load().Auth.Apply(leaf.AuthConfig{Credentials: leaf.Credentials{
		Users: []leaf.User{{Name: "u", Password: "p"}, {Name: "guest"}}, NoAuthUser: "guest"}}); err != nil {
		t.Fatal(err)
	}
	name := func(n string, level byte) []byte {
		body := append(append([]byte{0, byte(len(n))}, n...), level, 2, 0, 0, 0, 1, 'a')
		return append([]byte{0x10, byte(len(body))}, body...)
	}
	for _, c := range []struct {
		name   string
		send   []byte
		answer []byte
		stays  bool
	}{
		{"3.1.1", hello(nothing), []byte{0x20, 2, 0, 0}, true},
		{"user and password", hello(func(p *packet.Connect) {
			p.HasUser, p.Username, p.HasPass, p.Password = true, []byte("u"), true, []byte("p")
		}), []byte{0x20, 2, 0, 0}, true},
		{"wrong password", hello(func(p *packet.Connect) {
			p.HasUser, p.Username, p.HasPass, p.Password = true, []byte("u"), true, []byte("q")
		}), []byte{0x20, 2, 0, 5}, false},
		{"unknown user", hello(func(p *packet.Connect) { p.HasUser, p.Username = true, []byte("v") }), []byte{0x20, 2, 0, 5}, false},
		{"empty client id", hello(func(p *packet.Connect) { p.ClientID = nil }), []byte{0x20, 2, 0, 0}, true},
		{"empty client id, persistent", hello(func(p *packet.Connect) { p.ClientID, p.CleanStart = nil, false }), []byte{0x20, 2, 0, 2}, false},
		{"persistent session: there is none", hello(func(p *packet.Connect) { p.CleanStart = false }), []byte{0x20, 2, 0, 0}, true},
		{"version 5 is refused in its own words", hello(func(p *packet.Connect) { p.Version = packet.V5 }), []byte{0x20, 3, 0, 0x84, 0}, false},
		{"version 5 whose rest is nonsense", name("MQTT", 5), []byte{0x20, 3, 0, 0x84, 0}, false},
		{"version 3.1", name("MQIsdp", 3), []byte{0x20, 2, 0, 1}, false},
		{"level 6", name("MQTT", 6), []byte{0x20, 2, 0, 1}, false},
		{"level 0", name("MQTT", 0), []byte{0x20, 2, 0, 1}, false},
		{"another protocol", name("AMQP", 4), []byte{0x20, 2, 0, 1}, false},
		{"client id with NATS's special characters", hello(func(p *packet.Connect) { p.ClientID = []byte("a.> *\t$") }), []byte{0x20, 2, 0, 0}, true},
		{"reserved flag", slices.Replace(hello(nothing), 9, 10, 3), nil, false},
		{"will topic with white space", hello(func(p *packet.Connect) { p.HasWill, p.Will.Topic = true, []byte("a b") }), nil, false},
		{"will topic with wildcard", hello(func(p *packet.Connect) { p.HasWill, p.Will.Topic = true, []byte("a/+") }), nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := b.dial()
			d.t = t
			d.send(c.send)
			if c.answer != nil {
				d.expect(c.answer...)
			}
			if c.stays {
				d.ping()
			} else {
				d.expectEnd()
			}
		})
	}
	if st := b.Stats(); st.SessionsNotKept != 1 || st.Faults["not_authorized"] != 2 || st.Faults["unsupported_version"] != 6 || st.Faults["bad_client_id"] != 1 {
		t.Errorf("%+v", st)
	}
}

func TestConnectIsFirstAndOnce(t *testing.T) {
	b := startBroker(t, Options{})
	for first := range 16 { // by its first byte alone: the rest is never waited for
		if first == 1 {
			continue
		}
		d := b.dial()
		d.send([]byte{byte(first << 4)})
		d.expectEnd()
	}
	d := b.connect("dev")
	d.send(hello(nothing))
	d.expectEnd()
	testkit.Eventually(t, func() bool { return b.Stats().Connections == 0 }, "all gone: %+v", b.Stats())
	if n := b.fault("protocol_error"); n != 16 {
		t.Errorf("%d protocol errors, want 16", n)
	}
}

func TestGeneratedClientIDsDiffer(t *testing.T) {
	b := startBroker(t, Options{})
	one, two := b.connect(""), b.connect("")
	one.ping()
	two.ping()
	list := b.Conns()
	if len(list) != 2 || list[0].MQTTClient == "" || list[0].MQTTClient == list[1].MQTTClient {
		t.Fatalf("%+v", list)
	}
}

func TestTakeover(t *testing.T) {
	b := startBroker(t, Options{})
	wills := b.watch("will")
	old := b.connectWith(packet.Connect{Version: packet.V311, CleanStart: true, ClientID: []byte("dev"),
		HasWill: true, Will: packet.Will{Topic: []byte("will"), Payload: []byte("gone")}})
	old.subscribe("a")
	next := b.connect("dev")
	if len(wills.Got()) != 1 {
		t.Error("the will of the old connection was not out when the new one was let in")
	}
	old.expectEnd()
	next.subscribe("a")
	b.publish("a", "x")
	next.expectMessage("a", "x")
	st := b.Stats()
	if st.Takeovers != 1 || st.Connections != 1 || st.Wills != 1 || st.Faults["session_taken_over"] != 1 {
		t.Errorf("%+v", st)
	}
	next.send([]byte{0xe0, 0})
	next.expectEnd()
	b.connect("dev").ping()
	if n := b.Stats().Takeovers; n != 1 {
		t.Errorf("%d takeovers after a client id was free", n)
	}
}

// A client that says goodbye and is here again before the last it said has been read: its
// messages are delivered, and it had no last will to leave.
func TestTakeoverHearsTheOldToTheEnd(t *testing.T) {
	t.Run("socket", func(t *testing.T) {
		testTakeoverHearsTheOldToTheEnd(t, func(b *broker) func() *client {
			b.listen()
			return b.dial
		})
	})
	t.Run("no socket", func(t *testing.T) {
		testTakeoverHearsTheOldToTheEnd(t, func(b *broker) func() *client {
			ln := newPipeListener()
			b.serve(ln)
			return func() *client { return ln.dialWith(t, 1<<20) }
		})
	})
	t.Run("websocket", func(t *testing.T) {
		testTakeoverHearsTheOldToTheEnd(t, func(b *broker) func() *client {
			ln := newPipeListener()
			b.serve(mortals{ln})
			return func() *client { return ln.dialWith(t, 1<<20) }
		})
	})
}

// mortals are connections that a read that is cut off ends, as it does a WebSocket.
type mortals struct{ pipeListener }

func (m mortals) Accept() (net.Conn, error) {
	nc, err := m.pipeListener.Accept()
	return &mortal{Conn: nc}, err
}

type mortal struct {
	net.Conn
	err error
}

func (m *mortal) Read(b []byte) (n int, err error) {
	if m.err == nil {
		n, m.err = m.Conn.Read(b)
	}
	return n, m.err
}

func testTakeoverHearsTheOldToTheEnd(t *testing.T, serve func(*broker) (dial func() *client)) {
	testkit.CheckGoroutines(t)
	reading, goOn := make(chan struct{}), make(chan struct{})
	b := newBroker(t, Options{Barrier: func(fn func(error)) { close(reading); <-goOn; fn(nil) },
		Budget: leaf.NewBudget(256 << 10)}) // so little that what is no socket is read in small pieces
	dial := serve(b)
	seen := b.watch(">")
	old := dial()
	old.login(packet.Connect{Version: packet.V311, CleanStart: true, ClientID: []byte("dev"),
		HasWill: true, Will: packet.Will{Topic: []byte("will"), Payload: []byte("gone")}})
	old.send(pub("log/a", "first", 1, 1))
	<-reading
	old.send(pub("a", "second", 0, 0))
	old.send(bytes.Repeat(pub("a", strings.Repeat("x", 400), 0, 0), 400))
	old.send(append(pub("a", "third", 0, 0), 0xe0, 0))
	next := dial()
	next.send(hello(nothing))
	testkit.Eventually(t, func() bool { return b.Stats().Takeovers == 1 }, "the other is at the door")
	close(goOn)
	next.expect(0x20, 2, 0, 0)
	if got, want := seen.Subjects(), append([]string{"log.a"}, slices.Repeat([]string{"a"}, 402)...); !slices.Equal(got, want) {
		t.Errorf("%d messages, the last on %q, want all %d that the client had said and no will", len(got), got[len(got)-1], len(want))
	}
	if n := b.fault("session_taken_over"); n != 0 {
		t.Errorf("%d sessions taken over, though the old one had said goodbye", n)
	}
}

// Many connections fight for one client id: each is let in or ended, one is left,
// and its subscription is the only one.
func TestTakeoverRace(t *testing.T) {
	b := startBroker(t, Options{})
	done := make(chan struct{})
	const n = 20
	for range n {
		d := b.dial()
		go func() {
			defer func() { done <- struct{}{} }()
			d.nc.Write(append(hello(nothing), 0x82, 6, 0, 1, 0, 1, 'a', 0))
		}()
	}
	for range n {
		<-done
	}
	testkit.Eventually(t, func() bool {
		st := b.Stats()
		return st.Accepted == n && st.Connections == 1 && st.Takeovers == n-1 && b.router.Subscriptions() == 2
	}, "one connection is left")
}

func TestConnectionLimit(t *testing.T) {
	b := startBroker(t, Options{MaxConns: 1})
	one := b.connect("one")
	two := b.dial()
	two.expectEnd()
	one.send([]byte{0xe0, 0})
	one.expectEnd()
	testkit.Eventually(t, func() bool { return b.Stats().Connections == 0 }, "the first is gone")
	b.connect("two").ping()
	if n := b.Stats().Refused; n != 1 {
		t.Errorf("%d refused", n)
	}
}
