package storefwd

import "github.com/leafd/leafd/internal/msg"

// This file tells the journal what a full log did that no message in it shows: that one was
// not taken, and that older ones went for newer ones. After a crash the losses are known, and
// what was dropped does not come back, to go to the hub behind what is newer.

// tell makes a record of kind for the committer. It holds back the barriers behind it.
func (l *Log) tell(kind byte, seq uint64, at int64) *rec {
	s := l.s
	s.pos++
	r := l.newRec()
	*r = rec{log: l, seq: l.last, pos: s.pos, at: s.mono(), gone: true, lost: true}
	r.buf = appendRecord(l.alloc(recHeader), l.id, s.epoch, seq, at, 0, &msg.Msg{})
	r.buf[32] = kind
	l.enqueue(r)
	return r
}

// turnAway gives up the newest message of a log that is full. It has had its place.
func (l *Log) turnAway() (seq uint64) {
	l.last++
	l.lose(LostNewest, l.last, l.last, 1)
	if !l.ret.Memory && l.ret.GapSubject != "" {
		l.tell(kindLost, l.last, 0)
	}
	return l.last
}

// sayCut tells what was dropped, before the next record is appended.
func (l *Log) sayCut() {
	switch next := l.last + 1; {
	case l.cut <= l.cutSaid || l.ret.Memory:
		return
	case l.cutRec != nil:
		le.PutUint64(l.cutRec.buf[16:], next)
		le.PutUint64(l.cutRec.buf[24:], l.cut)
	default:
		l.cutRec = l.tell(kindCut, next, int64(l.cut))
	}
	l.cutSaid = l.cut
}

// replayTold takes back what was told, unless it is no news to the engine. It reports whether it is.
func (l *Log) replayTold(b []byte, seq uint64) (news bool) {
	switch {
	case seq <= l.knownTo:
		return false
	case b[32] == kindCut:
		l.cutBefore = max(l.cutBefore, min(le.Uint64(b[24:]), seq))
		l.cut, l.cutSaid = l.cutBefore, l.cutBefore
	case seq > max(l.folded, l.journaled):
		l.lost[LostNewest]++
		l.noteCounted(LostNewest, seq, seq)
		l.addGap(gap{From: seq, To: seq, Count: 1, Reason: LostNewest.String()})
		l.journaled, l.last = seq, max(l.last, seq)
	}
	return true
}
