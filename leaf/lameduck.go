package leaf

import (
	"context"
	"math/rand/v2"
	"time"
)

// LameDuck gives notice: INFO tells every client to look for another server, and
// after grace their connections are closed one by one, in any order, so that they do
// not all come to the next server at once; the last one over after the call, but no
// slower than one a second. It returns when all are closed or ctx ends. Whoever
// calls it has closed the listeners, and stops the server afterwards. (nats-server,
// lame duck mode.)
func (s *Server) LameDuck(ctx context.Context, grace, over time.Duration) {
	s.lame.Store(true)
	conns := s.snapshot(nil)
	if len(conns) == 0 {
		return
	}
	for _, c := range conns {
		c.sendInfo()
	}
	if !passes(ctx, grace) {
		return
	}
	s.log.Info("Closing existing clients", "clients", len(conns))
	Stagger(ctx, len(conns), over-grace, func(i int) {
		conns[i].out.Flush()
		conns[i].out.Close(nil)
	})
}

// Stagger calls fn for 0 to n-1, in any order and spread over the time within, but at
// most a second apart. It ends early with ctx. For what is to be closed gently.
func Stagger(ctx context.Context, n int, within time.Duration, fn func(i int)) {
	if n == 0 {
		return
	}
	between := min(max(within, 0)/time.Duration(n), time.Second)
	for k, i := range rand.Perm(n) {
		if k > 0 && !passes(ctx, between) {
			return
		}
		fn(i)
	}
}

// passes reports whether d passed before ctx ended.
func passes(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
