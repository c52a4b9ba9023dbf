package storefwd

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// beforeFold is an engine that shows each transaction before it is made, and may fail it.
type beforeFold struct {
	engine
	look func(b *foldBatch) error
}

func (e beforeFold) Fold(b *foldBatch) (int64, error) {
	if err := e.look(b); err != nil {
		return 0, err
	}
	return e.engine.Fold(b)
}

// bigTail is a log whose hub acknowledged n messages of 64 KB in RAM, in a store whose transactions go by look.
func bigTail(t *testing.T, dir string, n int, look func(b *foldBatch) error) (*Store, *Log, *Cursor) {
	t.Helper()
	o := Options{Node: "n", CommitInterval: time.Hour, FoldAfter: time.Hour}
	o.faults.engine = func(e engine) engine { return beforeFold{e, look} }
	s, l, c := tailLogOf(t, dir, o, Retention{Grace: time.Hour, GraceBytes: 64 << 20}, CursorConfig{Ahead: true, MaxPending: 1000})
	l.setLive(true, time.Hour)
	for i := range n {
		if _, err := l.Append(&msg.Msg{Subject: []byte("a"), Data: append(fmt.Append(nil, i, " "), bytes.Repeat([]byte("x"), 64<<10)...)}); err != nil {
			t.Fatal(err)
		}
		ackAll(t, c, 1)
	}
	return s, l, c
}

// A tail that takes several transactions goes in one after the other, and a crash between them leaves a state that
// knows which part is there.
func TestTailIsWrittenInParts(t *testing.T) {
	const n = 50
	dir, folds, after := t.TempDir(), 0, ""
	s, l, _ := bigTail(t, dir, n, func(*foldBatch) error {
		if folds++; folds == 2 {
			after = killed(t, dir)
		}
		return nil
	})
	l.setAway(true, true)
	testkit.Eventually(t, func() bool { return l.Stats().KeptInRAM == 0 }, "all of it is on the disk")
	s.Close()
	for _, c := range []struct {
		dir  string
		most int
	}{{after, n / 2}, {dir, n}} {
		s, l, hub := tailLog(t, c.dir, Retention{Grace: time.Hour, GraceBytes: 64 << 20})
		missing, err := hub.rewind(0)
		msgs := int(l.Stats().Msgs)
		if err != nil || msgs == 0 || msgs > c.most || msgs+int(missing.n) != n {
			t.Errorf("of %d there are %d, missing %+v %v", n, msgs, missing, err)
		}
		s.Close()
	}
}

// A tail that finds no room stays where it is; what else was to be saved is, and nothing gives way to it.
func TestTailFindsNoRoom(t *testing.T) {
	for _, full := range []error{errNoSpace, errMaxSize} {
		dir, tries := t.TempDir(), 0
		s, l, _ := bigTail(t, dir, 5, func(b *foldBatch) error {
			if b.tails > 0 {
				tries++
				return full
			}
			return nil
		})
		l.setAway(true, false)
		l.setMark(mark{Stream: "S", At: 5, Seq: 5})
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if st := s.Stats(); tries != 1 || st.Folds != 1 || st.Full || st.Failed != ErrClosed.Error() {
			t.Errorf("%v: %d tries, %+v", full, tries, st)
		}
		s, l, hub := tailLog(t, dir, Retention{Grace: time.Hour, GraceBytes: 64 << 20})
		missing, err := hub.rewind(0)
		if m := l.getMark(); err != nil || m.At != 5 || missing.n != 5 {
			t.Errorf("%v: mark %+v, missing %+v %v", full, m, missing, err)
		}
		s.Close()
	}
}

// What waits takes the room of what the hub has.
func TestTailGivesWay(t *testing.T) {
	dir, failed := t.TempDir(), false
	s, l, c := bigTail(t, dir, 5, func(b *foldBatch) error {
		if len(b.put) > 0 && b.tails == 0 && !failed {
			failed = true
			return errMaxSize
		}
		return nil
	})
	defer s.Close()
	l.setAway(true, true)
	testkit.Eventually(t, func() bool { return l.Stats().KeptInRAM == 0 }, "the tail is on the disk")
	l.setLive(false, 0)
	appendN(t, l, 5)
	waitSafe(t, s)
	onCommitter(s, func() { s.seal() })
	testkit.Eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return l.folded == 10 }, "what waits is in the engine")
	if lost := l.Stats().Lost; !failed || len(lost) > 0 || l.tail.marks.len() > 0 {
		t.Errorf("lost %v, the tail has %d bytes", lost, l.tail.bytes)
	}
	wantSeqs(t, take(t, c, 5), 6, 10)
}

// A rewind that fails for the disk is to be called again: what an earlier run had in RAM alone is missing then, too.
func TestHolesOutliveAFailedRewind(t *testing.T) {
	var left atomic.Int64
	dir := t.TempDir()
	r := Retention{Keep: UntilAcked, Grace: time.Hour, GraceBytes: 1 << 20, GapSubject: "gap"}
	open := func() (*Store, *Log, *Cursor) {
		s := openUnread(t, dir, 0, &left)
		l, err := s.Log("OUT/a", r)
		if err != nil {
			t.Fatal(err)
		}
		c, err := l.Cursor("hub", CursorConfig{Ahead: true, MaxPending: 1000})
		if err != nil {
			t.Fatal(err)
		}
		return s, l, c
	}
	s, l, c := open()
	appendN(t, l, 5)
	waitSafe(t, s)
	s.mu.Lock()
	s.foldNow()
	s.mu.Unlock()
	foldAll(t, s)
	l.setLive(true, time.Hour)
	appendN(t, l, 5)
	ackAll(t, c, 10)
	s.Close()
	s, _, c = open()
	defer s.Close()
	left.Store(1)
	if _, err := c.rewind(2); err == nil {
		t.Fatal("no error")
	}
	awaitReadable(t, s)
	m, err := c.rewind(2)
	if err != nil || m.n != 5 {
		t.Errorf("second: missing %+v %v, want 6…10", m, err)
	}
}
