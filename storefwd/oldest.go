package storefwd

import "fmt"

// This file is about the oldest record of a log: where it is, in the engine or in RAM, and
// how it leaves. What waits for removal from the engine is accounted for here.

// unreadable reports whether the oldest record, if it is in the engine, cannot be had now.
func (l *Log) unreadable() bool {
	return !l.s.readable && (l.first <= l.folded || l.s.salvaging != nil)
}

// known reports whether all is there that tells what the log holds.
func (l *Log) known() bool {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.s.loaded && l.s.replayed && !l.unreadable()
}

// head is the oldest record that counts. It may read ahead in the engine.
func (l *Log) head() (ref, bool) {
	if l.unreadable() {
		return ref{}, false
	}
	if o, ok := l.headInEngine(); ok {
		return o, true
	}
	if l.first <= l.folded { // it is there, and could not be read
		return ref{}, false
	}
	for l.ram.len() > 0 && (*l.ram.at(0)).dead {
		r := l.ram.pop()
		if l.first = max(l.first, r.seq+1); r.early {
			l.ramDead--
		}
	}
	if l.ram.len() == 0 {
		return ref{}, false
	}
	r := *l.ram.at(0)
	o := ref{seq: r.seq, size: int64(len(r.buf)), stamp: recordStamp(r.buf), life: recordLife(r.buf), r: r}
	if r.buf[33]&flagGap != 0 {
		if g, ok := gapOf(r.buf); ok {
			o.gap = &g
		}
	}
	return o, true
}

func (l *Log) headInEngine() (ref, bool) {
	for {
		if l.first <= l.folded && l.oldest.len() == 0 {
			l.readAhead()
		}
		if l.oldest.len() == 0 {
			return ref{}, false
		}
		for l.oldest.len() > 0 {
			o := *l.oldest.at(0)
			if dead := l.buriedInEngine(o.seq); o.seq >= l.first && !dead {
				return o, true
			} else if dead {
				l.first = max(l.first, o.seq+1)
			}
			l.oldest.pop()
		}
	}
}

func (l *Log) readAhead() {
	room := readBytes
	err := l.fromEngine(l.first, l.folded, func(seq uint64, b []byte) bool {
		o := ref{seq: seq, size: int64(len(b))}
		if len(b) >= recHeader {
			o.stamp = recordStamp(b)
			if wellFormed(b) {
				o.life = recordLife(b)
			}
			if g, ok := gapOf(b); ok {
				o.gap = &g
			}
		}
		l.oldest.push(o)
		room -= len(b)
		return l.oldest.len() < 512 && room > 0
	})
	if err == nil && l.oldest.len() == 0 { // only gaps were left
		from := l.first
		l.first = l.folded + 1
		l.settleMissing(from)
	}
}

// settleMissing declares lost what the accounts say is in the engine, between from and folded, and
// is not: a damaged page can hide records without a trace.
func (l *Log) settleMissing(from uint64) {
	missing := l.msgs - l.ramMsgs
	if missing > 0 {
		l.loseDamaged(from, l.folded, uint64(missing))
		l.s.note(fmt.Sprintf("store.db: %d messages of log %q were not found where they should be and are lost", missing, l.name))
	}
	l.msgs, l.bytes = l.ramMsgs, l.ramBytes
}

// drop gives up the oldest record, o, for a reason.
func (l *Log) drop(o ref, why Loss) {
	if l.isEarly(o) { // nothing is lost
		l.pass(o, l.s.mono())
		return
	}
	if why == LostOldest && l.conf == nil {
		l.cut = max(l.cut, o.seq+1)
	}
	superseded := l.pop(o, l.ret.GapSubject != "" || l.superseded(o.seq)) // by one that is not safe yet
	if superseded {
		l.conflated++
		l.conf.overtaken[o.seq] = true
	} else if !l.isDeclared(o) {
		l.dropped(o, why)
	}
	if o.r == nil {
		l.forgetAll() // the engine is emptied in order
		l.remove(o.seq, o.seq, 1, o.size)
	} else if l.unsure.has(o.seq) {
		l.forgetAll()
		l.remove(o.seq, o.seq, 0, 0)
	}
}

// dropped counts o, which was dropped for a reason.
func (l *Log) dropped(o ref, why Loss) {
	d := l.doubtOf(o.seq)
	if o.gap != nil {
		if l.undeclare(*o.gap); d != nil {
			d.addMarker(o.seq, *o.gap)
		}
		return
	}
	if why == LostOldest && o.seq < l.cutBefore {
		l.noteCounted(why, o.seq, o.seq)
	}
	if l.lose(why, o.seq, o.seq, 1); d != nil {
		d.lost[why].add(o.seq, o.seq)
	}
}

// pass lets go of the oldest record, o: it is acknowledged.
func (l *Log) pass(o ref, now int64) {
	if !l.isEarly(o) {
		l.acked++
	}
	if o.gap != nil {
		l.keepMarker(seqGap{o.seq, *o.gap})
	}
	l.pop(o, false)
	if l.ret.Grace > 0 {
		l.keep(o, now)
	} else if o.r == nil {
		l.remove(o.seq, o.seq, 1, o.size)
	} else if l.unsure.has(o.seq) {
		l.remove(o.seq, o.seq, 0, 0)
	}
}

// pop takes the oldest record, o, out of the accounts; lost says that it is to be written all the
// same. It reports whether a newer one was about to supersede it.
func (l *Log) pop(o ref, lost bool) (superseded bool) {
	superseded = l.settled(o.seq)
	counts := !l.isEarly(o)
	l.first = o.seq + 1
	if counts {
		l.msgs--
		l.bytes -= o.size
	}
	if o.r == nil {
		l.oldest.pop()
		return superseded
	}
	l.ram.pop()
	if o.r.early = false; counts {
		l.ramMsgs--
		l.ramBytes -= o.size
	}
	o.r.gone, o.r.lost = true, lost || o.r.lost
	l.s.makeSafe(o.r)
	return superseded
}

// remove asks the committer to take from…to out of the engine.
func (l *Log) remove(from, to uint64, msgs, bytes int64) {
	if !l.removable() {
		l.base = from // what is below was removed, or never there
	}
	l.removeTo = max(l.removeTo, to)
	l.removeMsgs += msgs
	l.removeBytes += bytes
	l.s.dirty()
}

// removable reports whether the engine holds records that count no more.
func (l *Log) removable() bool { return l.base <= l.removeTo }

// removed notes that the engine has nothing more up to to.
func (l *Log) removed(to uint64) {
	n := int64(min(to+1-min(l.base, to+1), uint64(max(l.removeMsgs, 0))))
	if l.base = to + 1; !l.removable() || l.removeMsgs == 0 {
		l.removeMsgs, l.removeBytes = 0, 0
		return
	}
	l.removeBytes -= l.removeBytes / l.removeMsgs * n
	l.removeMsgs -= n
}

// inEngine notes that from…upTo is in the engine. What was acknowledged meanwhile
// is there, too, and must go again.
func (l *Log) inEngine(from, upTo uint64) {
	if l.first > from && l.ret.Grace > 0 {
		l.tailFolded(from, min(l.first-1, upTo))
	} else if l.first > from {
		l.remove(from, min(l.first-1, upTo), 1, 0)
	}
	l.folded = max(l.folded, upTo)
	for l.ram.len() > 0 && (*l.ram.at(0)).seq <= upTo {
		r := l.ram.pop()
		switch {
		case r.dead && r.early: // hollow knows of it
			l.ramDead--
			continue
		case r.dead:
			if r.put && r.seq >= l.first {
				l.buryInEngine(r.seq, int64(len(r.buf)))
			}
			continue
		case r.early:
			continue
		}
		l.ramMsgs--
		l.ramBytes -= int64(len(r.buf))
	}
}
