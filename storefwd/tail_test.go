package storefwd

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// tailLog is a log with a tail and its cursor, in a store that folds only when told.
func tailLog(t *testing.T, dir string, r Retention) (*Store, *Log, *Cursor) {
	t.Helper()
	return tailLogIn(t, dir, r, CursorConfig{Ahead: true, MaxPending: 1000})
}

// tailLogIn has a cursor of its own order.
func tailLogIn(t *testing.T, dir string, r Retention, order CursorConfig) (*Store, *Log, *Cursor) {
	t.Helper()
	return tailLogOf(t, dir, Options{Node: "n", CommitInterval: time.Hour, FoldAfter: time.Hour}, r, order)
}

// tailLogOf is in a store with these options.
func tailLogOf(t *testing.T, dir string, o Options, r Retention, order CursorConfig) (*Store, *Log, *Cursor) {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	r.Keep = UntilAcked
	l, err := s.Log("OUT/a", r)
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Cursor("hub", order)
	if err != nil {
		t.Fatal(err)
	}
	return s, l, c
}

func appendN(t *testing.T, l *Log, n int) {
	t.Helper()
	for i := range n {
		if _, err := l.Append(&msg.Msg{Subject: []byte("a"), Data: fmt.Append(nil, i)}); err != nil {
			t.Fatal(err)
		}
	}
}

func waitSafe(t *testing.T, s *Store) {
	t.Helper()
	done := make(chan error, 1)
	s.Barrier(func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// take hands out n records and returns their sequences.
func take(t *testing.T, c *Cursor, n int) (seqs []uint64) {
	t.Helper()
	for len(seqs) < n {
		recs, err := c.Next(t.Context(), make([]Record, 0, n-len(seqs)))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range recs {
			seqs = append(seqs, r.Seq)
		}
	}
	return seqs
}

func ackAll(t *testing.T, c *Cursor, n int) {
	t.Helper()
	for _, seq := range take(t, c, n) {
		c.Ack(seq)
	}
}

func wantSeqs(t *testing.T, got []uint64, from, to uint64) {
	t.Helper()
	var want []uint64
	for seq := from; seq <= to; seq++ {
		want = append(want, seq)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("handed out %v, want %d to %d", got, from, to)
	}
}

func TestRewindWithoutDisk(t *testing.T) {
	s, l, c := tailLog(t, t.TempDir(), Retention{Grace: time.Minute, GraceBytes: 1 << 20})
	defer s.Close()
	l.setLive(true, time.Hour)
	appendN(t, l, 10)
	ackAll(t, c, 8)
	if st := l.Stats(); st.Msgs != 2 || st.Acked != 8 {
		t.Fatalf("%+v", st)
	}
	if st := s.Stats(); st.JournalBytes+st.BoltBytes != 0 {
		t.Fatalf("%d bytes written online", st.JournalBytes+st.BoltBytes)
	}
	if missing, _ := c.rewind(3); missing.n != 0 {
		t.Fatalf("missing %+v", missing)
	}
	if st := l.Stats(); st.Msgs != 7 || st.Acked != 3 {
		t.Fatalf("%+v", st)
	}
	wantSeqs(t, take(t, c, 7), 4, 10)
}

// What was acknowledged before it was written, between records that were folded.
func TestRewindPutsBuriedRecordsOnDisk(t *testing.T) {
	s, l, c := tailLog(t, t.TempDir(), Retention{Grace: time.Minute, GraceBytes: 1 << 20})
	defer s.Close()
	l.setLive(true, time.Hour)
	appendN(t, l, 5)
	ackAll(t, c, 5)
	l.setLive(false, 0)
	appendN(t, l, 1)
	waitSafe(t, s)
	s.mu.Lock()
	s.foldNow()
	s.mu.Unlock()
	if missing, _ := c.rewind(2); missing.n != 0 {
		t.Fatalf("missing %+v", missing)
	}
	wantSeqs(t, take(t, c, 4), 3, 6)
}

func TestTailIsBounded(t *testing.T) {
	s, l, c := tailLog(t, t.TempDir(), Retention{Grace: time.Hour, GraceBytes: 64 * 100})
	defer s.Close()
	appendN(t, l, 1000)
	ackAll(t, c, 1000)
	if l.tail.bytes > 6400 || l.tail.bytes < 5000 {
		t.Fatalf("the tail holds %d bytes", l.tail.bytes)
	}
	missing, _ := c.rewind(500)
	if to := missing.top(); len(missing.s) != 1 || missing.s[0].From != 501 || to < 800 || to > 950 {
		t.Fatalf("missing %+v", missing)
	}
	wantSeqs(t, take(t, c, int(1000-missing.top())), missing.top()+1, 1000)
}

func TestTailExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l, c := tailLog(t, t.TempDir(), Retention{Grace: time.Minute, GraceBytes: 1 << 20})
		defer s.Close()
		appendN(t, l, 3)
		waitSafe(t, s)
		ackAll(t, c, 1)
		time.Sleep(30 * time.Second)
		ackAll(t, c, 1)
		time.Sleep(45 * time.Second)
		synctest.Wait()
		if missing, _ := c.rewind(0); !slices.Equal(missing.s, []span{{1, 1}}) {
			t.Fatalf("missing %+v", missing)
		}
		wantSeqs(t, take(t, c, 2), 2, 3)
	})
}

func TestTailOnDiskSurvives(t *testing.T) {
	dir := t.TempDir()
	r := Retention{Grace: time.Minute, GraceBytes: 1 << 20, GraceOnDisk: true}
	s, l, c := tailLog(t, dir, r)
	l.setLive(true, time.Hour)
	appendN(t, l, 5)
	epoch := s.Epoch()
	ackAll(t, c, 5)
	s.Close()
	s, l, c = tailLog(t, dir, r)
	defer s.Close()
	appendN(t, l, 1)
	if missing, _ := c.rewind(2); missing.n != 0 {
		t.Fatalf("missing %+v", missing)
	}
	recs, err := c.Next(t.Context(), make([]Record, 0, 1))
	if err != nil || recs[0].Seq != 3 || recs[0].Epoch != epoch {
		t.Fatalf("%+v %v", recs, err)
	}
	wantSeqs(t, take(t, c, 3), 4, 6)
}

// What the hub acknowledged online is in RAM alone. Once it is lost it may come back with less, and this run end before:
// with a hub that writes behind its acknowledgements that must not take long.
func TestTailOfALostHub(t *testing.T) {
	r := Retention{Grace: time.Minute, GraceBytes: 1 << 20}
	begin := func(t *testing.T, dir string) (*Store, *Log) {
		s, l, c := tailLog(t, dir, r)
		l.setLive(true, time.Hour)
		appendN(t, l, 5)
		ackAll(t, c, 5)
		return s, l
	}
	end := func(t *testing.T, dir string, want uint64) {
		t.Helper()
		s, _, c := tailLog(t, dir, r)
		defer s.Close()
		missing, err := c.rewind(2)
		if err != nil || missing.n != 3-want {
			t.Fatalf("missing %+v %v", missing, err)
		}
		if want > 0 {
			wantSeqs(t, take(t, c, int(want)), 3, 5)
		}
	}
	t.Run("stopped", func(t *testing.T) {
		dir := t.TempDir()
		s, l := begin(t, dir)
		l.setAway(true, false)
		s.Close()
		end(t, dir, 3)
	})
	t.Run("killed, and the hub writes behind", func(t *testing.T) {
		dir := t.TempDir()
		s, l := begin(t, dir)
		defer s.Close()
		l.setAway(true, true)
		testkit.Eventually(t, func() bool { return s.Stats().Folds == 1 }, "the tail is on the disk")
		end(t, killed(t, dir), 3)
	})
	t.Run("stopped with the hub there", func(t *testing.T) {
		dir := t.TempDir()
		s, l := begin(t, dir)
		l.setAway(true, false)
		l.setAway(false, false)
		appendN(t, l, 1)
		s.Close()
		end(t, dir, 0)
	})
	t.Run("written, and stopped with the hub there", func(t *testing.T) {
		dir := t.TempDir()
		s, l, c := tailLog(t, dir, r)
		appendN(t, l, 5)
		waitSafe(t, s)
		ackAll(t, c, 5)
		s.Close()
		end(t, dir, 3)
	})
}

// A tail on the disk with what was in RAM alone in the middle: that is missing after a restart.
func TestTailHasHoles(t *testing.T) {
	dir := t.TempDir()
	r := Retention{Grace: time.Minute, GraceBytes: 1 << 20}
	s, l, c := tailLog(t, dir, r)
	appendN(t, l, 5)
	waitSafe(t, s)
	s.mu.Lock()
	s.foldNow()
	s.mu.Unlock()
	testkit.Eventually(t, func() bool { return s.Stats().Folds == 1 }, "the first are in the engine")
	l.setLive(true, time.Hour)
	appendN(t, l, 5)
	ackAll(t, c, 10)
	s.Close()
	for range 2 { // it is remembered over a second one
		s, _, _ = tailLog(t, dir, r)
		s.Close()
	}
	s, _, c = tailLog(t, dir, r)
	defer s.Close()
	missing, err := c.rewind(2)
	if err != nil || !slices.Equal(missing.s, []span{{6, 10}}) {
		t.Fatalf("missing %+v %v", missing, err)
	}
	wantSeqs(t, take(t, c, 3), 3, 5)
	if missing, err = c.rewind(2); err != nil || missing.n != 0 {
		t.Fatalf("missing again: %+v %v", missing, err)
	}
}

func TestTailNeedsAcknowledgements(t *testing.T) {
	if err := (Retention{Grace: time.Minute}).check(); err == nil || !strings.Contains(err.Error(), "acknowledgement") {
		t.Fatal(err)
	}
}

// What an outage left in the journal is acknowledged, and nothing else is to be written. A crash would bring it
// back, and the hub would have to be asked for it among all that it took since, and of what others took from there.
// So that is saved within a minute, and stays where a hub that goes back finds it until the grace is over. What was
// never written is not for that, either.
func TestAcknowledgedBacklogIsSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		ret := Retention{Grace: 5 * time.Minute, GraceBytes: 1 << 20}
		s, l, c := tailLogOf(t, dir, Options{Node: "n", CommitInterval: time.Hour}, ret, CursorConfig{Ahead: true, MaxPending: 1000})
		defer s.Close()
		l.setLive(true, time.Hour)
		appendN(t, l, 5)
		ackAll(t, c, 5)
		l.setLive(false, 0)
		appendN(t, l, 20)
		waitSafe(t, s)
		l.setLive(true, time.Hour)
		ackAll(t, c, 20)
		appendN(t, l, 5)
		ackAll(t, c, 5)
		for i, want := range []struct {
			msgs  int64
			tail  []uint64
			holes uint64
		}{{20, nil, 0}, {0, []uint64{6, 25}, 5}, {0, nil, 0}} {
			again, held, hub := tailLog(t, killed(t, dir), ret)
			if st := held.Stats(); st.Msgs != want.msgs {
				t.Errorf("look %d: a crash brings back %d, want %d", i, st.Msgs, want.msgs)
			}
			if missing, err := hub.rewind(5); want.tail != nil && (err != nil || missing.n != want.holes) {
				t.Errorf("look %d: %v, missing %+v", i, err, missing)
			}
			if want.tail != nil {
				wantSeqs(t, take(t, hub, 20), want.tail[0], want.tail[1])
			}
			if err := again.Close(); err != nil {
				t.Error(err)
			}
			time.Sleep([]time.Duration{70 * time.Second, 6 * time.Minute, 0}[i])
		}
		if folds := s.Stats().Folds; folds != 2 {
			t.Errorf("%d folds", folds)
		}
		time.Sleep(time.Hour)
		if folds := s.Stats().Folds; folds != 2 {
			t.Errorf("%d folds in the end", folds)
		}
	})
}

// Where much is acknowledged since, it is saved earlier, and stays where a hub that goes back finds it.
func TestAcknowledgedBacklogIsSavedInTime(t *testing.T) {
	ret := Retention{Grace: time.Hour, GraceBytes: 64 << 20}
	dir := t.TempDir()
	s, l, c := tailLog(t, dir, ret)
	defer s.Close()
	appendN(t, l, 20)
	waitSafe(t, s)
	ackAll(t, c, 20)
	l.setLive(true, time.Hour)
	for range saveEvery / 512 {
		appendN(t, l, 512)
		ackAll(t, c, 512)
	}
	testkit.Eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return l.stated > 20 }, "it is saved")
	s, l, c = tailLog(t, killed(t, dir), ret)
	defer s.Close()
	if st := l.Stats(); st.Msgs != 0 {
		t.Errorf("a crash brings back %d", st.Msgs)
	}
	if missing, err := c.rewind(0); err != nil || missing.n > 0 && missing.s[0].From <= 20 {
		t.Errorf("%v, missing %+v", err, missing)
	}
	wantSeqs(t, take(t, c, 20), 1, 20)
}
