package leaf

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// Guessing is slowed down by address: after a few failures in a row the answer to
// the next takes longer, up to maxDelay, and an address that is quiet for a while
// is forgotten. What is remembered is bounded.
const (
	maxHalfOpen   = 64   // connections of one address that have not logged in
	maxAttempts   = 1024 // addresses with failures that are remembered
	freeFailures  = 3    // answered at once
	firstDelay    = 100 * time.Millisecond
	maxDelay      = 2 * time.Second
	forgetFailure = time.Minute // after the last one
)

// attempts counts logins by address: an IPv4 address, or an IPv6 /64, which is
// what one household or host has. Connections without an address are not bounded.
type attempts struct {
	mu     sync.Mutex
	open   map[netip.Addr]int      // guarded by mu; connections that have not logged in
	failed map[netip.Addr]failures // guarded by mu
}

type failures struct {
	n    int
	last time.Time
}

func addrKey(a net.Addr) (netip.Addr, bool) {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}, false
	}
	ip := ap.Addr().Unmap().WithZone("")
	if ip.Is6() {
		p, err := ip.Prefix(64)
		return p.Addr(), err == nil
	}
	return ip, true
}

func (t *attempts) enter(a net.Addr) bool {
	key, ok := addrKey(a)
	if !ok {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[key] >= maxHalfOpen {
		return false
	}
	if t.open == nil {
		t.open = map[netip.Addr]int{}
	}
	t.open[key]++
	return true
}

func (t *attempts) leave(a net.Addr) {
	key, ok := addrKey(a)
	if !ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[key]--; t.open[key] <= 0 {
		delete(t.open, key)
	}
}

// failure notes a failed login and returns how long its answer should take.
func (t *attempts) failure(a net.Addr, now time.Time) time.Duration {
	key, ok := addrKey(a)
	if !ok {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.failed[key]
	if now.Sub(f.last) > forgetFailure {
		f.n = 0
	}
	f.n, f.last = f.n+1, now
	if t.failed == nil {
		t.failed = map[netip.Addr]failures{}
	}
	if _, known := t.failed[key]; !known && len(t.failed) >= maxAttempts {
		t.makeRoom(now)
	}
	t.failed[key] = f
	if f.n <= freeFailures {
		return 0
	}
	return min(firstDelay<<min(f.n-freeFailures-1, 8), maxDelay)
}

// makeRoom needs mu. It forgets who has been quiet or, if nobody has, the one that
// failed least.
func (t *attempts) makeRoom(now time.Time) {
	var least netip.Addr
	for key, f := range t.failed {
		if now.Sub(f.last) > forgetFailure {
			delete(t.failed, key)
		} else if l, ok := t.failed[least]; !ok || f.n < l.n {
			least = key
		}
	}
	if len(t.failed) >= maxAttempts {
		delete(t.failed, least)
	}
}
