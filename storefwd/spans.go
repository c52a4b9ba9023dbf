package storefwd

const mostSeq = 1 << 62 // no sequence that a state names is believed above it

// span is a range of sequences, both ends included.
type span struct {
	From uint64 `json:"f"`
	To   uint64 `json:"t"`
}

// spans is a set of sequences, as ascending ranges of which no two touch. It costs 16
// bytes a range, however many sequences that is. The zero value is empty.
type spans struct {
	s []span
	n uint64 // sequences in it
}

// at is the index of the first range that ends at seq or behind it.
func (x *spans) at(seq uint64) int {
	lo, hi := 0, len(x.s)
	if hi == 0 || x.s[hi-1].To < seq {
		return hi
	}
	for lo < hi {
		if mid := (lo + hi) / 2; x.s[mid].To < seq {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

func (x *spans) has(seq uint64) bool {
	i := x.at(seq)
	return i < len(x.s) && x.s[i].From <= seq
}

// end is the last sequence of the range that seq is in, or seq-1 if it is in none.
func (x *spans) end(seq uint64) uint64 {
	if i := x.at(seq); i < len(x.s) && x.s[i].From <= seq {
		return x.s[i].To
	}
	return seq - 1
}

// add adds from…to, which may be there already in part.
func (x *spans) add(from, to uint64) {
	if from > to {
		return
	}
	i := 0
	if from > 0 {
		i = x.at(from - 1) // one that ends there is prolonged
	}
	j := i
	for ; j < len(x.s) && x.s[j].From <= to+1; j++ {
		from, to = min(from, x.s[j].From), max(to, x.s[j].To)
		x.n -= x.s[j].To - x.s[j].From + 1
	}
	x.n += to - from + 1
	x.replace(i, j, span{from, to})
}

// remove takes out from…to, which need not be there.
func (x *spans) remove(from, to uint64) {
	i := x.at(from)
	for i < len(x.s) && from <= to && x.s[i].From <= to {
		s := x.s[i]
		lo, hi := max(s.From, from), min(s.To, to)
		x.n -= hi - lo + 1
		switch {
		case s.From < lo && s.To > hi:
			x.replace(i, i+1, span{s.From, lo - 1}, span{hi + 1, s.To})
			return
		case s.From < lo:
			x.s[i].To = lo - 1
			i++
		case s.To > hi:
			x.s[i].From = hi + 1
			return
		default:
			j := i + 1
			for ; j < len(x.s) && x.s[j].To <= to; j++ {
				x.n -= x.s[j].To - x.s[j].From + 1
			}
			x.replace(i, j)
		}
	}
}

// replace exchanges the ranges [i, j) for others, moving those on the side that has
// fewer. A set of one range that is emptied and filled again allocates nothing.
func (x *spans) replace(i, j int, with ...span) {
	less, tail := j-i-len(with), len(x.s)-j
	if less > 0 && i+len(with) < tail {
		copy(x.s[less:], x.s[:i])
		x.s = x.s[less:]
		copy(x.s[i:], with)
		return
	}
	for range -less {
		x.s = append(x.s, span{})
	}
	copy(x.s[i+len(with):], x.s[j:j+tail])
	copy(x.s[i:], with)
	if x.s = x.s[:i+len(with)+tail]; len(x.s) < cap(x.s)/4 && cap(x.s) > 1024 {
		x.s = append([]span(nil), x.s...)
	}
}

// firstGap is the lowest range of from…to that is not in the set, lastGap the highest.
// lo > hi: all is in it.
func (x *spans) firstGap(from, to uint64) (lo, hi uint64) {
	lo, hi = x.end(from)+1, to
	if i := x.at(lo); i < len(x.s) {
		hi = min(hi, x.s[i].From-1)
	}
	return lo, hi
}

func (x *spans) lastGap(from, to uint64) (lo, hi uint64) {
	hi = to
	for i := len(x.s) - 1; i >= 0 && hi >= from; i-- {
		switch s := x.s[i]; {
		case s.From > hi:
		case s.To < hi:
			return max(from, s.To+1), hi
		case s.From == 0:
			return 1, 0
		default:
			hi = s.From - 1
		}
	}
	if hi < from {
		return 1, 0
	}
	return from, hi
}

// common is what is in x and in y.
func (x *spans) common(y *spans) (both spans) {
	for _, s := range y.s {
		for i := x.at(s.From); i < len(x.s) && x.s[i].From <= s.To; i++ {
			both.add(max(s.From, x.s[i].From), min(s.To, x.s[i].To))
		}
	}
	return both
}

// copyOf makes x the same set as y.
func (x *spans) copyOf(y *spans) { x.s, x.n = append(x.s[:0], y.s...), y.n }

// list is a copy, for others to keep.
func (x *spans) list() []span { return append([]span(nil), x.s...) }

// top is the last sequence, 0 if there is none.
func (x *spans) top() uint64 {
	if len(x.s) == 0 {
		return 0
	}
	return x.s[len(x.s)-1].To
}
