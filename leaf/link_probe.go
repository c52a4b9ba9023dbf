package leaf

import (
	"context"
	"net"
	"sync"
	"time"
)

// This file finds out that a hub can be reached again before the kernel does. Of what was
// written into an outage the kernel repeats less and less often: after a minute of silence it
// may be another half a minute until the connection goes on. So while nothing comes through
// on it, new ones are tried beside it, and once a hub greets one of them it is given up.

const (
	probeEvery   = 500 * time.Millisecond
	probeTimeout = 2 * time.Second
	probesMost   = int(probeTimeout/probeEvery) + 1 // so that one has ended when the next is due

	// repeats is how often in a row the kernel must have repeated something in vain: 1.4 s
	// of silence on a fast line, and seven round trips on a slow one.
	repeats = 3
)

// prober belongs to a session's keeper.
type prober struct {
	dial  func(ctx context.Context, addr string) (net.Conn, error)
	addrs []string      // of the hub, this session's first
	next  int           // in addrs
	under chan struct{} // has a value for each try under way
	found chan struct{} // holds one: a hub greets
	tries sync.WaitGroup
	ctx   context.Context
	stop  context.CancelFunc
}

func newProber(dial func(context.Context, string) (net.Conn, error), addrs []string) *prober {
	p := &prober{dial: dial, addrs: addrs, under: make(chan struct{}, probesMost), found: make(chan struct{}, 1)}
	p.ctx, p.stop = context.WithCancel(context.Background())
	return p
}

// try looks whether the next address greets, unless enough tries are under way. It does not wait.
func (p *prober) try() {
	select {
	case p.under <- struct{}{}:
	default:
		return
	}
	addr := p.addrs[p.next%len(p.addrs)]
	p.next++
	p.tries.Go(func() {
		if p.greets(addr) {
			select {
			case p.found <- struct{}{}:
			default:
			}
		}
		<-p.under
	})
}

// greets reports whether somebody at addr says something, as a hub does first.
func (p *prober) greets(addr string) bool {
	ctx, cancel := context.WithTimeout(p.ctx, probeTimeout)
	defer cancel()
	nc, err := p.dial(ctx, addr)
	if err != nil {
		return false
	}
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	n, _ := nc.Read(make([]byte, 1))
	return n > 0
}

// close ends all tries.
func (p *prober) close() {
	p.stop()
	p.tries.Wait()
}
