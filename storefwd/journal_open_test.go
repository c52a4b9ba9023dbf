package storefwd

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

// badReads is a journal of which so many reads fail.
type badReads struct {
	journalFile
	left *atomic.Int64
}

func (f badReads) ReadAt(b []byte, off int64) (int, error) {
	if f.left.Add(-1) >= 0 {
		return 0, syscall.EIO
	}
	return f.journalFile.ReadAt(b, off)
}

// keptAndKilled is what a kill leaves of a store that has 20 messages in its journal alone.
func keptAndKilled(t *testing.T, o Options) (dir string) {
	t.Helper()
	k := openKeeper(t, t.TempDir(), o)
	defer k.s.Close()
	for range 20 {
		if err := k.keep(); err != nil {
			t.Fatal(err)
		}
	}
	return killed(t, k.s.dir)
}

// A disk that fails to read for a moment at the start says nothing of the journal, which is read once
// it works. It was moved aside as damaged, with all that was in it.
func TestJournalReadFailsForAMoment(t *testing.T) {
	for _, n := range []int64{2, 6} { // each try reads two headers
		o := Options{JournalBytes: 256 << 10, FoldAfter: time.Hour}
		dir := keptAndKilled(t, o)
		var left atomic.Int64
		left.Store(n)
		o.faults.retry = time.Millisecond
		o.faults.journal = func(j journalFile) journalFile { return badReads{j, &left} }
		k := openKeeper(t, dir, o)
		defer k.s.Close()
		testkit.Eventually(t, func() bool { return k.s.Stats().Failed == "" }, "the store works")
		if got := heldBy(t, k.l); len(got) != 20 || left.Load() >= 0 {
			aside, _ := filepath.Glob(filepath.Join(dir, "*corrupt*"))
			t.Errorf("%d bad reads, %d to come: %d of 20 held, lost %v, health %q, %q", n, left.Load(), len(got), k.l.Stats().Lost, k.s.Health(), aside)
		}
	}
}

// The end of the journal is cut off, with the second header: the rest is read. It was moved aside.
func TestJournalCutOff(t *testing.T) {
	o := Options{JournalBytes: 256 << 10, FoldAfter: time.Hour}
	dir := keptAndKilled(t, o)
	if err := os.Truncate(filepath.Join(dir, "journal"), o.JournalBytes-4096); err != nil {
		t.Fatal(err)
	}
	k := openKeeper(t, dir, o)
	defer k.s.Close()
	if got := heldBy(t, k.l); len(got) != 20 {
		t.Errorf("%d of 20 held, lost %v, health %q", len(got), k.l.Stats().Lost, k.s.Health())
	}
}

// One of the two headers is damaged: nothing is lost, verify and health say so, and a journal with both takes
// its place. It went on with one, and nobody was told.
func TestJournalHeaderDamaged(t *testing.T) {
	o := Options{JournalBytes: 256 << 10, FoldAfter: time.Hour}
	for _, at := range []int64{0, o.JournalBytes - journalBlock} {
		dir := keptAndKilled(t, o)
		damage(t, filepath.Join(dir, "journal"), at, make([]byte, journalBlock))
		if c := verify(t, dir); len(c.Notes) != 1 || !strings.Contains(c.Notes[0], "header is damaged, the other one is used") || c.Journal != 20 {
			t.Errorf("at %d, verify: %+v", at, c)
		}
		k := openKeeper(t, dir, o)
		if got, h := heldBy(t, k.l), k.s.Health(); len(got) != 20 || len(h) != 1 || !strings.Contains(h[0], "header") {
			t.Errorf("at %d: %d of 20 held, health %q", at, len(got), h)
		}
		if c := verify(t, killed(t, dir)); !c.OK() || c.Journal+c.Records != 20 {
			t.Errorf("at %d, afterwards: %+v", at, c)
		}
		if err := k.s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The body of the journal cannot be read for a moment: it is read again before it is given up.
func TestJournalBodyReadFailsForAMoment(t *testing.T) {
	o := Options{JournalBytes: 256 << 10, FoldAfter: time.Hour}
	dir := keptAndKilled(t, o)
	var left atomic.Int64
	left.Store(40) // the half whole, and each block of it
	o.faults.journal = func(j journalFile) journalFile { return badBody{j, &left} }
	k := openKeeper(t, dir, o)
	defer k.s.Close()
	if got := heldBy(t, k.l); len(got) != 20 || left.Load() >= 0 {
		t.Errorf("%d bad reads to come: %d of 20 held, lost %v, health %q", left.Load(), len(got), k.l.Stats().Lost, k.s.Health())
	}
}

// badBody fails reads of what is not a header.
type badBody struct {
	journalFile
	left *atomic.Int64
}

func (f badBody) ReadAt(b []byte, at int64) (int, error) {
	if at >= journalBlock && len(b) >= journalBlock && f.left.Add(-1) >= 0 {
		return 0, syscall.EIO
	}
	return f.journalFile.ReadAt(b, at)
}
