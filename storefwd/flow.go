package storefwd

import "time"

// This file decides how much is on its way at once: as much as the link and the hub
// acknowledge soon. It grows to thousands on a good link; on a slow one what waits in
// buffers would only delay the acknowledgements, and have to be looked for after the
// next interruption.

const (
	startWindow = 256
	leastWindow = 16
)

// flow is guarded by Forwarder.mu.
type flow struct {
	window, most int           // messages
	patience     time.Duration // with an acknowledgement
	acked        int           // since the window was changed
}

// step counts an acknowledgement, when they take rtt on average, and reports whether
// the window changed. It is looked at once for each window's worth.
func (w *flow) step(rtt time.Duration) (changed bool) {
	if w.acked++; w.acked < w.window {
		return false
	}
	w.acked = 0
	before := w.window
	switch {
	case rtt < w.patience/6:
		w.window = min(2*w.window, w.most)
	case rtt > w.patience/3:
		w.halve()
	}
	return w.window != before
}

func (w *flow) halve() { w.window, w.acked = min(max(w.window/2, leastWindow), w.most), 0 }

// slower halves the window: acknowledgements did not come in time.
func (f *Forwarder) slower() {
	f.mu.Lock()
	f.flow.halve()
	n := f.flow.window
	f.mu.Unlock()
	f.c.setWindow(n)
}
