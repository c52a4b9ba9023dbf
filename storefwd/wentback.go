package storefwd

import (
	"context"
	"fmt"
	"slices"
)

// This file notices a hub that has less than it acknowledged: after a power cut, since
// a stock nats-server syncs every two minutes, or restored from a copy. What the
// log still has of that is sent again, under the ids it had.

// giveBack takes back the acknowledgements of what the hub no longer has. Only a
// class with one stream, which keeps what was consumed, can be judged. m is the mark as it was
// when the stream was asked.
func (f *Forwarder) giveBack(ctx context.Context, p *place, m mark) error {
	if m.Stream == "" || p.blind != "" {
		return nil
	}
	if m.Read > p.info.State.LastSeq { // set back, or made anew: what came in its place since was not read
		m.Read = m.At
		f.l.setMark(m)
	}
	less, err := f.hasLess(ctx, p, m)
	if err != nil || !less {
		return err
	}
	to, before, holes := f.isThere(p), f.l.Stats().Msgs, f.l.holes()
	missing, err := f.c.rewind(to)
	if err != nil {
		return fmt.Errorf("take back what stream %q has lost: %w", p.name, err)
	}
	again := f.l.Stats().Msgs - before
	if again <= 0 && m.At == 0 {
		return nil // an earlier run's: what was dropped since looks the same
	}
	missing.remove(m.Seq+1, mostSeq)
	lost, read := uint64(0), uint64(0)
	if n := uint64(max(again, 0)); f.c.mixes() {
		lost, read = f.declareLess(p, m, holes, n)
	} else if missing.n > 0 {
		if lost = f.mostLost(ctx, p, m, &missing, n); lost > 0 {
			f.l.lostByHub(missing.s[0].From, missing.top(), lost, true)
		}
	}
	f.l.settleSetBack()
	f.l.setMark(mark{Stream: m.Stream, Domain: m.Domain, Read: read})
	f.mu.Lock()
	f.st.WentBack++
	f.mu.Unlock()
	f.o.Logger.Warn("forwarder: the hub has less than it acknowledged, it was set back; what is still here is sent again",
		"log", f.l.name, "stream", p.name, "last_there", to, "sent_again", again, "gone", lost)
	return nil
}

// isThere is up to where the stream has ours, as far as its last message tells.
func (f *Forwarder) isThere(p *place) (to uint64) {
	if p.own && p.last.ours && !f.c.mixes() && f.exclusive(p) {
		to = p.last.seq // where no chain held back what came since, readBack finds what is there
		if bound, wrote := f.l.behind(p.last); bound > 0 && !wrote {
			to = min(to, bound-1)
		}
	}
	return to
}

// declareLess declares, where messages go in any order, what the hub lost and is not here any more. Of the holes
// that is known once the stream was read from read on.
func (f *Forwarder) declareLess(p *place, m mark, holes spans, again uint64) (lost, read uint64) {
	lost, read = f.countLess(p, m, again+holes.n)
	if holes.n > 0 && p.own && m.At > 0 {
		f.owed = owed{holes: holes, places: m.At - min(m.At, p.info.State.LastSeq), again: again, found: f.Stats().Resumed}
	}
	if lost > 0 {
		f.l.lostByHub(1, f.l.Stats().Last, lost, false)
	}
	return lost, read
}

// owed is, where messages go in any order, what an earlier run had in RAM alone, while it is not known what of it
// the hub has lost: so many places, and in them also some of what was taken back, but for what is found there.
type owed struct {
	holes                spans
	places, again, found uint64
}

// settleHoles declares it, once the stream was read.
func (f *Forwarder) settleHoles() {
	o := f.owed
	f.owed = owed{}
	gone := o.again - min(o.again, f.Stats().Resumed-o.found)
	if n := min(o.holes.n, o.places-min(o.places, gone)); n > 0 {
		f.l.lostByHub(o.holes.s[0].From, o.holes.top(), n, false)
		f.o.Logger.Warn("forwarder: what the hub has lost an earlier run had in RAM alone, it is gone", "log", f.l.name, "gone", n)
	}
}

// holes is what of the acknowledged an earlier run had in RAM alone.
func (l *Log) holes() spans {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return spans{s: l.tail.holes.list(), n: l.tail.holes.n}
}

// mostLost takes out of missing, which is not here any more, what the hub has not lost, and says how many it
// has, at most: not all of them were ever there, and some are still. Ours are stored in order, so those
// before one that is left were stored, too, if it did not come since: then it is behind the mark's.
// Not counted is a hole that a cluster left, if the set-back is to just before it was filled.
func (f *Forwarder) mostLost(ctx context.Context, p *place, m mark, missing *spans, again uint64) uint64 {
	left, whole := f.leftAtEnd(ctx, p)
	for _, s := range left {
		bound, wrote := f.l.behind(s)
		if wrote {
			bound++ // it is there itself
		}
		if from := min(bound, s.seq+1); s.seq <= m.Seq && from > 0 {
			missing.remove(0, from-1)
		}
	}
	places := m.At
	if whole {
		places = f.placesLost(p, m, left)
	}
	lost := min(missing.n, places-min(places, again))
	if len(left) > 0 || p.own && f.exclusive(p) { // it is known what is left: what is behind that is lost, and may be behind what was taken back
		behind := spans{s: missing.list(), n: missing.n}
		behind.remove(0, m.Seq-min(m.Seq, places))
		lost = max(lost, behind.n)
	}
	return lost
}

// leftAtEnd is the last of ours that is left in a stream and, where others write, too, those that
// are near the end, in any order. whole says that these could be read.
func (f *Forwarder) leftAtEnd(ctx context.Context, p *place) (left []stored, whole bool) {
	if p.last.ours {
		left = append(left, p.last)
	}
	if p.own && f.exclusive(p) {
		return left, true
	}
	last := p.info.State.LastSeq
	from := max(p.info.State.FirstSeq, last-min(last, lookBack), 1)
	for i := range p.filters {
		found, err := f.walk(ctx, p.name, getMsg{NextOf: p.query(i)}, from, last)
		if err != nil {
			return left, false
		}
		left = append(left, found...)
	}
	return left, true
}

// placesLost is how many places of a stream were ours and are gone, at most: no more than it had up
// to the mark. Where others write, too, and it has less at its end, these are all behind the last of
// ours that is left, if that is near the end and none of ours came since.
func (f *Forwarder) placesLost(p *place, m mark, left []stored) uint64 {
	at := p.info.State.LastSeq
	switch {
	case at >= m.At:
		return m.At
	case p.own && f.exclusive(p):
		return m.At - at + p.last.seq - min(p.last.seq, m.Seq)
	case len(left) == 0:
		return m.At
	}
	var end stored
	for _, s := range left {
		if s.at > end.at {
			end = s
		}
	}
	if end.at > m.At || end.seq > m.Seq {
		return m.At
	}
	return m.At - end.at
}

// lookBack is how far from a stream's end one of ours is looked for.
const lookBack = 256

// countLess says, where messages go in any order, how many of those that the hub lost
// are not here any more, and from where on in the stream to look for those that are: of
// a stream of our own that is so many places before the mark as were taken back.
func (f *Forwarder) countLess(p *place, m mark, again uint64) (lost, read uint64) {
	last := p.info.State.LastSeq
	if !p.own || m.At == 0 {
		return 0, 0
	}
	if gone := m.At - min(m.At, last); gone > again { // some may be others', but no more than are not here are ours
		st := f.l.Stats()
		lost = min(gone-again, st.Last-min(st.Last, uint64(max(st.Msgs, 0))))
	}
	return lost, min(m.At-min(m.At, again+1), last)
}

// hasLess compares the stream with the last acknowledgement. A sequence is never
// given twice, unless by a stream that was set back or made anew; a message that
// was deleted leaves the others theirs.
func (f *Forwarder) hasLess(ctx context.Context, p *place, m mark) (bool, error) {
	last := p.info.State.LastSeq
	if f.l.wasSetBack() {
		return true, nil
	}
	switch {
	case m.At == 0 && (m.Elsewhere || f.c.mixes()):
		return false, nil
	case m.At == 0:
		floor, _ := f.c.ambiguous()
		return p.own && p.last.at > 0 && p.last.at == last && p.last.seq < floor, nil
	case last < m.At:
		return true, nil
	case p.last.at >= m.At && p.last.seq >= m.Seq && !f.c.mixes():
		return false, nil
	}
	there, err := f.message(ctx, p.name, getMsg{Seq: m.At})
	if err != nil {
		return false, fmt.Errorf("look for seq %d: %w", m.Seq, err)
	}
	if there.at != m.At { // it was deleted, or never was in a stream that was made anew and counts from further on
		return m.Made != 0 && m.Made != p.info.made(), nil
	}
	return !there.ours || there.seq != m.Seq, nil
}

// noteSetBack has the next resume give back what the stream has lost while the link was up.
func (l *Log) noteSetBack() {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.setBack = true
}

// wasSetBack reports whether that is so.
func (l *Log) wasSetBack() bool {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.setBack
}

// settleSetBack is the end of that. Where the stream cannot tell what it has, its places just
// count anew.
func (l *Log) settleSetBack() {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.setBack {
		l.setBack, l.hub = false, mark{Stream: l.hub.Stream, Domain: l.hub.Domain}
	}
}

// lostByHub counts and declares what the hub acknowledged, lost, and nobody has any more: n of from…to. Of the
// markers there, if these are among it, what they declare is declared again.
func (l *Log) lostByHub(from, to, n uint64, markers bool) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if markers {
		l.markers = slices.DeleteFunc(l.markers, func(m seqGap) (gone bool) {
			if gone = n > 0 && m.seq >= from && m.seq <= to; gone {
				l.undeclare(m.gap)
				n--
			}
			return gone
		})
	}
	if n > 0 {
		l.lose(LostByHub, from, to, n)
	}
}
