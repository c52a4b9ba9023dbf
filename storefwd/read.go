package storefwd

import "fmt"

// This file reads records, from the engine and from RAM, for a cursor or for people.

// Read appends to dst records with sequence ≥ from, oldest first: up to cap(dst)
// or, if that is 0, up to 64. It sees what is not yet safe, too.
func (l *Log) Read(dst []Record, from uint64) ([]Record, error) {
	l.s.mu.Lock()
	from = max(from, l.first)
	l.s.mu.Unlock()
	had := len(dst)
	for {
		some, err := l.read(dst[:had], from, 1<<64-1, readBytes)
		if err != nil || len(some) == had {
			return some[:had], err
		}
		from = some[len(some)-1].Seq + 1
		if dst = l.waiting(some, had); len(dst) > had {
			return dst, nil
		}
	}
}

// waiting is dst without those from had on that are acknowledged. Who looks sees what
// is too old as well; this dates it.
func (l *Log) waiting(dst []Record, had int) (out []Record) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	out = dst[:had]
	for _, r := range dst[had:] {
		if !l.buriedInEngine(r.Seq) && !l.wasAcked(r.Seq) {
			l.expired(&r)
			out = append(out, r)
		}
	}
	return out
}

const readBytes = 1 << 20

// read appends records with from ≤ seq ≤ to until dst is full or they weigh more
// than limit bytes, at least one if there is one. Records of the engine are
// copied out before it returns.
func (l *Log) read(dst []Record, from, to uint64, limit int) ([]Record, error) {
	if cap(dst) == 0 {
		dst = make([]Record, 0, 64)
	}
	s := l.s
	for len(dst) < cap(dst) && from <= to {
		s.mu.Lock()
		folded, folds, files, holes := l.folded, s.stats.Folds, s.files, l.conf != nil || len(l.hollow.s) > 0
		if s.salvaging != nil {
			s.mu.Unlock()
			return dst, errEngineDown
		}
		if from > folded {
			dst = l.readRAM(dst, from, to, limit)
			s.mu.Unlock()
			return dst, nil
		}
		s.mu.Unlock()
		had := len(dst)
		var err error
		if dst, err = l.readEngine(dst, from, min(to, folded), limit); err != nil {
			s.mu.Lock()
			s.failedRead(err)
			s.mu.Unlock()
			return dst, errEngineDown
		}
		s.mu.Lock()
		fresh := s.files != files // that is not the file that has them
		s.mu.Unlock()
		if fresh {
			return dst[:had], errEngineDown
		}
		last := folded
		if len(dst) > had {
			last = dst[len(dst)-1].Seq
		}
		var sure bool
		if dst, sure = l.dropDead(dst, had, holes, folds); len(dst) > had {
			return dst, nil
		}
		if sure {
			from = last + 1
		}
	}
	return dst, nil
}

// fromEngine calls fn for records of the engine, from…to, until it returns false. An error says
// that they are there and cannot be read now: readers wait until they can. The caller holds mu, so
// no fresh file takes the place of a damaged one meanwhile.
func (l *Log) fromEngine(from, to uint64, fn func(seq uint64, b []byte) bool) error {
	if !l.s.readable {
		return errEngineDown
	}
	err := l.s.eng.Read(l.id, from, to, fn)
	l.s.failedRead(err)
	return err
}

func (l *Log) readRAM(dst []Record, from, to uint64, limit int) []Record {
	for i := l.find(from); i < l.ram.len() && len(dst) < cap(dst) && limit > 0; i++ {
		r := *l.ram.at(i)
		if r.seq > to {
			break
		}
		if r.dead {
			continue
		}
		dst = append(dst, viewRecord(r.buf))
		limit -= len(r.buf)
	}
	return dst
}

func (l *Log) readEngine(dst []Record, from, to uint64, limit int) ([]Record, error) {
	var bad []ref
	var buf []byte
	err := l.s.eng.Read(l.id, from, to, func(seq uint64, b []byte) bool {
		if id, r, err := parseRecord(b); err != nil || id != l.id || r.Seq != seq {
			bad = append(bad, ref{seq: seq, size: int64(len(b))})
			return true
		}
		if len(buf)+len(b) > cap(buf) {
			buf = make([]byte, 0, max(len(b), min(32<<10, len(b)*(cap(dst)-len(dst)))))
		}
		at := len(buf)
		buf = append(buf, b...)
		dst = append(dst, viewRecord(buf[at:len(buf):len(buf)]))
		limit -= len(b)
		return len(dst) < cap(dst) && limit > 0
	})
	if len(bad) > 0 {
		l.s.mu.Lock()
		for _, r := range bad {
			l.giveUp(r)
		}
		l.trim()
		l.s.note(fmt.Sprintf("store.db: records of log %q fail their checksum and are left out", l.name))
		l.s.unlockAndFire()
	}
	return dst, err
}

// giveUp settles and counts a damaged record, once however often it is read.
func (l *Log) giveUp(r ref) {
	c := l.sole()
	switch {
	case r.seq < l.first || l.buriedInEngine(r.seq) || c != nil && c.taken.has(r.seq) || l.bad.has(r.seq):
		return
	case c != nil:
		c.acknowledge(r.seq, r.size)
		l.acked--
	default:
		l.bad.add(r.seq, r.seq)
	}
	l.lose(LostDamaged, r.seq, r.seq, 1)
}

// find is the index in ram of the first record with sequence ≥ seq.
func (l *Log) find(seq uint64) int {
	lo, hi := 0, l.ram.len()
	if hi > 0 && (*l.ram.at(0)).seq >= seq {
		return 0
	}
	for lo < hi {
		if mid := (lo + hi) / 2; (*l.ram.at(mid)).seq < seq {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}
