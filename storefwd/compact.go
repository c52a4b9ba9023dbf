package storefwd

import (
	"errors"
	"math"
	"time"
)

// This file gives space back to the file system while there is nothing else to do: a
// bbolt file that is mostly free pages is copied into a fresh one that takes its place.
// The copying is the committer's, in steps, with commits in between: they go to the
// journal. A fold would change what is being copied, so it waits, unless the journal needs
// it: then the copy is given up.
//
// In a crash the old file is there, perhaps with store.db.new beside it, or the new one.

const (
	compactStep  = 512 << 10 // bytes of records copied between two commits
	compactRest  = 10 * time.Second
	compactAgain = 10 * time.Minute // after one that came to nothing
)

// compactAt is when the file is to be compacted, by mono: once the last fold is a while
// ago and left nothing to do. Who drains a backlog folds all the time.
func (s *Store) compactAt() int64 {
	size := s.eng.Size()
	if size <= resetAbove || s.eng.Free() <= size/2 || s.dirtySince != 0 || !s.readable || s.salvaging != nil || s.suspected != nil {
		return math.MaxInt64
	}
	return max(s.foldedAt+int64(compactRest), s.compactNot)
}

// compactDue compacts, if it is time.
func (s *Store) compactDue() {
	s.mu.Lock()
	now := s.mono()
	due, folds := s.failed == nil && s.foldErr == "" && now >= s.compactAt(), s.stats.Folds
	if due {
		s.compactNot = now + int64(compactAgain)
	}
	s.mu.Unlock()
	if !due || s.lockAt.taken() || !s.roomToCompact() {
		return
	}
	n, err := s.eng.Compact(func() bool {
		s.commit(whatIsDue)
		return s.undisturbed(folds)
	})
	switch {
	case err == nil:
		s.mu.Lock()
		s.stats.BoltBytes += n
		s.mu.Unlock()
	case errors.Is(err, errStopped), errors.Is(err, errNoSpace) && !errors.Is(err, errExchanged):
	default:
		s.foldFailed(err)
	}
}

// undisturbed reports whether a compaction that began after so many folds may go on.
func (s *Store) undisturbed(folds int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.closed && s.failed == nil && s.foldErr == "" && s.suspected == nil && s.stats.Folds == folds && !s.sealedUsed()
}

// roomToCompact reports whether the disk has room for a second file, and for all else
// meanwhile.
func (s *Store) roomToCompact() bool {
	live := s.eng.Size() - s.eng.Free()
	return diskRoom(s.dir) > live+live/8+4*boltAlloc
}
