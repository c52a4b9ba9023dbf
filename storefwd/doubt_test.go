package storefwd

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

// What a full log drops while it is on its way counts as lost until the hub turns out to have it,
// also over a restart.
func TestDroppedAndAtTheHub(t *testing.T) {
	dir, ret := t.TempDir(), Retention{MaxMsgs: 10, GapSubject: "a.gap"}
	s, l, c := tailLog(t, dir, ret)
	appendN(t, l, 10)
	take(t, c, 10)
	c.reset() // the link broke
	appendN(t, l, 8)
	lost := func(counted, inDoubt, declared uint64) {
		t.Helper()
		if st := l.Stats(); st.Lost["oldest_dropped"] != counted || st.InDoubt["oldest_dropped"] != inDoubt {
			t.Errorf("%v counted as lost, %v of them in doubt, want %d and %d", st.Lost, st.InDoubt, counted, inDoubt)
		}
		if n := l.gaps["oldest_dropped"].Count; n != declared {
			t.Errorf("%d to be declared, want %d", n, declared)
		}
	}
	lost(8, 8, 8)
	c.Ack(1)
	lost(7, 7, 7)
	c.lose(2, LostRejected) // the hub did not take it
	lost(7, 6, 7)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, l, c = tailLog(t, dir, ret)
	defer s.Close()
	if floor, doubt := c.ambiguous(); floor != 2 || doubt == 0 {
		t.Errorf("the hub is asked for what is above %d, %v; want 2", floor, doubt)
	}
	lost(6, 6, 7) // seq 2 was counted by the run before
	for _, seq := range []uint64{3, 4} {
		c.Ack(seq)
	}
	lost(4, 4, 5)
	l.settleDoubt(false)
	c.Ack(5) // it came in late
	lost(3, 3, 4)
}

// A loss is counted as surely lost by one run, whatever comes after: by the one that dropped it if nothing
// was on its way, else by the one that knows that the hub has not got it. After a kill 2,000 were counted
// again, and once more after the next.
func TestLossIsCountedByOneRun(t *testing.T) {
	const dropped = 8
	for _, full := range []Full{DropOldest, DropNewest} {
		synctest.Test(t, func(t *testing.T) {
			dir, ret := t.TempDir(), Retention{MaxMsgs: 10, Full: full, GapSubject: "a.gap"}
			why, sure := map[Full]string{DropOldest: "oldest_dropped", DropNewest: "newest_dropped"}[full], uint64(0)
			run := func(do func(s *Store, l *Log, c *Cursor)) {
				s, l, c := tailLog(t, dir, ret)
				defer s.Close()
				do(s, l, c)
				st := l.Stats()
				sure += st.Lost[why] - st.InDoubt[why] - st.Earlier[why]
				dir = killed(t, dir)
			}
			run(func(s *Store, l *Log, c *Cursor) {
				appendN(t, l, 10+dropped)
				waitSafe(t, s)
			})
			run(func(s *Store, l *Log, c *Cursor) {
				appendN(t, l, 1) // one more
				waitSafe(t, s)
				later(2 * time.Hour) // what is in doubt is in the engine's state
			})
			run(func(s *Store, l *Log, c *Cursor) {
				l.settleDoubt(false)
				l.setLive(true, 0)
				later(time.Minute) // it is declared
				waitSafe(t, s)
			})
			run(func(s *Store, l *Log, c *Cursor) { l.settleDoubt(false) })
			if sure != dropped+1 {
				t.Errorf("%v: %d are lost, and counted %d times", full, dropped+1, sure)
			}
		})
	}
}

// killed is a copy of a store's files as a kill would leave them.
func killed(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "s")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// A crash makes the log forget that the newest were acknowledged. There is room for what waited
// all the same, until the hub has said what it has.
func TestBoundAfterACrash(t *testing.T) {
	dir, ret := t.TempDir(), Retention{MaxMsgs: 20}
	order := CursorConfig{Ahead: true, LiveShare: 100, Backlog: 1}
	s, l, c := tailLogIn(t, dir, ret, order)
	appendN(t, l, 10) // these wait
	take(t, c, 1)
	for range 3 {
		appendN(t, l, 10)
		waitSafe(t, s)
		for _, seq := range take(t, c, 10) {
			c.Ack(seq)
		}
	}
	dir = killed(t, dir)
	s.Close()
	s, l, c = tailLogIn(t, dir, ret, order)
	defer s.Close()
	appendN(t, l, 5)
	if st := l.Stats(); st.Msgs != 45 || len(st.Lost) > 0 {
		t.Errorf("%+v after the crash, want all 40 and the 5 that came", st)
	}
	for seq := range uint64(30) {
		c.Ack(11 + seq) // found at the hub
	}
	l.settleDoubt(false)
	if st := l.Stats(); st.Msgs != 15 || st.First != 1 || len(st.Lost) > 0 {
		t.Errorf("%+v in the end, want the 10 that waited and the 5 that came", st)
	}
}

// A marker is handed out when it is on the disk; then a crash does not have its losses counted
// again, nor what was declared sent after all.
func TestDeclaredOnce(t *testing.T) {
	dir, ret := t.TempDir(), Retention{MaxMsgs: 10, GapSubject: "a.gap"}
	s, l, c := tailLog(t, dir, ret)
	for range 5 {
		appendN(t, l, 5)
		waitSafe(t, s)
	}
	l.setLive(true, time.Hour)
	seqs := take(t, c, 11) // the last is the marker
	for _, seq := range seqs {
		c.Ack(seq)
	}
	if n := len(l.gaps); n > 0 || seqs[10] != 26 {
		t.Fatalf("handed out %v, %v to be declared", seqs, l.gaps)
	}
	dir = killed(t, dir)
	s.Close()
	s, l, c = tailLog(t, dir, ret)
	defer s.Close()
	for _, seq := range seqs {
		c.Ack(seq)
	}
	l.settleDoubt(false)
	testkit.Eventually(t, func() bool { return l.Stats().Msgs == 0 }, "what was dropped is not sent: %+v", l.Stats())
	if len(l.gaps) > 0 || len(l.Stats().Lost) > 0 {
		t.Errorf("to be declared again: %v %v", l.gaps, l.Stats().Lost)
	}
}

// What is lost before it was ever written is known after a crash, once its publisher was
// answered: a full log's newest, a burst of more than the bound, what the hub refuses.
func TestLossOutlivesACrash(t *testing.T) {
	for _, full := range []Full{DropNewest, DropOldest} {
		dir, ret := t.TempDir(), Retention{MaxMsgs: 10, Full: full, GapSubject: "a.gap"}
		why := map[Full]Loss{DropNewest: LostNewest, DropOldest: LostOldest}[full]
		s, l, _ := tailLog(t, dir, ret)
		lost := func(want uint64) {
			t.Helper()
			if g := l.gaps[why.String()]; g.Count != want || g.From > g.To || l.Stats().Msgs != 10 {
				t.Errorf("%v: %+v to be declared, want %d; %+v", full, l.gaps, want, l.Stats())
			}
		}
		again := func() {
			t.Helper()
			waitSafe(t, s)
			dir = killed(t, dir)
			s.Close()
			s, l, _ = tailLog(t, dir, ret)
		}
		appendN(t, l, 25)
		lost(15)
		again()
		lost(15)
		appendN(t, l, 5)
		foldOnly(s) // the engine knows it, and the journal still has it
		lost(20)
		again()
		lost(20)
		appendN(t, l, 3)
		again()
		lost(23)
		s.Close()
	}
}

// What the hub refuses before it was written comes back after a crash, to be refused again.
func TestRefusedOutlivesACrash(t *testing.T) {
	dir, ret := t.TempDir(), Retention{GapSubject: "a.gap"}
	s, l, c := tailLog(t, dir, ret)
	appendN(t, l, 3)
	for _, seq := range take(t, c, 3) {
		c.lose(seq, LostRejected)
	}
	waitSafe(t, s)
	dir = killed(t, dir)
	s.Close()
	s, l, _ = tailLog(t, dir, ret)
	defer s.Close()
	if st := l.Stats(); st.Msgs != 3 || st.First != 1 {
		t.Errorf("%+v, want all three", st)
	}
}

// A marker in the journal declares what was lost before it, and nothing of what the engine
// knows to be lost since.
func TestMarkerAndLaterLosses(t *testing.T) {
	dir, ret := t.TempDir(), Retention{MaxMsgs: 10, GapSubject: "a.gap"}
	s, l, c := tailLog(t, dir, ret)
	appendN(t, l, 25)
	l.setLive(true, time.Hour)
	for _, seq := range take(t, c, 11) { // the last is the marker
		c.Ack(seq)
	}
	l.setLive(false, 0)
	appendN(t, l, 15)
	waitSafe(t, s)
	foldOnly(s) // of the half that is full: there is none
	dir = killed(t, dir)
	s.Close()
	s, l, _ = tailLog(t, dir, ret)
	defer s.Close()
	if g := l.gaps["oldest_dropped"]; g.Count != 5 {
		t.Errorf("to be declared: %+v, want 5", l.gaps)
	}
}

// foldOnly makes a transaction without what is in the half of the journal that is written.
func foldOnly(s *Store) { onCommitter(s, func() { s.fold() }) }

// What was dropped for newer ones does not come back in a crash, to go to the hub behind what it
// has of these: neither what the journal has nor what store.db has.
func TestDroppedStaysDropped(t *testing.T) {
	dir, ret := t.TempDir(), Retention{MaxMsgs: 10, GapSubject: "a.gap"}
	s, l, _ := tailLog(t, dir, ret)
	appendN(t, l, 5)
	waitSafe(t, s)
	s.Close()
	s, l, c := tailLog(t, dir, ret) // store.db has these now
	appendN(t, l, 5)
	waitSafe(t, s)
	for range 4 { // 6 … 9 of each round are dropped for the next, which the hub has
		appendN(t, l, 5)
	}
	waitSafe(t, s)
	for _, seq := range take(t, c, 5) {
		c.Ack(seq)
	}
	ret.MaxMsgs = 1000 // the bound alone would let them come back
	dir = killed(t, dir)
	s.Close()
	v, err := OpenReadOnly(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if st := v.All(); len(st) != 1 || st[0].Msgs != 10 || st[0].First != 21 {
		t.Errorf("stopped: %+v, want the ten from 21 on", st)
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	s, l, _ = tailLog(t, dir, ret)
	defer s.Close()
	if st := l.Stats(); st.Msgs != 10 || st.First != 21 || st.Lost["oldest_dropped"] != 20 {
		t.Errorf("%+v, want the ten from 21 on", st)
	}
}

// What an older connection held may come in when the hub was asked already: it is known until it
// is declared.
func TestFoundLate(t *testing.T) {
	s, l, c := tailLog(t, t.TempDir(), Retention{MaxMsgs: 10, GapSubject: "a.gap"})
	defer s.Close()
	appendN(t, l, 10)
	take(t, c, 10)
	c.reset() // the link broke
	appendN(t, l, 3)
	l.settleDoubt(false)
	if from, doubt := c.ambiguous(); from != 0 || doubt == 0 {
		t.Errorf("asked again it is for what is above %d, %v; want 0", from, doubt)
	}
	c.Ack(2)
	if st := l.Stats(); st.Lost["oldest_dropped"] != 2 || l.gaps["oldest_dropped"].Count != 2 {
		t.Errorf("%v lost, %v to be declared, want 2", st.Lost, l.gaps)
	}
}

// What was handed out before an interruption, and is dropped after the hub was asked and had it not,
// is declared. It was held to be in doubt until the next interruption.
func TestDroppedAfterTheQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l, c := tailLog(t, t.TempDir(), Retention{MaxMsgs: 10, GapSubject: "a.gap"})
		defer s.Close()
		appendN(t, l, 10)
		take(t, c, 5)
		c.reset()            // the link broke
		l.settleDoubt(false) // the hub was asked: it has none of these
		appendN(t, l, 8)     // while a higher priority, the rate or the day's bytes is waited for
		l.setLive(true, time.Hour)
		later(time.Minute)
		take(t, c, 10) // and then comes the marker
		recs, err := c.Next(t.Context(), make([]Record, 0, 1))
		if err != nil {
			t.Fatal(err)
		}
		g, ok := recs[0].declares()
		if st := l.Stats(); !ok || g.Count != 8 || st.Lost["oldest_dropped"] != 8 || len(st.InDoubt) > 0 || len(l.gaps) > 0 {
			t.Errorf("%d of %v declared, in doubt %v, to be declared %v", g.Count, st.Lost, st.InDoubt, l.gaps)
		}
	})
}

// Where nothing is declared, nothing is kept for that, and the hub is not asked for it again.
func TestNothingLateWithoutMarkers(t *testing.T) {
	s, l, c := tailLog(t, t.TempDir(), Retention{MaxMsgs: 10})
	defer s.Close()
	appendN(t, l, 10)
	take(t, c, 10)
	c.reset()
	appendN(t, l, 3)
	if from := l.doubtFrom(); from != 1 {
		t.Errorf("in doubt from %d on, want 1", from)
	}
	if l.settleDoubt(false); l.doubtFrom() != 0 {
		t.Errorf("in doubt from %d on once the hub was asked", l.doubtFrom())
	}
}

// What was dropped on its way is not settled by the acknowledgement of a later one: the stream is
// asked for it, from where it was last known. One that acknowledged nothing for a while had 1,022
// messages that were declared lost.
func TestDroppedOnItsWayIsAskedFor(t *testing.T) {
	s, l, c := tailLog(t, t.TempDir(), Retention{MaxMsgs: 10, GapSubject: "a.gap"})
	defer s.Close()
	l.settleDoubt(false)
	l.setMark(mark{Stream: "S"})
	appendN(t, l, 10)
	take(t, c, 10)
	if a := c.ack(1, 1); !a.inOrder || l.getMark() != (mark{Stream: "S", At: 1, Seq: 1, Read: 1}) {
		t.Errorf("%+v, %+v", a, l.getMark())
	}
	appendN(t, l, 4) // 2, 3 and 4 are dropped
	if a := c.ack(5, 5); a.inOrder || a.less || !a.known || l.getMark().Read != 1 {
		t.Errorf("%+v, %+v", a, l.getMark())
	}
	for _, seq := range []uint64{2, 3, 4} {
		c.ack(seq, seq)
	}
	if a := c.ack(6, 6); !a.inOrder || l.getMark().Read != 6 || len(l.gaps) != 0 {
		t.Errorf("%+v, %+v, %v", a, l.getMark(), l.gaps)
	}
}
