package storefwd

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

func TestFull(t *testing.T) {
	for _, c := range []struct {
		full    Full
		refused bool
		left    []uint64
		why     Loss
	}{
		{DropOldest, false, []uint64{2, 3, 4}, LostOldest},
		{DropNewest, false, []uint64{1, 2, 3}, LostNewest},
		{Refuse, true, []uint64{1, 2, 3}, LostRefused},
	} {
		s, l, cur := tailLog(t, t.TempDir(), Retention{MaxMsgs: 3, Full: c.full})
		appendN(t, l, 3)
		seq, err := l.Append(&msg.Msg{Subject: []byte("a")})
		if errors.Is(err, ErrFull) != c.refused || err == nil && seq != 4 {
			t.Errorf("%v: seq %d, %v", c.full, seq, err)
		}
		if st := l.Stats(); st.Lost[c.why.String()] != 1 || st.Msgs != 3 {
			t.Errorf("%v: %+v", c.full, st)
		}
		wantSeqs(t, take(t, cur, 3), c.left[0], c.left[2])
		for _, seq := range c.left {
			cur.Ack(seq)
		}
		appendN(t, l, 1) // there is room again, and the place of what was dropped stays empty
		if got := take(t, cur, 1); got[0] < 4 || c.full == DropNewest && got[0] != 5 {
			t.Errorf("%v: the next is %v", c.full, got)
		}
		s.Close()
	}
}

// What a full log turned away is no backlog: a drain that has come to its end is live.
func TestTurnedAwayIsNoBacklog(t *testing.T) {
	s, l, c := tailLog(t, t.TempDir(), Retention{MaxMsgs: 3, Full: DropNewest})
	defer s.Close()
	appendN(t, l, 10)
	if !c.more() || c.backlog(3) || !c.backlog(2) {
		t.Errorf("%d are left, want 3", c.left(l.end()))
	}
	take(t, c, 3)
	if c.more() {
		t.Error("there is more, though all were handed out")
	}
}

// Nobody hurries a log with an Interval, and it makes nobody wait.
func TestInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l, _ := tailLog(t, t.TempDir(), Retention{Interval: 10 * time.Second})
		defer s.Close()
		plain, err := s.Log("OUT/plain", Retention{Keep: UntilAcked})
		if err != nil {
			t.Fatal(err)
		}
		took := func(logs ...*Log) time.Duration {
			start := time.Now()
			for _, l := range logs {
				appendN(t, l, 1)
			}
			waitSafe(t, s)
			return time.Since(start)
		}
		if d := took(l); d != 10*time.Second {
			t.Errorf("the barrier of a log with an interval took %v", d)
		}
		if d := took(plain); d != 0 {
			t.Errorf("another log's took %v", d)
		}
		time.Sleep(time.Second)
		if d := took(l, plain); d != 0 {
			t.Errorf("another log's, behind one with an interval, took %v", d)
		}
		time.Sleep(time.Second)
		slow := make(chan time.Time, 1)
		appendN(t, l, 1)
		start := time.Now()
		s.Barrier(func(error) { slow <- time.Now() })
		time.Sleep(3 * time.Second)
		if d := took(plain); d != 0 {
			t.Errorf("another log's, while a barrier waits for an interval, took %v", d)
		}
		if d := (<-slow).Sub(start); d != 3*time.Second {
			t.Errorf("what was written with another log's was safe after %v", d)
		}
		time.Sleep(time.Second)
		before := s.Stats().Commits
		for range 50 {
			appendN(t, l, 1)
			s.Barrier(func(error) {})
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(20 * time.Second)
		if n := s.Stats().Commits - before; n != 1 {
			t.Errorf("5 s of records with an interval of 10 s were written in %d commits", n)
		}
	})
}
