package leaf

import (
	"context"
	"net"
	"time"
)

// dialEvery is when another try joins those that are under way. The kernel repeats a
// SYN that nobody answered after 1, 2, 4 s: a hub that is reachable again would be
// found only then.
const dialEvery = 800 * time.Millisecond

// staggered dials until one try succeeds, or the first fails with nothing else under
// way, or ctx ends. What connects too late is closed.
func staggered(ctx context.Context, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		nc  net.Conn
		err error
	}
	results := make(chan result)
	try := func() {
		nc, err := dial(ctx)
		select {
		case results <- result{nc, err}:
		case <-ctx.Done():
			if err == nil {
				nc.Close()
			}
		}
	}
	next := time.NewTicker(dialEvery)
	defer next.Stop()
	go try()
	for under := 1; ; {
		select {
		case r := <-results:
			if under--; r.err == nil || under == 0 {
				return r.nc, r.err
			}
		case <-next.C:
			under++
			go try()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
