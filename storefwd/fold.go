package storefwd

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// This file moves records from the journal to the engine, in transactions large
// enough to be cheap, and removes from the engine what is no longer wanted. It is
// the committer's work alone.

const (
	maxFold    = 1 << 20  // bytes of records a transaction puts …
	maxRemove  = 8192     // … and sequences it removes: bounds its memory
	resetAbove = 16 << 20 // an engine file without records is exchanged above this size
	foldRetry  = time.Second
)

// dirty notes that there is something to fold.
func (s *Store) dirty() {
	if s.dirtySince == 0 {
		s.dirtySince = s.mono()
		s.wakeBy(s.foldAt())
	}
}

func (s *Store) foldAt() int64 { return s.dirtySince + int64(s.o.FoldAfter) }

// foldDue folds when a half of the journal is full, when a journal's worth of
// records waits for removal, or when something has waited long, be it that what is acknowledged is to
// be saved. Between two transactions it lets commits through: they go to the other half.
func (s *Store) foldDue() {
	if !s.working() {
		s.mu.Lock()
		s.flushed()
		s.mu.Unlock()
		return
	}
	for {
		s.mu.Lock()
		now := s.mono()
		aged := s.dirtySince != 0 && now >= s.foldAt()
		if aged {
			s.saveAcks()
		}
		if aged && s.foldErr == "" && !s.sealedUsed() && !s.pendingFold() {
			s.dirtySince, aged = 0, false // all that was in the journal is gone: write nothing
		}
		removes := !s.dropping && s.removable() >= s.removeAt() // perhaps all is dropped, and the file exchanged
		due := (s.sealedUsed() || aged || removes) && now >= s.foldAgain
		s.mu.Unlock()
		if !due {
			return
		}
		if s.hasOvertaken() {
			if s.commit(everything); !s.working() {
				return
			}
		}
		if aged {
			s.seal()
		}
		if s.fold() != nil {
			return
		}
		s.commit(whatIsDue)
		if !s.working() {
			return
		}
	}
}

// saveAcks has what is acknowledged, and a crash would bring back, saved with the next fold. The hub would have
// to be asked for it again, however much it took since, and what somebody took from there would look as if it
// had never come.
func (s *Store) saveAcks() {
	for _, l := range s.logs {
		if l.comesBack() {
			l.saveTo = l.acks
		}
	}
}

// hasOvertaken reports whether what is not safe yet took the place of what is about to be removed.
func (s *Store) hasOvertaken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.logs {
		if l.conf != nil && len(l.conf.overtaken) > 0 {
			return true
		}
	}
	return false
}

// sealedUsed reports whether a half of the journal waits to be folded.
func (s *Store) sealedUsed() bool {
	for _, g := range s.j.used {
		if g != 0 && g <= s.sealGen {
			return true
		}
	}
	return false
}

func (s *Store) foldable() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sealedUsed() || s.pendingFold()
}

// pendingFold reports whether a fold would change anything that matters.
func (s *Store) pendingFold() bool {
	for _, l := range s.logs {
		if l.removable() || l.conf != nil && len(l.conf.dead) > 0 || l.ram.len() > 0 && (*l.ram.at(0)).seq <= l.journaled ||
			l.tailWaits() || l.unsaid() || l.foreignNews() || l.gapNews || l.unsaved() || l.hollowWaits() && !s.closed {
			return true
		}
	}
	return false
}

// removable is roughly how many bytes of the engine wait for removal.
func (s *Store) removable() (bytes int64) {
	for _, l := range s.logs {
		if bytes += l.removeBytes + l.hollowBytes; l.conf != nil {
			bytes += l.conf.deadBytes
		}
	}
	return bytes
}

// removeAt is how many of them are worth a transaction of their own: to let many gather
// costs only space, and a log that is drained to its end needs no removal at all.
func (s *Store) removeAt() int64 {
	size := s.eng.Size()
	if s.full != "" || size > s.o.MaxSize/2 {
		return s.o.JournalBytes
	}
	return max(s.o.JournalBytes, size/4)
}

// fold writes one transaction: records of sealed halves of the journal, and
// removals. The one that puts the last such record frees these halves.
//
// In a crash, either the engine has the transaction, or not, and the journal is
// replayed: what the engine has already is passed over. With the last transaction the
// engine has the generation, too, below which the journal holds nothing new.
func (s *Store) fold() error {
	if err := s.bringEngine(); err != nil { // after an error of an earlier fold
		return s.foldFailed(err)
	}
	s.mu.Lock()
	b, to := s.foldBatch()
	reset := s.salvage == nil && len(b.remove)+len(b.hollow) > 0 && len(b.put) == 0 && s.engineEmpty() && s.eng.Size() > resetAbove && !s.lockAt.taken()
	if reset {
		s.removeAll(b)
	}
	s.mu.Unlock()
	n, err := s.applyFold(b, reset)
	if errors.Is(err, errNoSpace) && s.leaveTails(b) {
		if !errors.Is(err, errMaxSize) {
			s.engineOK = false
			s.unsure(to)
		}
		return s.fold()
	}
	if errors.Is(err, errNoSpace) && !errors.Is(err, errMaxSize) && s.letReserveGo() {
		n, err = s.applyFold(b, reset)
	}
	if errors.Is(err, errMaxSize) && !s.removeFirst && (s.removeAlone(b) || s.yieldTails() || s.dropForRoom()) {
		return nil // the next one removes what was acknowledged or dropped
	}
	if err != nil {
		if errors.Is(err, errNoSpace) && !s.removeAlone(b) {
			s.yieldTails()
		}
		s.unsure(to)
		return s.foldFailed(err)
	}
	s.removeFirst = false
	s.keepReserve()
	s.tookFold(b, to, n)
	return nil
}

// removeAll has b remove all that waits for it: it goes with the file.
func (s *Store) removeAll(b *foldBatch) {
	for i, r := range b.remove {
		l := s.logs[r.log]
		b.remove[i].to = l.removeTo
		st := b.states[r.log]
		st.Base = l.removeTo + 1
		b.states[r.log] = st
	}
	for i, r := range b.hollow {
		b.hollow[i].to = s.logs[r.log].folded
	}
}

// tookFold notes that the engine has b, which cost n bytes, and with it the sequences in to.
func (s *Store) tookFold(b *foldBatch, to map[*Log]seqRange, n int64) {
	room := diskRoom(s.dir)
	if s.o.faults.room != nil {
		room = s.o.faults.room()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.flushed()
	if room >= 0 {
		s.diskRoom = room
	}
	s.stats.BoltBytes += n
	s.stats.Folds++
	s.foldErr, s.foldAgain, s.foldedAt = "", 0, s.mono()
	s.setFull(nil)
	s.atOnce() // a commit that found no room may find some
	s.acquitted = false
	s.dirtySince = 0
	for _, r := range b.remove {
		s.logs[r.log].removed(r.to)
	}
	for _, k := range b.kill {
		l := s.logs[k.log]
		l.oldest.clear()
		c := l.conf
		c.deadBytes -= c.dead[k.from]
		delete(c.dead, k.from)
	}
	for id, st := range b.states {
		s.logs[id].said(&st)
	}
	for l, r := range to {
		l.inEngine(r.from, r.to)
	}
	for _, l := range s.logs {
		if l.comesBack() { // it was acknowledged meanwhile
			s.dirty()
		}
	}
	for _, r := range b.hollow {
		s.logs[r.log].hollowed(r)
	}
	if b.folded != 0 {
		s.j.free(b.folded)
		s.journalRoom = s.j.left()
	}
	s.divide()
	switch {
	case !s.pendingFold():
	case b.more:
		s.foldNow()
	default:
		s.dirty()
	}
}

// foldIfScarce folds what is sealed, while the other half of the journal is empty, where it may not
// fit and some log would not drop anything for it: so all that was taken by then has room.
func (s *Store) foldIfScarce() {
	s.mu.Lock()
	scarce := false
	if s.fileMost()-s.eng.Size()+s.eng.Free() < 2*(s.limit+boltSlack) {
		for _, l := range s.logs {
			scarce = scarce || l.claimed && !l.ret.Memory && l.ret.Full != DropOldest
		}
	}
	s.mu.Unlock()
	for scarce && s.sealedUsed() {
		if s.foldAtOnce() != nil {
			return // it is known now, and foldDue goes on
		}
	}
}

// foldAtOnce folds where nobody can wait until a damaged file has been looked at: at the second
// time it is moved aside, whatever it looks like.
func (s *Store) foldAtOnce() error {
	err := s.fold()
	for range 2 {
		if errors.Is(err, ErrDamaged) {
			s.lookDue()
			err = s.fold()
		}
	}
	return err
}

// removeAlone has the next transaction only remove what b would have, if that was more than to
// remove: it found no room, and pages are free only after the transaction that frees them.
func (s *Store) removeAlone(b *foldBatch) bool {
	if len(b.put) == 0 || len(b.remove)+len(b.hollow)+len(b.kill) == 0 {
		return false
	}
	s.removeFirst = true
	return true
}

// yieldTails is dropTails for who does not hold mu.
func (s *Store) yieldTails() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropTails()
}

// dropForRoom makes room in a file that may not grow, as a full log does: the oldest goes, of
// the log among those that are for that which is furthest above its share. It reports whether
// there was one. Nothing goes at the close, nor right after the start: the journal keeps what does
// not fit, as long as no commit waits for its room.
func (s *Store) dropForRoom() (dropped bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	started := 4*s.stats.JournalBytes < s.o.JournalBytes && s.mono() < int64(s.o.FoldAfter)
	if len(s.batch) == 0 && (s.closed || started) {
		return false
	}
	var l *Log
	for _, o := range s.logs {
		if o.claimed && o.ret.Full == DropOldest && o.first <= o.folded && (l == nil || o.bytes-o.share() > l.bytes-l.share()) {
			l = o
		}
	}
	for room := int64(4 * maxFold); l != nil && room > 0 && l.first <= l.folded; dropped = true {
		o, ok := l.head()
		if !ok {
			break
		}
		l.drop(o, LostOldest)
		room -= o.size
	}
	s.removeFirst = dropped
	return dropped
}

func (s *Store) applyFold(b *foldBatch, reset bool) (int64, error) {
	if !reset {
		return s.eng.Fold(b)
	}
	fresh := *b
	fresh.remove, fresh.hollow = nil, nil
	return s.eng.Reset(&fresh)
}

// unsure notes what a transaction of which nobody knows may have put into the engine. It is
// still in RAM, and what is acknowledged there from now on must go from the engine, too:
// nobody else would, and a log that is set back would see it again.
func (s *Store) unsure(to map[*Log]seqRange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l, r := range to {
		if r.to > 0 {
			l.unsure.add(r.from, r.to)
		}
	}
}

// foldFailed sorts out what went wrong. The journal still has room, and once it has
// none, appends are refused. What is in the engine's file is known only when it has
// been opened anew: it may have the transaction.
func (s *Store) foldFailed(err error) error {
	err = fmt.Errorf("fold: %w", err)
	full := errors.Is(err, errNoSpace)
	s.engineOK = s.engineOK && errors.Is(err, errMaxSize)
	s.mu.Lock()
	if !full {
		s.stats.Faults++
		if s.foldErr == "" {
			s.o.Logger.Error("store: store.db cannot be written, records stay in the journal", "dir", s.dir, "err", err)
		}
	}
	s.foldErr = err.Error()
	s.setFull(err)
	s.foldAgain = s.mono() + int64(foldRetry)
	s.foldNow() // until one succeeds: readers may wait for the file
	s.flushed()
	for _, l := range s.logs {
		l.gapNews = l.gapNews || l.gapFolding
		l.wakeReaders() // who waits for the fold
	}
	damaged := errors.Is(err, ErrDamaged)
	if damaged {
		s.suspect(err)
	}
	s.mu.Unlock()
	if !s.engineOK && !damaged {
		s.bringEngine() // readers need it at once
	}
	return err
}

// foldBatch collects what one transaction does, and which sequences of each log
// will be in the engine after it.
func (s *Store) foldBatch() (b *foldBatch, to map[*Log]seqRange) {
	clear(s.puts)
	b = &foldBatch{put: s.puts[:0], states: map[uint32]logState{}, folded: s.sealGen, alone: map[uint32]bool{}}
	s.countWear()
	b.wear = encodeWear(&s.wear)
	to = map[*Log]seqRange{}
	puts, removes := maxFold, uint64(maxRemove)
	if s.removeFirst {
		puts = 0 // pages are free only after the transaction that frees them
	}
	for id, l := range s.logs {
		l.loseOvertaken()
		before := len(b.put)
		puts = b.putRAM(l, &l.tail.ram, math.MaxUint64, l.toDisk(), puts, to)
		b.tails += len(b.put) - before
		full := puts <= 0 // some of the tail may be left
		puts = b.putRAM(l, &l.ram, l.sealed, every, puts, to)
		st := l.state(to[l].to)
		l.folding = st.Folded
		if l.removable() && removes > 0 {
			upTo := l.removeTo
			if l.removeMsgs > maxRemove { // or less, if there are gaps
				upTo = min(upTo, l.base+removes-1)
			}
			b.remove = append(b.remove, seqRange{id, l.base, upTo})
			removes -= min(removes, upTo-l.base+1)
			st.Base = upTo + 1
		}
		removes = l.hollowDue(b, max(st.Folded, l.unsure.top()), removes)
		l.acksFolding, l.ackNewsFolding, l.toldFolding = l.acks, l.ackNews, l.told
		if full {
			l.acksFolding = l.acksSaved // for the next transaction
		}
		if l.conf != nil {
			b.alone[id] = true
			for seq := range l.conf.dead {
				b.kill = append(b.kill, seqRange{id, seq, seq})
			}
		}
		if st.Last > 0 {
			b.states[id] = st
		}
	}
	s.puts = b.put
	return b, to
}

// said notes that the engine knows st.
func (l *Log) said(st *logState) {
	l.stated, l.told = st.First, l.told[len(l.toldFolding):]
	l.toldFolding = nil
	l.acksSaved, l.scatterSaid, l.foreignSaid, l.sentSaid = l.acksFolding, st.Scattered, st.Foreign, st.Sent
	if l.ackNewsFolding {
		l.ackNews = false
	}
	l.wakeReaders() // who waits for that
}

// putRAM adds the records of a log up to seq that go and fit room, and notes their range. It
// returns the room that is left.
func (b *foldBatch) putRAM(l *Log, ram *deque[*rec], upTo uint64, goes func(*rec) bool, room int, to map[*Log]seqRange) int {
	for i := range ram.len() {
		r := *ram.at(i)
		if r.seq > upTo {
			break
		}
		if !goes(r) {
			r.put = false
			continue
		}
		if room <= 0 {
			b.folded, b.more = 0, true // the half is not empty yet
			break
		}
		if to[l].to == 0 {
			to[l] = seqRange{from: r.seq}
		}
		to[l] = seqRange{from: to[l].from, to: r.seq}
		if r.dead {
			continue
		}
		room -= len(r.buf) + 32
		r.put = true
		seal(r.buf) // it may never have been in the journal
		b.put = append(b.put, foldRecord{l.id, r.seq, r.buf})
	}
	return room
}

// engineEmpty reports whether no log has a record in the engine that still counts.
func (s *Store) engineEmpty() bool {
	for _, l := range s.logs {
		if l.first <= l.folded || l.tail.engFrom > 0 {
			return false
		}
	}
	return true
}
