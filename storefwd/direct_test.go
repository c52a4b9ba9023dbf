package storefwd

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

// Past the cache or not, a read of anything gives what was written.
func TestDiskReadsAnything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	want := noise(1, 600<<10)
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, cached := range []bool{false, true} {
		f, err := openDisk(path, os.O_RDWR, cached)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("cached %v: %s", cached, f.mode)
		if f.size != int64(len(want)) {
			t.Errorf("%s: %d bytes", f.mode, f.size)
		}
		for _, off := range []int{0, 1, 511, 512, 4096, 5000, 256<<10 - 1, len(want) - 700} {
			for _, n := range []int{1, 40, 512, 4097, 300 << 10} {
				b := make([]byte, n)
				got, err := f.ReadAt(b, int64(off))
				end := min(off+n, len(want))
				if got != end-off || !bytes.Equal(b[:got], want[off:end]) || (got < n) != errors.Is(err, io.EOF) {
					t.Errorf("%s: %d of %d bytes at %d, %v", f.mode, got, n, off, err)
				}
			}
		}
		f.Close()
	}
}

// stubborn is a file that refuses direct writes, whatever its file system says.
type stubborn struct{ journalFile }

func (f stubborn) WriteAt(b []byte, off int64) (int, error) {
	if _, direct := f.journalFile.(*directFile); direct {
		return 0, syscall.EINVAL
	}
	return f.journalFile.WriteAt(b, off)
}

// One refusal, and the journal goes through the page cache.
func TestDirectIsRefused(t *testing.T) {
	o := Options{JournalBytes: 256 << 10, FoldAfter: time.Hour}
	o.faults.journal = func(f journalFile) journalFile { return stubborn{f} }
	o.faults.retry = time.Millisecond
	dir := t.TempDir()
	k := openKeeper(t, dir, o)
	defer k.s.Close()
	testkit.Eventually(t, func() bool { return k.keep() == nil }, "the store takes messages")
	for range 20 {
		if err := k.keep(); err != nil {
			t.Fatal(err)
		}
	}
	if st := k.s.Stats(); st.JournalMode != "through the page cache" || st.Faults > 1 {
		t.Errorf("%s, %d faults", st.JournalMode, st.Faults)
	}
	k.checkCrash(dir)
}
