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

// doubtLoss notes that from…to, which count as lost, may be at the hub.
func (l *Log) doubtLoss(why Loss, from, to uint64) {
	if l.doubt.lost == nil {
		l.doubt.lost = map[Loss]*spans{}
	}
	if l.doubt.lost[why] == nil {
		l.doubt.lost[why] = &spans{}
	}
	l.doubt.lost[why].add(from, to)
}

// doubtMarker notes that g, which was just taken back, may be declared at the hub.
func (l *Log) doubtMarker(seq uint64, g gap) {
	if l.doubt.markers == nil {
		l.doubt.markers = map[uint64]gap{}
	}
	l.doubt.markers[seq] = g
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

// doubted is what is in doubt of the losses for one reason.
func (l *Log) doubted(reason string) gap {
	g := gap{Reason: reason}
	for why, d := range l.doubt.lost {
		if d.n > 0 && why.String() == reason {
			g.add(gap{From: d.s[0].From, To: d.top(), Count: d.n})
		}
	}
	for _, m := range l.doubt.markers {
		if m.Reason == reason {
			g.add(m)
		}
	}
	return g
}

// inDoubt is all sequences that are.
func (l *Log) inDoubt() []span {
	var all spans
	for _, d := range l.doubt.lost {
		for _, s := range d.s {
			all.add(s.From, s.To)
		}
	}
	for seq := range l.doubt.markers {
		all.add(seq, seq)
	}
	return all.s
}

// onlyDoubted forgets all losses but those among seqs that are in doubt.
func (l *Log) onlyDoubted(seqs *spans) {
	was := l.doubt
	l.gaps, l.doubt = nil, doubt{}
	for why, d := range was.lost {
		for _, s := range d.s {
			for from, to := range seqs.within(s.From, s.To) {
				l.doubtLoss(why, from, to)
			}
		}
		if g := l.doubted(why.String()); g.Count > 0 {
			l.addGap(g)
		}
	}
	for seq, g := range was.markers {
		if seqs.has(seq) {
			l.doubtMarker(seq, g)
			l.addGap(g)
		}
	}
}

// forgo notes that a record which is about to be settled is lost.
func (l *Log) forgo(seq uint64) {
	if r := l.inRAM(seq); r != nil {
		r.lost = l.ret.GapSubject != ""
	}
}

// found takes back the loss of what the hub has.
func (l *Log) found(seq uint64) {
	for why, d := range l.doubt.lost {
		if !d.has(seq) {
			continue
		}
		d.remove(seq, seq)
		l.acked++
		if l.lost[why] > 0 { // it may be of an earlier run
			l.lost[why]--
		}
		l.takeGap(gap{Reason: why.String(), Count: 1})
	}
	if g, ok := l.doubt.markers[seq]; ok {
		delete(l.doubt.markers, seq)
		l.takeGap(g)
	}
}

// missed notes that the hub has not got what was dropped.
func (l *Log) missed(seq uint64) {
	for _, d := range l.doubt.lost {
		d.remove(seq, seq)
	}
	delete(l.doubt.markers, seq)
	l.s.wakeBy(l.gapDue())
}

// doubtFrom is the first sequence in doubt, 0 if there is none.
func (l *Log) doubtFrom() (from uint64) {
	lower := func(seq uint64) {
		if from == 0 || seq < from {
			from = seq
		}
	}
	for _, d := range l.doubt.lost {
		if len(d.s) > 0 {
			lower(d.s[0].From)
		}
	}
	for seq := range l.doubt.markers {
		lower(seq)
	}
	return from
}

// settleDoubt notes that the hub was asked: what was not found there is lost, and what is
// not acknowledged is not there. Of the latter a crash may have brought back what was
// declared as lost before it: that stays lost. A hub that cannot be asked leaves no doubt
// either, for nobody will ever know better.
func (l *Log) settleDoubt() {
	l.s.mu.Lock()
	defer l.s.unlockAndFire()
	l.asked, l.notTaken, l.doubt = true, false, doubt{}
	for o, ok := l.head(); ok && o.seq < l.declared; o, ok = l.head() {
		l.drop(o, LostOldest)
	}
	l.undeclared = spans{}
	l.enforce()
}

// doubtState says to the engine what is in doubt, restoreDoubt is its reverse.
func (l *Log) doubtState(st *logState) {
	for why, d := range l.doubt.lost {
		if len(d.s) > 0 {
			if st.Doubt == nil {
				st.Doubt = map[Loss][]span{}
			}
			st.Doubt[why] = d.list()
		}
	}
	st.Declared, st.Undeclared, st.DoubtMarkers = l.declared, l.undeclared.list(), maps.Clone(l.doubt.markers)
}

func (l *Log) restoreDoubt(st logState) {
	l.declared, l.doubt.markers = min(st.Declared, l.last+1), maps.Clone(st.DoubtMarkers)
	for _, s := range st.Undeclared {
		l.undeclared.add(s.From, min(s.To, l.last))
	}
	for why, list := range st.Doubt {
		for _, s := range list {
			if why < NumLosses && s.From <= s.To && s.To < l.first {
				l.doubtLoss(why, s.From, s.To)
			}
		}
	}
}
