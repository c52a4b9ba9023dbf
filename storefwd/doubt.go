package storefwd

import "maps"

// This file is about what a log dropped that the hub may have: it was on its way, or an earlier
// run had it, and a crash forgot what was acknowledged. It counts as lost until it is acknowledged
// after all, or found when the hub is asked; it is declared when that did not happen.

// doubt is what was dropped and may be at the hub.
type doubt struct {
	lost    map[Loss]*spans
	markers map[uint64]gap // gap markers among it
}

func (d *doubt) add(why Loss, from, to uint64) {
	if d.lost == nil {
		d.lost = map[Loss]*spans{}
	}
	if d.lost[why] == nil {
		d.lost[why] = &spans{}
	}
	d.lost[why].add(from, to)
}

// addMarker adds what a marker declares that was just taken back.
func (d *doubt) addMarker(seq uint64, g gap) {
	if d.markers == nil {
		d.markers = map[uint64]gap{}
	}
	d.markers[seq] = g
}

// merge adds what is in more.
func (d *doubt) merge(more *doubt) {
	for why, x := range more.lost {
		for _, s := range x.s {
			d.add(why, s.From, s.To)
		}
	}
	for seq, g := range more.markers {
		d.addMarker(seq, g)
	}
}

// within is what is among seqs of it.
func (d *doubt) within(seqs *spans) (in doubt) {
	for why, x := range d.lost {
		for _, s := range x.s {
			for from, to := range seqs.within(s.From, s.To) {
				in.add(why, from, to)
			}
		}
	}
	for seq, g := range d.markers {
		if seqs.has(seq) {
			in.addMarker(seq, g)
		}
	}
	return in
}

// of is what there is for one reason.
func (d *doubt) of(reason string) gap {
	g := gap{Reason: reason}
	for why, x := range d.lost {
		if x.n > 0 && why.String() == reason {
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

// seqs is all sequences in it, as ranges.
func (d *doubt) seqs() []span {
	var all spans
	for _, x := range d.lost {
		for _, s := range x.s {
			all.add(s.From, s.To)
		}
	}
	for seq := range d.markers {
		all.add(seq, seq)
	}
	return all.s
}

// from is its first sequence, 0 if there is none.
func (d *doubt) from() (from uint64) {
	lower := func(seq uint64) {
		if from == 0 || seq < from {
			from = seq
		}
	}
	for _, x := range d.lost {
		if len(x.s) > 0 {
			lower(x.s[0].From)
		}
	}
	for seq := range d.markers {
		lower(seq)
	}
	return from
}

// remove takes seq out, and reports what its loss was counted as. gap is of a marker.
func (d *doubt) remove(seq uint64) (why Loss, g gap, ok bool) {
	for why, x := range d.lost {
		if x.has(seq) {
			x.remove(seq, seq)
			return why, gap{Reason: why.String(), Count: 1}, true
		}
	}
	g, ok = d.markers[seq]
	delete(d.markers, seq)
	return NumLosses, g, ok
}

// forget takes out all for one reason.
func (d *doubt) forget(reason string) {
	maps.DeleteFunc(d.lost, func(why Loss, _ *spans) bool { return why.String() == reason })
	maps.DeleteFunc(d.markers, func(_ uint64, g gap) bool { return g.Reason == reason })
}

// doubtful reports whether the hub may have a record that is not acknowledged.
func (l *Log) doubtful(seq uint64) bool {
	if !l.asked && seq < l.runStart() {
		return l.ret.Keep == UntilAcked
	}
	c := l.sole()
	return c != nil && (c.taken.has(seq) || len(c.sent.s) > 0 && c.sent.has(seq))
}

// runStart is the first sequence of this run.
func (l *Log) runStart() uint64 {
	if n := len(l.epochs); n > 0 && l.epochs[n-1].Epoch == l.s.epoch {
		return l.epochs[n-1].First
	}
	return l.last + 1
}

// loseOnce counts the loss of a record, unless it was declared before a crash that made the
// log forget.
func (l *Log) loseOnce(why Loss, seq uint64) {
	if !l.wasDeclared(seq) {
		l.lose(why, seq, seq, 1)
	}
}

// wasDeclared reports whether the loss of seq was, before a crash.
func (l *Log) wasDeclared(seq uint64) bool { return seq < l.declared && !l.undeclared.has(seq) }

// forgo notes that a record which is about to be settled is lost.
func (l *Log) forgo(seq uint64) {
	if r := l.inRAM(seq); r != nil {
		r.lost = l.ret.GapSubject != ""
	}
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
		if l.lost[why] > 0 { // it may be of an earlier run
			l.lost[why]--
		}
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
// declared as lost before it: that stays lost. A hub that cannot be asked leaves no doubt
// either, for nobody will ever know better.
//
// What an older connection still held may come in behind the question. So what was in doubt is
// not declared at once, and until then it may be found.
func (l *Log) settleDoubt() {
	l.s.mu.Lock()
	defer l.s.unlockAndFire()
	if l.doubt.from() > 0 {
		l.late.merge(&l.doubt)
		l.declaredAt = max(l.s.mono(), 1)
	}
	l.asked, l.notTaken, l.doubt = true, 0, doubt{}
	for o, ok := l.head(); ok && o.seq < l.declared; o, ok = l.head() {
		l.drop(o, LostOldest)
	}
	l.undeclared = spans{}
	l.enforce()
}

// doubtState says to the engine what is in doubt, restoreDoubt is its reverse.
func (l *Log) doubtState(st *logState) {
	var all doubt
	all.merge(&l.doubt)
	all.merge(&l.late)
	for why, x := range all.lost {
		if len(x.s) > 0 {
			if st.Doubt == nil {
				st.Doubt = map[Loss][]span{}
			}
			st.Doubt[why] = x.list()
		}
	}
	st.Declared, st.Undeclared, st.DoubtMarkers = l.declared, l.undeclared.list(), all.markers
}

func (l *Log) restoreDoubt(st logState) {
	l.declared, l.doubt.markers = min(st.Declared, l.last+1), maps.Clone(st.DoubtMarkers)
	for _, s := range st.Undeclared {
		l.undeclared.add(s.From, min(s.To, l.last))
	}
	for why, list := range st.Doubt {
		for _, s := range list {
			if why < NumLosses && s.From <= s.To && s.To < l.first {
				l.doubt.add(why, s.From, s.To)
			}
		}
	}
}

// onlyDoubted forgets all losses but those among seqs that are in doubt.
func (l *Log) onlyDoubted(seqs *spans) {
	l.doubt = l.doubt.within(seqs)
	reasons := maps.Clone(l.gaps)
	l.gaps = nil
	for reason := range reasons {
		if g := l.doubt.of(reason); g.Count > 0 {
			l.addGap(g)
		}
	}
}
