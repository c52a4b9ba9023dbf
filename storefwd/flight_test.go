package storefwd

import "testing"

// What is acknowledged out of turn, is not ours, or was not sent after all: a place is one
// record's, or nobody's.
func TestFlight(t *testing.T) {
	var w flight
	for i := range uint64(4) {
		w.sent(10+i, 100+i)
	}
	w.sent(13, 200) // 103 did not pass the link
	for _, c := range []struct {
		at, seq uint64
		ok      bool
	}{{9, 0, false}, {14, 0, false}, {10, 100, true}, {10, 0, false}, {12, 102, true}, {11, 0, false}, {13, 200, true}, {13, 0, false}} {
		if seq, ok := w.take(c.at); seq != c.seq || ok != c.ok {
			t.Errorf("at %d: %d %v, want %+v", c.at, seq, ok, c)
		}
	}
	w.sent(14, 201)
	w.sent(30, 300) // the stream went on without us
	if seq, ok := w.take(14); ok {
		t.Errorf("what was before is %d", seq)
	}
	if seq, ok := w.take(30); seq != 300 || !ok {
		t.Error(seq, ok)
	}
}
