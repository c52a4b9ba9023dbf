package storefwd

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// half makes a store whose file is mostly free pages: 20 MB, of which the last 2000
// messages still count. The removals are folded.
func half(t *testing.T, o Options) (s *Store, l *Log, dir string) {
	t.Helper()
	dir = t.TempDir()
	o.JournalBytes, o.FoldAfter = 4<<20, time.Hour
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if l, err = s.Log("OUT/a", Retention{Keep: UntilAcked}); err != nil {
		t.Fatal(err)
	}
	for n := uint64(1); n <= 40000; n++ {
		if _, err := l.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(n)}); err != nil {
			t.Fatal(err)
		}
		if n%500 == 0 {
			settle(t, s)
		}
	}
	foldAll(t, s)
	l.Drop(38000)
	foldAll(t, s)
	return s, l, dir
}

func settle(t *testing.T, s *Store) {
	t.Helper()
	done := make(chan error, 1)
	s.Barrier(func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// foldAll waits until nothing is left to fold.
func foldAll(t *testing.T, s *Store) {
	t.Helper()
	testkit.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.dirtySince != 0 {
			s.foldNow()
		}
		return s.dirtySince == 0
	}, "all is folded")
}

// rested makes it look as if the last fold were long ago.
func rested(s *Store) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.foldedAt = -int64(compactRest)
	s.wakeBy(s.mono())
}

// A file that is mostly free pages becomes small once nothing is to be done, while
// readers read and publishers publish; all is there, then and after another start.
func TestCompaction(t *testing.T) {
	s, l, dir := half(t, Options{})
	before := s.eng.Size()
	if before < resetAbove || s.eng.Free() < before/2 {
		t.Fatalf("%d bytes, %d of them free", before, s.eng.Free())
	}
	rested(s)
	testkit.Eventually(t, func() bool {
		if got := readBack(t, s, l); len(got) < 2000 || got[0] != 38001 {
			t.Fatalf("%d messages from %d on", len(got), got[0])
		}
		return s.eng.Size() < before/4
	}, "the file is compacted")
	if _, err := l.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(40001)}); err != nil {
		t.Fatal(err)
	}
	settle(t, s)
	if got := readBack(t, s, l); len(got) != 2001 {
		t.Fatalf("%d messages", len(got))
	}
	if _, err := os.Stat(filepath.Join(dir, "store.db.new")); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("beside the file: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, l = openBacklog(t, dir, Options{})
	defer s.Close()
	if got := readBack(t, s, l); len(got) != 2001 || got[0] != 38001 || len(s.Health()) > 0 {
		t.Fatalf("%d messages from %d on: %q", len(got), got[0], s.Health())
	}
}

// A compaction that is stopped leaves the file as it was and nothing
// beside it.
func TestCompactionGivesUp(t *testing.T) {
	s, l, dir := half(t, Options{})
	size := s.eng.Size()
	for steps := range 3 {
		n := 0
		_, err := s.eng.Compact(func() bool { n++; return n <= steps })
		if !errors.Is(err, errStopped) {
			t.Fatalf("after %d steps: %v", steps, err)
		}
	}
	if s.eng.Size() != size || len(readBack(t, s, l)) != 2000 {
		t.Fatal("the file is another")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "store.db.*")); len(left) > 0 {
		t.Fatalf("left behind: %q", left)
	}
}

// The fold that a full journal needs is not kept waiting.
func TestCompactionGivesWay(t *testing.T) {
	s, l, _ := half(t, Options{})
	n := uint64(40001)
	_, err := s.eng.Compact(func() bool {
		s.mu.Lock()
		folds := s.stats.Folds
		s.mu.Unlock()
		for sealed := false; !sealed; n++ { // until half a journal is full
			if _, err := l.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(n)}); err != nil {
				t.Fatal(err)
			}
			settle(t, s)
			s.mu.Lock()
			sealed = s.sealedUsed() || s.stats.Folds > folds
			s.mu.Unlock()
		}
		return s.undisturbed(folds)
	})
	if !errors.Is(err, errStopped) {
		t.Fatal(err)
	}
	if got := readBack(t, s, l); len(got) != int(n-38001) {
		t.Fatalf("%d messages, want %d", len(got), n-38001)
	}
}

// What a crash left of a copy is removed, and means nothing.
func TestCompactionInterrupted(t *testing.T) {
	dir := backlog(t, 3000, 0)
	b, err := os.ReadFile(filepath.Join(dir, "store.db"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "store.db.new"), b[:len(b)/2], 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	s, l := openBacklog(t, dir, Options{})
	defer s.Close()
	if got := readBack(t, s, l); len(got) != 3000 {
		t.Fatalf("%d messages: %q", len(got), s.Health())
	}
	if _, err := os.Stat(filepath.Join(dir, "store.db.new")); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

// The file's space is its own before it is written to.
func TestSpaceIsAllocated(t *testing.T) {
	e := newBolt(filepath.Join(t.TempDir(), "db"), 64<<20)
	if _, err := e.Open(); err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for i := range 6 {
		if _, err := e.Fold(&foldBatch{put: runOf(9, uint64(i)*300+1, make([]int, 300)...)}); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(e.path)
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Blocks*512 < info.Size() || info.Size() < boltAlloc {
		t.Fatalf("%d of %d bytes are allocated", st.Blocks*512, info.Size())
	}
	if free := e.Free(); free <= 0 || free >= e.Size() {
		t.Fatalf("%d of %d bytes are free", free, e.Size())
	}
}
