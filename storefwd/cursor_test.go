package storefwd

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestResetKnowsWhatWasPassedOver: what was acknowledged before it was handed out was
// passed over and forgotten while an earlier record was pending, and a reset handed it out.
func TestResetKnowsWhatWasPassedOver(t *testing.T) {
	s, l, c := tailLog(t, t.TempDir(), Retention{})
	defer s.Close()
	appendN(t, l, 6)
	for _, seq := range []uint64{3, 4} {
		c.Ack(seq)
	}
	for _, want := range [][]uint64{{1, 2, 5, 6}, {1, 2, 5, 6}} {
		var got []uint64
		for len(got) < len(want) {
			recs, err := c.Next(t.Context(), make([]Record, 0, 2))
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range recs {
				got = append(got, r.Seq)
			}
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("handed out %v, want %v", got, want)
			}
		}
		c.reset()
	}
}

// What a bound drops while it is on its way may be acknowledged all the same, and out of turn. It
// left the accounts once: a log that took it out twice had room for more than its bound from then on.
func TestAcknowledgedAfterADrop(t *testing.T) {
	s, l, c := tailLog(t, t.TempDir(), Retention{MaxMsgs: 10})
	defer s.Close()
	appendN(t, l, 10)
	take(t, c, 10)
	appendN(t, l, 5)
	for _, seq := range []uint64{4, 2, 8} {
		c.Ack(seq)
	}
	if n := l.Stats().Msgs; n != 9 {
		t.Errorf("%d messages, want 9: of 15 five were dropped and one was acknowledged", n)
	}
}

// What a full log drops on its way fills the line all the same: it made room in the window, and more
// and more was sent into a narrow line, 14 MB in 40 s, in which what was asked waited as well.
func TestDroppedOnItsWayIsPending(t *testing.T) {
	s, l, c := tailLogIn(t, t.TempDir(), Retention{MaxMsgs: 10, GapSubject: "a.gap"}, CursorConfig{Ahead: true, MaxPending: 8})
	defer s.Close()
	appendN(t, l, 10)
	take(t, c, 8)
	appendN(t, l, 10) // 1 to 10 are dropped
	room := func(want int) {
		t.Helper()
		if w, err := c.want(); err != nil || w.room != want {
			t.Errorf("room for %d more, want %d; %v", w.room, want, err)
		}
	}
	room(0)
	if msgs, bytes := c.waits(); msgs != 10 || bytes != uint64(l.Stats().Bytes) {
		t.Errorf("%d messages and %d bytes wait, of %+v", msgs, bytes, l.Stats())
	}
	for seq := uint64(1); seq <= 4; seq++ {
		if a := c.ack(seq, seq); !a.known || !a.inOrder {
			t.Errorf("seq %d: %+v", seq, a)
		}
	}
	c.lose(5, LostRejected)
	if a := c.ack(1, 1); a.known { // again
		t.Errorf("%+v", a)
	}
	room(5)
	if st := l.Stats(); st.Msgs != 10 || st.Acked != 4 || st.Lost["oldest_dropped"] != 6 || st.Lost["rejected_by_hub"] != 0 {
		t.Errorf("%+v", st)
	}
	if n := l.inDoubt(LostOldest); n != 3 {
		t.Errorf("%d are in doubt, want 6, 7 and 8", n)
	}
	c.reset()
	room(8)
	if c.bytes != 0 || c.gone != 0 || c.sent.n != 0 {
		t.Errorf("after a reset %d bytes are on their way, %d of them dropped, and %d may be at the hub", c.bytes, c.gone, c.sent.n)
	}
	if seqs := take(t, c, 8); seqs[0] != 11 {
		t.Errorf("%v", seqs)
	}
}

// A hub that answers nothing has no more on its way than a window, however much is dropped meanwhile.
func TestWindowOfAFullLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(t.TempDir(), Options{Node: "n"})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		l, err := s.Log("OUT/c", Retention{Keep: UntilAcked, MaxMsgs: 100})
		if err != nil {
			t.Fatal(err)
		}
		h := &fakeHub{late: make(chan func(), 1<<12)}
		f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c"})
		h.f = f
		put(t, l, "a.x")
		defer start(t, f)()
		later(time.Millisecond)
		for range 1000 {
			put(t, l, "a.x")
			later(time.Millisecond)
			if n := len(h.late); n > 0 && len(h.subjects()) == 1 {
				(<-h.late)() // the first goes alone
			}
		}
		if n := len(h.late); n != startWindow {
			t.Errorf("%d are on their way, want %d", n, startWindow)
		}
		for len(h.late) > 0 {
			(<-h.late)()
			synctest.Wait()
		}
		if st := l.Stats(); st.Msgs != 0 || st.Acked+st.Lost["oldest_dropped"] != 1001 || int(st.Acked) != len(h.subjects()) {
			t.Errorf("%+v, %d at the hub", st, len(h.subjects()))
		}
	})
}
