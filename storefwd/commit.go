package storefwd

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// This file is the life of a record from append to safe: the queue of what is not
// safe yet, the barriers that wait for it, and the committer that writes it.
//
// A record is safe when it was synced to the journal, or when the hub acknowledged
// it. One whose loss is to be declared is written all the same, so that a crash does not
// forget it. The first unsafe record holds back every barrier behind it.

type barrier struct {
	pos uint64 // of the last append before it
	fn  func(error)
}

// rec is a record in RAM. seq, buf and log are static; the others are guarded by
// Store.mu.
type rec struct {
	log   *Log
	buf   []byte // the record as record.go lays it out
	seq   uint64
	pos   uint64 // order of appends over all logs
	at    int64  // when it was appended, by mono
	state recState
	gone  bool // acknowledged or dropped: nobody has to read it any more
	lost  bool // … and that is to be declared: it is written for the count alone
	early bool // acknowledged while an older one was not: counts no more
	dead  bool // superseded, or early and released: counts no more, its place is empty
	put   bool // the last fold that looked at it has it
	filed bool // was written to the journal

	older newest // of its subject, superseded once this one is safe; seq 0: none
}

type recState uint8

const (
	recNew  recState = iota // not safe
	recSafe                 // safe
)

// makeSafe marks r safe, unless it is lost and was not written. The caller holds mu and
// calls unlockAndFire after.
func (s *Store) makeSafe(r *rec) {
	if r.state == recNew && !r.lost {
		r.state = recSafe
		s.unsafeBytes -= int64(len(r.buf))
		r.log.unsafeBytes -= int64(len(r.buf))
		r.log.succeed(r)
	}
}

// settle forgets the safe records at the head of the queue.
func (s *Store) settle() {
	for s.queue.len() > 0 && (*s.queue.at(0)).state == recSafe {
		s.queue.pop()
	}
	if s.behind != nil && s.unsafeBytes <= s.limit/4 {
		close(s.behind)
		s.behind = nil
	}
}

// unlockAndFire answers the barriers that can be answered, without the lock, one
// goroutine at a time so that their order holds. It unlocks mu.
func (s *Store) unlockAndFire() {
	s.settle()
	if s.firing {
		s.mu.Unlock() // whoever is firing will see them
		return
	}
	s.firing = true
	var ready []barrier
	for {
		ready = ready[:0]
		err, take := s.failed, s.barriers.len()
		if err == nil && s.refusing > 0 {
			err, take = s.refused, s.refusing
		}
		s.refusing = 0
		for ; take > 0 && (err != nil || s.queue.len() == 0 || s.barriers.at(0).pos < (*s.queue.at(0)).pos); take-- {
			ready = append(ready, s.barriers.pop())
		}
		if len(ready) == 0 {
			s.firing = false
			s.wakeForBarriers()
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		for _, b := range ready {
			b.fn(err)
		}
		s.mu.Lock()
		s.settle()
	}
}

// due is when r must be written, by mono. waited says that a barrier waits for it.
// That does not hurry a log with an Interval, unless it is the barrier of another.
func (s *Store) due(r *rec, waited bool) int64 {
	if r.seq <= r.log.marker { // what is handed out waits for a marker
		return r.at
	}
	spill := int64(0)
	if r.log.live {
		spill = s.patience(r.log)
	}
	switch own := int64(r.log.ret.Interval); {
	case own > 0 && r.pos > s.hurryTo:
		spill = max(spill, own)
	case !waited:
		spill = max(spill, int64(s.o.CommitInterval))
	}
	return r.at + spill
}

// sinceAppend is how long before a barrier the append may be that it is for.
const sinceAppend = int64(20 * time.Millisecond)

// hurry notes that a barrier was asked for: not by one who only gave to logs with an
// Interval, for then nothing else was appended just now.
func (s *Store) hurry() {
	if s.mono()-s.plainAt < sinceAppend {
		s.hurryTo = s.pos
	}
}

// wakeForBarriers makes sure that the committer looks when the first record that
// barriers wait for is due.
func (s *Store) wakeForBarriers() {
	if s.barriers.len() == 0 || s.queue.len() == 0 {
		return
	}
	if s.barriers.len() < s.siblings.expected {
		return // until enough of them are here, or the timer
	}
	first := *s.queue.at(0)
	if first.log.ret.Interval > 0 && s.plainTo > first.pos {
		s.wakeBy(s.mono()) // one behind it is due earlier
		return
	}
	s.wakeBy(s.due(first, true))
}

// patience is how long a record of a live log waits for the hub.
func (s *Store) patience(l *Log) int64 {
	if l.spill > 0 {
		return min(l.spill, int64(s.o.SpillAfter))
	}
	return int64(s.o.SpillAfter)
}

// wakeBy makes sure that the committer looks at time at, by mono.
func (s *Store) wakeBy(at int64) {
	if s.armed == 0 || at < s.armed {
		s.armed = at
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// run is the committer: the only goroutine that writes to files after Open.
func (s *Store) run() {
	defer close(s.done)
	timer := time.NewTimer(0) // there may be something to wait for from the start, such as the time
	defer timer.Stop()
	for {
		select {
		case <-s.wake:
		case <-timer.C:
		case fn := <-s.asks:
			fn()
		case <-s.closing:
			s.finish()
			return
		}
		s.recover()
		s.lookDue()
		s.commit(withSiblings)
		s.markDue()
		s.salvageDue()
		s.expireTails()
		s.watchClock()
		s.conflateDue()
		s.foldDue()
		s.compactDue()
		s.mu.Lock()
		next := s.next()
		s.armed = next
		s.mu.Unlock()
		if next == 0 {
			timer.Stop()
		} else {
			timer.Reset(max(0, time.Duration(next-s.mono())))
		}
	}
}

// finish is the committer's last work: what is in the journal goes into bbolt, so
// that the next start has nothing to replay.
func (s *Store) finish() {
	s.lastLook()
	s.commit(everything)
	if s.working() {
		for s.j.used != [2]uint64{} && s.seal() || s.foldable() {
			if err := s.foldAtOnce(); err != nil {
				s.mu.Lock()
				if s.removable() > 0 { // else the journal has it all
					s.unfinished = fmt.Errorf("what was removed last is there again at the next start: %w", err)
				}
				s.mu.Unlock()
				break
			}
		}
	}
	s.mu.Lock()
	if s.failed == nil {
		s.failed = ErrClosed
	}
	s.wakeAll()
	s.unlockAndFire()
}

func (s *Store) working() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed == nil
}

// next is when the committer has something to do, by mono; 0 for not foreseeable.
func (s *Store) next() int64 {
	switch {
	case errors.Is(s.failed, ErrClosed):
		return 0
	case s.failed != nil:
		return max(s.retryAt, 1)
	}
	s.settle()
	at := int64(math.MaxInt64)
	waited := s.waited()
	for i := range s.queue.len() {
		if r := *s.queue.at(i); r.state == recNew {
			at = min(at, s.due(r, r.pos <= waited))
		}
	}
	if s.siblings.expected > 0 {
		at = s.siblings.until()
	}
	if at < math.MaxInt64 {
		at = max(at, s.retryAt)
	}
	if s.dirtySince != 0 {
		at = min(at, max(s.foldAt(), s.foldAgain))
	}
	if s.markAt != 0 {
		at = min(at, s.markAt)
	}
	for _, l := range s.logs {
		at = min(at, l.tailDue(), l.scanDue())
	}
	if s.suspected != nil || s.salvaging != nil {
		at = min(at, max(s.salvageAt, 1))
	}
	if s.suspicious {
		at = min(at, s.filesAt)
	}
	at = min(at, s.compactAt())
	if at = s.clockDue(at); at == math.MaxInt64 {
		return 0
	}
	return at
}

// waited is the position up to which somebody waits.
func (s *Store) waited() uint64 {
	if n := s.barriers.len(); n > 0 {
		return s.barriers.at(n - 1).pos
	}
	return 0
}

// haste says what a commit takes, and waits for.
type haste uint8

const (
	withSiblings haste = iota // what is due, once the siblings of those who wait are there
	whatIsDue
	everything
)

// commit writes batches until nothing is due: what arrived during one sync is the next
// batch.
func (s *Store) commit(h haste) {
	for {
		s.watchFiles()
		s.mu.Lock()
		s.settle()
		if s.failed != nil {
			s.unlockAndFire()
			return
		}
		if s.mono() < s.retryAt {
			s.refuse(s.noRoom)
			s.unlockAndFire()
			return
		}
		if !s.gather(h) {
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		if err := s.makeRoom(); err != nil {
			s.mu.Lock()
			s.backOff()
			s.noRoom = err
			s.refuse(err)
			s.release()
			s.wakeAll()
			s.unlockAndFire()
			return
		}
		began := s.mono()
		n, err := s.j.write(s.frames)
		if err != nil {
			s.fail(fmt.Errorf("journal: %w", spaceError(err)))
			s.recover()
			continue
		}
		s.mu.Lock()
		s.atOnce()
		s.committed(n)
		s.siblings.written(s.barriers.len(), began, s.mono())
		s.unlockAndFire()
	}
}

// presses reports whether so much waits for the disk that it is written, whoever waits for it. What
// the hub is about to acknowledge does not count, unless there is no room for more of it.
func (s *Store) presses() bool {
	n, enough := s.unsafeBytes, int64(s.o.CommitBytes)
	if n < enough || s.crammed() {
		return n >= enough
	}
	for _, l := range s.logs {
		if l.live {
			n -= l.unsafeBytes
		}
	}
	return n >= enough
}

// crammed reports whether half of all that may wait does.
func (s *Store) crammed() bool { return s.unsafeBytes >= max(s.limit/2, int64(s.o.CommitBytes)) }

// gather fills batch with what is to be written now. Nothing is, until one record
// is due; then the records of all other logs that will be written anyway go along.
func (s *Store) gather(h haste) bool {
	clear(s.batch)
	s.batch = s.batch[:0]
	now, waited := s.mono(), s.waited()
	if s.crammed() {
		h = everything
	}
	write := h == everything || s.presses()
	if missing := s.siblings.missing(s.barriers.len(), now); missing && !write && h == withSiblings {
		return false
	}
	for i := 0; i < s.queue.len() && !write; i++ {
		r := *s.queue.at(i)
		write = r.state == recNew && s.due(r, r.pos <= waited) <= now
	}
	if !write {
		return false
	}
	var size int64
	for i := range s.queue.len() {
		r := *s.queue.at(i)
		if r.state != recNew {
			continue
		}
		// Of a live log only what the hub has had half its time for: the rest is
		// likely to be acknowledged before it would reach the disk.
		if r.log.live && r.seq > r.log.marker && h != everything && now-r.at < s.patience(r.log)/2 {
			continue
		}
		if size += frameSize(len(r.buf)); size > s.j.half-batchExtra || len(s.batch) > 0 && size > 1<<20 {
			break
		}
		s.batch = append(s.batch, r)
		if r == r.log.cutRec {
			r.log.cutRec = nil
		}
	}
	return len(s.batch) > 0
}

// makeRoom turns to the other half of the journal if batch does not fit this one,
// and empties it if need be.
func (s *Store) makeRoom() error {
	var size int64
	clear(s.frames)
	s.frames = s.frames[:0]
	for _, r := range s.batch {
		size += frameSize(len(r.buf))
		s.frames = append(s.frames, r.buf)
	}
	for !s.j.room(size) {
		if s.seal() {
			s.foldIfScarce()
			continue
		}
		if err := s.foldAtOnce(); err != nil {
			return err
		}
	}
	return nil
}

// seal ends the pass over the half of the journal that is being written, if the
// other is free for the next.
func (s *Store) seal() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.j.canTurn() || s.j.untouched() {
		return false
	}
	s.sealGen = s.j.gen
	for _, l := range s.logs {
		l.sealed = l.journaled
	}
	s.j.turn()
	s.journalRoom = s.j.left()
	return true
}

// weight is what all that waits to be written weighs in the journal with a record of size bytes
// more, the ends of batches included.
func (s *Store) weight(size int64) int64 {
	return frameSize(int(s.unsafeBytes+size)) + int64(s.queue.len())*(frameSize(0)+4) + 8*batchExtra
}

// committed notes that batch is on disk.
func (s *Store) committed(bytes int) {
	s.journalRoom = s.j.left()
	s.stats.JournalBytes += int64(bytes)
	s.stats.Commits++
	s.stats.CommitMsgs += int64(len(s.batch))
	s.markAt = s.mono() + int64(markAfter)
	for _, r := range s.batch {
		r.log.journaled = max(r.log.journaled, r.seq)
		r.log.written++
		if r.buf[32] >= kindLost {
			r.log.told = append(r.log.told, r.buf)
		}
		r.lost, r.filed = false, true
		s.makeSafe(r)
		r.log.wakeReaders()
	}
	s.dirty()
}

// markAfter is how long the journal is idle before its newest batch is marked.
const markAfter = time.Second

// markDue marks the newest batch of a journal that is idle, for no later one will soon.
func (s *Store) markDue() {
	if s.markAt == 0 || s.mono() < s.markAt || !s.working() {
		return
	}
	s.markAt = 0
	n, err := s.j.mark()
	if err != nil {
		s.fail(fmt.Errorf("journal: %w", spaceError(err)))
		return
	}
	s.mu.Lock()
	s.stats.JournalBytes += int64(n)
	s.mu.Unlock()
}

// refuse answers all who wait now with err: there is no room on the disk, nor in the
// journal. Their records stay, and may yet become safe.
func (s *Store) refuse(err error) {
	s.refused, s.refusing = fmt.Errorf("%w: %w", ErrFull, err), s.barriers.len()
}
