package storefwd

// This file decides in which order a cursor hands out a backlog: the oldest first, the
// newest first, or the oldest first with a share for what comes meanwhile. It is a
// backlog if more records wait than CursorConfig.Backlog; fewer go in the order they came.
//
// Newest first goes in chunks from the top down; the records of a chunk ascend. With a
// share the log is split where it ended when the backlog was first seen: what is behind
// that is live, and each of the two parts goes in its order.
//
// To read after a crash in the hub's stream which messages of ours it has, one must
// know whether the last few were sent in order (readback.go). So before the first that
// is handed out with an older one waiting, the engine has been told.

const (
	chunkMsgs  = 256
	chunkBytes = 64 << 10

	// With more ranges of settled records than fewSpans only the oldest is handed out, which
	// lets them grow together. So there are never many more than a window's and what one
	// resume found; mostSpans is only reached by a hub that acknowledges what it was not sent.
	fewSpans  = 4096
	mostSpans = 1 << 17

	saveEvery = 1 << 14 // acknowledgements, while a crash would leave them to be read back
)

// mix is where a cursor stands that does not go by the order of the log.
type mix struct {
	split  uint64 // what is from here on is live; 0: there is no backlog, or all goes top down
	credit int64  // percent × bytes that the live ones may have before their turn ends
	chunk  uint64 // sequences that are looked at, when those before were gaps; 0: as many as fit
}

// mixes reports whether the cursor may leave the order of the log.
func (c *Cursor) mixes() bool { return c.cfg.Newest || c.cfg.LiveShare > 0 }

// pick is the range that is handed out next, of sequences up to last; its room is 0.
func (c *Cursor) pick(last uint64) (w wanted) {
	w.From, w.To = c.taken.firstGap(0, last)
	w.bytes = c.cfg.Stride
	if !c.mixes() || w.From > w.To || c.strict {
		return w
	}
	oldest := w.From
	if oldest >= c.mix.split { // the backlog is gone
		c.mix.split = 0
	}
	if c.mix.split == 0 && c.left(last) <= uint64(c.cfg.Backlog) || len(c.done.s) > fewSpans {
		return w
	}
	last, ok := c.l.mixable(last)
	if w.To = min(w.To, last); !ok || w.From > w.To {
		return wanted{span: span{1, 0}}
	}
	w.bytes = min(w.bytes, chunkBytes)
	if c.cfg.Newest {
		w.From, w.To = c.taken.lastGap(oldest, last)
		if k := c.chunk(); w.To-w.From >= k {
			w.From = w.To - k + 1
		}
	} else {
		if c.mix.split == 0 {
			c.mix.split = last + 1
		}
		w.To = min(w.To, c.mix.split-1)
		if from, to := c.taken.firstGap(c.mix.split, last); from <= to && c.mix.credit >= 0 {
			w.From, w.To, w.live = from, to, true
		}
	}
	if w.From != oldest && !c.l.mayScatter() {
		return wanted{span: span{1, 0}}
	}
	return w
}

// chunk is how many sequences to look at for about chunkBytes of records.
func (c *Cursor) chunk() uint64 {
	if c.mix.chunk > 0 {
		return c.mix.chunk
	}
	if l := c.l; l.msgs > 0 && l.bytes > 0 {
		return uint64(min(max(chunkBytes*l.msgs/l.bytes, 1), chunkMsgs))
	}
	return chunkMsgs
}

// spent notes that n bytes of w were handed out, and whether anything was found there.
func (c *Cursor) spent(w *wanted, n int, found bool) {
	if found {
		c.mix.chunk = 0
	} else if c.cfg.Newest { // a gap may be of any size
		c.mix.chunk = min(2*c.chunk(), 1<<62)
	}
	if c.mix.split > 0 {
		share := int64(c.cfg.LiveShare)
		if w.live {
			share -= 100
		}
		c.mix.credit = min(max(c.mix.credit+share*int64(n), -100*chunkBytes), 100*chunkBytes)
	}
	if c.l.scatter && c.plain() {
		c.l.scatter = false
	}
}

// plain reports whether all that was handed out was so in the order of the log, but for
// what is settled without a gap.
func (c *Cursor) plain() bool {
	return c.mix.split == 0 && len(c.taken.s) == 1 && c.runs.len() <= 1 && (len(c.done.s) == 0 || c.done.s[len(c.done.s)-1].To <= c.floor)
}

// setStrict makes the cursor go by the order of the log, whatever it is configured for.
func (c *Cursor) setStrict(yes bool) {
	c.l.s.mu.Lock()
	defer c.l.s.mu.Unlock()
	c.strict = yes
}

// mayScatter reports whether the engine knows that records are handed out while older
// ones wait. If not, it is told, and Next woken then. A disk that fails is not waited for.
func (l *Log) mayScatter() bool {
	if l.ret.Memory {
		return true
	}
	if !l.scatter {
		l.scatter, l.scatterSaid = true, false
	}
	if !l.scatterSaid && l.s.foldErr == "" && l.s.failed == nil {
		l.s.foldNow()
		return false
	}
	return true
}

// scattered reports whether the hub's stream may hold messages of this log in another
// order than the log's, behind the mark.
func (l *Log) scattered() bool {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	c := l.sole()
	return l.scatter || c != nil && (c.mixes() && !c.plain())
}

// countAck has what is acknowledged saved before it is too much to be read back after
// a crash. Where nothing is on the disk nothing needs to be: a crash forgets it all.
func (l *Log) countAck() {
	l.acks++
	if l.comesBack() {
		l.s.dirty()
	}
	if n := l.acks - l.acksSaved; n >= saveEvery && n%(saveEvery/8) == 0 && l.unsaved() {
		l.s.foldNow()
	}
}

// unsaved reports whether a fold should save what is acknowledged.
func (l *Log) unsaved() bool {
	n := l.acks - l.acksSaved
	if l.last == 0 || l.ret.Memory { // the engine knows nothing of it
		return false
	}
	return l.ackNews || l.scatter && !l.scatterSaid || n > 0 && l.s.closed || l.saves() && (l.scatter || l.comesBack())
}

// saves reports whether what is acknowledged is worth a transaction.
func (l *Log) saves() bool { return l.acks-l.acksSaved >= saveEvery || l.acksSaved < l.saveTo }

// comesBack reports whether a crash would bring back what is acknowledged.
func (l *Log) comesBack() bool {
	return l.first > l.stated && l.stated <= max(l.folded, l.journaled) && !l.ret.Memory
}

// setMark notes where the one stream stands that takes this log's messages; "" if
// there are several.
func (l *Log) setMark(m mark) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.hub = m
}

// setBlind notes that the hub could not be asked what it has: what is acknowledged says nothing of
// what was sent before.
func (l *Log) setBlind() {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.blind = true
}

func (l *Log) getMark() mark {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.hub
}

// noteForeign keeps in mind, over restarts, that others write to a stream.
func (l *Log) noteForeign(stream string) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.foreign = stream; l.foreignNews() {
		l.s.dirty()
	}
}

// foreignNews reports whether the engine does not know that yet.
func (l *Log) foreignNews() bool { return l.foreign != l.foreignSaid && l.last > 0 }

// foreignIn is the last stream that others were seen to write to.
func (l *Log) foreignIn() string {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.foreign
}
