package storefwd

import (
	"context"
	"fmt"
	"time"
)

// This file lets a drain wait: for outboxes of a higher priority, for its rate, and
// for tomorrow when the day's bytes are used up. Whoever waits has nothing of its own
// on the way, so no acknowledgement is held up; what is appended meanwhile is written
// at once, since the hub cannot have it in time.

// day is what was sent toward the hub in one day. The log's is guarded by the store's
// mu, and written with each fold.
type day struct {
	Number int64 `json:"n,omitempty"` // since 1970, UTC
	Bytes  int64 `json:"bytes,omitempty"`

	Lasted time.Duration `json:"lasted,omitempty"` // while the time is not known: so long, over all runs
}

const wholeDay = 24 * time.Hour

// turn moves to the day of now. While the time is not known days are counted from
// alive, the time since the start. A clock that is set back over one midnight does not
// give a day's bytes twice. One that is set back further was wrong before, or is now: it
// must not use up the days in between, so each later one that it comes to then is a new day.
func (d *day) turn(now time.Time, known bool, alive time.Duration, turned *time.Duration) (left time.Duration) {
	if !known {
		d.Lasted, *turned = d.Lasted+max(alive-*turned, 0), alive
		if d.Lasted >= wholeDay {
			d.Bytes, d.Lasted = 0, 0
		}
		return wholeDay - d.Lasted
	}
	d.Lasted = 0
	n := now.Unix() / int64(wholeDay/time.Second)
	if n == d.Number-1 { // set back over midnight: it is still that day
		n = d.Number
	} else if n > d.Number {
		d.Bytes = 0
	}
	d.Number, *turned = n, alive
	return time.Unix((n+1)*int64(wholeDay/time.Second), 0).Sub(now)
}

// pacer is owned by Forwarder.Run.
type pacer struct {
	backlog bool          // what is sent now had to wait
	paced   bool          // … and goes at the drain rate: what is live need not wait
	paid    int64         // when what was sent is paid for at the drain rate, by mono
	turned  time.Duration // how much of this run is in the log's day
	waits   string        // what is waited for, as told
}

// turn waits until this forwarder may send more of a backlog.
func (f *Forwarder) turn(ctx context.Context) error {
	for {
		more := f.c.more()
		higher := f.s.busy(f, more)
		wait, why := f.mustWait(more)
		switch {
		case higher != nil && more:
			why = "an outbox of a higher priority drains first"
		case wait > 0:
			f.s.busy(f, false) // those below need not wait for a clock
			higher = nil
		default:
			f.waiting("")
			return nil
		}
		f.waiting(why)
		timer := time.NewTimer(max(wait, time.Millisecond))
		if higher != nil {
			timer.Stop()
		}
		select {
		case <-higher:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		timer.Stop()
	}
}

// mustWait is how long the day's bytes or the drain rate keep the next record back.
func (f *Forwarder) mustWait(more bool) (wait time.Duration, why string) {
	if f.o.DailyBytes > 0 {
		now, known := f.s.o.Clock.Now(), f.s.o.Clock.Trusted()
		f.s.mu.Lock()
		left := f.l.sent.turn(now, known, time.Duration(f.s.mono()), &f.pacer.turned)
		used := f.l.sent.Bytes
		f.s.mu.Unlock()
		if used >= f.o.DailyBytes {
			return min(left, time.Minute), fmt.Sprintf("daily_bytes of %d are used up, it goes on in %s", f.o.DailyBytes, left.Round(time.Minute))
		}
	}
	f.pacer.backlog, f.pacer.paced = more, f.o.Rate > 0 && more && !f.isLive
	if f.pacer.paced {
		return time.Duration(f.pacer.paid - f.s.mono()), "" // drain_rate is nothing to tell: it is what was asked for
	}
	return 0, ""
}

// waiting tells people, and the log, that something is waited for.
func (f *Forwarder) waiting(why string) {
	if why == f.pacer.waits {
		return
	}
	if f.pacer.waits = why; why == "" {
		f.setState(Live, "")
		f.l.setDrains()
		return
	}
	f.setState(Waiting, why)
	f.isLive = false
	f.l.setLive(false, 0)
}

// spend notes that n bytes were sent.
func (f *Forwarder) spend(n int64) {
	if f.pacer.paced {
		f.pacer.paid = max(f.pacer.paid, f.s.mono()) + n*int64(time.Second)/f.o.Rate
	}
	if f.o.DailyBytes > 0 {
		f.s.mu.Lock()
		if f.l.sent.Bytes += n; !f.l.ackNews && f.l.sent.Bytes-f.l.saidOf(f.l.sent.Number) >= f.o.DailyBytes/saveSent {
			f.l.ackNews, f.l.ackNewsFolding = true, false
			f.s.foldNow()
		}
		f.s.mu.Unlock()
	}
}

// saveSent is into how many parts a day's bytes are divided: a crash forgets that one of them was
// sent, at most, and there are so many transactions a day for it where nothing else is written.
const saveSent = 16

// saidOf is how many of a day's bytes the engine knows of.
func (l *Log) saidOf(number int64) int64 {
	if l.sentSaid.Number != number || l.sentSaid.Bytes > l.sent.Bytes { // one that was a day by the time it lasted
		return 0
	}
	return l.sentSaid.Bytes
}

// stride is how many bytes are sent at once: a quarter second's worth of a rate, and
// no more than a tenth of a day's, so that neither is exceeded by much.
func (o *ForwarderOptions) stride() (n int64) {
	n = 1 << 20
	if o.Rate > 0 {
		n = min(n, o.Rate/4)
	}
	if o.DailyBytes > 0 {
		n = min(n, o.DailyBytes/10)
	}
	return max(n, 1)
}

// turns is who drains. It is guarded by the store's mu.
type turns struct {
	who     map[*Forwarder]int // those with something to send, and their priority
	changed chan struct{}      // closed and replaced when one of them ends
}

// busy notes whether f has something to send. If one of a higher priority has, too,
// the result is closed when that may have changed.
func (s *Store) busy(f *Forwarder, yes bool) (higher chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &s.turns
	if t.changed == nil {
		t.who, t.changed = map[*Forwarder]int{}, make(chan struct{})
	}
	if _, was := t.who[f]; was && !yes {
		delete(t.who, f)
		close(t.changed)
		t.changed = make(chan struct{})
	}
	if yes {
		t.who[f] = f.o.Priority
	}
	for _, p := range t.who {
		if p > f.o.Priority {
			return t.changed
		}
	}
	return nil
}

// more reports whether there are records that were not handed out and can be.
func (c *Cursor) more() bool { return c.backlog(0) && !c.stuck() }

// stuck reports whether what is next cannot be read now: nobody need wait for that.
func (c *Cursor) stuck() bool {
	l := c.l
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	next, _ := c.taken.firstGap(0, l.last)
	return !l.s.readable && (max(next, l.first) <= l.folded || l.s.salvaging != nil)
}
