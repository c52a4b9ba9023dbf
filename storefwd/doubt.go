package storefwd

import "maps"

// This file is about what a log dropped that the hub may have: it was on its way when the link
// broke, or an earlier run had it, and a crash forgot what was acknowledged. It counts as lost
// until the hub was asked, and no longer if it is found there.

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
	if seq >= l.declared {
		l.lose(why, seq, seq, 1)
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
// declared as lost before it: that stays lost.
func (l *Log) settleDoubt() {
	l.s.mu.Lock()
	defer l.s.unlockAndFire()
	l.asked, l.doubt = true, doubt{}
	for o, ok := l.head(); ok && o.seq < l.declared; o, ok = l.head() {
		l.drop(o, LostOldest)
	}
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
	st.Declared, st.DoubtMarkers = l.declared, maps.Clone(l.doubt.markers)
}

func (l *Log) restoreDoubt(st logState) {
	l.declared, l.doubt.markers = min(st.Declared, l.last+1), maps.Clone(st.DoubtMarkers)
	for why, list := range st.Doubt {
		for _, s := range list {
			if why < NumLosses && s.From <= s.To && s.To < l.first {
				l.doubtLoss(why, s.From, s.To)
			}
		}
	}
}
