package storefwd

import (
	"testing"
	"testing/synctest"
	"time"
)

// The stream stored messages under other subjects, and does not any more when it is asked. They were
// not found under ours, and stored twice.
func TestStoredUnderAnotherSubjectMeanwhile(t *testing.T) {
	for _, takes := range [][]string{{"a.>"}, {"a.>", "other"}} {
		synctest.Test(t, func(t *testing.T) {
			s, l := openWith(t, t.TempDir(), "a.1")
			defer s.Close()
			h := &fakeHub{takes: takes, unacked: func(subject string) bool { return subject != "a.1" }}
			f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c", RetryMin: 1, RetryMax: 1})
			h.f = f
			stop := start(t, f)
			later(time.Second)
			put(t, l, "a.2", "a.3")
			later(time.Second)
			h.mu.Lock()
			for range 40 {
				h.stored = append(h.stored, fakeMsg{subject: "other"}) // that is no sign that others write what is ours
			}
			for i := range h.stored {
				h.stored[i].subject = "elsewhere." + h.stored[i].subject
			}
			h.unacked = nil
			h.mu.Unlock()
			f.Retune(Tuning{})
			later(time.Second)
			stop()
			if got := h.subjects(); len(got) != 43 || l.Stats().Msgs != 0 || len(f.foreign) > 0 {
				t.Errorf("%q: %v, %d wait, %v", takes, got, l.Stats().Msgs, f.foreign)
			}
		})
	}
}
