package storefwd

import "fmt"

// This file keeps one log from taking the room of the others: together they may be allowed
// more than the engine's file may have, or the disk has for it. Each has a share of that, its
// MaxBytes or, if that is less, its part of half. A log takes what it likes until the room
// that is left is what the others' shares lack; from then on one that has more than its share
// is full, and goes by its policy.
//
// Shares are bytes of records, the file has packed ones: there is mostly more room than this
// counts on. What is in the journal is not counted, so some of the room is kept for that.

var errShare = fmt.Errorf("%w: it has its share of the disk, and the rest is for others", ErrFull)

// share is what a log may have of the file in any case, in bytes of records.
func (l *Log) share() int64 {
	part := l.s.fileMost() / 2 / max(1, int64(l.s.sharers))
	if l.ret.MaxBytes > 0 {
		return min(l.ret.MaxBytes, part)
	}
	return part
}

// fileMost is what the engine's file may grow to, in bytes.
func (s *Store) fileMost() int64 { return min(s.o.MaxSize, s.eng.Size()+s.diskRoom) }

// divide counts the logs and what their shares lack, and compares that with the room in the
// file. What is kept for a hub that goes back has no share, and goes first. It needs mu.
func (s *Store) divide() {
	s.sharers = 0
	for _, l := range s.logs {
		if l.claimed && !l.ret.Memory {
			s.sharers++
		}
	}
	if s.crowded = s.tight(); s.crowded && s.dropTails() {
		s.crowded = s.tight()
	}
}

// tight reports whether the room is only what the shares lack.
func (s *Store) tight() bool {
	most := s.fileMost()
	left := most - s.eng.Size() + s.eng.Free() + s.removable() - min(s.o.JournalBytes, most/8)
	for _, l := range s.logs {
		if l.claimed && !l.ret.Memory {
			left -= max(0, l.share()-l.bytes)
		}
	}
	return left < 0 && s.sharers > 1
}

// squeezed reports whether a log that takes size bytes more would take another's room.
func (l *Log) squeezed(size int64) bool {
	return l.s.crowded && !l.ret.Memory && l.bytes+size > l.share()
}

// giveWay makes room for size bytes where the log has more than its share, as it does when it
// is full.
func (l *Log) giveWay(size int64) error {
	if l.ret.Full == Refuse {
		return errShare
	}
	for size > 0 {
		o, ok := l.head()
		if !ok {
			break
		}
		size -= o.size
		l.drop(o, LostOldest)
	}
	return nil
}
