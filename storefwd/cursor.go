package storefwd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// CursorConfig says how a cursor reads. The zero value reads only what is safe, the
// oldest first, 256 records or 1 MiB ahead of the acknowledgements.
type CursorConfig struct {
	MaxPending      int  // records handed out and not acknowledged; default 256
	MaxPendingBytes int  // the same in bytes; one record may exceed it; default 1 MiB
	Stride          int  // bytes handed out at once, roughly; default MaxPendingBytes
	Ahead           bool // sees records before they are safe: the forwarder's way to make them so

	Idle func() // called by Next, with no lock held, each time before it waits

	// How a backlog is handed out (order.go). At most one of them.
	Newest    bool // the newest of it first
	LiveShare int  // so many percent of the bytes are what came since; 0 to 100
	Backlog   int  // it is one if more records than so many wait; default 256
}

// Cursor is a reader's place in a log: what was handed out, and what of that was
// acknowledged. Next belongs to one goroutine, the other methods to any.
type Cursor struct {
	// Static once opened.
	l    *Log
	name string
	cfg  CursorConfig  // but for MaxPending and MaxPendingBytes
	wake chan struct{} // holds one

	// Guarded by the store's mu. Settled is what is acknowledged, dropped, or a gap.
	open    bool
	floor   uint64        // everything up to here is settled
	taken   spans         // handed out or settled; [0, floor] is in it
	done    spans         // settled while an older one was not; from the log's first on
	sent    spans         // handed out before a reset and not settled since
	took    uint64        // … of which the hub's stream took those up to this one, by its places
	looked  bool          // … and the hub was asked for it since
	pending deque[pend]   // handed out, in that order
	runs    deque[ascent] // the stretches of pending in which sequences ascend
	popped  uint64        // how many have left pending, ever
	bytes   int           // of the pending that are not acknowledged …
	gone    int           // … and of these, of what was dropped on its way
	reading span          // Next reads this, and nothing of it is superseded meanwhile
	laps    uint64        // counts what moves it other than Next
	waiting bool          // Next waits to be signalled
	blocked bool          // … for acknowledgements, not for records
	strict  bool          // it goes by the order of the log for now
	mix     mix
}

type pend struct {
	seq   uint64
	at    int64 // when it was handed out, by mono
	size  int
	acked bool
	gap   bool // a marker
}

// ascent is a stretch of pending.
type ascent struct {
	start       uint64 // its first, counted as popped counts
	first, last uint64 // sequences
}

// cursor is the cursor of that name; one that is not known begins with the log.
func (l *Log) cursor(name string) *Cursor {
	i := slices.IndexFunc(l.cursors, func(c *Cursor) bool { return c.name == name })
	if i >= 0 {
		return l.cursors[i]
	}
	c := &Cursor{l: l, name: name, floor: max(l.first, 1) - 1, wake: make(chan struct{}, 1)}
	c.rebuild()
	l.cursors = append(l.cursors, c)
	return c
}

// Cursor opens the cursor of that name, at the ack floor that earlier runs left or
// at the start of the log. A cursor may be opened once.
func (l *Log) Cursor(name string, cfg CursorConfig) (*Cursor, error) {
	cfg.MaxPending = cmpOr(cfg.MaxPending, 256)
	cfg.Backlog = cmpOr(cfg.Backlog, startWindow)
	cfg.MaxPendingBytes = cmpOr(cfg.MaxPendingBytes, 1<<20)
	cfg.Stride = min(cmpOr(cfg.Stride, cfg.MaxPendingBytes), cfg.MaxPendingBytes)
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	c := l.cursor(name)
	if c.open {
		return nil, fmt.Errorf("log %q: cursor %q is open already", l.name, name)
	}
	c.open, c.cfg = true, cfg
	return c, nil
}

// Next appends to dst records that were not handed out, at least one, up to its
// capacity or the limit of pending records: those that follow, or as the configuration
// says; those of one call ascend. It waits until there is one; the error is that of
// ctx, or ErrClosed.
func (c *Cursor) Next(ctx context.Context, dst []Record) ([]Record, error) {
	had := len(dst)
	for {
		w, err := c.want()
		if err != nil {
			return dst, err
		}
		if w.room > 0 {
			dst, err = c.l.read(dst[:had:min(cap(dst), had+w.room)], w.From, w.To, w.bytes)
			switch {
			case errors.Is(err, errEngineDown): // want will wait for it
				continue
			case err != nil:
				return dst, err
			}
			if dst = c.handOut(dst, had, w); len(dst) > had {
				return dst, nil
			}
		}
		if c.cfg.Idle != nil {
			c.cfg.Idle()
		}
		select {
		case <-ctx.Done():
			return dst, ctx.Err()
		case <-c.wake:
		}
	}
}

// wanted is what Next may read now: room records of a range, and about so many bytes.
type wanted struct {
	span
	room, bytes int
	lap         uint64 // of laps, when it was said
	live        bool   // it came since the backlog
}

// want is what Next may read now. If that is nothing, the cursor waits to be signalled.
func (c *Cursor) want() (w wanted, err error) {
	l := c.l
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.s.closed {
		return w, ErrClosed
	}
	c.catchUp()
	last := l.last
	if !c.cfg.Ahead && !l.ret.Memory {
		last = max(l.journaled, l.folded)
	}
	last = l.beforeMarker(last)
	w = c.pick(last)
	w.lap = c.laps
	more := w.From <= w.To
	if !l.s.readable && (w.From <= l.folded || l.s.salvaging != nil) {
		more = false
	}
	left := c.cfg.MaxPendingBytes - c.bytes
	if left > 0 {
		w.room = max(w.room, c.cfg.MaxPending-c.pending.len())
	}
	w.bytes = min(w.bytes, max(left, 1))
	if (w.room < c.cfg.MaxPending/4 || left < c.cfg.MaxPendingBytes/4) && w.From+uint64(max(w.room, 0)) <= w.To {
		w.room = 0 // a long stride is cheaper than one step for each acknowledgement
	}
	c.blocked = w.room <= 0
	c.waiting = c.blocked || !more
	if c.reading = (span{1, 0}); c.waiting {
		w.room = 0
	} else {
		c.reading = w.span
	}
	return w, nil
}

// setWindow changes how much may be pending.
func (c *Cursor) setWindow(w window) {
	c.l.s.mu.Lock()
	defer c.l.s.mu.Unlock()
	more := w.msgs > c.cfg.MaxPending || w.bytes > c.cfg.MaxPendingBytes
	c.cfg.MaxPending, c.cfg.MaxPendingBytes = w.msgs, w.bytes
	if more && c.blocked {
		c.signalNow()
	}
}

// waits is how many records, and about how many bytes, were not handed out.
func (c *Cursor) waits() (msgs, bytes uint64) {
	c.l.s.mu.Lock()
	defer c.l.s.mu.Unlock()
	c.catchUp()
	return c.left(max(c.l.end(), c.taken.top())), uint64(max(c.l.bytes-int64(c.bytes-c.gone), 0))
}

// backlog reports whether more than n records were not handed out.
func (c *Cursor) backlog(n uint64) bool {
	c.l.s.mu.Lock()
	defer c.l.s.mu.Unlock()
	c.catchUp()
	return c.left(max(c.l.end(), c.taken.top())) > n // a full log may have turned away what comes behind
}

// left is how many sequences up to last, which is no less than any that was taken, were
// not handed out.
func (c *Cursor) left(last uint64) uint64 { return last + 1 - min(c.taken.n, last+1) }

// handOut makes pending what was read, less what was acknowledged or dropped since.
func (c *Cursor) handOut(dst []Record, had int, w wanted) []Record {
	s := c.l.s
	s.mu.Lock()
	c.reading = span{1, 0}
	if c.laps != w.lap {
		c.signalNow()
		s.mu.Unlock()
		return dst[:had]
	}
	to := w.To
	if len(dst) > had {
		to = dst[len(dst)-1].Seq
	}
	out, next, before := dst[:had], w.From, c.bytes
	for _, r := range dst[had:] {
		c.settle(next, r.Seq-1) // there is nothing
		next = r.Seq + 1
		if c.give(&r) {
			out = append(out, r)
		}
	}
	c.settle(next, to)
	c.spent(&w, c.bytes-before, len(dst) > had)
	if len(out) == had {
		c.signalNow()
	}
	c.advance()
	more := c.l.trim() // what had been acknowledged early
	s.unlockAndFire()
	c.l.trimRest(more)
	return out
}

// give makes r pending, unless nobody should have it any more.
func (c *Cursor) give(r *Record) bool {
	l := c.l
	switch {
	case c.taken.has(r.Seq): // acknowledged a moment ago
		return false
	case r.Seq < l.first || l.buriedInEngine(r.Seq):
		c.settle(r.Seq, r.Seq)
		return false
	case l.stale(r):
		l.bury(r.Seq, int64(r.size))
		c.settle(r.Seq, r.Seq)
		return false
	case (r.gap || r.Seq < l.declared) && l.asked && l.staysLost(r.ref()):
		c.giveUp(r, LostOldest)
		return false
	case l.expired(r):
		if r.Seq <= c.took && c.sent.has(r.Seq) { // at the hub, which had it in time
			c.acknowledge(r.Seq, int64(r.size))
		} else {
			c.giveUp(r, LostExpired)
		}
		return false
	}
	if len(c.sent.s) > 0 && c.sent.has(r.Seq) {
		r.again = true
		c.sent.remove(r.Seq, r.Seq)
	}
	c.taken.add(r.Seq, r.Seq)
	if n := c.runs.len(); n > 0 && c.runs.at(n-1).last < r.Seq {
		c.runs.at(n - 1).last = r.Seq
	} else {
		c.runs.push(ascent{c.popped + uint64(c.pending.len()), r.Seq, r.Seq})
	}
	c.pending.push(pend{seq: r.Seq, at: l.s.mono(), size: r.size, gap: r.gap})
	c.bytes += r.size
	return true
}

// giveUp settles r, which is lost for a reason: nobody should have it any more.
func (c *Cursor) giveUp(r *Record, why Loss) {
	l := c.l
	l.forgo(r.Seq)
	c.acknowledge(r.Seq, int64(r.size))
	l.acked--
	if o := r.ref(); o.gap == nil {
		l.loseOnce(why, r.Seq)
	} else if !l.staysLost(o) && l.once(r.Seq) {
		l.undeclare(*o.gap)
	}
}

// settle notes that nobody waits for from…to any more.
func (c *Cursor) settle(from, to uint64) {
	switch {
	case from > to:
		return
	case from <= c.floor+1:
		c.floor = c.done.end(max(c.floor, to) + 1)
		to = c.floor
	default:
		c.done.add(from, to)
	}
	c.taken.add(from, to)
	if len(c.sent.s) > 0 {
		c.sent.remove(from, to)
	}
}

// acknowledge settles one record.
func (c *Cursor) acknowledge(seq uint64, size int64) {
	inTurn := seq == c.floor+1
	c.settle(seq, seq)
	if !inTurn && c.l.sole() == c {
		c.l.settleEarly(seq, size)
	} else {
		c.l.ackRAM(seq)
	}
}

// Ack acknowledges seq.
func (c *Cursor) Ack(seq uint64) { c.ack(seq, 0) }

// acked is what an acknowledgement was.
type acked struct {
	took    time.Duration // the record was pending so long
	known   bool          // it was waited for
	inOrder bool          // all that was handed out before it is settled, too
	full    bool          // half of what may be pending was, with it
	less    bool          // it has a place in the stream that was one's before it: that was set back
	unread  error         // it may be here, unacknowledged as before, and cannot be read now
}

// ack acknowledges seq. If that is in order, the hub's stream has nothing of ours that is
// not settled up to at, where it has this one.
func (c *Cursor) ack(seq, at uint64) (a acked) {
	s := c.l.s
	s.mu.Lock()
	full := 2*c.pending.len() >= c.cfg.MaxPending || 2*c.bytes >= c.cfg.MaxPendingBytes
	if seq < c.l.first { // it was dropped
		c.l.found(seq)
	}
	a = c.mark(seq)
	a.full = full
	if from := c.l.doubt.from(); from > 0 && (from < seq || c.mixes()) {
		a.inOrder = a.inOrder && c.mixes() // one before it was dropped on its way: it may be there, and is not acknowledged
	} else if m := &c.l.hub; a.inOrder && at > m.At && m.Stream != "" && !c.l.setBack {
		if m.At, m.Seq = at, seq; !c.l.blind { // of an earlier session, too: it is settled
			m.Read = at
		}
	} else {
		a.less = a.known && a.inOrder && at > 0 && m.Stream != ""
	}
	if a.known {
		c.l.countAck()
	}
	more := c.l.trim()
	s.unlockAndFire()
	c.l.trimRest(more)
	return a
}

// lose gives up seq for a reason: it counts as lost, not as acknowledged. Of a marker what it
// declares is taken back.
func (c *Cursor) lose(seq uint64, why Loss) {
	s := c.l.s
	s.mu.Lock()
	switch i := c.find(seq); {
	case seq < c.l.first: // it was dropped, and is lost already
		c.l.missed(seq)
		c.mark(seq)
	case i >= 0 && c.pending.at(i).gap:
		if c.pending.at(i).acked || c.l.undeclareUntaken(seq) {
			c.mark(seq)
		}
	default:
		c.l.forgo(seq)
		if c.mark(seq).known {
			c.l.acked--
			c.l.loseOnce(why, seq)
		}
	}
	c.l.trim()
	s.unlockAndFire()
}

// mark notes the acknowledgement of one record. One that comes for what is not pending
// is believed, as long as there is room to remember it.
func (c *Cursor) mark(seq uint64) (a acked) {
	l := c.l
	c.catchUp()
	if i := c.find(seq); i >= 0 {
		number := c.popped + uint64(i)
		if p := c.pending.at(i); !p.acked {
			p.acked, a.known = true, true
			c.bytes -= p.size
			a.took = time.Duration(l.s.mono() - p.at)
			if seq < l.first {
				c.gone -= p.size
			} else {
				c.acknowledge(seq, int64(p.size))
			}
		}
		c.advance()
		a.inOrder = number < c.popped
		return a
	}
	if seq > c.floor && seq <= l.last && !c.taken.has(seq) && len(c.done.s) < mostSpans {
		size := int64(0)
		if a.unread = l.lookAt(seq, func(b []byte) { size, a.known = int64(len(b)), true }); a.known {
			c.acknowledge(seq, size)
			c.advance()
		}
	}
	a.inOrder = !c.mixes() && c.floor >= seq
	return a
}

// find is the index of seq in pending, -1 if it is not there.
func (c *Cursor) find(seq uint64) int {
	if c.pending.len() > 0 && c.pending.at(0).seq == seq {
		return 0
	}
	for j := range c.runs.len() {
		r := c.runs.at(j)
		if seq < r.first || seq > r.last {
			continue
		}
		lo, hi := int(max(r.start, c.popped)-c.popped), c.pending.len()
		if j+1 < c.runs.len() {
			hi = int(c.runs.at(j+1).start - c.popped)
		}
		for lo < hi {
			if mid := (lo + hi) / 2; c.pending.at(mid).seq < seq {
				lo = mid + 1
			} else {
				hi = mid
			}
		}
		if lo < c.pending.len() && c.pending.at(lo).seq == seq {
			return lo
		}
	}
	return -1
}

// drop takes the first out of pending.
func (c *Cursor) drop() (p pend) {
	p = c.pending.pop()
	c.popped++
	for c.runs.len() > 0 && (c.pending.len() == 0 || c.runs.len() > 1 && c.runs.at(1).start <= c.popped) {
		c.runs.pop()
	}
	return p
}

// reset hands out again what was not acknowledged. Everything up to floor is settled.
func (c *Cursor) reset() (floor uint64) {
	c.l.s.mu.Lock()
	defer c.l.s.mu.Unlock()
	c.catchUp()
	c.takeBack()
	c.looked = false
	return c.floor
}

// putBack hands out again what was handed out and not sent.
func (c *Cursor) putBack() {
	c.l.s.mu.Lock()
	defer c.l.s.mu.Unlock()
	c.takeBack()
}

func (c *Cursor) takeBack() {
	for c.pending.len() > 0 {
		if p := c.drop(); !p.acked && p.seq >= c.l.first {
			c.sent.add(p.seq, p.seq)
		}
	}
	c.rebuild()
	c.signalNow()
}

// rebuild makes taken what is settled, and no more.
func (c *Cursor) rebuild() {
	c.taken.copyOf(&c.done)
	c.taken.add(0, c.floor)
	c.bytes, c.gone, c.mix = 0, 0, mix{}
	c.laps++
}

// advance forgets the pending that are acknowledged.
func (c *Cursor) advance() {
	for c.pending.len() > 0 && c.pending.at(0).acked {
		c.drop()
	}
	if c.blocked {
		c.signal()
	}
}

// catchUp passes over what the log has dropped. What of that is on its way stays pending until it
// is acknowledged, or a reset: it fills the line as before.
func (c *Cursor) catchUp() {
	first := c.l.first
	if first <= c.floor+1 {
		return
	}
	for i := range c.pending.len() {
		if p := c.pending.at(i); p.seq > c.floor && p.seq < first && !p.acked {
			c.gone += p.size
		}
	}
	c.sent.remove(0, first-1)
	c.settle(c.floor+1, first-1)
	c.done.remove(0, first-1)
}

// signal wakes Next if it waits; signalNow in any case.
func (c *Cursor) signal() {
	if c.waiting && (!c.blocked || c.pending.len() <= c.cfg.MaxPending/2 && c.bytes <= c.cfg.MaxPendingBytes/2) {
		c.signalNow()
	}
}

func (c *Cursor) signalNow() {
	c.waiting = false
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// oldestPending is how long the first unacknowledged record is out, 0 if none is.
func (c *Cursor) oldestPending() time.Duration {
	c.l.s.mu.Lock()
	defer c.l.s.mu.Unlock()
	for i := range c.pending.len() {
		if p := c.pending.at(i); !p.acked {
			return time.Duration(c.l.s.mono() - p.at)
		}
	}
	return 0
}

// ackedTo is the floor of the slowest cursor; ok is false if acknowledgements do
// not matter to this log.
func (l *Log) ackedTo() (floor uint64, ok bool) {
	if l.ret.Keep != UntilAcked || len(l.cursors) == 0 {
		return 0, false
	}
	floor = l.last
	for _, c := range l.cursors {
		floor = min(floor, c.floor)
	}
	return floor, true
}

// ackRAM makes safe what every cursor has, if it is still in RAM.
func (l *Log) ackRAM(seq uint64) {
	if l.ret.Keep != UntilAcked || len(l.cursors) != 1 {
		return // trim does it, once the slowest cursor has passed
	}
	if i := l.find(seq); i < l.ram.len() {
		if r := *l.ram.at(i); r.seq == seq {
			r.gone = true
			l.s.makeSafe(r)
		}
	}
}

const trimStep = 1024

// trim lets go of what every cursor has acknowledged, a limited number at a time.
// It reports whether there is more.
func (l *Log) trim() (more bool) {
	floor, ok := l.ackedTo()
	if !ok || l.first > floor || l.unreadable() {
		return false
	}
	now := l.s.mono()
	for range trimStep {
		o, ok := l.head()
		if !ok || o.seq > floor {
			l.first = max(l.first, floor+1)
			l.passHollow()
			l.trimEpochs()
			return false
		}
		l.pass(o, now)
	}
	return true
}

// trimRest trims all, giving others a turn in between.
func (l *Log) trimRest(more bool) {
	for more {
		l.s.mu.Lock()
		more = l.trim()
		l.s.unlockAndFire()
	}
}
