package mqttbridge

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
	"github.com/leafd/leafd/leaf"
	"github.com/leafd/leafd/mqttbridge/packet"
)

// broker is a server on loopback with its router, a barrier that the test holds
// unless it brings its own, and a durable log on "log.>".
type broker struct {
	*Server
	t        testing.TB
	router   *leaf.Router
	addr     string
	log      testkit.Sink
	barriers chan func(error) // what Barrier was given
	logged   *lockedBuffer
	stop     func() // ends Serve and waits for it
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newBroker(t testing.TB, o Options) *broker {
	b := &broker{t: t, router: leaf.NewRouter(), barriers: make(chan func(error), 1000), logged: &lockedBuffer{}}
	b.log.Answer(msg.Kept)
	if err := b.router.Attach("log", &b.log, leaf.Outbox).Subscribe(&msg.Sub{Subject: "log.>"}); err != nil {
		t.Fatal(err)
	}
	o.Router = b.router
	if o.Barrier == nil {
		o.Barrier = func(fn func(error)) { b.barriers <- fn }
	}
	o.Logger = slog.New(slog.NewTextHandler(b.logged, nil))
	b.Server = New(o)
	return b
}

// startBroker serves until the test ends, and then checks that nothing is left.
func startBroker(t testing.TB, o Options) *broker {
	testkit.CheckGoroutines(t)
	b := newBroker(t, o)
	b.listen()
	return b
}

// listen serves on loopback.
func (b *broker) listen() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	b.addr = ln.Addr().String()
	b.serve(ln)
}

func (b *broker) serve(ln net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- b.Serve(ctx, ln) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			b.t.Errorf("Serve: %v", err)
		}
		if n := b.Stats().Panics; n > 0 {
			b.t.Errorf("%d panics:\n%s", n, b.logged)
		}
	})
	b.t.Cleanup(b.stop)
}

// watch attaches a plain subscriber.
func (b *broker) watch(filter string) *testkit.Sink {
	s := &testkit.Sink{}
	if err := b.router.Attach("watch", s, leaf.EachSub).Subscribe(&msg.Sub{Subject: filter}); err != nil {
		b.t.Fatal(err)
	}
	return s
}

// publish is a NATS client's.
func (b *broker) publish(subject, data string) {
	p := b.router.Attach("nats", &testkit.Sink{}, leaf.EachSub)
	testkit.Lend(&msg.Msg{Subject: []byte(subject), Header: []byte("NATS/1.0\r\nA: b\r\n\r\n"), Data: []byte(data)}, func(m *msg.Msg) { p.Publish(m) })
	p.Flush()
}

func (b *broker) fault(name string) uint64 { return b.Stats().Faults[name] }

// client is a device that speaks bytes.
type client struct {
	t  testing.TB
	nc net.Conn
}

func (b *broker) dial() *client {
	b.t.Helper()
	nc, err := net.Dial("tcp", b.addr)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { nc.Close() })
	return &client{b.t, nc}
}

// connect is a device that has been let in.
func (b *broker) connect(id string) *client {
	b.t.Helper()
	return b.connectWith(packet.Connect{Version: packet.V311, CleanStart: true, ClientID: []byte(id)})
}

func (b *broker) connectWith(p packet.Connect) *client {
	b.t.Helper()
	c := b.dial()
	c.login(p)
	return c
}

func (c *client) login(p packet.Connect) {
	c.t.Helper()
	c.send(p.Append(nil))
	c.expect(0x20, 2, 0, 0)
}

func (c *client) send(b []byte) {
	c.t.Helper()
	if _, err := c.nc.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

// read returns the next packet whole, or the error that came in its place.
func (c *client) read() ([]byte, error) {
	c.nc.SetReadDeadline(time.Now().Add(testkit.Patience))
	var b []byte
	for {
		one := make([]byte, 1)
		if _, err := io.ReadFull(c.nc, one); err != nil {
			return nil, err
		}
		b = append(b, one...)
		h, ok, err := packet.ParseHeader(b)
		if err != nil {
			return nil, err
		}
		if ok {
			body := make([]byte, h.Len)
			_, err := io.ReadFull(c.nc, body)
			return append(b, body...), err
		}
	}
}

func (c *client) expect(want ...byte) {
	c.t.Helper()
	if got, err := c.read(); err != nil || !bytes.Equal(got, want) {
		c.t.Fatalf("got % x, %v; want % x", got, err, want)
	}
}

// expectEnd reads up to the end of the connection, which must come without
// another packet.
func (c *client) expectEnd() {
	c.t.Helper()
	var ne net.Error
	if got, err := c.read(); err == nil || errors.As(err, &ne) && ne.Timeout() {
		c.t.Fatalf("got % x, %v; want the end of the connection", got, err)
	}
}

// ping makes sure that all before it was handled.
func (c *client) ping() {
	c.t.Helper()
	c.send([]byte{0xc0, 0})
	c.expect(0xd0, 0)
}

func (c *client) subscribe(filters ...string) {
	c.t.Helper()
	p := packet.Subscribe{ID: 1}
	want := packet.Suback{Type: packet.SUBACK, ID: 1}
	for _, f := range filters {
		p.Add([]byte(f), 0)
		want.Codes = append(want.Codes, 0)
	}
	c.send(p.Append(nil, packet.V311))
	c.expect(want.Append(nil, packet.V311)...)
}

func (c *client) expectMessage(topic, payload string) {
	c.t.Helper()
	c.expect(pub(topic, payload, 0, 0)...)
}

// pub is a PUBLISH as bytes.
func pub(topic, payload string, qos uint8, id uint16) []byte {
	p := packet.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: qos, ID: id}
	return p.Append(nil, packet.V311)
}

// pipeListener is for devices in memory.
type pipeListener struct{ *testkit.PipeListener }

func newPipeListener() pipeListener { return pipeListener{testkit.NewPipeListener()} }

// dial returns a device in memory.
func (l pipeListener) dial(t testing.TB) *client { return l.dialWith(t, 64<<10) }

// dialWith returns one that can have so many bytes under way.
func (l pipeListener) dialWith(t testing.TB, size int) *client {
	nc := l.Dial(size)
	t.Cleanup(func() { nc.Close() })
	return &client{t, nc}
}

func newSub(filter string) *msg.Sub { return &msg.Sub{Subject: filter} }
