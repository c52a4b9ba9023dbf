package storefwd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"
)

// CursorConfig says how a cursor reads. The zero value reads only what is safe,
// 256 records or 1 MiB ahead of the acknowledgements.
type CursorConfig struct {
	MaxPending      int  // records handed out and not acknowledged; default 256
	MaxPendingBytes int  // the same in bytes; one record may exceed it; default 1 MiB
	Stride          int  // bytes handed out at once, roughly; default MaxPendingBytes
	Ahead           bool // sees records before they are safe: the forwarder's way to make them so
}

// Cursor is a reader's place in a log: an ack floor and what is pending above it.
// Next belongs to one goroutine, the other methods to any.
type Cursor struct {
	// Static once opened.
	l    *Log
	name string
	cfg  CursorConfig
	wake chan struct{} // holds one

	// Guarded by the store's mu. floor < every pending seq < next.
	open    bool
	floor   uint64 // everything up to here is acknowledged, dropped, or a gap
	next    uint64 // the next to be handed out
	pending deque[pend]
	bytes   int                 // of the pending that are not acknowledged
	early   map[uint64]struct{} // acknowledged, ≥ next
	reading uint64              // Next reads up to here, and nothing of that is superseded meanwhile
	waiting bool                // Next waits to be signalled
	blocked bool                // … for acknowledgements, not for records
}

type pend struct {
	seq   uint64
	at    int64 // when it was handed out, by mono
	size  int
	acked bool
}

// Cursor opens the cursor of that name, at the ack floor that earlier runs left or
// at the start of the log. A cursor may be opened once.
func (l *Log) Cursor(name string, cfg CursorConfig) (*Cursor, error) {
	cfg.MaxPending = cmpOr(cfg.MaxPending, 256)
	cfg.MaxPendingBytes = cmpOr(cfg.MaxPendingBytes, 1<<20)
	cfg.Stride = min(cmpOr(cfg.Stride, cfg.MaxPendingBytes), cfg.MaxPendingBytes)
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	c := l.cursors[name]
	if c == nil {
		c = &Cursor{l: l, name: name, floor: l.first - 1, next: l.first, wake: make(chan struct{}, 1)}
		l.cursors[name] = c
	}
	if c.open {
		return nil, fmt.Errorf("log %q: cursor %q is open already", l.name, name)
	}
	c.open, c.cfg = true, cfg
	return c, nil
}

// Next appends to dst the records that follow, at least one, up to its capacity or
// the limit of pending records. It waits until there is one; the error is that of
// ctx, or ErrClosed.
func (c *Cursor) Next(ctx context.Context, dst []Record) ([]Record, error) {
	had := len(dst)
	for {
		from, to, room, err := c.want()
		if err != nil {
			return dst, err
		}
		if room > 0 && from <= to {
			dst, err = c.l.read(dst[:had:min(cap(dst), had+room)], from, to, c.cfg.Stride)
			switch {
			case errors.Is(err, errEngineDown): // want will wait for it
				continue
			case err != nil:
				return dst, err
			}
			if dst = c.handOut(dst, had, from, to); len(dst) > had {
				return dst, nil
			}
		}
		select {
		case <-ctx.Done():
			return dst, ctx.Err()
		case <-c.wake:
		}
	}
}

// want is what Next may read now: room records of from…to. If that is nothing, the
// cursor waits to be signalled.
func (c *Cursor) want() (from, to uint64, room int, err error) {
	l := c.l
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.s.closed {
		return 0, 0, 0, ErrClosed
	}
	c.catchUp()
	if to = l.last; !c.cfg.Ahead && !l.ret.Memory {
		to = max(l.journaled, l.folded)
	}
	if c.bytes < c.cfg.MaxPendingBytes {
		room = c.cfg.MaxPending - c.pending.len()
	}
	if !l.s.readable && (c.next <= l.folded || l.s.salvaging != nil) {
		to = 0
	}
	if room < c.cfg.MaxPending/4 && c.next+uint64(max(room, 0)) <= to {
		room = 0 // a long stride is cheaper than one step for each acknowledgement
	}
	c.blocked = room <= 0
	c.waiting = c.blocked || c.next > to
	if c.reading = 0; !c.waiting {
		c.reading = to
	}
	return c.next, to, room, nil
}

// setWindow changes how many records may be pending.
func (c *Cursor) setWindow(n int) {
	c.l.s.mu.Lock()
	defer c.l.s.mu.Unlock()
	if more := n > c.cfg.MaxPending; c.cfg.MaxPending != n {
		c.cfg.MaxPending = n
		if more && c.blocked {
			c.signalNow()
		}
	}
}

// behind reports whether more than n records wait behind seq.
func (c *Cursor) behind(seq uint64, n int) bool {
	c.l.s.mu.Lock()
	defer c.l.s.mu.Unlock()
	return c.l.last > seq+uint64(n)
}

// handOut makes pending what was read, less what was acknowledged or dropped since.
func (c *Cursor) handOut(dst []Record, had int, from, to uint64) []Record {
	s := c.l.s
	s.mu.Lock()
	c.reading = 0
	if c.next != from { // moved by Reset or by an acknowledgement meanwhile
		c.signalNow()
		s.mu.Unlock()
		return dst[:had]
	}
	now := s.mono()
	out := dst[:had]
	for _, r := range dst[had:] {
		_, early := c.early[r.Seq]
		delete(c.early, r.Seq)
		c.next = r.Seq + 1
		if r.Seq < c.l.first {
			continue
		}
		if early { // pending nevertheless: reset must know it
			c.pending.push(pend{seq: r.Seq, at: now, acked: true})
			continue
		}
		if c.l.stale(&r) {
			c.l.bury(r.Seq, int64(r.size))
			continue
		}
		if c.l.expired(&r) {
			c.pending.push(pend{seq: r.Seq, at: now, acked: true})
			c.l.ackRAM(r.Seq)
			c.l.acked--
			c.l.lose(LostExpired, r.Seq, r.Seq, 1)
			continue
		}
		c.pending.push(pend{seq: r.Seq, at: now, size: r.size})
		c.bytes += r.size
		out = append(out, r)
	}
	if len(dst) == had { // gaps only
		c.next = to + 1
	}
	if len(out) == had {
		c.signalNow()
	}
	c.advance()
	more := c.l.trim() // what had been acknowledged early
	s.unlockAndFire()
	c.l.trimRest(more)
	return out
}

// Ack acknowledges seq.
func (c *Cursor) Ack(seq uint64) { c.ack(seq) }

// ack returns how long seq was pending, whether it was, and whether all before it is
// settled, too.
func (c *Cursor) ack(seq uint64) (took time.Duration, ok, inOrder bool) {
	s := c.l.s
	s.mu.Lock()
	took, ok = c.mark(seq)
	c.advance()
	inOrder = c.floor >= seq
	more := c.l.trim()
	s.unlockAndFire()
	c.l.trimRest(more)
	return took, ok, inOrder
}

// lose gives up seq for a reason: it counts as lost, not as acknowledged.
func (c *Cursor) lose(seq uint64, why Loss) {
	s := c.l.s
	s.mu.Lock()
	if _, ok := c.mark(seq); ok {
		c.l.acked--
		c.l.lose(why, seq, seq, 1)
	}
	c.advance()
	c.l.trim()
	s.unlockAndFire()
}

// mark notes the acknowledgement of one record.
func (c *Cursor) mark(seq uint64) (took time.Duration, ok bool) {
	if p := c.find(seq); p != nil && !p.acked {
		p.acked, ok = true, true
		c.bytes -= p.size
		took = time.Duration(c.l.s.mono() - p.at)
	} else if _, known := c.early[seq]; p == nil && !known && seq >= c.next && seq <= c.l.last {
		if c.early == nil {
			c.early = map[uint64]struct{}{}
		}
		c.early[seq] = struct{}{}
		ok = true
	}
	if ok {
		c.l.ackRAM(seq)
	}
	return took, ok
}

func (c *Cursor) find(seq uint64) *pend {
	lo, hi := 0, c.pending.len()
	if hi > 0 && c.pending.at(0).seq == seq {
		return c.pending.at(0)
	}
	for lo < hi {
		if mid := (lo + hi) / 2; c.pending.at(mid).seq < seq {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < c.pending.len() && c.pending.at(lo).seq == seq {
		return c.pending.at(lo)
	}
	return nil
}

// reset hands out again, from the floor on, what was not acknowledged.
func (c *Cursor) reset() {
	c.l.s.mu.Lock()
	defer c.l.s.mu.Unlock()
	for c.pending.len() > 0 {
		if p := c.pending.pop(); p.acked {
			if c.early == nil {
				c.early = map[uint64]struct{}{}
			}
			c.early[p.seq] = struct{}{}
		}
	}
	c.bytes = 0
	c.next = c.floor + 1
	c.signalNow()
}

// advance raises the floor over what is acknowledged.
func (c *Cursor) advance() {
	for c.pending.len() > 0 && c.pending.at(0).acked {
		c.floor = max(c.floor, c.pending.pop().seq)
	}
	if c.pending.len() == 0 {
		c.floor = max(c.floor, c.next-1)
	}
	if c.blocked {
		c.signal()
	}
}

// catchUp passes over what the log has dropped.
func (c *Cursor) catchUp() {
	first := c.l.first
	for c.pending.len() > 0 && c.pending.at(0).seq < first {
		if p := c.pending.pop(); !p.acked {
			c.bytes -= p.size
		}
	}
	if len(c.early) > 0 {
		maps.DeleteFunc(c.early, func(seq uint64, _ struct{}) bool { return seq < first })
	}
	c.next = max(c.next, first)
	c.floor = max(c.floor, first-1)
	c.advance()
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
