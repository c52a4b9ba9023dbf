package storefwd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"
)

// This file gets out of a damaged bbolt file what can be got out. The file is
// moved aside, a fresh one takes its place at once, and acknowledging goes on; the
// committer reads the old one page by page, in the background, and puts each record whose
// checksum holds into the new one. Readers wait until that is done, so that order
// holds. What is missing then is declared lost.
//
// Old pages show records that were acknowledged and removed long ago. Those below the
// highest ack floor found in any state, current or left behind, are passed over; one that comes
// back all the same has the id it had, and the hub knows it.
//
// In a crash the old file is there under its new name, or the damaged one under
// store.db; the next open starts over. A record put twice has one key.

const salvageMark = ".salvage-"

// seqsPerBoot is more than one run can use: if the damaged file alone knew which
// sequences are taken, the log goes on this far above.
const seqsPerBoot = 1 << 36

// salvage is one pass over damaged files. Owned by the committer.
type salvage struct {
	limits   map[uint32]uint64   // records up to here are wanted; of other logs, all
	states   map[uint32]logState // the latest found in the files
	batch    foldBatch
	bytes    int // read since a commit was let through, and of batch
	unpacker unpacker
	lost     map[uint32]int64 // what was declared of logs that are settled, if this is tried again
	bad      int              // pages that could not be read
}

// failedRead notes why reading from bbolt failed, nil too.
func (s *Store) failedRead(err error) {
	if err != nil && !errors.Is(err, errEngineDown) {
		s.suspect(err)
	}
}

// suspect notes that reading from bbolt failed. The committer looks into it.
func (s *Store) suspect(err error) {
	if s.suspected == nil && s.salvaging == nil {
		s.suspected, s.readable = err, false
		s.wakeBy(s.mono())
	}
}

// lookDue finds out whether the file is damaged or the disk only failed to read.
func (s *Store) lookDue() {
	s.mu.Lock()
	err := s.suspected
	s.mu.Unlock()
	if err == nil || !s.working() || s.mono() < s.salvageAt {
		return
	}
	s.salvageAt = math.MaxInt64 // not from a commit that is let through meanwhile
	s.engineOK = false
	if !s.acquitted && checkPages(s.path("store.db")) == nil && s.readAll() == nil {
		s.acquitted = true // once: the next finding counts, unless a fold succeeds before
	} else if err := s.quarantine(err); err != nil {
		s.salvageAt = s.mono() + int64(foldRetry)
		s.foldFailed(err)
		return
	}
	s.salvageAt = 0
	s.mu.Lock()
	s.stats.Faults++
	s.suspected = nil
	s.mu.Unlock()
	if err := s.bringEngine(); err != nil {
		s.foldFailed(err)
	}
}

// readAll opens the file anew and visits every record of every log, and lets commits through. At
// the close it finds nothing: the next start looks anew.
func (s *Store) readAll() error {
	_, err := s.eng.Open()
	if err == nil {
		_, _, err = s.eng.Load()
	}
	s.mu.Lock()
	ids := make([]uint32, 0, len(s.logs))
	for id := range s.logs {
		ids = append(ids, id)
	}
	s.mu.Unlock()
	for _, id := range ids {
		for from := uint64(0); err == nil; {
			n := 0
			err = s.eng.Read(id, from, math.MaxUint64, func(seq uint64, _ []byte) bool {
				from = seq + 1
				n++
				return n < 8192
			})
			if n < 8192 {
				break
			}
			if s.commit(whatIsDue); s.isClosing() {
				return nil
			}
		}
	}
	return err
}

// quarantine moves store.db aside; bringEngine opens a fresh one.
func (s *Store) quarantine(why error) error {
	s.eng.Close()
	s.engineOK = false
	to := ""
	for i := 0; ; i++ {
		to = fmt.Sprintf("%s%s%d-%d", s.path("store.db"), salvageMark, s.epoch, i)
		if _, err := os.Lstat(to); errors.Is(err, os.ErrNotExist) {
			break
		} else if err != nil {
			return err
		}
	}
	if err := os.Rename(s.path("store.db"), to); err != nil {
		return err
	}
	if err := syncDir(s.dir); err != nil {
		return err
	}
	s.mu.Lock()
	s.note(fmt.Sprintf("store.db was damaged (%v): what can be read of it is taken over", why))
	s.mu.Unlock()
	return nil
}

// findDamaged looks for damaged files that wait, this run's or an earlier one's.
func (s *Store) findDamaged() {
	names, _ := filepath.Glob(s.path("store.db") + salvageMark + "*")
	if len(names) == 0 || s.salvage != nil {
		return
	}
	s.salvage = &salvage{states: map[uint32]logState{}, lost: map[uint32]int64{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.salvaging, s.readable = make(chan struct{}), false
	s.files++
	if !s.loaded {
		s.seqFloor = s.meta.Opens * seqsPerBoot
	}
	s.wakeBy(s.mono())
}

// salvageDue salvages, once the store works.
func (s *Store) salvageDue() {
	if s.salvage == nil || !s.working() || s.mono() < s.salvageAt {
		return
	}
	s.salvageAt = s.mono() + int64(foldRetry)
	if err := s.bringEngine(); err != nil {
		return
	}
	s.setLimits()
	names, _ := filepath.Glob(s.path("store.db") + salvageMark + "*")
	slices.Sort(names)
	for _, name := range names { // first what is not wanted: else old records stay in the new file for ever
		if s.seqFloor == 0 {
			break // known
		}
		if err := s.salvageFile(name, true); err != nil {
			s.salvageStopped(err)
			return
		}
	}
	for _, name := range names {
		if err := s.salvageFile(name, false); err != nil {
			s.salvageStopped(err)
			return
		}
	}
	if err := s.salvaged(); err != nil {
		s.salvageStopped(err)
		return
	}
	for _, name := range names {
		os.Rename(name, strings.Replace(name, salvageMark, ".corrupt-", 1))
	}
	s.dropOlder(1)
}

// setLimits says, once, what is wanted: what this run has in RAM is not, nor what it
// knows to be acknowledged.
func (s *Store) setLimits() {
	v := s.salvage
	if v.limits != nil {
		return
	}
	v.limits = map[uint32]uint64{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, l := range s.logs {
		if v.limits[id] = l.last; l.ram.len() > 0 {
			v.limits[id] = (*l.ram.at(0)).seq - 1
		}
		if s.seqFloor == 0 {
			v.states[id] = l.state(0)
		}
	}
}

// dropOlder leaves so many damaged copies for people to look at: more would fill the disk.
func (s *Store) dropOlder(most int) {
	old, _ := filepath.Glob(s.path("store.db") + ".corrupt-*")
	sort.SliceStable(old, func(i, j int) bool { return modTime(old[i]).Before(modTime(old[j])) })
	for _, name := range old[:max(0, len(old)-most)] {
		os.Remove(name)
	}
}

func modTime(path string) time.Time {
	info, err := os.Lstat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// salvageStopped leaves the rest for later: the disk fails or is full, or the store closes.
func (s *Store) salvageStopped(err error) {
	if errors.Is(spaceError(err), errNoSpace) {
		s.dropOlder(0) // they may be what fills it
	}
	if !errors.Is(err, ErrClosed) {
		s.foldFailed(fmt.Errorf("salvage: %w", err))
	}
}

// salvageFile reads one damaged file, for its states alone or for its records, too.
func (s *Store) salvageFile(name string, statesOnly bool) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	v := s.salvage
	bad, err := scanPages(f, info.Size(), func(key, value []byte) error {
		v.bytes += len(value)
		switch {
		case len(key) == 4:
			v.noteState(binary.BigEndian.Uint32(key), value)
		case statesOnly:
		case len(key) == singleKey:
			v.take(value)
		case len(key) == blockKey:
			if h, err := v.unpacker.open(value); err == nil {
				v.unpacker.each(h, 0, math.MaxUint64, func(_ uint64, rec []byte) bool { v.take(rec); return true })
			}
		}
		if v.bytes >= maxFold {
			return s.putSalvaged()
		}
		return nil
	})
	v.bad = bad
	if err == nil {
		err = s.putSalvaged()
	}
	return err
}

// take keeps what is a record and wanted. Keys may be damaged; it names itself.
func (v *salvage) take(rec []byte) {
	if id, r, err := parseRecord(rec); err == nil && v.wants(id, r.Seq) {
		v.batch.put = append(v.batch.put, foldRecord{id, r.Seq, slices.Clone(rec)})
		v.bytes += len(rec) + 32
	}
}

// noteState keeps the latest state of each log: all that grows, as far as it has grown.
func (v *salvage) noteState(id uint32, value []byte) {
	st, err := decodeState(value)
	old, known := v.states[id]
	if err == nil && (!known || st.Last > old.Last || st.Last == old.Last && st.First >= old.First) {
		v.states[id] = st
	}
}

func (v *salvage) wants(id uint32, seq uint64) bool {
	limit, known := v.limits[id]
	return seq >= v.states[id].First && (!known || seq <= limit)
}

// putSalvaged writes what was found, and lets commits through.
func (s *Store) putSalvaged() error {
	if s.isClosing() {
		return ErrClosed
	}
	v := s.salvage
	put := v.batch.put
	v.batch.put, v.bytes = put[:0], 0 // if it cannot be written, all is read again
	if len(put) > 0 {
		sort.SliceStable(put, func(i, j int) bool {
			return put[i].log < put[j].log || put[i].log == put[j].log && put[i].seq < put[j].seq
		})
		put = slices.CompactFunc(put, func(a, b foldRecord) bool { return a.log == b.log && a.seq == b.seq }) // of older pages
		n, err := s.eng.Fold(&foldBatch{put: put, salvaged: true})
		clear(put)
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.stats.BoltBytes += n
		s.mu.Unlock()
	}
	s.commit(whatIsDue)
	if !s.working() {
		return ErrFailed
	}
	return nil
}

func (s *Store) isClosing() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// awaitSalvage returns once it is known what the logs hold.
func (s *Store) awaitSalvage(ctx context.Context) error {
	s.mu.Lock()
	wait := s.salvaging
	s.mu.Unlock()
	if wait == nil {
		return nil
	}
	select {
	case <-wait:
		return nil
	case <-s.done:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// salvaged puts the accounts of all logs right and lets readers go on.
func (s *Store) salvaged() error {
	ids := map[uint32]bool{}
	s.mu.Lock()
	for id := range s.logs {
		ids[id] = true
	}
	s.mu.Unlock()
	for id := range s.salvage.states {
		ids[id] = true
	}
	for id := range ids {
		if err := s.settleLog(id); err != nil {
			return err
		}
	}
	if _, err := s.eng.Fold(s.statesOnly()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.salvage, s.salvageAt = nil, 0
	close(s.salvaging)
	s.salvaging = nil
	s.seqFloor = 0
	s.setReadable(true)
	return nil
}

// statesOnly makes what was counted durable.
func (s *Store) statesOnly() *foldBatch {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &foldBatch{states: map[uint32]logState{}}
	for id, l := range s.logs {
		b.states[id] = l.state(0)
	}
	return b
}

// settleLog counts what the engine has of a log now, and declares the rest lost.
func (s *Store) settleLog(id uint32) error {
	s.mu.Lock()
	l, st := s.logs[id], s.salvage.states[id]
	if l == nil {
		l = s.restoreLog(id, logState{Name: st.Name})
	}
	first, upTo := max(l.first, st.First, 1), uint64(math.MaxUint64)
	l.last = max(l.last, st.Last)
	acked := l.salvageEarly(st)
	if limit, known := s.salvage.limits[id]; known {
		upTo = max(limit, l.folded)
	}
	s.mu.Unlock()
	found, have, hole, err := s.count(id, first, upTo, st.Folded, acked)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	declared, again := s.salvage.lost[id]
	if s.seqFloor != 0 && !again { // this run knows nothing of what was before
		l.takeAccount(st)
	}
	l.takeSalvaged(st, first, found)
	for i := 0; i < l.ram.len() && (*l.ram.at(i)).seq <= st.Folded; i++ {
		have++ // the journal had it, too
	}
	lost := max(st.Msgs-have, declared)
	s.salvage.lost[id] = lost
	if lost > declared {
		l.loseDamaged(hole.from, hole.to, uint64(lost-declared))
		s.note(fmt.Sprintf("log %q: %d messages could not be read from the damaged store.db and are lost, between sequence %d and %d",
			l.name, lost, hole.from, hole.to))
	}
	return nil
}

// count reads what the engine has of a log from sequence first to upTo, and how many of these the
// damaged file had, which is those up to folded, and the range in which such are missing. Those of
// acked are not wanted any more.
func (s *Store) count(id uint32, first, upTo, folded uint64, acked spans) (found logState, old int64, hole seqRange, err error) {
	next := first
	miss := func(from, to uint64) {
		if from <= to {
			if hole.from == 0 {
				hole.from = from
			}
			hole.to = to
		}
	}
	for more := true; more && err == nil; {
		n := 0
		err = s.eng.Read(id, next, upTo, func(seq uint64, b []byte) bool {
			miss(next, min(seq-1, folded))
			if !acked.has(seq) {
				found.add(seq, b)
				if seq <= folded {
					old++
				}
			}
			next = seq + 1
			n++
			return n < 8192
		})
		more = n == 8192
		s.commit(whatIsDue)
	}
	miss(next, min(folded, upTo))
	return found, old, hole, err
}

// takeAccount takes over what a damaged file knew of losses, and of the hub. Losses that a marker in
// the journal declares are known to be.
func (l *Log) takeAccount(st logState) {
	if l.declared <= st.Declared {
		for _, g := range st.Gaps {
			if !l.gaps[g.Reason].covers(g) { // else it was taken over before a crash
				l.addGap(g)
			}
		}
		l.restoreDoubt(st)
	}
	if l.hub == (mark{}) {
		l.hub = st.Mark
	}
	if l.foreign == "" {
		l.foreign = st.Foreign
	}
	if l.sent == (day{}) {
		l.sent = st.Sent
	}
	l.scatter = l.scatter || st.Scattered
}

// takeSalvaged corrects the accounts after the engine's records were counted anew.
func (l *Log) takeSalvaged(st logState, first uint64, found logState) {
	if l.name == "" {
		l.name = st.Name
	}
	for l.ram.len() > 0 && (*l.ram.at(0)).seq < first { // acknowledged, and replayed from the journal
		r := *l.ram.at(0)
		if r.dead {
			l.ram.pop()
			continue
		}
		l.pop(ref{seq: r.seq, size: int64(len(r.buf)), stamp: recordStamp(r.buf), r: r}, false)
	}
	l.forgetAll()
	l.base, l.first, l.stated = first, first, first
	l.folded = max(l.folded, found.Last)
	l.sealed, l.journaled = max(l.sealed, l.folded), max(l.journaled, l.folded)
	l.last = max(l.last, l.folded, st.Last)
	l.msgs, l.bytes = l.ramMsgs+found.Msgs, l.ramBytes+found.Bytes
	l.removeTo, l.removeMsgs, l.removeBytes = 0, 0, 0
	l.oldest.clear()
	l.scanEngine()
	epochs := found.Epochs
	for _, e := range l.epochs {
		if n := len(epochs); e.First > found.Last && (n == 0 || epochs[n-1].Epoch != e.Epoch) { // else one run, part of it in the journal
			epochs = append(epochs, e)
		}
	}
	l.epochs = epochs
	for _, e := range slices.Concat(st.Epochs, epochs) {
		l.s.recall(e.Epoch)
	}
	for name, floor := range st.Cursors {
		c := l.cursor(name)
		c.settle(c.floor+1, min(floor, l.last))
	}
}
