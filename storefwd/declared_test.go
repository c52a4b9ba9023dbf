package storefwd

import (
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// What is lost is declared once, whatever comes between.

// openGaps is a store with an outbox that keeps 10 messages and declares what it loses.
func openGaps(t *testing.T, dir string, o Options) (*Store, *Log, *Cursor) {
	t.Helper()
	o.Node = "n"
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Log("OUT/a", Retention{Keep: UntilAcked, MaxMsgs: 10, GapSubject: "a.gap"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Cursor("hub", CursorConfig{Ahead: true, MaxPending: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return s, l, c
}

// The hub has the marker, and the engine does not know yet. Then the journal fails, and a fresh one without the marker
// takes its place.
func TestMarkerBeforeAFaultOfTheJournal(t *testing.T) {
	f := &fault{kind: "write", err: syscall.EIO}
	dir := t.TempDir()
	s, l, c := openGaps(t, dir, f.options())
	appendN(t, l, 13) // three are dropped
	waitSafe(t, s)
	foldAll(t, s) // the engine knows the loss
	l.settleDoubt(false)
	ackAll(t, c, 10)
	l.setLive(true, time.Hour)
	ackAll(t, c, 1) // the marker
	f.left.Store(1)
	l.setLive(false, 0)
	appendN(t, l, 1)
	if s.await() == nil {
		t.Error("no fault")
	}
	testkit.Eventually(t, func() bool { return s.Stats().Failed == "" }, "the store works again")
	d := killed(t, dir)
	s.Close()
	s, l, _ = openGaps(t, d, Options{JournalBytes: 256 << 10})
	defer s.Close()
	if len(l.gaps) != 0 {
		t.Errorf("to be declared a second time: %v", l.gaps)
	}
}

// copied is an engine after whose next fold the store's files are copied.
type copied struct {
	engine
	after func()
}

func (e copied) Fold(b *foldBatch) (int64, error) {
	n, err := e.engine.Fold(b)
	e.after()
	return n, err
}

// A marker is made, and before it is on the disk there is a fold. Whether a crash comes then or later, the loss is
// declared once.
func TestMarkerWhileFolding(t *testing.T) {
	dir := t.TempDir()
	var armed atomic.Bool
	crash := make(chan string, 1)
	o := Options{JournalBytes: 256 << 10, FoldAfter: time.Hour, CommitInterval: time.Hour}
	o.faults.engine = func(e engine) engine {
		return copied{e, func() {
			if armed.CompareAndSwap(true, false) {
				crash <- killed(t, dir)
			}
		}}
	}
	s, l, c := openGaps(t, dir, o)
	defer s.Close()
	appendN(t, l, 13) // three are dropped
	waitSafe(t, s)
	l.settleDoubt(false)
	ackAll(t, c, 10)
	armed.Store(true)
	s.mu.Lock()
	l.drains, l.live, l.spill = true, true, int64(time.Hour)
	s.foldNow()
	s.mu.Unlock()
	soon := <-crash
	testkit.Eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return l.marker > 0 && l.journaled >= l.marker }, "the marker is written")
	for i, d := range []string{soon, killed(t, dir)} {
		s, l, _ := openGaps(t, d, Options{JournalBytes: 256 << 10})
		declared := l.gaps["oldest_dropped"].Count
		recs, err := l.Read(nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range recs {
			if g, ok := r.declares(); ok {
				declared += g.Count
			}
		}
		if declared != 3 {
			t.Errorf("crash %d: %d are declared, or to be; want the three that were dropped", i, declared)
		}
		s.Close()
	}
}

// A marker was dropped, and what it declared is in the next one. After a crash both are there again.
func TestDroppedMarkerAfterACrash(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ret := Retention{MaxMsgs: 10, GapSubject: "a.gap"}
		s, l, _ := tailLog(t, dir, ret)
		l.settleDoubt(false)
		appendN(t, l, 25) // 15 are gone
		l.setLive(true, time.Hour)
		time.Sleep(time.Second)
		l.setLive(false, 0) // the marker is the 26th, and did not get away
		appendN(t, l, 10)   // 16 to 25 and the marker are dropped
		waitSafe(t, s)
		l.setLive(true, time.Hour)
		time.Sleep(10 * time.Second) // the second marker, 37, declares 1 to 25
		waitSafe(t, s)
		if n := l.Stats().Lost["oldest_dropped"]; n != 25 || len(l.gaps) != 0 {
			t.Fatalf("%d lost, %v not declared", n, l.gaps)
		}
		d := killed(t, dir)
		s.Close()
		s, l, c := tailLog(t, d, ret)
		defer s.Close()
		l.settleDoubt(false) // the hub has nothing
		l.setLive(true, time.Hour)
		time.Sleep(20 * time.Second)
		declared, data := uint64(0), uint64(0)
		for c.more() {
			recs, err := c.Next(t.Context(), make([]Record, 0, 1))
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range recs {
				if g, ok := r.declares(); ok {
					declared += g.Count
				} else {
					data++
				}
				c.Ack(r.Seq)
			}
			time.Sleep(6 * time.Second)
		}
		if declared+data != 35 {
			t.Errorf("%d declared and %d there, of 35 that were appended", declared, data)
		}
	})
}

// A power cut on both sides: what the hub acknowledged and forgot, and the journal still has, is before one that was
// rejected and declared. It is sent again, and that one is not.
func TestForgottenBeforeADeclaredOne(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ret := Retention{MaxMsgs: 1000, GapSubject: "a.gap"}
		s, l, c := tailLog(t, dir, ret)
		l.settleDoubt(false)
		appendN(t, l, 100)
		waitSafe(t, s)
		for _, seq := range take(t, c, 100)[:90] {
			if seq < 90 {
				c.Ack(seq)
			} else {
				c.lose(seq, LostRejected)
			}
		}
		l.setLive(true, time.Hour)
		time.Sleep(time.Second) // the marker: 90 is lost
		waitSafe(t, s)
		d := killed(t, dir)
		s.Close()
		s, l, c = tailLog(t, d, ret)
		defer s.Close()
		for seq := uint64(1); seq <= 40; seq++ {
			c.Ack(seq) // resume finds these at the hub, and no others
		}
		l.settleDoubt(false)
		got := take(t, c, 60) // 41 to 101 without 90
		wantSeqs(t, got[:49], 41, 89)
		wantSeqs(t, got[49:], 91, 101)
		if st := l.Stats(); st.Lost["rejected_by_hub"] != 0 || len(l.gaps) != 0 {
			t.Errorf("%v lost, %v to be declared; what was is", st.Lost, l.gaps)
		}
	})
}

// What expired when it was to be handed out, or was rejected, is so again when the hub has lost what came with it.
func TestLostOnceInSpiteOfASetback(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, l, c := tailLog(t, dir, Retention{Grace: time.Hour, GraceBytes: 1 << 20, GapSubject: "gap"})
		defer s.Close()
		for range 3 {
			if _, err := l.Append(&msg.Msg{Subject: []byte("a"), Header: []byte("NATS/1.0\r\nNats-TTL: 1\r\n\r\n"), Data: []byte("x")}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Second)
		appendN(t, l, 2)
		for range 2 {
			seqs := take(t, c, 2)
			c.Ack(seqs[0])
			c.lose(seqs[1], LostRejected)
			if _, err := c.rewind(0); err != nil {
				t.Fatal(err)
			}
		}
		if st := l.Stats(); st.Lost["expired"] != 3 || st.Lost["rejected_by_hub"] != 1 {
			t.Errorf("3 expired and 1 rejected of 5; counted %v, %v to be declared", st.Lost, l.gaps)
		}
	})
}

// An older value goes for one that is not safe yet, and a fold removes it from the disk. A crash leaves one of them.
func TestConflatedByWhatIsNotSafe(t *testing.T) {
	dir := t.TempDir()
	o := Options{Node: "n", CommitInterval: time.Hour, FoldAfter: time.Hour, SpillAfter: time.Hour}
	ret := Retention{Keep: UntilAcked, MaxMsgs: 2, GapSubject: "gap", Conflate: true}
	open := func(dir string) (*Store, *Log) {
		t.Helper()
		s, err := Open(dir, o)
		if err != nil {
			t.Fatal(err)
		}
		l, err := s.Log("OUT/a", ret)
		if err != nil {
			t.Fatal(err)
		}
		return s, l
	}
	s, l := open(dir)
	if _, err := l.Cursor("hub", CursorConfig{Ahead: true}); err != nil {
		t.Fatal(err)
	}
	put(t, l, "A", "B")
	waitSafe(t, s)      // promised
	put(t, l, "A", "C") // not yet
	foldAll(t, s)
	d := killed(t, dir)
	s.Close()
	s, l = open(d)
	defer s.Close()
	promised := uint64(held(t, l))
	for _, g := range l.gaps {
		promised += g.Count
	}
	if promised < 2 {
		t.Errorf("two were promised; %d are held or declared, %v", promised, l.gaps)
	}
}
