package storefwd

import "time"

// This file decides how much is on its way at once: as much as the line and the hub
// acknowledge soon. It grows on a good line to what the configuration allows; on a slow
// one what waits in buffers would only delay the acknowledgements, and have to be looked
// for after the next interruption.

const (
	startWindow, startBytes = 256, 64 << 10
	leastWindow, leastBytes = 16, 4 << 10
)

// window is so many messages, and so many bytes; one message may have more.
type window struct{ msgs, bytes int }

// flow is guarded by Forwarder.mu.
type flow struct {
	window
	most     window
	patience time.Duration // with an acknowledgement
	changed  time.Time     // when the window was
}

// begin has a session begin with little: what the line bears may have changed.
func (w *flow) begin(now time.Time) {
	w.changed = now
	w.msgs, w.bytes = min(w.msgs, startWindow, w.most.msgs), min(w.bytes, startBytes, w.most.bytes)
}

// step takes an acknowledgement that took so long, and reports whether the window
// changed. One of what was sent with another window says nothing of this one; one that
// came while less than half was on its way is no sign that more could be.
func (w *flow) step(took time.Duration, full bool, now time.Time) (changed bool) {
	before := w.window
	switch {
	case now.Sub(w.changed) < took:
	case took > w.patience/3:
		w.halve(now)
	case took < w.patience/6 && full:
		w.changed = now
		w.msgs, w.bytes = min(2*w.msgs, w.most.msgs), min(2*w.bytes, w.most.bytes)
	}
	return w.window != before
}

func (w *flow) halve(now time.Time) {
	w.changed = now
	w.msgs, w.bytes = min(max(w.msgs/2, leastWindow), w.most.msgs), min(max(w.bytes/2, leastBytes), w.most.bytes)
}

// slower halves the window: acknowledgements did not come in time.
func (f *Forwarder) slower() {
	f.mu.Lock()
	f.flow.halve(time.Now())
	w := f.flow.window
	f.mu.Unlock()
	f.c.setWindow(w)
}
