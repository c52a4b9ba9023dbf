package leaf

import (
	"sync/atomic"

	"github.com/leafd/leafd/internal/msg"
)

// Stats counts what a router did since it was made. Ports add to it when they
// flush, so it lags by at most one batch.
type Stats struct {
	InMsgs, InBytes   atomic.Uint64 // published
	OutMsgs, OutBytes atomic.Uint64 // delivered, one for each recipient
	Drops             [msg.NumDrops]atomic.Uint64

	Inserts, Removes   atomic.Uint64 // of subscriptions
	Matches, CacheHits atomic.Uint64 // of subjects other than that before it; hits are of these
	Stalls             atomic.Uint64 // times that a publisher was held because a recipient was behind
	SlowConsumers      atomic.Uint64 // connections cut off because they were too far behind
}

// Stats returns the router's counters, which go on counting.
func (r *Router) Stats() *Stats { return &r.stats }

// Stalls returns how often the port was held because a recipient was behind. Safe
// for any goroutine.
func (p *Port) Stalls() uint64 { return uint64(p.stalls.Load()) }

// CutOff counts a connection that was cut off because it was too far behind. Safe for
// any goroutine.
func (p *Port) CutOff() { p.router.stats.SlowConsumers.Add(1) }

// Received returns what was published through the port, up to the last Flush. Safe for
// any goroutine.
func (p *Port) Received() Traffic { return Traffic{p.received.msgs.Load(), p.received.bytes.Load()} }

// Subjects returns what the port is subscribed to, in no order. Safe for any
// goroutine.
func (p *Port) Subjects() []string {
	p.router.mu.RLock()
	defer p.router.mu.RUnlock()
	list := make([]string, 0, p.subs.Len())
	for _, s := range p.subs.Keys() {
		list = append(list, s.Subject)
	}
	return list
}

// Describer is a sink that can say more of its subscriptions than the router knows.
type Describer interface {
	SubInfo(*msg.Sub) SubInfo
}

// SubInfos describes the subscriptions there are now, in no order, but for those of
// a hub. It walks them all, for people and monitoring.
func (r *Router) SubInfos() []SubInfo {
	r.mu.RLock()
	all := make([]entry, 0, r.subs)
	r.trie.walk(func(e entry) {
		if e.at.mode != Uplink {
			all = append(all, e)
		}
	})
	r.mu.RUnlock()
	infos := make([]SubInfo, len(all))
	for i, e := range all { // with the lock let go: sinks have locks of their own
		infos[i] = e.at.describe(e.sub)
	}
	return infos
}

// SubInfos describes the subscriptions of the port, in no order. Safe for any
// goroutine.
func (p *Port) SubInfos() []SubInfo {
	p.router.mu.RLock()
	list := p.subs.Keys()
	p.router.mu.RUnlock()
	infos := make([]SubInfo, len(list))
	for i, s := range list {
		infos[i] = p.describe(s)
	}
	return infos
}

func (p *Port) describe(s *msg.Sub) SubInfo {
	if d, ok := p.sink.(Describer); ok {
		return d.SubInfo(s)
	}
	return SubInfo{Subject: s.Subject, Queue: s.Queue, SID: string(s.SID)}
}

// walk calls fn for each subscription at or below n.
func (n *node) walk(fn func(entry)) {
	if n == nil {
		return
	}
	for _, e := range n.plain {
		fn(e)
	}
	for _, g := range n.groups {
		for _, e := range g {
			fn(e)
		}
	}
	for _, c := range n.next {
		c.walk(fn)
	}
	n.star.walk(fn)
	n.gt.walk(fn)
}

// CacheInfo describes the match cache.
type CacheInfo struct {
	Subjects  int // whose matches are kept and hold
	MaxFanout int // recipients of one of them, at most
	Fanout    int // of all of them
}

// CacheInfo looks at the whole match cache, for people and monitoring.
func (r *Router) CacheInfo() (c CacheInfo) {
	gen := r.gen.Load()
	for i := range r.cache.slots {
		res := r.cache.slots[i].Load()
		if res == nil || res.gen != gen {
			continue
		}
		n := len(res.plain) + len(res.once) + len(res.groups)
		c.Subjects, c.Fanout, c.MaxFanout = c.Subjects+1, c.Fanout+n, max(c.MaxFanout, n)
	}
	return c
}

// Subscriptions returns how many there are now.
func (r *Router) Subscriptions() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.subs
}
