package testkit

import (
	"fmt"
	"io"
	"net"
	"sync"
)

// Proxy is a cable: what connects to it is connected to a target, until the cable
// is cut, stalled or made a hole. It starts plugged in.
type Proxy struct {
	target string
	ln     net.Listener

	mu      sync.Mutex
	state   [2]cableState // by Direction
	budget  [2]int64      // bytes that still pass before the cable cuts itself; negative: no end
	cut     bool
	wires   map[*wire]struct{}
	passed  [2]int64
	changed chan struct{} // closed and replaced when any of the above changes
	running sync.WaitGroup
}

// Direction is a way that bytes go through a Proxy.
type Direction int

const (
	Up   Direction = iota // to the target
	Down                  // from the target
)

type cableState uint8

const (
	flowing cableState = iota
	stalled
	swallowing
)

// wire is one connection through the proxy.
type wire struct {
	ends [2]net.Conn // who connected, and the target
	torn bool        // bytes of it were lost: it must not go on
}

// NewProxy starts a proxy to a host and port. Close ends it.
func NewProxy(target string) (*Proxy, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy to %s: %w", target, err)
	}
	p := &Proxy{target: target, ln: ln, budget: [2]int64{-1, -1}, wires: map[*wire]struct{}{}, changed: make(chan struct{})}
	p.running.Go(p.accept)
	return p, nil
}

// StartProxy is NewProxy for a test.
func StartProxy(t T, target string) *Proxy {
	t.Helper()
	p, err := NewProxy(target)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(p.Close)
	return p
}

// Addr is the host and port to connect to instead of the target.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Cut ends all connections at once, with a reset, and every new one as soon as it
// is made: a hub that is down behind a router that is up.
func (p *Proxy) Cut() { p.change(p.cutLocked) }

func (p *Proxy) cutLocked() {
	p.cut = true
	p.resetLocked(func(*wire) bool { return true })
}

// CutAfter cuts once n more bytes have passed in a direction, to the byte: so a
// message can be torn in the middle, or the link be lost between a message and
// its acknowledgement.
func (p *Proxy) CutAfter(d Direction, n int64) { p.change(func() { p.budget[d] = n }) }

// Stall stops the bytes in the given directions, or in both; none is lost. New
// connections are made and hear nothing. This is a pulled cable while TCP still
// retries: after Restore everything arrives.
func (p *Proxy) Stall(ways ...Direction) { p.become(stalled, ways) }

// Blackhole takes the bytes in the given directions, or in both, and forgets them,
// while all connections stay. On Restore the connections that lost bytes end, since
// a stream cannot go on with a hole in it.
func (p *Proxy) Blackhole(ways ...Direction) { p.become(swallowing, ways) }

func (p *Proxy) become(s cableState, ways []Direction) {
	if len(ways) == 0 {
		ways = []Direction{Up, Down}
	}
	p.change(func() {
		for _, d := range ways {
			p.state[d] = s
		}
	})
}

// Restore plugs the cable in again, after any of the above.
func (p *Proxy) Restore() {
	p.change(func() {
		p.state, p.budget, p.cut = [2]cableState{}, [2]int64{-1, -1}, false
		p.resetLocked(func(w *wire) bool { return w.torn })
	})
}

// Conns is how many connections go through now.
func (p *Proxy) Conns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.wires)
}

// Passed is how many bytes have gone through in a direction.
func (p *Proxy) Passed(d Direction) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.passed[d]
}

// Close ends the proxy and all connections, and waits for its goroutines.
func (p *Proxy) Close() {
	_ = p.ln.Close()
	p.Cut()
	p.running.Wait()
}

func (p *Proxy) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	close(p.changed)
	p.changed = make(chan struct{})
}

// resetLocked ends the wires that which picks. Their goroutines then remove them.
func (p *Proxy) resetLocked(which func(*wire) bool) {
	for w := range p.wires {
		if which(w) {
			for _, c := range w.ends {
				_ = c.(*net.TCPConn).SetLinger(0)
				_ = c.Close()
			}
			delete(p.wires, w)
		}
	}
}

func (p *Proxy) accept() {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.serve(c) })
	}
}

func (p *Proxy) serve(c net.Conn) {
	defer c.Close()
	if p.isCut() {
		_ = c.(*net.TCPConn).SetLinger(0) // the target hears nothing of it
		return
	}
	to, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer to.Close()
	w := &wire{ends: [2]net.Conn{c, to}}
	p.mu.Lock()
	p.wires[w] = struct{}{}
	if p.cut { // meanwhile
		p.cutLocked()
	}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.carry(w, Up) })
	both.Go(func() { p.carry(w, Down) })
	both.Wait()
	p.change(func() { delete(p.wires, w) })
}

// carry copies one direction of a wire until an end closes.
func (p *Proxy) carry(w *wire, d Direction) {
	from, to := w.ends[d], w.ends[1-d]
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		pass, cut := p.pass(w, d, n)
		if pass > 0 {
			if _, err := to.Write(buf[:pass]); err != nil {
				_ = from.Close()
				return
			}
		}
		if cut {
			p.Cut()
			return
		}
		if err == io.EOF {
			_ = to.(*net.TCPConn).CloseWrite()
			return
		}
		if err != nil {
			_ = to.Close()
			return
		}
	}
}

// pass waits while the direction is stalled and says how many of n bytes may go
// on, and whether the cable is to be cut after them.
func (p *Proxy) pass(w *wire, d Direction, n int) (pass int, cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// A hole swallows the end of a stream as well: the far side goes on believing.
	for p.live(w) && (p.state[d] == stalled || p.state[d] == swallowing && n == 0) {
		w.torn = w.torn || p.state[d] == swallowing
		changed := p.changed
		p.mu.Unlock()
		<-changed
		p.mu.Lock()
	}
	if p.state[d] == swallowing {
		w.torn = true
		return 0, false
	}
	pass = n
	if p.budget[d] >= 0 {
		pass = int(min(int64(n), p.budget[d]))
		p.budget[d] -= int64(pass)
		cut = p.budget[d] == 0
	}
	p.passed[d] += int64(pass)
	return pass, cut
}

func (p *Proxy) isCut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cut
}

func (p *Proxy) live(w *wire) bool {
	_, ok := p.wires[w]
	return ok
}
