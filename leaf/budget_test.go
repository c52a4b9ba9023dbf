package leaf

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// However many clients do not read, what waits for them stays within the budget, and
// those who read get everything.
func TestBudgetOfAllConnections(t *testing.T) {
	const limit, slowOnes = 1 << 20, 40
	b := NewBudget(limit)
	s, addr := startServer(t, Options{Outbound: OutboundOptions{Budget: b}})
	for range slowOnes {
		c := dial(t, addr, `{}`)
		c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		c.expect("SUB a 1\r\n", "")
	}
	good := dial(t, addr, `{}`)
	good.expect("SUB a 1\r\n", "")
	pub := dial(t, addr, `{}`)
	payload := strings.Repeat("x", 16<<10)
	most := int64(0)
	for n := 0; s.Counters().SlowConsumers.Load() < slowOnes; n++ {
		pub.expect("PUB a 16384\r\n"+payload+"\r\n", "")
		if got := good.line() + good.line(); got != "MSG a 1 16384"+payload {
			t.Fatalf("message %d: the one who reads got %.40q", n, got)
		}
		most = max(most, b.Used())
	}
	// One message for each may be appended before the first is cut off.
	if over := most - limit; over > slowOnes*2*largeChunk {
		t.Errorf("%d bytes waited, %d over the budget", most, over)
	}
	testkit.Eventually(t, func() bool { return s.Conns() == 2 && b.Used() == 0 && b.holders.Load() == 0 }, "all given back")
	if n := s.Router().Stats().Drops[msg.Gone].Load(); n == 0 {
		t.Error("no drop is counted")
	}
}

// What clients begin to send and do not end counts as well: who holds most of it is cut off.
func TestBudgetOfUnfinishedMessages(t *testing.T) {
	const limit, size, clients = 1 << 20, 500_000, 8
	b := NewBudget(limit)
	s, addr := startServer(t, Options{MaxPayload: 1 << 20, Outbound: OutboundOptions{Budget: b}})
	begun := []byte(fmt.Sprintf("PUB a %d\r\n%s", size, strings.Repeat("x", size-1)))
	for range clients {
		dial(t, addr, `{}`).Write(begun) // it may be cut off while it sends
	}
	testkit.Eventually(t, func() bool { return s.Counters().SlowConsumers.Load() >= clients-3 }, "all but two or three are cut off")
	if used := b.Used(); used > 2*limit { // several may grow before one of them sees that it is too much
		t.Errorf("%d bytes are held of %d", used, clients*size)
	}
	whole := dial(t, addr, `{}`)
	whole.expect("PUB a 3\r\nxyz\r\n", "")
	for _, c := range s.ConnInfos() {
		s.Kick(c.ID)
	}
	testkit.Eventually(t, func() bool { return s.Conns() == 0 && b.Used() == 0 && b.holders.Load() == 0 }, "all given back")
}

// full is no socket: each read gets as much as it asks for.
type full struct {
	net.Conn
	asked int
	err   error
}

func (f *full) Read(b []byte) (int, error) {
	f.asked = len(b)
	if f.err != nil {
		return 0, f.err
	}
	return len(b), nil
}

func (f *full) SetReadDeadline(time.Time) error { return nil }

// What is no socket, a WebSocket say, has its buffer in hand while it waits in the middle of a frame.
// Only so many connections have large ones, and a buffer goes to another that can use it.
func TestBudgetOfLargeReads(t *testing.T) {
	const most, conns = 3, 50
	b := NewBudget(8 * (most*largeRead + largeRead/2))
	var ins []*Inbound
	var ncs []*full
	read := func(i int) int {
		ins[i].Next(true)
		return ncs[i].asked
	}
	for i := range conns {
		nc := &full{}
		ncs, ins = append(ncs, nc), append(ins, NewInbound(nc))
		if n := read(i); n != smallRead {
			t.Fatalf("before a login %d bytes are asked for", n)
		}
		ins[i].Trust(b)
		want := smallRead
		if i < most {
			want = largeRead
		}
		for range 3 {
			if n := read(i); n != want {
				t.Fatalf("connection %d asks for %d bytes, want %d", i, n, want)
			}
		}
	}
	if used := b.Used(); used != 0 {
		t.Errorf("%d bytes of buffers count for who is cut off", used)
	}
	ncs[0].err = io.EOF
	read(0)
	if n := read(conns - 1); n != largeRead {
		t.Errorf("it asks for %d bytes once there is room", n)
	}
	for i, nc := range ncs {
		nc.err = io.EOF
		read(i)
	}
	if n := b.lent.Load(); n != 0 {
		t.Errorf("%d bytes are not given back", n)
	}
	ins[0].Trust(nil)
	ncs[0].err = nil
	if small, large := read(0), read(0); small != smallRead || large != largeRead {
		t.Errorf("without a budget it asks for %d and %d bytes", small, large)
	}
}

// A reader that ends with a large buffer in hand, as after a goodbye, gives it back.
func TestLentBufferComesBack(t *testing.T) {
	b := NewBudget(8 * largeRead)
	in := NewInbound(&full{})
	in.Trust(b)
	for range 2 {
		in.Next(true)
	}
	if n := b.lent.Load(); n != largeRead {
		t.Fatalf("%d bytes are lent", n)
	}
	in.Leave()
	if n := b.lent.Load(); n != 0 {
		t.Errorf("%d bytes are not given back", n)
	}
}
