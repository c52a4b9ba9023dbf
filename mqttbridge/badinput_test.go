package mqttbridge

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/leafd/leafd/internal/testkit"
	"github.com/leafd/leafd/leaf"
	"github.com/leafd/leafd/mqttbridge/packet"
)

// badInput is what hostile or broken clients have sent to brokers, most of it with
// a CVE to its name. Each connection must end with this fault, and nothing of it
// may be published.
var badInput = []struct {
	name  string
	send  []byte // after CONNECT, unless it is the first packet
	fault string
	first bool
}{
	{"client sends CONNACK", []byte{0x20, 2, 0, 0}, "protocol_error", false},
	{"client sends SUBACK", []byte{0x90, 3, 0, 1, 0}, "protocol_error", false},
	{"client sends UNSUBACK", []byte{0xb0, 2, 0, 1}, "protocol_error", false},
	{"client sends PINGRESP", []byte{0xd0, 0}, "protocol_error", false},
	{"AUTH in 3.1.1", []byte{0xf0, 0}, "protocol_error", false},
	{"PUBACK of nothing", []byte{0x40, 2, 0, 1}, "protocol_error", false},
	{"PUBREL with id 0", []byte{0x62, 2, 0, 0}, "protocol_error", false},
	{"PUBREL with flags 0", []byte{0x60, 2, 0, 1}, "malformed_packet", false},
	{"PUBREL without an id", []byte{0x62, 1, 0}, "malformed_packet", false},
	{"PUBREC of nothing", []byte{0x50, 2, 0, 1}, "protocol_error", false},
	{"PUBCOMP out of order", []byte{0x70, 2, 0, 1}, "protocol_error", false},
	{"type 0", []byte{0x00, 0}, "malformed_packet", false},
	{"remaining length of five bytes", []byte{0x30, 0xff, 0xff, 0xff, 0xff, 0x01}, "malformed_packet", false},
	{"268,435,455 bytes with nothing behind", []byte{0x30, 0xff, 0xff, 0xff, 0x7f}, "packet_too_large", false},
	{"PUBLISH of length 0", []byte{0x30, 0}, "malformed_packet", false},
	{"PUBLISH of length 1", []byte{0x30, 1, 0}, "malformed_packet", false},
	{"topic longer than the packet", []byte{0x30, 3, 0xff, 0xff, 'a'}, "malformed_packet", false},
	{"remaining length underflow at QoS 1", []byte{0x32, 3, 0, 1, 'a'}, "malformed_packet", false},
	{"topic empty", []byte{0x30, 2, 0, 0}, "bad_topic_name", false},
	{"surrogate in the topic", []byte{0x30, 5, 0, 3, 0xed, 0xa0, 0x80}, "malformed_packet", false},
	{"overlong UTF-8 in the topic", []byte{0x30, 4, 0, 2, 0xc0, 0x80}, "malformed_packet", false},
	{"topic of 65,535 bytes", pub(strings.Repeat("a", 65535), "", 0, 0), "bad_topic_name", false},
	{"topic of 4,000 dots", pub(strings.Repeat(".", 4000), "", 0, 0), "bad_topic_name", false},
	{"QoS 3", []byte{0x36, 3, 0, 1, 'a'}, "malformed_packet", false},
	{"DUP at QoS 0", []byte{0x38, 3, 0, 1, 'a'}, "malformed_packet", false},
	{"SUBSCRIBE without filters", []byte{0x82, 2, 0, 1}, "protocol_error", false},
	{"SUBSCRIBE with flags 0", []byte{0x80, 6, 0, 1, 0, 1, 'a', 0}, "malformed_packet", false},
	{"SUBSCRIBE reserved bits", []byte{0x82, 6, 0, 1, 0, 1, 'a', 0x40}, "malformed_packet", false},
	{"SUBSCRIBE filter longer than the packet", []byte{0x82, 6, 0, 1, 0xff, 0xff, 'a', 0}, "malformed_packet", false},
	{"UNSUBSCRIBE without filters", []byte{0xa2, 2, 0, 1}, "protocol_error", false},
	{"PINGREQ with a body", []byte{0xc0, 1, 0}, "malformed_packet", false},
	{"second CONNECT", hello(nothing), "protocol_error", false},

	{"PUBLISH first", pub("a", "x", 0, 0), "protocol_error", true},
	{"a gigantic first packet that is no CONNECT", []byte{0x30, 0xff, 0xff, 0xff, 0x7f}, "protocol_error", true},
	{"a gigantic CONNECT", []byte{0x10, 0xff, 0xff, 0xff, 0x7f}, "packet_too_large", true},
	{"CONNECT one byte over the limit", []byte{0x10, 0xfe, 0x3f}, "packet_too_large", true},
	{"CONNECT with flags", []byte{0x11, 0}, "malformed_packet", true},
	{"CONNECT of length 0", []byte{0x10, 0}, "malformed_packet", true},
	{"will of QoS 3", []byte{0x10, 17, 0, 4, 'M', 'Q', 'T', 'T', 4, 0x1e, 0, 0, 0, 1, 'a', 0, 1, 'w', 0}, "malformed_packet", true},
	{"TLS on the plain port", []byte{0x16, 3, 1, 2, 0, 1}, "malformed_packet", true},
	{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), "protocol_error", true},
	{"NATS", []byte("CONNECT {}\r\nPING\r\n"), "protocol_error", true},
}

func TestBadInput(t *testing.T) {
	b := startBroker(t, Options{})
	got := b.watch(">")
	for _, c := range badInput {
		before := b.fault(c.fault)
		d := b.dial()
		if !c.first {
			d.login(packet.Connect{Version: packet.V311, CleanStart: true, ClientID: []byte("d")})
		}
		d.nc.Write(append(slices.Clone(c.send), make([]byte, 64<<10)...)) // and garbage after it
		d.expectEnd()
		testkit.Eventually(t, func() bool { return b.fault(c.fault) == before+1 }, "%s counts as %s: %+v", c.name, c.fault, b.Stats())
	}
	if n := len(got.Got()); n != 0 {
		t.Errorf("published %q", got.Subjects())
	}
}

// The same, byte by byte: the verdict does not depend on how it is cut, and comes
// as soon as it can.
func TestBadInputByteByByte(t *testing.T) {
	b := newBroker(t, Options{})
	for _, c := range badInput {
		near, far := testkit.Pipe(64 << 10)
		s := b.admit(far)
		var err error
		if !c.first {
			err = s.consume(hello(nothing))
		}
		for _, by := range c.send {
			if err != nil {
				break
			}
			err = s.consume([]byte{by})
		}
		var fault *packet.Error
		if !errors.As(err, &fault) || fault.Reason.String() != c.fault {
			t.Errorf("%s: %v", c.name, err)
		}
		s.end(err)
		s.out.Wait()
		near.Close()
	}
}

// Nobody gets more than 16 KiB for bytes that are not yet a CONNECT accepted.
func TestMemoryBeforeConnect(t *testing.T) {
	b := newBroker(t, Options{})
	const readBuffer = 4 << 10 // what leaf.Inbound lends before Trust
	whole := packet.Connect{Version: packet.V311, CleanStart: true, ClientID: bytes.Repeat([]byte("a"), maxConnect-15)}
	connect := whole.Append(nil)
	if len(connect) != maxConnect {
		t.Fatalf("%d bytes", len(connect))
	}
	for _, stride := range []int{1, 100, 4096} {
		const runs = 50
		var before, after runtime.MemStats
		sessions := make([]*session, runs)
		_, far := testkit.Pipe(64)
		runtime.ReadMemStats(&before)
		for i := range runs {
			s := b.admit(far)
			for part := range slices.Chunk(connect[:maxConnect-1], stride) {
				if err := s.consume(part); err != nil {
					t.Fatal(err)
				}
			}
			sessions[i] = s
		}
		runtime.ReadMemStats(&after)
		per := (after.TotalAlloc-before.TotalAlloc)/runs + readBuffer
		t.Logf("in parts of %d: %d bytes a connection", stride, per)
		if per > 16<<10 {
			t.Errorf("in parts of %d: %d bytes a connection", stride, per)
		}
		if err := sessions[0].consume(connect[maxConnect-1:]); err != nil {
			t.Errorf("in parts of %d: a CONNECT of %d bytes: %v", stride, maxConnect, err)
		}
		for _, s := range sessions {
			s.end(errDisconnect)
		}
	}
}

// A large packet that comes in small parts is held once, not many times.
func TestLargePacketInParts(t *testing.T) {
	b := newBroker(t, Options{})
	got := b.watch("a")
	_, far := testkit.Pipe(64)
	s := b.admit(far)
	if err := s.consume(hello(nothing)); err != nil {
		t.Fatal(err)
	}
	payload := strings.Repeat("x", 1<<20)
	for part := range slices.Chunk(pub("a", payload, 0, 0), 1000) {
		if err := s.consume(part); err != nil {
			t.Fatal(err)
		}
		if cap(s.carry) > 1<<20+8<<10 {
			t.Fatalf("%d bytes carried", cap(s.carry))
		}
	}
	if m := got.Got(); len(m) != 1 || string(m[0].Data) != payload {
		t.Fatalf("%d messages", len(m))
	}
	if s.carry != nil {
		t.Errorf("%d bytes kept for nothing", cap(s.carry))
	}
	s.end(errDisconnect)
}

// Noise after a CONNECT never panics, and what comes of it is decided.
func TestNoise(t *testing.T) {
	b := newBroker(t, Options{})
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		_, far := testkit.Pipe(1 << 20)
		s := b.admit(far)
		noise := make([]byte, rnd.IntN(200))
		for i := range noise {
			noise[i] = byte(rnd.Uint32())
		}
		err := s.consume(append(hello(nothing), noise...))
		var fault *packet.Error
		if err != nil && !errors.As(err, &fault) && !errors.Is(err, errDisconnect) {
			t.Fatalf("% x: %v", noise, err)
		}
		s.settle()
		s.end(err)
		s.out.Wait()
	}
}

// FuzzSession feeds the read loop any bytes in two parts: it must not panic, must
// not keep the bytes it was lent, and must decide as if they came in one.
func FuzzSession(f *testing.F) {
	send, _ := conversation()
	f.Add(send, uint16(20))
	f.Add(slices.Concat(hello(nothing), pub("log/a", "x", 2, 7), pub("log/a", "x", 2, 7), qos2(packet.PUBREL, 7), pub("log/a", "y", 2, 7)), uint16(30))
	for _, c := range badInput {
		if len(c.send) < 200 {
			f.Add(append(hello(nothing), c.send...), uint16(25))
			f.Add(c.send, uint16(3))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, cut uint16) {
		b := newBroker(t, Options{})
		run := func(parts ...[]byte) (published []string, err error) {
			got := &testkit.Sink{}
			port := b.router.Attach("watch", got, 0)
			if err := port.Subscribe(newSub(">")); err != nil {
				t.Fatal(err)
			}
			defer port.Close()
			_, far := testkit.Pipe(1 << 20)
			s := b.admit(far)
			for _, p := range parts {
				lent := slices.Clone(p)
				if err == nil {
					err = s.consume(lent)
				}
				for i := range lent {
					lent[i] = 0xDB
				}
			}
			s.settle()
			s.out.Close(io.EOF)
			s.end(err)
			s.out.Wait()
			return got.Subjects(), err
		}
		at := min(int(cut), len(data))
		got1, err1 := run(data)
		got2, err2 := run(data[:at], data[at:])
		if !errors.Is(err1, err2) || !slices.Equal(got1, got2) {
			t.Fatalf("whole: %v %q; cut at %d: %v %q", err1, got1, at, err2, got2)
		}
	})
}

// Packets that do not end count for the memory of all connections: one that holds more than the others
// is ended, and all is given back.
func TestBudgetOfUnfinishedPackets(t *testing.T) {
	const limit, clients = 1 << 20, 8
	budget := leaf.NewBudget(limit)
	b := newBroker(t, Options{Budget: budget})
	begun := pub("a", strings.Repeat("x", 500_000), 0, 0)
	begun = begun[:len(begun)-1]
	var left []*session
	for i := range clients {
		_, far := testkit.Pipe(64)
		s := b.admit(far)
		if err := s.consume(hello(func(p *packet.Connect) { p.ClientID = []byte{'a' + byte(i)} })); err != nil {
			t.Fatal(err)
		}
		switch err := s.consume(begun); {
		case errors.Is(err, errUnfinished):
			s.end(err)
			s.out.Wait()
		case err != nil:
			t.Fatal(err)
		default:
			left = append(left, s)
		}
		if used := budget.Used(); used > limit {
			t.Errorf("%d bytes are held", used)
		}
	}
	if len(left) != 2 || b.fault("quota_exceeded") != clients-2 {
		t.Errorf("%d of %d hold half a megabyte each, %+v", len(left), clients, b.Stats())
	}
	for _, s := range left {
		s.end(errDisconnect)
		s.out.Wait()
	}
	if used := budget.Used(); used != 0 {
		t.Errorf("%d bytes were not given back", used)
	}
}
