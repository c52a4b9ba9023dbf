package storefwd

import (
	"fmt"
	"sort"
)

// This file finds out whose records a damaged journal has lost. The journal knows how many
// they are and where they stood, and the last sequence of each log that was in it. Whose they
// were follows from the sequences around the hole. Only those of them count that neither
// bbolt nor the hub has.

// restorer takes what replay finds into the store. The caller holds mu throughout.
type restorer struct {
	s      *Store
	holes  int    // met so far
	lost   uint64 // records in them
	seen   map[uint32]seen
	ranges []seqRange // sequences that may have been in a hole
}

// seen is how far a log was read.
type seen struct {
	seq   uint64
	holes int // met before that
}

func (r *restorer) record(b []byte) {
	log, seq := le.Uint32(b[4:]), le.Uint64(b[16:])
	if r.lost > 0 {
		r.gap(log, seq-1)
	}
	r.note(log, seq)
	r.s.recall(recordEpoch(b))
	r.s.restore(b)
}

func (r *restorer) missing(n uint32) {
	r.holes++
	r.lost += uint64(n)
}

func (r *restorer) note(log uint32, seq uint64) {
	if r.seen == nil {
		r.seen = map[uint32]seen{}
	}
	r.seen[log] = seen{max(seq, r.seen[log].seq), r.holes}
}

// gap notes that what a log had up to seq, behind what was seen of it, may be lost.
func (r *restorer) gap(log uint32, seq uint64) {
	at, ok := r.seen[log]
	if l := r.s.logs[log]; !ok && l != nil {
		at.seq = l.folded
	}
	if at.holes < r.holes && at.seq < seq {
		r.ranges = append(r.ranges, seqRange{log, at.seq + 1, seq})
	}
}

// declare counts what is lost, by log, and says so. ends are the last sequences that were
// in the journal. There may be sequences in a range that never were: the narrow ones are
// likely to be right.
func (r *restorer) declare(ends []logEnd) (notes []string) {
	if r.lost == 0 {
		return nil
	}
	for _, e := range ends {
		r.gap(e.log, e.seq)
	}
	sort.SliceStable(r.ranges, func(i, j int) bool { return r.ranges[i].to-r.ranges[i].from < r.ranges[j].to-r.ranges[j].from })
	left := r.lost
	for _, g := range r.ranges {
		n := min(left, g.to-g.from+1)
		left -= n
		l := r.s.logs[g.log]
		if l == nil {
			l = r.s.restoreLog(g.log, logState{})
		}
		if g.from = max(g.from, l.folded+1, l.first); n == 0 || g.from > g.to {
			continue
		}
		n = min(n, g.to-g.from+1)
		l.last = max(l.last, g.to)
		l.loseDamaged(g.from, g.to, n)
		notes = append(notes, fmt.Sprintf("log %q: %d messages could not be read from the damaged journal and are lost, between sequence %d and %d",
			labelOf(l.name, l.id), n, g.from, g.to))
	}
	if left > 0 {
		notes = append(notes, fmt.Sprintf("%d records could not be read from the damaged journal, and it is not known of which log", left))
	}
	return notes
}
