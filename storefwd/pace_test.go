package storefwd

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leafd/leafd/internal/msg"

	"github.com/leafd/leafd/internal/testkit"
)

// paced runs forwarders in a bubble, each on a log of n messages of its class, for as
// long as fn takes.
func paced(t *testing.T, n int, h *fakeHub, fn func(s *Store), o ...ForwarderOptions) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(t.TempDir(), Options{Node: "n", Clock: SystemClock("always")})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ctx, cancel := context.WithCancel(t.Context())
		var all []*Forwarder
		for i, o := range o {
			o.Class, o.Uplink, o.Filters = fmt.Sprint("c", i), h, []string{fmt.Sprint("a", i, ".>")}
			if o.Log, err = s.Log("OUT/"+o.Class, Retention{Keep: UntilAcked}); err != nil {
				t.Fatal(err)
			}
			for range n {
				if _, err := o.Log.Append(&msg.Msg{Subject: []byte(fmt.Sprint("a", i, ".x")), Data: make([]byte, 1000)}); err != nil {
					t.Fatal(err)
				}
			}
			all = append(all, NewForwarder(o))
		}
		h.all = all
		done := make(chan error, len(all))
		for _, f := range all {
			go func() { done <- f.Run(ctx) }()
		}
		fn(s)
		cancel()
		for range all {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// A rate holds over the whole drain.
func TestDrainRate(t *testing.T) {
	h := &fakeHub{}
	paced(t, 100, h, func(*Store) {
		<-time.After(5 * time.Second)
		if n := len(h.subjects()); n < 40 || n > 65 {
			t.Errorf("%d messages of about 1.1 KB in 5 s at 10 KB/s", n)
		}
	}, ForwarderOptions{Rate: 10_000})
}

// A new rate holds from when it comes: what one that was much too small has sent is not waited for.
func TestDrainRateChanged(t *testing.T) {
	h := &fakeHub{}
	paced(t, 100, h, func(*Store) {
		<-time.After(5 * time.Second)
		h.all[0].Retune(Tuning{Rate: 10_000})
		<-time.After(5 * time.Second)
		if n := len(h.subjects()); n < 40 || n > 65 {
			t.Errorf("%d messages of about 1.1 KB in 5 s at 10 KB/s", n)
		}
	}, ForwarderOptions{Rate: 1})
}

// What is over a day's bytes goes on the next day, and people are told.
func TestDailyBytes(t *testing.T) {
	h := &fakeHub{}
	paced(t, 100, h, func(s *Store) {
		<-time.After(time.Minute)
		first := len(h.subjects())
		if st := h.all[0].Stats(); first < 15 || first > 25 || st.State != Waiting || st.Detail == "" {
			t.Errorf("%d messages of about 1.1 KB of 20 KB; %s, %q", first, st.State, st.Detail)
		}
		<-time.After(24 * time.Hour)
		if n := len(h.subjects()); n < first+15 || n > first+25 {
			t.Errorf("%d messages on the second day", n-first)
		}
	}, ForwarderOptions{DailyBytes: 20_000})
}

// Nothing of a lower priority is sent while one that is higher drains; nobody else is held up.
// A crash forgets a part of what was sent today at most, also where nothing else is written; and that
// costs a few transactions a day.
func TestDailyBytesOutliveACrash(t *testing.T) {
	dir := t.TempDir()
	s, l := openWith(t, dir, "a.1")
	defer s.Close()
	f := NewForwarder(ForwarderOptions{Log: l, DailyBytes: 1600})
	for range 80 {
		f.spend(20)
		testkit.Eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return l.sent.Bytes-l.sentSaid.Bytes < 100 }, "it is saved")
	}
	folds := s.Stats().Folds
	if folds > saveSent+1 {
		t.Errorf("%d transactions", folds)
	}
	again, err := Open(killed(t, dir), Options{Node: "n"})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	held, err := again.Log("OUT/c", Retention{Keep: UntilAcked})
	if err != nil {
		t.Fatal(err)
	}
	if got := held.sent.Bytes; got <= 1500 {
		t.Errorf("%d of 1600 bytes are remembered", got)
	}
}

// Nor more of the next day, where days are counted by how long they last.
func TestDailyBytesOfTheNextDayOutliveACrash(t *testing.T) {
	s, l := openWith(t, t.TempDir(), "a.1")
	defer s.Close()
	f := NewForwarder(ForwarderOptions{Log: l, DailyBytes: 1600})
	saved := func(from, to int64) func() bool {
		return func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return from < l.sentSaid.Bytes && l.sentSaid.Bytes <= to
		}
	}
	f.spend(1600)
	testkit.Eventually(t, saved(1500, 1600), "the first day is saved")
	s.mu.Lock()
	l.sent.turn(time.Time{}, false, wholeDay, &f.pacer.turned)
	s.mu.Unlock()
	f.spend(800)
	testkit.Eventually(t, saved(700, 800), "the second day is saved")
}

func TestPriority(t *testing.T) {
	for _, c := range []struct{ mine, other, sent int }{{1, 5, 0}, {5, 5, 1000}, {5, 1, 1000}} {
		h := &fakeHub{}
		synctest.Test(t, func(t *testing.T) {
			s, err := Open(t.TempDir(), Options{Node: "n", Clock: SystemClock("always")})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			log := func(name string) *Log {
				l, err := s.Log(name, Retention{Keep: UntilAcked})
				if err != nil {
					t.Fatal(err)
				}
				for range 1000 {
					put(t, l, "a.x")
				}
				return l
			}
			other := NewForwarder(ForwarderOptions{Log: log("OUT/other"), Uplink: h, Class: "other", Priority: c.other})
			s.busy(other, true)
			f := NewForwarder(ForwarderOptions{Log: log("OUT/mine"), Uplink: h, Filters: []string{"a.>"}, Class: "mine", Priority: c.mine})
			h.f = f
			stop := start(t, f)
			defer stop()
			later(time.Minute)
			if n := len(h.subjects()); n != c.sent {
				t.Errorf("%d messages of priority %d sent while one of priority %d drains", n, c.mine, c.other)
			}
			s.busy(other, false)
			later(time.Minute)
			if n := len(h.subjects()); n != 1000 {
				t.Errorf("%d messages sent afterwards", n)
			}
		})
	}
}

// Who drains says so, until all is sent.
func TestPriorityIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := openWith(t, t.TempDir())
		defer s.Close()
		h := &fakeHub{late: make(chan func(), 1<<16)}
		f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c", Priority: 5})
		h.f = f
		low := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Class: "low"})
		for range 1000 {
			put(t, l, "a.x")
		}
		stop := start(t, f)
		defer stop()
		later(time.Second) // a window is on its way, and not acknowledged
		if s.busy(low, false) == nil {
			t.Error("it drains and does not say so")
		}
		for len(h.subjects()) < 1000 || len(h.late) > 0 {
			(<-h.late)()
			synctest.Wait()
		}
		later(time.Second)
		if s.busy(low, false) != nil {
			t.Error("all is sent, and it still says that it drains")
		}
	})
}

// A backlog whose rest expires is over: the log is live, and one of a lower priority drains.
func TestExpiredBacklogIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(t.TempDir(), Options{Node: "n", Clock: SystemClock("always")})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		h := &fakeHub{}
		for i, header := range []string{"NATS/1.0\r\nNats-TTL: 1s\r\n\r\n", ""} {
			class := fmt.Sprint("c", i)
			l, err := s.Log("OUT/"+class, Retention{Keep: UntilAcked})
			if err != nil {
				t.Fatal(err)
			}
			for range 1000 {
				if _, err := l.Append(&msg.Msg{Subject: []byte("a" + class), Header: []byte(header)}); err != nil {
					t.Fatal(err)
				}
			}
			h.all = append(h.all, NewForwarder(ForwarderOptions{Log: l, Uplink: h, Class: class, Filters: []string{"a" + class}, Priority: 5 - i}))
		}
		<-time.After(time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 2)
		for _, f := range h.all {
			go func() { done <- f.Run(ctx) }()
			<-time.After(time.Minute)
		}
		if high := h.all[0].l.Stats(); high.Lost["expired"] != 1000 || !high.Live {
			t.Errorf("the higher priority: %+v", high)
		}
		if n := len(h.subjects()); n != 1000 {
			t.Errorf("%d of the lower priority came", n)
		}
		cancel()
		for range h.all {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// A day ends once: not again when the clock is set back, and after 24 hours where
// there is no clock.
func TestDayTurns(t *testing.T) {
	at := time.Date(2026, 5, 4, 23, 0, 0, 0, time.UTC)
	var turned time.Duration
	d := day{}
	d.turn(at, true, 0, &turned)
	for i, c := range []struct {
		now   time.Time
		alive time.Duration
		kept  bool
		left  time.Duration
	}{
		{at, 0, true, time.Hour},
		{at.Add(time.Hour), time.Hour, false, 24 * time.Hour},
		{at, 2 * time.Hour, true, 25 * time.Hour},                // set back
		{at.Add(time.Hour), 3 * time.Hour, true, 24 * time.Hour}, // the same midnight again
		{at.AddDate(-1, 0, 0), 2 * time.Hour, true, time.Hour},   // set back far: it was wrong before
		{at.Add(time.Hour), 2 * time.Hour, false, 24 * time.Hour},
		{time.Unix(100, 0), 3 * time.Hour, true, 23 * time.Hour},                        // not set
		{time.Unix(100, 0), 27 * time.Hour, false, 24 * time.Hour},                      // not set for a day
		{at.Add(30 * time.Minute), 28 * time.Hour, true, 24*time.Hour + 30*time.Minute}, // still the day it was before
	} {
		d.Bytes = 7
		if left := d.turn(c.now, c.now.Year() > 2000, c.alive, &turned); d.Bytes == 7 != c.kept || left != c.left {
			t.Errorf("%d: %d bytes, %s left; want kept %v, %s", i, d.Bytes, left, c.kept, c.left)
		}
	}
}

// Where nobody ever tells the time a day ends after 24 hours of all runs together. A run that
// was shorter did not count, and daily_bytes were used up for ever.
func TestDayWithoutClock(t *testing.T) {
	d := day{Bytes: 1000}
	for range 100 {
		var turned time.Duration
		for alive := time.Duration(0); alive < 20*time.Hour; alive += time.Minute {
			d.turn(time.Unix(0, 0), false, alive, &turned)
		}
	}
	if d.Bytes != 0 {
		t.Errorf("after 2000 hours %d bytes are still counted for today", d.Bytes)
	}
}

// A higher priority whose backlog cannot be read now holds up nobody: what the lower one has in
// RAM goes meanwhile.
func TestUnreadableHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, gone := openGone(t)
		defer s.Close()
		h := &fakeHub{}
		var logs []*Log
		for i := range 2 {
			l, err := s.Log(fmt.Sprint("OUT/c", i), Retention{Keep: UntilAcked})
			if err != nil {
				t.Fatal(err)
			}
			logs = append(logs, l)
			h.all = append(h.all, NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{fmt.Sprint("a", i, ".>")}, Class: fmt.Sprint("c", i), Priority: 2 - i}))
		}
		put(t, logs[0], "a0.x")
		waitSafe(t, s)
		onCommitter(s, func() {
			if !s.seal() || s.fold() != nil {
				t.Error("it is not in store.db")
			}
			gone.Store(true)
			if s.fold() == nil {
				t.Error("store.db can still be written")
			}
		})
		put(t, logs[1], "a1.x")
		waitSafe(t, s) // the journal works
		for _, f := range h.all {
			defer start(t, f)()
		}
		later(time.Minute)
		if high, low := logs[0].Stats().Msgs, logs[1].Stats().Msgs; high != 1 || low != 0 {
			t.Errorf("%d of the higher priority wait, %d of the lower one: %+v", high, low, h.all[1].Stats())
		}
		gone.Store(false)
		later(time.Minute)
		if high := logs[0].Stats().Msgs; high != 0 {
			t.Errorf("%d of the higher priority wait once it can be read: %+v", high, h.all[0].Stats())
		}
	})
}
