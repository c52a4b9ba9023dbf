package leaf

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// A hub behind a hole that takes every SYN is found within a second of its return,
// though the first try would have gone on for much longer.
func TestDialFindsAHubThatCameBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		nc, err := staggered(t.Context(), func(ctx context.Context) (net.Conn, error) {
			if time.Since(start) >= 2*time.Second {
				a, b := net.Pipe()
				b.Close()
				return a, nil
			}
			<-ctx.Done()
			return nil, ctx.Err()
		})
		if err != nil {
			t.Fatal(err)
		}
		nc.Close()
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("found after %s", took)
		}
	})
}

// One that refuses is left to the backoff at once.
func TestDialReportsARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, no := time.Now(), errors.New("no")
		if _, err := staggered(t.Context(), func(context.Context) (net.Conn, error) { return nil, no }); err != no || time.Since(start) > 0 {
			t.Errorf("%v after %s", err, time.Since(start))
		}
	})
}
