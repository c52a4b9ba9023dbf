package storefwd

import (
	"maps"
	"math"
	"slices"
)

// This file is about what a log dropped that the hub may have: it was on its way, or an earlier
// run had it, and a crash forgot what was acknowledged. It counts as lost until it is acknowledged
// after all, or found when the hub is asked; it is declared when that did not happen.

// doubt is what was dropped and may be at the hub.
type doubt struct {
	lost    [NumLosses]spans
	markers map[uint64]gap // gap markers among it
}

// addMarker adds what a marker declares that was just taken back.
func (d *doubt) addMarker(seq uint64, g gap) {
	if d.markers == nil {
		d.markers = map[uint64]gap{}
	}
	d.markers[seq] = g
}

// add adds what is in more, and in seqs; nil is all.
func (d *doubt) add(more *doubt, seqs *spans) {
	for why := range more.lost {
		for _, s := range more.lost[why].s {
			if seqs == nil {
				d.lost[why].add(s.From, s.To)
				continue
			}
			for _, in := range seqs.s {
				d.lost[why].add(max(s.From, in.From), min(s.To, in.To))
			}
		}
	}
	for seq, g := range more.markers {
		if seqs == nil || seqs.has(seq) {
			d.addMarker(seq, g)
		}
	}
}

// of is what there is for one reason.
func (d *doubt) of(reason string) gap {
	g := gap{Reason: reason}
	for why := range d.lost {
		if x := &d.lost[why]; x.n > 0 && Loss(why).String() == reason {
			g.add(gap{From: x.s[0].From, To: x.top(), Count: x.n})
		}
	}
	for _, m := range d.markers {
		if m.Reason == reason {
			g.add(m)
		}
	}
	return g
}

// seqs is all sequences in it.
func (d *doubt) seqs() (all spans) {
	for why := range d.lost {
		for _, s := range d.lost[why].s {
			all.add(s.From, s.To)
		}
	}
	for seq := range d.markers {
		all.add(seq, seq)
	}
	return all
}

// from is its first sequence, 0 if there is none.
func (d *doubt) from() (from uint64) {
	first := uint64(math.MaxUint64)
	for why := range d.lost {
		if s := d.lost[why].s; len(s) > 0 {
			first = min(first, s[0].From)
		}
	}
	for seq := range d.markers {
		first = min(first, seq)
	}
	if first == math.MaxUint64 {
		return 0
	}
	return first
}

// remove takes seq out, and reports what its loss was counted as. gap is of a marker.
func (d *doubt) remove(seq uint64) (why Loss, g gap, ok bool) {
	for why := range d.lost {
		if x := &d.lost[why]; x.has(seq) {
			x.remove(seq, seq)
			return Loss(why), gap{Reason: Loss(why).String(), Count: 1}, true
		}
	}
	g, ok = d.markers[seq]
	delete(d.markers, seq)
	return NumLosses, g, ok
}

// forget takes out all for one reason.
func (d *doubt) forget(reason string) {
	for why := range d.lost {
		if Loss(why).String() == reason {
			d.lost[why] = spans{}
		}
	}
	for seq, g := range d.markers {
		if g.Reason == reason {
			delete(d.markers, seq)
		}
	}
}

// doubtOf is where a record that is dropped is noted if the hub may have it although it is not
// acknowledged; nil: it has not. What was sent before the hub was asked, and not found, can only
// come in late.
func (l *Log) doubtOf(seq uint64) *doubt {
	if !l.asked && seq < l.runStart() {
		if l.ret.Keep == UntilAcked {
			return &l.doubt
		}
		return nil
	}
	switch c := l.sole(); {
	case c == nil:
	case len(c.sent.s) > 0 && c.sent.has(seq):
		if !c.looked {
			return &l.doubt
		}
		if l.ret.GapSubject != "" {
			l.declaredAt = max(l.declaredAt, l.askedAt)
			return &l.late
		}
	case c.taken.has(seq):
		return &l.doubt
	}
	return nil
}

// runStart is the first sequence of this run.
func (l *Log) runStart() uint64 {
	if n := len(l.epochs); n > 0 && l.epochs[n-1].Epoch == l.s.epoch {
		return l.epochs[n-1].First
	}
	return l.last + 1
}

// loseOnce counts the loss of a record, unless it was declared before a crash that made the
// log forget, or was counted before it was taken back with what a hub lost.
func (l *Log) loseOnce(why Loss, seq uint64) {
	if l.once(seq) && !l.wasDeclared(seq) {
		l.lose(why, seq, seq, 1)
	}
}

// once reports whether it is called for seq the first time, as far as is remembered.
func (l *Log) once(seq uint64) bool {
	if l.given.has(seq) {
		return false
	}
	if kept := l.kept(); kept > 0 {
		l.given.remove(0, kept-1)
	}
	if len(l.given.s) < mostSpans {
		l.given.add(seq, seq)
	}
	return true
}

// wasDeclared reports whether the loss of seq was, before a crash.
func (l *Log) wasDeclared(seq uint64) bool {
	return l.wasLost(seq) && !l.undeclared.has(seq)
}

// wasLost reports whether seq was lost before a crash, or in doubt then: it stays lost.
func (l *Log) wasLost(seq uint64) bool {
	return seq < l.declared && (l.declaredIn.has(seq) || l.undeclared.has(seq))
}

// redeclared reports whether what a marker declares is in one that came later, by what the journal
// gave back: it was dropped before a crash. Nobody knows better of a hub that cannot be asked.
func (l *Log) redeclared(seq uint64, g *gap) bool {
	return seq < l.declared && (l.blind || slices.ContainsFunc(l.later, func(m seqGap) bool {
		return m.seq > seq && m.Reason == g.Reason && m.covers(*g)
	}))
}

// staysLost reports whether o, which is in the log again after a crash, was given up before it. Of a
// marker that is so as well if it was given up in this run, and is back with what a hub lost.
func (l *Log) staysLost(o ref) bool {
	if o.gap != nil {
		return l.given.has(o.seq) || l.redeclared(o.seq, o.gap)
	}
	return l.wasLost(o.seq)
}

// isDeclared reports whether the loss of o, or what it declares, is declared already.
func (l *Log) isDeclared(o ref) bool {
	if o.gap != nil {
		return l.staysLost(o)
	}
	return l.wasDeclared(o.seq)
}

// forgo notes that a record which is about to be settled is lost.
func (l *Log) forgo(seq uint64) {
	if r := l.inRAM(seq); r != nil {
		r.lost = l.ret.GapSubject != ""
	}
}

// inDoubt is how many of the losses for one reason may be at the hub.
func (l *Log) inDoubt(why Loss) uint64 { return l.doubt.lost[why].n + l.late.lost[why].n }

// noteCounted notes that an earlier run has counted the losses from…to, as far as there is room.
func (l *Log) noteCounted(why Loss, from, to uint64) {
	if x := &l.lostBefore[why]; len(x.s) < mostSpans {
		x.add(from, to)
	}
}

// countedBefore is how many of the losses for one reason an earlier run has counted, without those in doubt.
func (l *Log) countedBefore(why Loss) (n uint64) {
	before := &l.lostBefore[why]
	if n = before.n; n > 0 {
		doubt, late := before.common(&l.doubt.lost[why]), before.common(&l.late.lost[why])
		n -= doubt.n + late.n
	}
	return n
}

// found takes back the loss of what the hub has.
func (l *Log) found(seq uint64) {
	why, g, ok := l.doubt.remove(seq)
	if !ok {
		why, g, ok = l.late.remove(seq)
	}
	if !ok {
		return
	}
	if l.takeGap(g); why < NumLosses {
		l.acked++
		l.lost[why]--
		l.lostBefore[why].remove(seq, seq)
	}
}

// missed notes that the hub has not got what was dropped.
func (l *Log) missed(seq uint64) {
	l.doubt.remove(seq)
	l.s.wakeBy(l.gapDue())
}

// doubtFrom is the first sequence that the hub is to be asked for, 0 if there is none.
func (l *Log) doubtFrom() (from uint64) {
	from = l.doubt.from()
	if late := l.late.from(); from == 0 || late > 0 && late < from {
		from = late
	}
	return from
}

// settleDoubt notes that the hub was asked: what was not found there is lost, and what is
// not acknowledged is not there. Of the latter a crash may have brought back what was
// declared as lost before it: that stays lost. Others before it were acknowledged: if they are not
// there any more, the hub has lost them, and they are sent again. A hub that cannot be asked, which
// is blind, leaves no doubt either, for nobody will ever know better.
//
// What an older connection still held may come in behind the question. So what was in doubt is
// not declared at once, and until then it may be found. Where nothing is declared it is just lost.
func (l *Log) settleDoubt(blind bool) {
	l.s.mu.Lock()
	defer l.s.unlockAndFire()
	l.askedAt = max(l.s.mono(), 1)
	if l.doubt.from() > 0 && l.ret.GapSubject != "" {
		l.late.add(&l.doubt, nil)
		l.declaredAt = l.askedAt
	}
	first := !l.asked
	l.asked, l.notTaken, l.doubt, l.blind = true, 0, doubt{}, blind
	if c := l.sole(); c != nil {
		c.looked = true
	}
	if blind {
		l.declaredIn.add(0, l.declared)
	}
	for o, ok := l.head(); ok && l.staysLost(o); o, ok = l.head() { // those behind one that does not: give
		l.drop(o, LostOldest)
	}
	if l.first >= l.declared {
		l.declaredIn, l.undeclared, l.later = spans{}, spans{}, nil
	}
	if first && l.scatter { // what earlier runs left counts from now on
		l.enforce()
	}
}

// doubtState says to the engine what is in doubt, restoreDoubt is its reverse.
func (l *Log) doubtState(st *logState) {
	var all doubt
	all.add(&l.doubt, nil)
	all.add(&l.late, nil)
	for why := range all.lost {
		if x := &all.lost[why]; len(x.s) > 0 {
			if st.Doubt == nil {
				st.Doubt = map[Loss][]span{}
			}
			st.Doubt[Loss(why)] = x.s
			if counted := l.lostBefore[why].common(x); counted.n > 0 {
				if st.Counted == nil {
					st.Counted = map[Loss][]span{}
				}
				st.Counted[Loss(why)] = counted.s
			}
		}
	}
	st.Declared, st.Undeclared, st.DoubtMarkers = l.declared, l.undeclared.list(), all.markers
}

func (l *Log) restoreDoubt(st logState) {
	l.declared, l.doubt.markers = min(st.Declared, l.last+1), maps.Clone(st.DoubtMarkers)
	l.declaredIn.add(0, l.declared) // it is not stored
	for _, s := range st.Undeclared {
		l.undeclared.add(s.From, min(s.To, l.last))
	}
	for why, list := range st.Doubt {
		for _, s := range list {
			if why < NumLosses && s.From <= s.To && s.To < l.first {
				l.doubt.lost[why].add(s.From, s.To)
				l.lost[why] += s.To - s.From + 1
			}
		}
	}
	for why, list := range st.Counted {
		if why < NumLosses {
			var said spans
			for _, s := range list {
				said.add(s.From, s.To)
			}
			for _, s := range said.common(&l.doubt.lost[why]).s {
				l.noteCounted(why, s.From, s.To)
			}
		}
	}
}

// onlyDoubted forgets all losses but those among seqs that are in doubt. The run that declared the
// others has counted them.
func (l *Log) onlyDoubted(seqs *spans) {
	var left doubt
	left.add(&l.doubt, seqs)
	for why := range l.doubt.lost {
		var settled spans
		settled.copyOf(&l.doubt.lost[why])
		for _, s := range left.lost[why].s {
			settled.remove(s.From, s.To)
		}
		for _, s := range settled.s {
			l.noteCounted(Loss(why), s.From, s.To)
		}
	}
	l.doubt = left
	for reason := range l.gaps {
		delete(l.gaps, reason)
		if g := left.of(reason); g.Count > 0 {
			l.gaps[reason] = g
		}
	}
}
