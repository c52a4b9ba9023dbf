package storefwd

import "fmt"

// This file keeps of each subject only the newest record, in a log that is to do so.
// A newer one waits until it is safe; until then the one before it only counts for no
// bound. Then that is dead, unless it was handed out: it is so no more, and its bytes go
// with the next fold, wherever in the log they are. So busy subjects cannot push out a
// quiet one, and what was safe stays so.

const maxSubjects = 1 << 16 // whose newest record is known; what is beyond is kept as in any log

// conflation is what such a log knows more. Guarded by the store's mu.
type conflation struct {
	newest    map[string]*newest
	dead      map[uint64]int64 // superseded in the engine, with their sizes: the next fold removes them
	deadBytes int64
	waiting   map[uint64]int64 // will be superseded once a newer one is safe, with their sizes
	waitBytes int64
	overtaken map[uint64]bool // of these, dropped already: the disk still has them
	scan      uint64          // the engine's records from here to scanTo, of an earlier run, are still to be looked at
	scanTo    uint64
	sweepAt   uint64 // newest, if it is full, is not looked through before the log comes to here
	said      bool   // … that it is full
}

type newest struct {
	seq  uint64
	size int64
	safe uint64 // the newest of its subject that is safe, or was acknowledged
}

// startConflation looks at what is in RAM; the rest is the committer's.
func (l *Log) startConflation() {
	l.conf = &conflation{newest: map[string]*newest{}, dead: map[uint64]int64{}, waiting: map[uint64]int64{}, overtaken: map[uint64]bool{}}
	l.scanEngine()
	for i := range l.ram.len() {
		l.supersede(*l.ram.at(i))
	}
}

// scanEngine has all of the engine's records looked at, from the beginning.
func (l *Log) scanEngine() {
	if c := l.conf; c != nil {
		clear(c.dead)
		clear(c.waiting)
		c.deadBytes, c.waitBytes, c.scan, c.scanTo = 0, 0, l.first, l.folded
		l.s.wakeBy(l.s.mono())
	}
}

// supersede notes r, which is in RAM, and buries the one before it.
func (l *Log) supersede(r *rec) {
	if l.conf != nil && r.buf[33]&flagGap == 0 {
		l.supersedeBy(recordSubject(r.buf), r.seq, int64(len(r.buf)))
	}
}

func (l *Log) supersedeBy(subject []byte, seq uint64, size int64) {
	c := l.conf
	n := c.newest[string(subject)]
	safe := uint64(0)
	if l.isSafe(seq) {
		safe = seq
	}
	if n != nil {
		n.safe = max(n.safe, safe)
	}
	switch {
	case n == nil && len(c.newest) >= maxSubjects && !l.sweep():
	case n == nil:
		c.newest[string(subject)] = &newest{seq, size, safe}
	case n.seq > seq:
		if l.superseding(seq) && n.safe > seq {
			l.bury(seq, size)
		}
	case n.seq < seq:
		old := *n
		*n = newest{seq, size, n.safe}
		switch {
		case !l.superseding(old.seq):
		case safe == seq:
			l.bury(old.seq, old.size)
		default:
			l.inRAM(seq).older = old
			l.conf.waiting[old.seq] = old.size
			l.conf.waitBytes += old.size
		}
	}
}

// succeed buries the one before r, which has become safe.
func (l *Log) succeed(r *rec) {
	if l.conf != nil && r.buf[33]&flagGap == 0 {
		if n := l.conf.newest[string(recordSubject(r.buf))]; n != nil {
			n.safe = max(n.safe, r.seq)
		}
	}
	old := r.older
	if r.older = (newest{}); old.seq > 0 {
		delete(l.conf.overtaken, old.seq)
		l.settled(old.seq)
		if l.superseding(old.seq) {
			l.bury(old.seq, old.size)
		}
	}
}

// loseOvertaken counts as lost what was dropped for newer ones that are not safe yet. A fold is about to
// remove it from the disk, and a crash would leave neither.
func (l *Log) loseOvertaken() {
	if l.conf == nil {
		return
	}
	for seq := range l.conf.overtaken {
		delete(l.conf.overtaken, seq)
		if l.conflated--; !l.wasDeclared(seq) {
			l.lose(LostOldest, seq, seq, 1)
		}
	}
}

// settled ends the wait of seq, and reports whether it waited for a newer one.
func (l *Log) settled(seq uint64) bool {
	if l.conf == nil {
		return false
	}
	size, waited := l.conf.waiting[seq]
	delete(l.conf.waiting, seq)
	l.conf.waitBytes -= size
	return waited
}

// superseding reports whether seq may be superseded: it counts and no cursor has it.
func (l *Log) superseding(seq uint64) bool {
	for _, c := range l.cursors {
		if c.taken.has(seq) || seq >= c.reading.From && seq <= c.reading.To {
			return false
		}
	}
	return seq >= l.first && !l.buriedInEngine(seq)
}

// superseded reports whether seq waits for a newer one to be safe.
func (l *Log) superseded(seq uint64) (yes bool) {
	if l.conf != nil {
		_, yes = l.conf.waiting[seq]
	}
	return yes
}

// replaced is what goes when a record of that subject comes; nil: nothing.
func (l *Log) replaced(subject []byte) *newest {
	if l.conf == nil {
		return nil
	}
	n := l.conf.newest[string(subject)]
	if n != nil && l.superseding(n.seq) {
		return n
	}
	return nil
}

func (l *Log) isSafe(seq uint64) bool {
	r := l.inRAM(seq)
	return r == nil || r.state == recSafe
}

// stale reports whether a newer record of r's subject is safe.
func (l *Log) stale(r *Record) bool {
	if l.conf == nil || len(l.cursors) != 1 {
		return false
	}
	n := l.conf.newest[string(r.Subject)]
	return n != nil && n.safe > r.Seq && !r.gap
}

// mixable is the last sequence up to which an order that is not the log's may hand records out:
// of a newer one that is not safe nobody knows yet that it supersedes the older one, which would
// follow it. ok is false while that is not known of what an earlier run left, either. A disk
// that fails is not waited for.
func (l *Log) mixable(last uint64) (to uint64, ok bool) {
	if l.conf == nil || l.ret.Memory || l.s.failed != nil || l.s.retryAt != 0 {
		return last, true
	}
	scanned := l.conf.scan > l.conf.scanTo || !l.s.readable || l.s.salvaging != nil
	return min(last, max(l.journaled, l.folded)), scanned
}

// bury takes one that is superseded out of the log. Who waits for it has the newer one.
func (l *Log) bury(seq uint64, size int64) {
	l.settled(seq)
	l.msgs--
	l.bytes -= size
	l.conflated++
	r := l.inRAM(seq)
	if r == nil {
		l.buryInEngine(seq, size)
		return
	}
	r.dead, r.gone = true, true
	l.ramMsgs--
	l.ramBytes -= size
	l.s.makeSafe(r)
}

func (l *Log) buryInEngine(seq uint64, size int64) {
	c := l.conf
	c.dead[seq] = size
	c.deadBytes += size
	if l.s.dirty(); len(c.dead) == maxRemove {
		l.s.foldNow()
	}
}

func (l *Log) buriedInEngine(seq uint64) bool {
	if len(l.hollow.s) > 0 && l.hollow.has(seq) {
		return true
	}
	if l.conf == nil {
		return false
	}
	_, dead := l.conf.dead[seq]
	return dead
}

func (l *Log) inRAM(seq uint64) *rec {
	if i := l.find(seq); i < l.ram.len() {
		if r := *l.ram.at(i); r.seq == seq {
			return r
		}
	}
	return nil
}

// sweep forgets the subjects that nothing is left of. It reports whether there is room.
func (l *Log) sweep() bool {
	c := l.conf
	if l.last < c.sweepAt {
		return false
	}
	for subject, n := range c.newest {
		if n.seq < l.first {
			delete(c.newest, subject)
		}
	}
	c.sweepAt = l.last + maxSubjects/4
	if len(c.newest) < maxSubjects {
		return true
	}
	if !c.said {
		c.said = true
		l.s.o.Logger.Warn(fmt.Sprintf("store: an outbox with conflate holds more than %d subjects; of the others every message is kept", maxSubjects), "log", l.name)
	}
	return false
}

// dropDead takes out of dst[had:], just read, what is superseded or hollow. holes says
// that there was any such before. It is not sure of anything after a fold: which of
// them that removed is not known any more.
func (l *Log) dropDead(dst []Record, had int, holes bool, folds int64) (out []Record, sure bool) {
	if !holes {
		return dst, true
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	out = dst[:had]
	if l.s.stats.Folds != folds {
		return out, false
	}
	for _, r := range dst[had:] {
		if !l.buriedInEngine(r.Seq) {
			out = append(out, r)
		}
	}
	return out, true
}

// scanDue is when the committer looks at records of an earlier run, by mono.
func (l *Log) scanDue() int64 {
	if c := l.conf; c == nil || c.scan > c.scanTo || len(c.dead) >= maxRemove || !l.s.readable || l.s.salvaging != nil {
		return 1<<63 - 1
	}
	return 1
}

// conflateDue looks at some of the engine's records of each log that is due. It is the
// committer's work, so that no fold comes in between.
func (s *Store) conflateDue() {
	var due []*Log
	s.mu.Lock()
	for _, l := range s.logs {
		if l.scanDue() == 1 {
			due = append(due, l)
		}
	}
	s.mu.Unlock()
	for _, l := range due {
		l.scanSome()
	}
}

func (l *Log) scanSome() {
	type found struct {
		newest
		subject []byte
	}
	var some []found
	s, c := l.s, l.conf
	s.mu.Lock()
	from, to := c.scan, c.scanTo
	s.mu.Unlock()
	room := readBytes
	err := s.eng.Read(l.id, from, to, func(seq uint64, b []byte) bool {
		f := found{newest: newest{seq: seq, size: int64(len(b))}}
		if wellFormed(b) && b[33]&flagGap == 0 {
			f.subject = append(f.subject, recordSubject(b)...)
		}
		some = append(some, f)
		room -= len(b)
		return len(some) < 512 && room > 0
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range some {
		if f.subject != nil {
			l.supersedeBy(f.subject, f.seq, f.size)
		}
		c.scan = f.seq + 1
	}
	if len(some) == 0 || err != nil {
		c.scan = to + 1 // reading says what is wrong, if anything is
	}
	if c.scan > c.scanTo {
		l.enforce()
		l.wakeReaders()
	}
}
