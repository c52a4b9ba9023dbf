package storefwd

import (
	"errors"
	"fmt"
	"time"
)

// This file moves records from the journal to the engine, in transactions large
// enough to be cheap, and removes from the engine what is no longer wanted. It is
// the committer's work alone.

const (
	maxRemove  = 8192     // sequences a transaction removes: bounds its memory
	resetAbove = 16 << 20 // an engine file without records is exchanged above this size
	foldRetry  = 10 * time.Second
)

// dirty notes that there is something to fold.
func (s *Store) dirty() {
	if s.dirtySince == 0 {
		s.dirtySince = s.mono()
		s.wakeBy(s.foldAt())
	}
}

func (s *Store) foldAt() int64 { return s.dirtySince + int64(s.o.FoldAfter) }

// foldDue folds when half the journal is full, when a journal's worth of records
// waits for removal, or when something has waited long.
func (s *Store) foldDue() {
	for {
		s.mu.Lock()
		now := s.mono()
		due := s.resetting || s.j.used[0] && s.j.used[1] ||
			s.dirtySince != 0 && (now >= s.foldAt() || s.removable() >= s.o.JournalBytes)
		if due = due && s.failed == nil; due && !s.resetting && !s.pendingFold() && !(s.j.used[0] && s.j.used[1]) {
			s.dirtySince, due = 0, false // all that was in the journal is gone: write nothing
		}
		s.mu.Unlock()
		if !due || s.fold() != nil {
			return
		}
		s.commitDue(false) // whoever came to wait meanwhile
	}
}

func (s *Store) foldable() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.resetting || s.pendingFold()
}

// pendingFold reports whether a fold would change anything that matters.
func (s *Store) pendingFold() bool {
	for _, l := range s.logs {
		if l.removable() || l.ram.len() > 0 && (*l.ram.at(0)).seq <= l.journaled {
			return true
		}
	}
	return false
}

// removable is roughly how many bytes of the engine wait for removal.
func (s *Store) removable() (bytes int64) {
	for _, l := range s.logs {
		bytes += l.removeBytes
	}
	return bytes
}

// fold writes one transaction: all records of the journal, part of the removals.
// It starts a new generation if it succeeds.
//
// In a crash, either the engine has the transaction, and with it the generation
// below which the journal holds nothing new; or it does not, and the journal is
// replayed. Both together would be harmless: a record has one key.
func (s *Store) fold() error {
	s.mu.Lock()
	b, to := s.foldBatch()
	reset := s.resetting || len(b.remove) > 0 && len(b.put) == 0 && s.engineEmpty() && s.eng.Size() > resetAbove
	if reset { // all that waits for removal goes with the file
		for i, r := range b.remove {
			l := s.logs[r.log]
			b.remove[i].to = l.removeTo
			st := b.states[r.log]
			st.Base = l.removeTo + 1
			b.states[r.log] = st
		}
	}
	damaged := s.resetting
	s.mu.Unlock()
	n, err := s.applyFold(b, reset, damaged)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		return s.foldFailed(err)
	}
	s.stats.BoltBytes += n
	s.stats.Folds++
	s.setFull(false)
	s.resetting = s.resetting && !damaged
	s.j.used = [2]bool{}
	s.j.turn()
	s.dirtySince = 0
	for _, r := range b.remove {
		s.logs[r.log].removed(r.to)
	}
	for l, r := range to {
		l.inEngine(r.from, r.to)
	}
	if s.pendingFold() {
		s.dirty()
	}
	return nil
}

func (s *Store) applyFold(b *foldBatch, reset, damaged bool) (int64, error) {
	if !reset {
		return s.eng.Fold(b)
	}
	if damaged {
		if k, ok := s.eng.(interface{ keep(epoch uint64) string }); ok {
			name := k.keep(s.epoch)
			s.mu.Lock()
			s.note("store.db was damaged and is kept as " + name)
			s.mu.Unlock()
		}
	}
	fresh := *b
	fresh.remove = nil
	return s.eng.Reset(&fresh)
}

// foldFailed sorts out what went wrong. A full disk passes: the journal still has
// room for what is in RAM, and once it has none, appends are refused. Anything
// else may have left the engine's file in a state nobody knows.
func (s *Store) foldFailed(err error) error {
	err = fmt.Errorf("fold: %w", err)
	if !errors.Is(err, errNoSpace) {
		s.fail(fmt.Errorf("%w: %w", ErrFailed, err))
		return err
	}
	s.setFull(true)
	s.dirtySince = s.mono() - int64(s.o.FoldAfter) + int64(foldRetry)
	return err
}

// foldBatch collects what one transaction does, and which sequences of each log
// will be in the engine after it.
func (s *Store) foldBatch() (b *foldBatch, to map[*Log]seqRange) {
	b = &foldBatch{states: map[uint32]logState{}, folded: s.j.gen}
	to = map[*Log]seqRange{}
	budget := uint64(maxRemove)
	for id, l := range s.logs {
		st := l.state()
		for i := range l.ram.len() {
			r := *l.ram.at(i)
			if r.seq > l.journaled {
				break
			}
			if to[l].to == 0 {
				to[l] = seqRange{from: r.seq}
			}
			to[l] = seqRange{from: to[l].from, to: r.seq}
			if r.gone { // acknowledged out of order, and perhaps never in the journal
				seal(r.buf)
			}
			b.put = append(b.put, foldRecord{id, r.seq, r.buf})
		}
		if up := to[l].to; up > 0 {
			st.Folded = up
		}
		if l.removable() && budget > 0 {
			upTo := l.removeTo
			if l.removeMsgs > maxRemove { // or less, if there are gaps
				upTo = min(upTo, l.base+budget-1)
			}
			b.remove = append(b.remove, seqRange{id, l.base, upTo})
			budget -= min(budget, upTo-l.base+1)
			st.Base = upTo + 1
		}
		st.Last = max(st.Last, st.Folded)
		if st.Last > 0 {
			b.states[id] = st
		}
	}
	return b, to
}

// engineEmpty reports whether no log has a record in the engine that still counts.
func (s *Store) engineEmpty() bool {
	for _, l := range s.logs {
		if l.first <= l.folded {
			return false
		}
	}
	return true
}
