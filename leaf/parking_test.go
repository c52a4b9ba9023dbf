package leaf

import (
	"net"
	"runtime"
	"strings"
	"testing"

	"github.com/leafd/leafd/internal/testkit"
)

// parkedConns counts the connections of s that have no goroutine.
func parkedConns(s *Server) (n int) {
	for _, c := range s.snapshot(nil) {
		if c.in.state.Load() == parked {
			n++
		}
	}
	return n
}

// A silent client has no goroutine, and is served as any other once it says something.
func TestSilentClientsHaveNoGoroutine(t *testing.T) {
	testkit.CheckGoroutines(t)
	s, addr := startServer(t, Options{})
	before := runtime.NumGoroutine()
	var clients []*client
	for range 20 {
		c := dial(t, addr, `{}`)
		c.expect("SUB a 1\r\n", "")
		clients = append(clients, c)
	}
	for round := range 3 {
		testkit.Eventually(t, func() bool { return parkedConns(s) == len(clients) }, "all parked")
		testkit.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+3 }, "their goroutines gone")
		clients[round].send("PUB a 2\r\nhi\r\n")
		for _, c := range clients {
			if got := c.line() + c.line(); got != "MSG a 1 2hi" {
				t.Fatalf("got %q", got)
			}
		}
	}
	clients[0].Close()
	testkit.Eventually(t, func() bool { return s.Conns() == len(clients)-1 }, "the one that left while parked is gone")
}

// What a parked connection began to say is not forgotten.
func TestParkedInTheMiddleOfAnOperation(t *testing.T) {
	s, addr := startServer(t, Options{})
	c := dial(t, addr, `{}`)
	for _, part := range []string{"SU", "B a 1\r\nPUB a 10\r\n01234", "56789\r", "\nPI"} {
		c.send(part)
		testkit.Eventually(t, func() bool { return parkedConns(s) == 1 }, "parked")
	}
	c.expect("NG\r\n", "MSG a 1 10\r\n0123456789\r\nPONG\r\n"[:len("MSG a 1 10\r\n0123456789\r\n")])
}

// A connection that the server ends while it is parked is cleaned up by its reader.
func TestParkedConnectionsAreEnded(t *testing.T) {
	s, addr := startServer(t, Options{Outbound: OutboundOptions{MaxPending: 256 << 10}})
	slow := dial(t, addr, `{}`)
	slow.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	slow.expect("SUB a 1\r\n", "")
	testkit.Eventually(t, func() bool { return parkedConns(s) == 1 }, "parked")
	pub := dial(t, addr, `{}`)
	payload := strings.Repeat("x", 64<<10)
	for s.Counters().SlowConsumers.Load() == 0 {
		pub.expect("PUB a 65536\r\n"+payload+"\r\n", "")
	}
	testkit.Eventually(t, func() bool { return s.Conns() == 1 && s.Router().Subscriptions() == 0 }, "the slow consumer gone")
}
