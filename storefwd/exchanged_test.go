package storefwd

import (
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// noSpaceBehindRename has the sync of the directory behind a rename say ENOSPC while it is armed, as
// btrfs, f2fs, UBIFS and quotas may, and counts how often it did.
func noSpaceBehindRename(t *testing.T) (armed *atomic.Bool, hits *atomic.Int64) {
	old := dirSync
	armed, hits = new(atomic.Bool), new(atomic.Int64)
	dirSync = func(f *os.File) error {
		if armed.Load() {
			hits.Add(1)
			return &os.PathError{Op: "sync", Path: f.Name(), Err: syscall.ENOSPC}
		}
		return f.Sync()
	}
	t.Cleanup(func() { dirSync = old })
	return armed, hits
}

// A compacted file took the place of store.db, and then the directory could not be synced: it is
// opened anew, and what is folded from then on is in it. It went into the file that has no name.
func TestCompactionRenamedAndNotSynced(t *testing.T) {
	armed, hits := noSpaceBehindRename(t)
	s, l, dir := half(t, Options{Reserve: -1})
	armed.Store(true)
	rested(s)
	testkit.Eventually(t, func() bool { return hits.Load() > 0 }, "the file is exchanged")
	waitSafe(t, s)
	armed.Store(false)
	for n := uint64(40001); n <= 60000; n++ {
		if _, err := l.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(n)}); err != nil {
			t.Fatal(err)
		}
		if n%500 == 0 {
			waitSafe(t, s)
		}
	}
	foldAll(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, l = openBacklog(t, dir, Options{})
	defer s.Close()
	if got := readBack(t, s, l); len(got) != 22000 {
		t.Fatalf("%d messages of 22000 that were acknowledged, health %q", len(got), s.Health())
	}
}

// A journal of another size took the place of the old one, and then the directory could not be synced:
// it is made again. The store went on in the old file, which has no name any more.
func TestJournalRenamedAndNotSynced(t *testing.T) {
	armed, hits := noSpaceBehindRename(t)
	dir := t.TempDir()
	k := openKeeper(t, dir, Options{JournalBytes: 256 << 10})
	if err := k.s.Close(); err != nil {
		t.Fatal(err)
	}
	o := Options{JournalBytes: 512 << 10, FoldAfter: time.Hour, Reserve: -1} // journal_size was changed
	o.faults.step = func(name string) error {
		armed.Store(name == "journal" && hits.Load() == 0)
		return nil
	}
	o.faults.retry = time.Millisecond
	k = openKeeper(t, dir, o)
	defer k.s.Close()
	testkit.Eventually(t, func() bool { return k.s.Stats().Failed == "" }, "the store works")
	if hits.Load() == 0 {
		t.Error("no sync failed")
	}
	for range 20 {
		if err := k.keep(); err != nil {
			t.Fatal(err)
		}
	}
	k.checkCrash(dir)
}
