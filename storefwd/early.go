package storefwd

// This file is about records that are acknowledged while an older one is not: in an
// outbox that drains its newest first, or live traffic beside a backlog. They count for
// no bound from that moment. Their place in the log is kept for as long as a hub that
// goes back could ask for them (Retention.Grace), then it is hollow: RAM forgets them,
// and a fold takes them out of the engine. All of that is only done in a log with one
// cursor that keeps what is not acknowledged.

// earlySpan is a part of what was acknowledged early and is still in its place.
type earlySpan struct {
	span
	at    int64 // when the first of it was acknowledged, by mono
	bytes int64 // 0 if it is of an earlier run
}

// sole is the cursor whose acknowledgements decide, nil if there is no such. Nobody
// knows yet what a log is for that was not opened in this run.
func (l *Log) sole() *Cursor {
	if len(l.cursors) == 1 && (l.ret.Keep == UntilAcked || !l.claimed) {
		return l.cursors[0]
	}
	return nil
}

// isEarly reports whether o, from first on, was acknowledged early: it is out of the
// accounts already.
func (l *Log) isEarly(o ref) bool {
	if o.r != nil {
		return o.r.early
	}
	c := l.sole()
	return c != nil && len(c.done.s) > 0 && c.done.has(o.seq)
}

// lookAt lends a record's bytes to look, if it is there. An error says that it may be, and
// cannot be read now.
func (l *Log) lookAt(seq uint64, look func(b []byte)) error {
	if r := l.inRAM(seq); r != nil {
		if !r.dead {
			look(r.buf)
		}
		return nil
	}
	if seq > l.folded || l.buriedInEngine(seq) {
		return nil
	}
	return l.fromEngine(seq, seq, func(_ uint64, b []byte) bool {
		look(b)
		return false
	})
}

// settleEarly takes a record that was just acknowledged out of the accounts.
func (l *Log) settleEarly(seq uint64, size int64) {
	l.settled(seq)
	l.msgs--
	l.bytes -= size
	l.acked++
	if r := l.inRAM(seq); r != nil {
		r.early, r.gone = true, true
		l.ramMsgs--
		l.ramBytes -= size
		l.s.makeSafe(r)
	}
	if l.ret.Grace == 0 {
		l.release(earlySpan{span: span{seq, seq}, bytes: size})
		return
	}
	now := l.s.mono()
	if n := l.early.len(); n > 0 {
		k := l.early.at(n - 1)
		if k.To+1 == seq && now-k.at <= int64(l.ret.Grace)/tailMarks && k.bytes <= l.ret.GraceBytes/tailMarks {
			k.To, k.bytes, l.earlyBytes = seq, k.bytes+size, l.earlyBytes+size
			l.expireEarly(now)
			return
		}
	}
	l.early.push(earlySpan{span{seq, seq}, now, size})
	l.earlyBytes += size
	if l.early.len() == 1 {
		l.s.wakeBy(l.tailDue())
	}
	l.expireEarly(now)
}

// expireEarly lets go of what is older or more than is kept for a hub.
func (l *Log) expireEarly(now int64) {
	grace := int64(l.ret.Grace)
	for l.early.len() > 0 && (l.tail.bytes+l.earlyBytes > l.ret.GraceBytes || now-l.early.at(0).at > grace+grace/tailMarks) {
		k := l.early.pop()
		l.earlyBytes -= k.bytes
		l.release(k)
	}
}

// release makes the place of k hollow. What is below first is the tail's.
func (l *Log) release(k earlySpan) {
	from := max(k.From, l.first)
	if from > k.To {
		return
	}
	for i := l.find(from); i < l.ram.len() && (*l.ram.at(i)).seq <= k.To; i++ {
		if r := *l.ram.at(i); r.early && !r.dead {
			r.dead = true
			l.ramDead++
		}
	}
	l.sweepDead()
	l.hollow.add(from, k.To)
	if from <= max(l.folded, l.folding, l.unsure.top()) {
		l.hollowBytes += k.bytes
		l.s.dirty()
	}
}

// sweepDead gives back the memory of the released once they are half of what is in RAM.
func (l *Log) sweepDead() {
	for l.ram.len() > 0 && (*l.ram.at(0)).dead && (*l.ram.at(0)).early {
		l.ram.pop()
		l.ramDead--
	}
	if l.ramDead < 1024 || 2*l.ramDead < l.ram.len() {
		return
	}
	var rest deque[*rec]
	for l.ram.len() > 0 {
		if r := l.ram.pop(); !r.dead || !r.early {
			rest.push(r)
		}
	}
	l.ram, l.ramDead = rest, 0
}

// hollowDue adds to b what the engine may hold of the hollow places up to upTo, at most
// room sequences. It returns the room that is left.
func (l *Log) hollowDue(b *foldBatch, upTo, room uint64) uint64 {
	for _, s := range l.hollow.s {
		to := min(s.To, upTo)
		if s.From > to || room == 0 {
			break
		}
		to = min(to, s.From+room-1)
		b.hollow = append(b.hollow, seqRange{l.id, s.From, to})
		room -= to - s.From + 1
	}
	return room
}

// hollowWaits reports whether the engine may hold what should be hollow.
func (l *Log) hollowWaits() bool {
	return len(l.hollow.s) > 0 && l.hollow.s[0].From <= max(l.folded, l.unsure.top())
}

// hollowed notes that the engine has nothing more in r.
func (l *Log) hollowed(r seqRange) {
	l.hollow.remove(r.from, r.to)
	l.oldest.clear()
	if !l.hollowWaits() {
		l.hollowBytes = 0
	}
}

// passHollow forgets the hollow places below first that no fold is needed for, and
// those acknowledgements.
func (l *Log) passHollow() {
	if c := l.sole(); c != nil && len(c.done.s) > 0 {
		c.done.remove(0, l.first-1)
	}
	if onDisk := max(l.folded, l.folding, l.unsure.top()); len(l.hollow.s) > 0 && onDisk+1 < l.first {
		l.hollow.remove(onDisk+1, l.first-1)
	}
}

// restoreEarly takes over what earlier runs knew to be acknowledged, as the engine says.
// Of a hostile state only what can be is believed.
func (l *Log) restoreEarly(st logState) {
	for name, list := range st.Early {
		c := l.cursor(name)
		for _, s := range list {
			c.done.add(max(s.From, l.first), min(s.To, l.last, mostSeq))
		}
		c.floor = c.done.end(c.floor + 1)
		c.rebuild()
	}
	c := l.sole()
	if c == nil || len(c.done.s) == 0 {
		return
	}
	for i := range l.ram.len() { // if the journal was read before
		if r := *l.ram.at(i); c.done.has(r.seq) && !r.early {
			r.early, r.gone = true, true
			l.ramMsgs--
			l.ramBytes -= int64(len(r.buf))
			l.msgs--
			l.bytes -= int64(len(r.buf))
		}
	}
	now := l.s.mono()
	for _, s := range c.done.s {
		l.early.push(earlySpan{span: s, at: now})
	}
}

// wasAcked reports whether a record, one that the journal gives back say, was acknowledged early.
func (l *Log) wasAcked(seq uint64) bool {
	c := l.sole()
	return c != nil && len(c.done.s) > 0 && c.done.has(seq)
}

// retakeEarly makes unacknowledged again what was acknowledged early, is above to, and
// is still in its place. With an error that is done in part.
func (l *Log) retakeEarly(c *Cursor, to uint64) (err error) {
	var rest deque[earlySpan]
	for l.early.len() > 0 {
		k := l.early.pop()
		k.From = max(k.From, l.first)
		if k.From > k.To { // the tail has it
			l.earlyBytes -= k.bytes
			continue
		}
		from := max(k.From, to+1)
		if from <= k.To && err == nil {
			err = l.recountEarly(from, k.To)
		}
		if from > k.To || err != nil {
			rest.push(k)
			continue
		}
		l.earlyBytes -= k.bytes
		if k.From < from {
			rest.push(earlySpan{span: span{k.From, from - 1}, at: k.at})
		}
		c.done.remove(from, k.To)
		c.sent.add(from, k.To)
	}
	l.early = rest
	return err
}

// recountEarly counts again what is there from…to; all of it, or nothing.
func (l *Log) recountEarly(from, to uint64) error {
	var all weight
	if from <= l.folded {
		err := l.fromEngine(from, min(to, l.folded), func(seq uint64, b []byte) bool {
			if !l.buriedInEngine(seq) {
				all.msgs, all.bytes = all.msgs+1, all.bytes+int64(len(b))
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	for i := l.find(from); i < l.ram.len() && (*l.ram.at(i)).seq <= to; i++ {
		if r := *l.ram.at(i); r.early && !r.dead {
			r.early = false
			l.ramMsgs++
			l.ramBytes += int64(len(r.buf))
			all.msgs, all.bytes = all.msgs+1, all.bytes+int64(len(r.buf))
		}
	}
	l.msgs, l.bytes, l.acked = l.msgs+all.msgs, l.bytes+all.bytes, l.acked-all.msgs
	return nil
}

// salvageEarly takes over what a state found in a damaged file knows to be acknowledged,
// and returns all that is, for the engine to be counted.
func (l *Log) salvageEarly(st logState) (acked spans) {
	if c := l.sole(); c == nil || len(c.done.s) == 0 {
		l.restoreEarly(logState{Early: st.Early})
	}
	if c := l.sole(); c != nil {
		acked.copyOf(&c.done)
	}
	return acked
}
