package storefwd

import (
	"slices"
	"time"
)

// This file is about streams that do not keep what they took: the last value of each
// subject only, or so many messages, or none from before a rollup. After an interruption
// it cannot be seen there whether an earlier message was stored. But where the stream has
// newer ones of ours that it would drop it for, it is the same to the stream, and to send
// it again would put it behind them, as if it were the newest. So it is not.

// forgotten is what a stream has dropped for newer messages of ours, if it ever had it.
type forgotten struct {
	below uint64            // ours before this one, if they are older than since
	since time.Duration     // age of the oldest message in the stream
	all   uint64            // ours before this one
	of    map[string]uint64 // ours of a subject before this one
	mixed bool              // records are handed out in any order
}

// forgot is what the stream would have dropped for what was found in it, in its order. whole
// says that nothing it took since the last that is acknowledged can have been dropped for its
// age or its size.
func (p *place) forgot(l *Log, found []stored, whole bool) (g forgotten) {
	if len(found) == 0 {
		return g
	}
	if !whole && !p.info.Now.IsZero() {
		g.below, _ = l.behind(found[0]) // they were stored in order
		g.since = p.info.Now.Sub(p.info.State.FirstTime)
	}
	c := &p.info.Config
	per := c.MaxPerSubject
	if c.DiscardPerSubject {
		per = 0 // it drops none, it takes none
	}
	if per <= 0 && !c.Rollup || slices.ContainsFunc(p.filters, p.renames) {
		return g
	}
	g.of = make(map[string]uint64)
	kept := make(map[string]int64)
	for i := len(found) - 1; i >= 0; i-- {
		m := &found[i]
		bound, _ := l.behind(*m)
		if m.rollup == "all" {
			g.all = bound
			break
		}
		kept[m.subject]++
		if _, known := g.of[m.subject]; !known && (kept[m.subject] == per || m.rollup == "sub") {
			g.of[m.subject] = bound
		}
	}
	return g
}

// supersedes adds what an outbox that keeps the newest of each subject need not send: a crash may
// bring back what was superseded by one that the stream has.
func (g *forgotten) supersedes(l *Log, found []stored) {
	if g.of == nil {
		g.of = make(map[string]uint64)
	}
	for _, m := range found {
		if m.subject == l.ret.GapSubject {
			continue // no marker says what another did
		}
		bound, _ := l.behind(m)
		g.of[m.subject] = max(g.of[m.subject], bound)
	}
}

// took reports whether the stream had r, or would have dropped it by now.
func (p *place) took(r *Record) bool {
	g := &p.gone
	if r.Seq >= p.top {
		if !g.mixed {
			*g = forgotten{} // those that follow are newer
		}
		return false
	}
	return r.Seq < g.below && r.Age > g.since || r.Seq < g.all || r.Seq < g.of[string(r.Subject)]
}
