package storefwd

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// needle is what message i carries: eight bytes that are found in the files, since they
// cannot be compressed.
func needle(i int) []byte {
	sum := sha256.Sum256([]byte{byte(i)})
	return sum[:8]
}

// filled makes a store with 100 records in bbolt and 50 in the journal, not closed.
func filled(t *testing.T) (s *Store, l *Log, dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, n := range []int{100, 50} {
		if s != nil {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if s, err = Open(dir, Options{FoldAfter: time.Hour}); err != nil {
			t.Fatal(err)
		}
		if l, err = s.Log("OUT/a", Retention{}); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if _, err := l.Append(&msg.Msg{Subject: []byte("a.b"), Data: needle(i)}); err != nil {
				t.Fatal(err)
			}
		}
		done := make(chan error, 1)
		s.Barrier(func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { s.Close() })
	return s, l, dir
}

// crashed is a copy of the files as they are now.
func crashed(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.Mkdir(filepath.Join(to, "lock"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{metaFile, "journal", "store.db"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func snapshotDir(t *testing.T, dir string) (s string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		info, err2 := d.Info()
		s += fmt.Sprintf("%s %d %v %x\n", d.Name(), len(b), info.ModTime(), recordSumOf(b))
		return errors.Join(err, err2)
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func recordSumOf(b []byte) uint32 {
	b = append([]byte{0, 0, 0, 0}, b...)
	seal(b)
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

// A store that was killed can be read whole without a byte of it being changed, and
// a sound one proves sound, running and stopped.
func TestReadOnlyChangesNothing(t *testing.T) {
	s, _, dir := filled(t)
	c, err := s.Verify()
	if err != nil || !c.OK() || c.Records != 100 || c.Journal != 50 {
		t.Errorf("running: %+v %v", c, err)
	}
	if _, err := OpenReadOnly(dir, Options{}); !errors.Is(err, ErrInUse) {
		t.Errorf("while it runs: %v", err)
	}
	copied := crashed(t, dir)
	before := snapshotDir(t, copied)
	v, err := OpenReadOnly(copied, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := v.Verify(); err != nil || !c.OK() || c.Records != 100 || c.Journal != 50 {
		t.Errorf("stopped: %+v %v", c, err)
	}
	all := v.All()
	if len(all) != 1 || all[0].Name != "OUT/a" || all[0].Msgs != 150 || all[0].First != 1 || all[0].Last != 150 {
		t.Errorf("%+v", all)
	}
	l, ok := v.Lookup("OUT/a")
	if !ok {
		t.Fatal("not found")
	}
	n := 0
	for recs := make([]Record, 0, 64); ; n += len(recs) {
		if recs, err = l.Read(recs[:0], uint64(n+1)); err != nil || len(recs) == 0 {
			break
		}
		for i, r := range recs {
			if want := needle((n + i) % 100); !bytes.Equal(r.Data, want) || r.Seq != uint64(n+i+1) {
				t.Fatalf("seq %d is %q, not %q", r.Seq, r.Data, want)
			}
		}
	}
	if n != 150 || err != nil {
		t.Errorf("%d records, %v", n, err)
	}
	if _, err := l.Append(&msg.Msg{Subject: []byte("a.b")}); !errors.Is(err, ErrClosed) {
		t.Errorf("append: %v", err)
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	if after := snapshotDir(t, copied); after != before {
		t.Errorf("before\n%safter\n%s", before, after)
	}
	if _, err := OpenReadOnly(t.TempDir(), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("where there is none: %v", err)
	}
}

// verify is what a look at a stopped store says of it.
func verify(t *testing.T, dir string) Check {
	t.Helper()
	v, err := OpenReadOnly(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	c, err := v.Verify()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Each record that is damaged is found, in bbolt and in the journal, whether the
// store runs or not, and no damage makes it panic.
func TestVerifyFindsDamage(t *testing.T) {
	s, _, dir := filled(t)
	asked := make(chan struct{})
	s.asks <- func() { s.j.mark(); close(asked) } // as after an idle second
	<-asked
	flip := func(dir, name string) {
		t.Helper()
		path := filepath.Join(dir, name)
		b, err := os.ReadFile(path)
		at := bytes.Index(b, needle(77))
		if name == "journal" { // the first frame
			at = int(s.j.start(s.j.gen)) + sectorTag + frameHeader + 100
		}
		if err != nil || at < 0 {
			t.Fatalf("%v, at %d", err, at)
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte{b[at] ^ 1}, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	copied := crashed(t, dir)
	flip(copied, "store.db")
	if c := verify(t, copied); c.OK() || c.Damaged != 1 || len(c.Notes) != 0 {
		t.Errorf("store.db: %+v", c)
	}
	copied = crashed(t, dir)
	flip(copied, "journal")
	if c := verify(t, copied); c.OK() || c.Damaged != 0 || len(c.Notes) != 2 || !strings.Contains(c.Notes[1], "50 messages") {
		t.Errorf("journal: %+v", c)
	}
	for _, file := range []string{"store.db", "journal", metaFile} {
		for _, size := range []int64{0, 1, 4096, 5000} {
			copied := crashed(t, dir)
			if err := os.Truncate(filepath.Join(copied, file), size); err != nil {
				t.Fatal(err)
			}
			if c := verify(t, copied); c.OK() {
				t.Errorf("%s cut to %d bytes is called sound", file, size)
			}
		}
	}
	flip(dir, "store.db")
	flip(dir, "journal") // one frame holds all
	if c, err := s.Verify(); err != nil || c.Damaged != 1 || c.Missing != 50 || c.Records != 99 || c.Journal != 0 {
		t.Errorf("running: %+v %v", c, err)
	}
}

// What a person drops is counted as that, and stays dropped.
func TestDrop(t *testing.T) {
	s, l, dir := filled(t)
	if n, bytes := l.Drop(120); n != 120 || bytes < 120*46 || bytes > 120*52 {
		t.Errorf("%d messages, %d bytes", n, bytes)
	}
	if st := l.Stats(); st.Msgs != 30 || st.First != 121 || st.Lost["dropped_by_operator"] != 120 {
		t.Errorf("%+v", st)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	unopened, ok := s.Lookup("OUT/a") // nobody has configured it
	if all := s.All(); !ok || len(all) != 1 || all[0].Msgs != 30 {
		t.Fatalf("%+v", all)
	}
	if n, _ := unopened.Drop(1<<64 - 1); n != 30 || !strings.Contains(fmt.Sprint(s.Health()), "[]") {
		t.Errorf("%d dropped, %v", n, s.Health())
	}
}

// Who drops waits until the log can be read, and then all goes. A drop before that said 0, and all was
// there later.
func TestDropUnreadable(t *testing.T) {
	dir := backlog(t, 3000, 100)
	damage(t, filepath.Join(dir, "store.db"), 0, make([]byte, 2*boltPage))
	s, l := openBacklog(t, dir, Options{})
	if err := s.Readable(t.Context()); err != nil {
		t.Fatal(err)
	}
	n, _ := l.Drop(math.MaxUint64)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, l = openBacklog(t, dir, Options{})
	defer s.Close()
	if got := readBack(t, s, l); len(got) > 0 || n != 2900 {
		t.Errorf("Drop said %d, and %d messages are there", n, len(got))
	}
}

// What was dropped last, and could not be removed from the disk, is there again at the next start: Close
// says so. It said nothing.
func TestDropNotDurable(t *testing.T) {
	dir := backlog(t, 3000, 100)
	e := &fault{kind: "fold", err: fmt.Errorf("%w: %w", errNoSpace, syscall.ENOSPC)}
	e.left.Store(1)
	e.holds.Store(true)
	var o Options
	o.faults.engine = func(en engine) engine { return faultyEngine{en, e} }
	s, l := openBacklog(t, dir, o)
	n, _ := l.Drop(math.MaxUint64)
	err := s.Close()
	s, l = openBacklog(t, dir, Options{})
	defer s.Close()
	if got := readBack(t, s, l); len(got) == 0 || err == nil {
		t.Errorf("Drop said %d, Close said %v, and %d messages are there", n, err, len(got))
	}
}
