package storefwd

import (
	"errors"
	"syscall"
	"testing"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// A fresh journal has what the one before it alone knew of messages that a full log turned away. It
// had not, so that after a crash these were neither there nor declared.
func TestTurnedAwayIsInTheFreshJournal(t *testing.T) {
	f := &fault{kind: "write", err: syscall.EIO}
	o := f.options()
	e := &fault{kind: "fold", err: syscall.EIO}
	e.left.Store(1)
	e.holds.Store(true)
	o.faults.engine = func(en engine) engine { return faultyEngine{en, e} }
	dir := t.TempDir()
	open := func(dir string, o Options) (*Store, *Log) {
		t.Helper()
		s, err := Open(dir, o)
		if err != nil {
			t.Fatal(err)
		}
		l, err := s.Log("OUT/a", Retention{Keep: UntilAcked, MaxMsgs: 10, Full: DropNewest, GapSubject: "gap"})
		if err != nil {
			t.Fatal(err)
		}
		return s, l
	}
	s, l := open(dir, o)
	defer func() { s.Close() }()
	acked := 0
	publish := func() error {
		_, err := l.Append(&msg.Msg{Subject: []byte("a.b"), Data: []byte("x")})
		if err = errors.Join(err, s.await()); err == nil {
			acked++
		}
		return err
	}
	for range 25 {
		if err := publish(); err != nil {
			t.Fatal(err)
		}
	}
	f.left.Store(1)
	if publish() == nil {
		t.Error("a write fails, and nobody is told")
	}
	testkit.Eventually(t, func() bool { return s.Stats().Failed == "" }, "the store works again")
	if err := publish(); err != nil {
		t.Error(err)
	}
	dir = killed(t, dir)
	s.Close()
	s, l = open(dir, Options{JournalBytes: 256 << 10})
	st := l.Stats()
	if int(st.Msgs)+int(st.Lost["newest_dropped"]) < acked {
		t.Errorf("%d acknowledged, %d held, %d declared", acked, st.Msgs, st.Lost["newest_dropped"])
	}
}
