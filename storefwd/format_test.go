package storefwd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/leafd/leafd/internal/msg"
)

// A leafd of the first format opens the lock as a file, for writing. After an upgrade it
// fails there, before it has looked at anything that it could take for damaged; and the two
// cannot run at the same time.
func TestTheFirstFormatIsLockedOut(t *testing.T) {
	dir := t.TempDir()
	unpack(t, "testdata/format1.tar.gz", dir)
	openAsBefore := func() (*os.File, error) {
		return os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	}
	old, err := openAsBefore()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(old.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrInUse) {
		t.Fatalf("while the old one runs: %v", err)
	}
	old.Close()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"running", "stopped"} {
		if _, err := openAsBefore(); !errors.Is(err, syscall.EISDIR) || !stops(err) {
			t.Errorf("%s: the old one would go on: %v", when, err)
		}
		if _, err := Open(dir, Options{}); (err == nil) != (when == "stopped") || err != nil && !errors.Is(err, ErrInUse) {
			t.Errorf("%s: %v", when, err)
		}
		s.Close()
	}
}

// A store that a later version made is refused, and not a byte of it changes.
func TestNewerFormatIsRefused(t *testing.T) {
	dir := backlog(t, 10, 0)
	path := filepath.Join(dir, metaFile)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := decodeMeta(b)
	if err != nil {
		t.Fatal(err)
	}
	m.Format = metaFormat + 1
	if _, err := m.write(path); err != nil {
		t.Fatal(err)
	}
	before := snapshotDir(t, dir)
	_, err = Open(dir, Options{})
	if err == nil || !strings.Contains(err.Error(), "newer leafd") {
		t.Errorf("opened: %v", err)
	}
	if _, err = OpenReadOnly(dir, Options{}); !errors.Is(err, errNewer) {
		t.Errorf("opened to look: %v", err)
	}
	if snapshotDir(t, dir) != before {
		t.Error("something has changed")
	}
}

// A store of the first format goes on with blocks beside the single records.
func TestFirstFormatGoesOn(t *testing.T) {
	dir := t.TempDir()
	unpack(t, "testdata/format1.tar.gz", dir)
	for round := range uint64(3) {
		s, l := openBacklog(t, dir, Options{})
		if lock, err := os.Lstat(filepath.Join(dir, "lock")); err != nil || lock.Mode()&fs.ModeDir == 0 {
			t.Fatal(lock, err)
		}
		for i := range uint64(100) {
			n := 351 + 100*round + i
			m := &msg.Msg{Subject: []byte("a.b"), Data: binary.BigEndian.AppendUint64(bytes.Repeat([]byte{'x'}, 50), n)}
			if _, err := l.Append(m); err != nil {
				t.Fatal(err)
			}
		}
		settle(t, s)
		want := uint64(101)
		for from := uint64(0); ; {
			recs, err := l.Read(nil, from)
			if err != nil {
				t.Fatal(err)
			}
			if len(recs) == 0 {
				break
			}
			for _, r := range recs {
				if n := binary.BigEndian.Uint64(r.Data[len(r.Data)-8:]); want <= 350 && binary.BigEndian.Uint64(r.Data) != want || want > 350 && n != want {
					t.Fatalf("round %d: %d is %x", round, want, r.Data)
				}
				from = r.Seq + 1
				want++
			}
		}
		if want != 451+100*round {
			t.Fatalf("round %d: read up to %d", round, want)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
