package storefwd

import "math"

// This file keeps what the hub has acknowledged for a while longer. A stock hub's
// acknowledgement is up to two minutes from its own disk: after a power cut there,
// or when it is restored from a copy, it asks for the same records again.

// tail is what was acknowledged last: a record of the log in [from, first) that was
// not dropped is in ram or in the engine, never in both. Guarded by the store's mu.
type tail struct {
	from    uint64          // everything acknowledged from here on is there
	ram     deque[*rec]     // ascending
	engFrom uint64          // no record of the tail in the engine is below; 0: there is none
	marks   deque[tailMark] // ascending; none: the tail is empty
	bytes   int64
	holes   spans         // what an earlier run had in its RAM alone
	flush   chan struct{} // closed after the next fold, which puts ram into the engine; nil if nobody asked

	away, behind bool // the hub is lost, and may have lost what it acknowledged; it writes behind its acknowledgements
}

// tailMark accounts for what was acknowledged at about one time, so that no record
// needs a time of its own. There are some 130 in a tail at most.
type tailMark struct {
	to                uint64 // the last one
	at                int64  // when the first was acknowledged, by mono
	bytes             int64
	engMsgs, engBytes int64 // of these, those in the engine
}

const tailMarks = 64

// kept is the lowest sequence that may be handed out again.
func (l *Log) kept() uint64 {
	if l.tail.marks.len() > 0 {
		return min(l.tail.from, l.first)
	}
	return l.first
}

// keep takes o, which was just acknowledged, into the tail.
func (l *Log) keep(o ref, now int64) {
	t := &l.tail
	if t.marks.len() == 0 {
		t.from = o.seq
	}
	m := l.mark(now)
	m.to = o.seq
	m.bytes += o.size
	t.bytes += o.size
	if o.r == nil {
		m.engMsgs++
		m.engBytes += o.size
		if t.engFrom == 0 {
			t.engFrom = o.seq
		}
		l.s.dirty()
	} else if t.ram.push(o.r); l.ret.GraceOnDisk {
		l.s.dirty()
	}
	l.expire(now)
}

// mark is the one that what is acknowledged now belongs to.
func (l *Log) mark(now int64) *tailMark {
	t := &l.tail
	if n := t.marks.len(); n > 0 {
		if m := t.marks.at(n - 1); now-m.at <= int64(l.ret.Grace)/tailMarks && m.bytes <= l.ret.GraceBytes/tailMarks {
			return m
		}
	}
	t.marks.push(tailMark{at: now})
	if t.marks.len() == 1 {
		l.s.wakeBy(l.tailDue())
	}
	return t.marks.at(t.marks.len() - 1)
}

// tailDue is when the committer looks for what has expired if no acknowledgement
// does it earlier, by mono. It is late on purpose: so it looks seldom.
func (l *Log) tailDue() int64 {
	at := int64(math.MaxInt64)
	if l.ret.Grace == 0 {
		return at
	}
	if l.tail.marks.len() > 0 {
		at = l.tail.marks.at(0).at + int64(l.ret.Grace)/8*9
	}
	if l.early.len() > 0 {
		at = min(at, l.early.at(0).at+int64(l.ret.Grace)/8*9)
	}
	return at
}

// expire lets go of what is older or more than the tail may hold.
func (l *Log) expire(now int64) {
	t, grace := &l.tail, int64(l.ret.Grace)
	for t.marks.len() > 0 && (t.bytes > l.ret.GraceBytes || now-t.marks.at(0).at > grace+grace/tailMarks) {
		l.forget()
	}
	l.expireEarly(now)
	if t.marks.len() == 0 {
		l.trimEpochs()
	}
}

// forget lets go of the oldest mark.
func (l *Log) forget() {
	t := &l.tail
	m := t.marks.pop()
	t.bytes -= m.bytes
	t.from = m.to + 1
	t.holes.remove(0, m.to)
	for t.ram.len() > 0 && (*t.ram.at(0)).seq <= m.to {
		if r := t.ram.pop(); l.unsure.has(r.seq) {
			l.remove(r.seq, m.to, 0, 0)
		}
	}
	if m.engMsgs > 0 {
		l.remove(t.engFrom, m.to, m.engMsgs, m.engBytes)
		t.engFrom = m.to + 1
	}
	if t.marks.len() == 0 {
		t.engFrom = 0
	}
}

// forgetAll empties the tail.
func (l *Log) forgetAll() {
	for l.tail.marks.len() > 0 {
		l.forget()
	}
}

func (s *Store) expireTails() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.mono()
	for _, l := range s.logs {
		if l.ret.Grace > 0 {
			l.expire(now)
		}
	}
}

// tailFolded notes that a fold put from…to into the engine while these, or some,
// were acknowledged or dropped.
func (l *Log) tailFolded(from, to uint64) {
	t := &l.tail
	n := t.marks.len()
	if n == 0 {
		l.remove(from, to, 1, 0)
		return
	}
	t.marks.at(n - 1).to = max(t.marks.at(n-1).to, to)
	t.marks.at(l.markOf(to)).engMsgs++ // for what was dropped meanwhile
	if t.engFrom == 0 || from < t.engFrom {
		t.engFrom = from
	}
	if n := t.ram.len(); n == 0 || (*t.ram.at(n - 1)).seq < from {
		return
	}
	var rest deque[*rec]
	for t.ram.len() > 0 {
		r := t.ram.pop()
		if r.seq < from || r.seq > to || !r.put {
			rest.push(r)
			continue
		}
		m := t.marks.at(l.markOf(r.seq))
		m.engMsgs++
		m.engBytes += int64(len(r.buf))
	}
	t.ram = rest
}

// restoreTail takes back the tail that an earlier run left in the engine.
func (l *Log) restoreTail(st logState) {
	if st.Tail == 0 || st.Tail >= l.first || l.claimed && l.ret.Grace == 0 {
		return
	}
	l.tail.from, l.tail.engFrom, l.tail.bytes = st.Tail, st.Tail, st.TailBytes
	l.tail.marks.push(tailMark{to: l.first - 1, at: l.s.mono(), bytes: st.TailBytes, engMsgs: max(st.TailMsgs, 1), engBytes: st.TailBytes})
	for _, h := range st.Holes {
		l.tail.holes.add(max(h.From, st.Tail), min(h.To, l.first-1))
	}
}

// tailState tells where the engine's part of the tail begins, counting what the fold
// that writes the state puts there.
func (l *Log) tailState(st *logState, upTo uint64) {
	t := &l.tail
	for i := range t.marks.len() {
		m := t.marks.at(i)
		st.TailMsgs += m.engMsgs
		st.TailBytes += m.engBytes
	}
	if st.TailMsgs > 0 {
		st.Tail = max(t.engFrom, t.from)
	}
	var holes spans
	for i := range t.ram.len() {
		r := *t.ram.at(i)
		if r.dead {
			continue
		}
		if !r.put || r.seq > upTo {
			holes.add(r.seq, r.seq)
			continue
		}
		st.TailMsgs++
		st.TailBytes += int64(len(r.buf))
		if st.Tail == 0 || r.seq < st.Tail {
			st.Tail = r.seq
		}
	}
	if st.Tail == 0 {
		return
	}
	for _, h := range t.holes.s {
		holes.add(h.From, h.To)
	}
	for len(holes.s) > mostHoles {
		holes.add(holes.s[0].To, holes.s[1].From)
	}
	st.Holes = holes.s
}

// mostHoles bounds what is said of them; the oldest are taken for one.
const mostHoles = 64

// unsaid reports whether the engine does not know yet which of its records are
// acknowledged.
func (l *Log) unsaid() bool {
	return l.first != l.stated && min(l.first, l.stated) <= l.folded && l.ret.Grace > 0
}

// toDisk says what of the tail's RAM the next fold puts into the engine: all of it, or what was written before,
// and would be gone. A hub that was lost may come back with less, and this run end before that.
func (l *Log) toDisk() (goes func(r *rec) bool) {
	t := &l.tail
	switch {
	case l.ret.Memory || l.s.noTails && t.flush == nil:
	case l.ret.GraceOnDisk || t.flush != nil || t.away && (t.behind || l.s.closed):
		return every
	case l.saves() || l.s.closed:
		return func(r *rec) bool { return r.filed }
	}
	return none
}

func every(*rec) bool { return true }
func none(*rec) bool  { return false }

// leaveTails has the tails stay in RAM as long as there is no room for them: nothing else is to give way, or
// fail, for what the hub has. It reports whether b has something of them.
func (s *Store) leaveTails(b *foldBatch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.tails == 0 || s.noTails {
		return false
	}
	s.noTails = true
	return true
}

// dropTails lets go of what the engine has of tails, for others to have its room. It reports whether there
// was something.
func (s *Store) dropTails() (dropped bool) {
	for _, l := range s.logs {
		for l.tail.engFrom > 0 && l.tail.marks.len() > 0 {
			l.forget()
			dropped = true
		}
	}
	s.noTails = s.noTails || dropped
	s.removeFirst = s.removeFirst || dropped
	return dropped
}

// setAway notes that the hub is lost, and whether it acknowledges first and writes then. What such a hub
// acknowledged last goes to the disk at once: if it was killed, nobody else has it.
func (l *Log) setAway(away, behind bool) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.tail.away, l.tail.behind = away, behind
	l.s.noTails = l.s.noTails && away
	if away && behind && l.tailWaits() {
		l.s.foldNow()
	}
}

// tailWaits reports whether a fold would put the tail's oldest into the engine.
func (l *Log) tailWaits() bool {
	return l.tail.ram.len() > 0 && l.toDisk()(*l.tail.ram.at(0))
}

// rewind makes everything above to unacknowledged again: the hub does not have it
// any more. What is still there Next hands out again, under the same epochs and
// sequences; the result is what is not. Sequences in it may never have been. It may wait for the disk;
// nobody may be in Next. With an error, which says that the store cannot be read now, it is to be called again.
func (c *Cursor) rewind(to uint64) (missing spans, err error) {
	l, s := c.l, c.l.s
	l.surface(to)
	defer s.mu.Unlock()
	c.catchUp()
	start := max(to+1, l.kept())
	if l.tail.engFrom > 0 && !s.readable {
		return missing, errEngineDown
	}
	if l.buried(to) != nil { // the disk fails
		start = max(l.folded, l.folding) + 1
	}
	start = min(start, l.first)
	missing.add(to+1, start-1)
	for _, h := range l.tail.holes.s {
		missing.add(max(h.From, to+1), h.To)
	}
	if c.mixes() {
		l.scatter, l.scatterSaid = true, false
	}
	l.declared = min(l.declared, to+1) // to lose what is taken back is news
	l.cutBefore = min(l.cutBefore, to+1)
	l.cut, l.cutSaid = min(l.cut, to+1), 0
	if err = l.retakeEarly(c, to); err == nil {
		err = l.retake(start)
	}
	c.again(to)
	if err == nil {
		l.tail.holes.remove(to+1, mostSeq)
	}
	if !l.ret.Memory && l.last > 0 { // an acknowledgement that was taken back must not stand on the disk
		l.ackNews, l.ackNewsFolding = true, false
		s.foldNow()
	}
	return missing, err
}

// buried is the first record of the tail above to that is in RAM only while later
// ones are in the engine: reading would pass it over. It is nil if there is none.
func (l *Log) buried(to uint64) *rec {
	for i := range l.tail.ram.len() {
		if r := *l.tail.ram.at(i); r.seq > to {
			if r.seq > max(l.folded, l.folding) || l.ret.Memory {
				return nil
			}
			return r
		}
	}
	return nil
}

// surface puts what is buried into the engine, and waits for that. It locks mu.
func (l *Log) surface(to uint64) {
	s := l.s
	for try := 0; ; try++ { // the fold that runs may have begun too early
		s.mu.Lock()
		if l.buried(to) == nil || s.closed || s.failed != nil || s.foldErr != "" && try > 1 {
			return
		}
		if l.tail.flush == nil {
			l.tail.flush = make(chan struct{})
		}
		flushed := l.tail.flush
		s.foldNow()
		s.mu.Unlock()
		select {
		case <-flushed:
		case <-s.done:
		}
	}
}

// flushed notes that no fold runs, and wakes all who wait for that.
func (s *Store) flushed() {
	for _, l := range s.logs {
		l.folding = 0
		if l.tail.flush != nil {
			close(l.tail.flush)
			l.tail.flush = nil
		}
	}
}

// retake makes the tail from start on part of the log again. It will be in the
// engine soon: the hub had it, so nobody may have written it.
func (l *Log) retake(start uint64) error {
	t := &l.tail
	if old := l.first; start < old {
		if err := l.retakeEngine(start, min(old-1, l.folded)); err != nil {
			return err
		}
		l.first = start
		var rest, again deque[*rec]
		for t.ram.len() > 0 {
			if r := t.ram.pop(); r.seq < start {
				rest.push(r)
			} else {
				again.push(r)
				l.recount(l.markOf(r.seq), weight{1, int64(len(r.buf))}, false)
				l.ramMsgs++
				l.ramBytes += int64(len(r.buf))
			}
		}
		for l.ram.len() > 0 {
			again.push(l.ram.pop())
		}
		t.ram, l.ram = rest, again
		l.cutMarks(start)
		l.oldest.clear()
	}
	if l.ret.Memory {
		return nil
	}
	for i := range l.ram.len() { // what was safe with the hub is to be safe here
		if r := *l.ram.at(i); r.gone && !r.dead && !r.early {
			r.gone = false
			l.journaled, l.sealed = max(l.journaled, r.seq), max(l.sealed, r.seq)
		}
	}
	if l.unsaid() || l.ram.len() > 0 && (*l.ram.at(0)).seq <= l.journaled {
		l.s.foldNow()
	}
	return nil
}

// weight is so many records, and their bytes.
type weight struct{ msgs, bytes int64 }

// retakeEngine counts again what is in the engine from start up to to; all of it, or nothing.
func (l *Log) retakeEngine(start, to uint64) error {
	if l.tail.engFrom == 0 {
		return nil
	}
	found := make([]weight, max(l.tail.marks.len(), 1))
	err := l.fromEngine(start, to, func(seq uint64, b []byte) bool {
		if !l.buriedInEngine(seq) {
			w := &found[l.markOf(seq)]
			w.msgs, w.bytes = w.msgs+1, w.bytes+int64(len(b))
		}
		return true
	})
	if err != nil {
		return err
	}
	for i, w := range found {
		l.recount(i, w, true)
	}
	return nil
}

// recount moves records from the accounts of a mark of the tail to those of the log.
func (l *Log) recount(mark int, w weight, inEngine bool) {
	l.msgs += w.msgs
	l.bytes += w.bytes
	l.acked -= w.msgs
	if l.tail.marks.len() == 0 {
		return
	}
	m := l.tail.marks.at(mark)
	size := min(w.bytes, m.bytes)
	l.tail.bytes -= size
	m.bytes -= size
	if inEngine {
		m.engMsgs -= w.msgs
		m.engBytes -= min(size, m.engBytes)
	}
}

// markOf is the index of the mark that accounts for seq, or of the last one; 0 if there is none.
func (l *Log) markOf(seq uint64) int {
	for i := range l.tail.marks.len() - 1 {
		if l.tail.marks.at(i).to >= seq {
			return i
		}
	}
	return max(l.tail.marks.len()-1, 0)
}

// cutMarks ends the accounts of the tail before start.
func (l *Log) cutMarks(start uint64) {
	t := &l.tail
	var rest deque[tailMark]
	for from := t.from; t.marks.len() > 0; {
		m := t.marks.pop()
		if from < start {
			from = m.to + 1
			m.to = min(m.to, start-1)
			rest.push(m)
		} else {
			t.bytes -= m.bytes
		}
	}
	if t.marks = rest; rest.len() == 0 {
		t.engFrom = 0
	}
}

// again puts the cursor back so that Next goes on behind to, or where the log now
// begins. What is still acknowledged above the floor is kept.
func (c *Cursor) again(to uint64) {
	before := c.floor
	c.floor = max(min(before, to), c.l.first-1)
	c.floor = c.done.end(c.floor + 1)
	c.sent.add(c.floor+1, before)
	c.takeBack()
}

// foldNow makes the committer fold at once.
func (s *Store) foldNow() {
	now := s.mono()
	if s.dirtySince = now - int64(s.o.FoldAfter); s.dirtySince == 0 {
		s.dirtySince = -1
	}
	s.wakeBy(now)
}
