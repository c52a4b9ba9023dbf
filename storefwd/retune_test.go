package storefwd

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

// A forwarder that is retuned goes on with what was not acknowledged, sends nothing
// twice, and keeps to its new limits.
func TestForwarderRetuned(t *testing.T) {
	s, err := Open(t.TempDir(), Options{Node: "n"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := s.Log("OUT/c", Retention{Keep: UntilAcked})
	if err != nil {
		t.Fatal(err)
	}
	h := &fakeHub{unacked: func(subject string) bool { return subject == "a.2" }}
	f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c", RetryMin: 1, RetryMax: 1, AckTimeout: time.Hour})
	h.f = f
	stop := start(t, f)
	put(t, l, "a.1", "a.2")
	testkit.Eventually(t, func() bool { return len(h.subjects()) == 2 }, "both sent, and one acknowledged")
	f.Retune(Tuning{Stream: "S", Window: 20, Rate: 4000, DailyBytes: 100000, AckTimeout: 2 * time.Hour})
	testkit.Eventually(t, func() bool { return l.Stats().Msgs == 0 }, "the second found on the hub")
	f.Retune(Tuning{Priority: 3})
	put(t, l, "a.3")
	testkit.Eventually(t, func() bool { return l.Stats().Msgs == 0 && len(h.subjects()) == 3 }, "the third sent")
	stop()
	wantSubjects(t, h, "a.1", "a.2", "a.3")
	if f.o.Priority != 3 || f.o.Rate != 0 || f.o.Window != 8192 || f.flow.most.msgs != 8192 || f.c.cfg.Stride != 1<<20 {
		t.Errorf("%+v %+v", f.o, f.flow)
	}
}

// lateLink comes up when it is told.
type lateLink struct {
	*fakeHub
	up chan struct{}
}

func (l *lateLink) Up() <-chan struct{} { return l.up }

// A configuration that comes while the link is down is in force once it is up. It was put in force
// at the next interruption only.
func TestRetuneWhileDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := openWith(t, t.TempDir(), "a.1")
		defer s.Close()
		link := &lateLink{&fakeHub{}, make(chan struct{})}
		f := NewForwarder(ForwarderOptions{Log: l, Uplink: link, Filters: []string{"a.>"}, Class: "c", Priority: 1})
		link.f = f
		stop := start(t, f)
		synctest.Wait() // until it waits for the link
		f.Retune(Tuning{Priority: 3})
		close(link.up)
		later(time.Minute)
		stop()
		if f.tuning != nil || f.o.Priority != 3 || l.Stats().Msgs != 0 {
			t.Errorf("priority %d, %d wait, %+v", f.o.Priority, l.Stats().Msgs, f.tuning)
		}
	})
}
