package storefwd

import (
	"testing"
	"time"
)

func TestFlow(t *testing.T) {
	const patience = 6 * time.Second
	now := time.Unix(0, 0)
	w := flow{window: window{startWindow, startBytes}, most: window{1000, 1 << 20}, patience: patience}
	w.begin(now)
	for _, c := range []struct {
		what  string
		after time.Duration
		took  time.Duration
		full  bool
		want  window
	}{
		{"sent before the session began", time.Second, 2 * time.Second, true, window{256, 64 << 10}},
		{"soon, with little on its way", time.Second, time.Millisecond, false, window{256, 64 << 10}},
		{"soon, with all on its way", time.Second, time.Millisecond, true, window{512, 128 << 10}},
		{"sent before that", 0, time.Millisecond, true, window{512, 128 << 10}},
		{"not so soon", 2 * time.Second, 3 * time.Second / 2, true, window{512, 128 << 10}},
		{"soon again", 0, time.Millisecond, true, window{1000, 256 << 10}},
		{"late", 3 * time.Second, 3 * time.Second, true, window{500, 128 << 10}},
		{"late, but sent before that", time.Second, 3 * time.Second, true, window{500, 128 << 10}},
		{"late again, with little on its way", 3 * time.Second, 3 * time.Second, false, window{250, 64 << 10}},
	} {
		now = now.Add(c.after)
		before := w.window
		if changed := w.step(c.took, c.full, now); w.window != c.want || changed != (w.window != before) {
			t.Errorf("%s: %+v, want %+v", c.what, w.window, c.want)
		}
	}
	for range 20 {
		w.halve(now)
	}
	if w.window != (window{leastWindow, leastBytes}) {
		t.Errorf("the least is %+v", w.window)
	}
	w.begin(now)
	if w.window != (window{leastWindow, leastBytes}) {
		t.Errorf("a session begins with %+v where less was borne", w.window)
	}
	w.most = window{8, 1000}
	if w.begin(now); w.window != w.most {
		t.Errorf("a session begins with %+v where less is allowed", w.window)
	}
}
