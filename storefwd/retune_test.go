package storefwd

import (
	"context"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/msg"
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
	put := func(subject string) {
		t.Helper()
		if _, err := l.Append(&msg.Msg{Subject: []byte(subject)}); err != nil {
			t.Fatal(err)
		}
	}
	h := &fakeHub{unacked: func(subject string) bool { return subject == "a.2" }}
	f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c", RetryMin: 1, RetryMax: 1, AckTimeout: time.Hour})
	h.f = f
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	put("a.1")
	put("a.2")
	testkit.Eventually(t, func() bool { return len(h.subjects()) == 2 }, "both sent, and one acknowledged")
	f.Retune(Tuning{Stream: "S", Window: 20, Rate: 4000, DailyBytes: 100000, AckTimeout: 2 * time.Hour})
	testkit.Eventually(t, func() bool { return l.Stats().Msgs == 0 }, "the second found on the hub")
	f.Retune(Tuning{Priority: 3})
	put("a.3")
	testkit.Eventually(t, func() bool { return l.Stats().Msgs == 0 && len(h.subjects()) == 3 }, "the third sent")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	wantSubjects(t, h, "a.1", "a.2", "a.3")
	if f.o.Priority != 3 || f.o.Rate != 0 || f.o.Window != 8192 || f.flow.most.msgs != 8192 || f.c.cfg.Stride != 1<<20 {
		t.Errorf("%+v %+v", f.o, f.flow)
	}
}
