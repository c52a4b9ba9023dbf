package storefwd

import (
	"errors"
	"time"
)

// Tuning is what of a forwarder's options can change while it runs. The zero values
// mean what they mean in [ForwarderOptions].
type Tuning struct {
	Stream, Domain   string
	Window, Priority int
	Rate, DailyBytes int64
	AckTimeout       time.Duration
}

var errRetuned = errors.New("its configuration changed")

// Retune puts t in force. What is on its way is looked for on the hub as after every
// interruption, so that nothing is sent twice. Safe for all goroutines.
func (f *Forwarder) Retune(t Tuning) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tuning = &t
	if f.resync != nil {
		f.resync(errRetuned)
	}
}

// retune takes up what Retune left. It belongs to Run, between sessions.
func (f *Forwarder) retune() {
	f.mu.Lock()
	t := f.tuning
	f.tuning = nil
	if t != nil {
		if t.Rate != f.o.Rate {
			f.pacer.paid = 0
		}
		f.o.Stream, f.o.Domain, f.o.Window, f.o.Priority = t.Stream, t.Domain, t.Window, t.Priority
		f.o.Rate, f.o.DailyBytes, f.o.AckTimeout = t.Rate, t.DailyBytes, t.AckTimeout
		f.o.setDefaults()
		f.flow.most.msgs, f.flow.patience = f.o.Window, f.o.AckTimeout // the next session begins with it
	}
	f.mu.Unlock()
	if t != nil {
		f.c.setStride(int(f.o.stride()))
	}
}

func (c *Cursor) setStride(n int) {
	c.l.s.mu.Lock()
	defer c.l.s.mu.Unlock()
	c.cfg.Stride = n
}
