package mqttbridge

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
	"github.com/leafd/leafd/leaf"
	"github.com/leafd/leafd/mqttbridge/packet"
)

// pipeBroker is a broker whose clients are in memory, for a synctest bubble.
func pipeBroker(t *testing.T, o Options) (*broker, pipeListener) {
	b, ln := newBroker(t, o), newPipeListener()
	b.serve(ln)
	return b, ln
}

// ended reads what is left and returns when the connection ended.
func (c *client) ended() time.Time {
	c.nc.SetReadDeadline(time.Time{})
	io.Copy(io.Discard, c.nc)
	return time.Now()
}

// A silent client is ended at one and a half times its keep alive, to the moment,
// whatever it sent before [MQTT-3.1.2-24]; its will is published.
func TestKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, ln := pipeBroker(t, Options{})
		wills := b.watch("will")
		d := ln.dial(t)
		d.login(packet.Connect{Version: packet.V311, CleanStart: true, KeepAlive: 10, ClientID: []byte("d"),
			HasWill: true, Will: packet.Will{Topic: []byte("will")}})
		for range 5 { // just in time, five times
			time.Sleep(15*time.Second - time.Millisecond)
			d.ping()
		}
		time.Sleep(time.Second)
		d.send([]byte{0xc0}) // half a packet is a sign of life as well
		from := time.Now()
		if silent := d.ended().Sub(from); silent != 15*time.Second {
			t.Errorf("ended after %s", silent)
		}
		synctest.Wait()
		if len(wills.Got()) != 1 || b.fault("keep_alive_timeout") != 1 {
			t.Errorf("wills %q, %+v", wills.Subjects(), b.Stats())
		}
	})
}

func TestNoKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ln := pipeBroker(t, Options{})
		d := ln.dial(t)
		d.login(packet.Connect{Version: packet.V311, CleanStart: true, ClientID: []byte("d")})
		time.Sleep(1000 * time.Hour)
		d.ping()
	})
}

// The whole CONNECT must come in time; each byte of it buys no more of it.
func TestConnectTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ln := pipeBroker(t, Options{})
		silent, slow := ln.dial(t), ln.dial(t)
		from := time.Now()
		for _, c := range hello(nothing)[:10] {
			slow.send([]byte{c})
			time.Sleep(190 * time.Millisecond)
		}
		for _, d := range []*client{silent, slow} {
			if took := d.ended().Sub(from); took != 2*time.Second {
				t.Errorf("ended after %s", took)
			}
		}
	})
}

// While the server itself makes a device wait, the device is not silent.
func TestKeepAliveWhileWaitingAtABarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, ln := pipeBroker(t, Options{MaxUnacked: 1})
		d := ln.dial(t)
		d.login(packet.Connect{Version: packet.V311, CleanStart: true, KeepAlive: 10, ClientID: []byte("d")})
		d.send(slices.Concat(pub("log/a", "x", 1, 1), pub("log/a", "x", 1, 2)))
		settle := <-b.barriers
		time.Sleep(time.Minute)
		settle(nil)
		d.expect(puback(1)...)
		d.expect(puback(2)...)
		time.Sleep(14 * time.Second)
		d.ping()
	})
}

// A will is published when a connection ends in any way but a DISCONNECT.
func TestWill(t *testing.T) {
	for _, c := range []struct {
		name  string
		end   func(d *client)
		wills int
	}{
		{"the device disconnects", func(d *client) { d.send([]byte{0xe0, 0}) }, 0},
		{"the device is gone", func(d *client) { d.nc.Close() }, 1},
		{"the connection is reset", func(d *client) { d.nc.(*net.TCPConn).SetLinger(0); d.nc.Close() }, 1},
		{"protocol error", func(d *client) { d.send([]byte{0x00}) }, 1},
		{"DISCONNECT with a body is one", func(d *client) { d.send([]byte{0xe0, 1, 0}) }, 1},
		{"a topic that is none", func(d *client) { d.send(pub("a b", "", 2, 1)) }, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := startBroker(t, Options{})
			got := b.watch("log.>")
			d := b.connectWith(packet.Connect{Version: packet.V311, CleanStart: true, ClientID: []byte("d"),
				HasWill: true, Will: packet.Will{Topic: []byte("log/will"), Payload: []byte("bye"), QoS: 1, Retain: true}})
			d.subscribe("log/#") // it does not hear its own will
			c.end(d)
			testkit.Eventually(t, func() bool { return b.Stats().Connections == 0 }, "the session is gone")
			if n := len(got.Got()); n != c.wills || int(b.Stats().Wills) != n || len(b.barriers) != n || len(b.log.Got()) != n {
				t.Fatalf("%d wills live, %d barriers, %+v", n, len(b.barriers), b.Stats())
			}
			for _, m := range got.Got() {
				if string(m.Data) != "bye" || m.QoS != 1 || !m.Retain || !strings.Contains(string(m.Header), "Nmqtt-Pub:1\r\n") {
					t.Errorf("%q %q %d %v", m.Header, m.Data, m.QoS, m.Retain)
				}
			}
		})
	}
}

func TestWillThatIsNotKept(t *testing.T) {
	for name, spoil := range map[string]func(b *broker){
		"log refuses":   func(b *broker) { b.log.Answer(msg.StoreFull) },
		"barrier fails": func(b *broker) { go func() { (<-b.barriers)(errors.New("disk")) }() },
	} {
		t.Run(name, func(t *testing.T) {
			b := startBroker(t, Options{})
			spoil(b)
			d := b.connectWith(packet.Connect{Version: packet.V311, CleanStart: true, ClientID: []byte("d"),
				HasWill: true, Will: packet.Will{Topic: []byte("log/will"), QoS: 1}})
			d.nc.Close()
			testkit.Eventually(t, func() bool { return strings.Contains(b.logged.String(), "will") }, "said in the log")
		})
	}
}

// Shutting down: what was taken is acknowledged once it is safe, wills go out.
func TestShutdownAcknowledges(t *testing.T) {
	b := startBroker(t, Options{})
	wills := b.watch("will")
	d := b.connectWith(packet.Connect{Version: packet.V311, CleanStart: true, ClientID: []byte("d"),
		HasWill: true, Will: packet.Will{Topic: []byte("will")}})
	half := b.dial()
	half.send([]byte{0x10})
	d.send(pub("log/a", "x", 1, 1))
	settle := <-b.barriers
	go b.stop()
	testkit.Eventually(t, func() bool { return len(wills.Got()) == 1 }, "the will is out")
	settle(nil)
	d.expect(puback(1)...)
	d.expectEnd()
	half.expectEnd()
}

// A barrier that never comes does not hold a shutdown for ever.
func TestShutdownGivesUpOnABarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, ln := pipeBroker(t, Options{})
		d := ln.dial(t)
		d.login(packet.Connect{Version: packet.V311, CleanStart: true, ClientID: []byte("d")})
		d.send(pub("log/a", "x", 1, 1))
		settle := <-b.barriers
		from := time.Now()
		b.stop()
		if took := time.Since(from); took != drainLimit {
			t.Errorf("stopped after %s", took)
		}
		settle(nil) // too late, and harmless
	})
}

// A device that does not read is cut off at its bound and holds nobody up.
func TestSlowConsumer(t *testing.T) {
	b := startBroker(t, Options{MaxPending: 1 << 20})
	slow, fast := b.connect("slow"), b.connect("fast")
	slow.subscribe("a")
	fast.subscribe("a")
	payload := strings.Repeat("x", 100<<10)
	for b.fault("quota_exceeded") == 0 {
		b.publish("a", payload)
		fast.expectMessage("a", payload)
	}
	testkit.Eventually(t, func() bool { return b.Stats().Connections == 1 }, "the slow one is gone")
	fast.ping()
}

// serveError is a listener that fails once.
type serveError struct{ net.Listener }

func (serveError) Accept() (net.Conn, error) { return nil, errors.New("broken") }

func TestServeSaysWhyItEnds(t *testing.T) {
	b, ln := newBroker(t, Options{}), newPipeListener()
	err := b.Serve(context.Background(), serveError{ln})
	if err == nil || err.Error() != "accept MQTT clients on pipe: broken" {
		t.Errorf("got %v", err)
	}
}

// The zero Options are a broker for devices alone.
func TestZeroOptions(t *testing.T) {
	b := &broker{t: t, Server: New(Options{}), logged: &lockedBuffer{}}
	ln := newPipeListener()
	b.serve(ln)
	d := ln.dial(t)
	d.login(packet.Connect{Version: packet.V311, CleanStart: true, ClientID: []byte("d")})
	d.subscribe("a")
	d.send(pub("a", "x", 1, 1))
	d.expectMessage("a", "x")
	d.expect(puback(1)...)
}

// A log that keeps messages where no Barrier was given needs none.
func TestNoBarrier(t *testing.T) {
	r := leaf.NewRouter()
	var log testkit.Sink
	log.Answer(msg.Kept)
	if err := r.Attach("log", &log, leaf.Outbox).Subscribe(&msg.Sub{Subject: ">"}); err != nil {
		t.Fatal(err)
	}
	b := &broker{t: t, Server: New(Options{Router: r}), logged: &lockedBuffer{}}
	ln := newPipeListener()
	b.serve(ln)
	d := ln.dial(t)
	d.login(packet.Connect{Version: packet.V311, CleanStart: true, ClientID: []byte("d")})
	d.send(pub("a", "x", 1, 1))
	d.expect(puback(1)...)
}

// A panic in a handler ends its connection alone.
func TestPanicEndsOneConnection(t *testing.T) {
	b := newBroker(t, Options{Barrier: func(func(error)) { panic("a bug") }})
	ln := newPipeListener()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- b.Serve(ctx, ln) }()
	good, bad := ln.dial(t), ln.dial(t)
	good.login(packet.Connect{Version: packet.V311, CleanStart: true, ClientID: []byte("d")})
	bad.login(packet.Connect{Version: packet.V311, CleanStart: true, ClientID: []byte("bad")})
	bad.send(pub("log/a", "x", 1, 1))
	bad.expectEnd()
	good.ping()
	cancel()
	if err := <-served; err != nil || b.Stats().Panics != 1 {
		t.Errorf("%v, %d panics", err, b.Stats().Panics)
	}
}

// conversation is a device's side of a session, and what it is answered, with one
// packet of every type in it.
func conversation() (send, want []byte) {
	sub := packet.Subscribe{ID: 1}
	sub.Add([]byte("a/#"), 1)
	unsub := packet.Unsubscribe{ID: 2}
	unsub.Add([]byte("a/#"))
	large := strings.Repeat("y", 300)
	send = slices.Concat(hello(func(p *packet.Connect) { p.HasWill, p.Will.Topic = true, []byte("w") }),
		sub.Append(nil, packet.V311), pub("a", "x", 1, 7), pub("a/b", large, 0, 0), []byte{0xc0, 0x80, 0x00}, // a length written long
		unsub.Append(nil, packet.V311), pub("a", "x", 1, 8), []byte{0xe0, 0})
	want = slices.Concat([]byte{0x20, 2, 0, 0}, []byte{0x90, 3, 0, 1, 0}, pub("a", "x", 0, 0), pub("a/b", large, 0, 0), []byte{0xd0, 0},
		[]byte{0xb0, 2, 0, 2})
	return send, want
}

// However the bytes are cut into reads, they mean the same: in two at every
// offset, and byte by byte.
func TestSplitAtEveryOffset(t *testing.T) {
	send, want := conversation()
	cuts := [][]int{nil}
	for i := 1; i < len(send); i++ {
		cuts = append(cuts, []int{i})
	}
	var every []int
	for i := 1; i < len(send); i++ {
		every = append(every, i)
	}
	cuts = append(cuts, every)
	b := newBroker(t, Options{})
	for _, cut := range cuts {
		got := converse(b, send, cut)
		acks := [][]byte{puback(7), puback(8)}
		for _, ack := range acks { // their place depends on how much is read at once, their order does not
			at := bytes.Index(got, ack)
			if at < 0 {
				t.Fatalf("cut at %v: no % x in % x", cut, ack, got)
			}
			got = slices.Delete(got, at, at+len(ack))
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("cut at %v: got % x", cut, got)
		}
	}
	if st := b.Stats(); st.Wills != 0 || st.InMsgs != uint64(3*len(cuts)) || len(st.Faults) != 0 {
		t.Errorf("%+v", st)
	}
}

// converse runs the read loop on the parts and returns all that was answered. It
// calls consume and settle as read does, without a socket between.
func converse(b *broker, send []byte, cut []int) []byte {
	near, far := testkit.Pipe(64 << 10)
	s := b.admit(far)
	from := 0
	for _, to := range append(slices.Clone(cut), len(send)) {
		part := slices.Clone(send[from:to])
		err := s.consume(part)
		for i := range part { // what is kept of it must be a copy
			part[i] = 0xDB
		}
		s.settle()
		if err != nil && !errors.Is(err, errDisconnect) {
			b.t.Fatal(err)
		}
		from = to
	}
	s.out.Close(nil)
	s.out.Wait()
	s.end(errDisconnect)
	got, _ := io.ReadAll(near)
	return got
}

// garbled are connections beneath which the bytes "garbage" are no frame.
type garbled struct {
	pipeListener
	met chan struct{} // closed once they came
}

func (g garbled) Accept() (net.Conn, error) {
	nc, err := g.pipeListener.Accept()
	return &garbledConn{nc, g.met}, err
}

type garbledConn struct {
	net.Conn
	met chan struct{}
}

func (g *garbledConn) Read(b []byte) (int, error) {
	n, err := g.Conn.Read(b)
	if string(b[:n]) == "garbage" {
		close(g.met)
		return 0, errors.New("no such frame")
	}
	return n, err
}

// A client whose frames cannot be read any more gets the acknowledgements of what came before,
// and the log says why it was ended.
func TestUnreadable(t *testing.T) {
	testkit.CheckGoroutines(t)
	b := newBroker(t, Options{})
	ln := garbled{newPipeListener(), make(chan struct{})}
	b.serve(ln)
	c := ln.dial(t)
	c.login(packet.Connect{Version: packet.V311, CleanStart: true, ClientID: []byte("dev")})
	c.send(pub("log/a", "x", 1, 1))
	safe := <-b.barriers
	c.send([]byte("garbage"))
	<-ln.met
	safe(nil)
	c.expect(puback(1)...)
	c.expectEnd()
	if n := b.fault("protocol_error"); n != 1 || !strings.Contains(b.logged.String(), "conn=mqtt:dev") || !strings.Contains(b.logged.String(), "no such frame") {
		t.Errorf("%d faults are counted, and the log says:\n%s", n, b.logged)
	}
}
