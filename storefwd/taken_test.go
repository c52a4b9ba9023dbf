package storefwd

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// lookTwice has the committer look at the files until a difference counts.
func lookTwice(s *Store) {
	for range 2 {
		later(time.Duration(filesLook))
		s.Health()
	}
	later(time.Duration(filesLook))
}

// waysToTake are what others do to the directory of a running store.
var waysToTake = map[string]func(dir string) error{
	"rm -rf":      os.RemoveAll,
	"rm -rf dir/": func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)) },
	"mv":          func(dir string) error { return os.Rename(dir, dir+".old") },
	"mv, cp -r": func(dir string) error {
		return errors.Join(os.Rename(dir, dir+".old"), os.CopyFS(dir, os.DirFS(dir+".old")))
	},
	"rm journal":         func(dir string) error { return os.Remove(filepath.Join(dir, "journal")) },
	"truncate journal":   func(dir string) error { return os.Truncate(filepath.Join(dir, "journal"), 0) },
	"rm store.db":        func(dir string) error { return os.Remove(filepath.Join(dir, "store.db")) },
	"rm meta.json":       func(dir string) error { return os.Remove(filepath.Join(dir, metaFile)) },
	"overwrite the meta": func(dir string) error { return os.WriteFile(filepath.Join(dir, metaFile), nil, 0o600) },
	"rmdir lock":         func(dir string) error { return os.Remove(filepath.Join(dir, "lock")) },
}

// The files of a running store are taken away: 30,000 acknowledgements later nothing was said, and after a
// restart 8,000 to 30,000 of them were gone. Now files are made that a restart finds, with what the ones before held, and
// health says so.
func TestFilesTakenAway(t *testing.T) {
	for name, take := range waysToTake {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "s")
				k := openKeeper(t, dir, (&fault{}).options())
				k.keepAll(100) // more than a journal of 256 KiB holds
				if err := take(dir); err != nil {
					t.Fatal(err)
				}
				k.keepAll(20)
				lookTwice(k.s)
				if h := k.s.Health(); len(h) != 1 || !strings.Contains(h[0], "while leafd runs; made anew") {
					t.Errorf("health: %q", h)
				}
				k.checkCrash(dir)
				k.keepAll(100)
				k.checkCrash(dir)
				if got := heldBy(t, k.l); len(got) != 220 {
					t.Errorf("the log holds %d of 220", len(got))
				}
				if err := k.s.Close(); err != nil {
					t.Error(err)
				}
				k.checkCrash(dir)
			})
		})
	}
}

// keepAll appends n messages, which must become safe.
func (k *keeper) keepAll(n int) {
	k.t.Helper()
	for range n {
		if err := k.keep(); err != nil {
			k.t.Fatal(err)
		}
	}
}

// … and right before an orderly stop, which has to leave all of it.
func TestFilesTakenAwayBeforeTheClose(t *testing.T) {
	for name, take := range waysToTake {
		dir := filepath.Join(t.TempDir(), "s")
		k := openKeeper(t, dir, (&fault{}).options())
		k.keepAll(100)
		if err := errors.Join(take(dir), k.s.Close()); err != nil {
			t.Error(name, err)
		}
		k.checkCrash(dir)
	}
}

// A file that is away for one look and back at the next, as a disk may say, is none that was taken.
func TestSeenOnceIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		k := openKeeper(t, dir, (&fault{}).options())
		defer k.s.Close()
		journal := filepath.Join(dir, "journal")
		for range 3 {
			later(time.Duration(filesLook))
			onCommitter(k.s, func() {
				err := os.Rename(journal, journal+".1")
				k.s.watchFiles()
				if err := errors.Join(err, os.Rename(journal+".1", journal)); err != nil || !k.s.suspicious {
					t.Error("not seen", err)
				}
			})
			later(time.Duration(filesLook))
		}
		if st := k.s.Stats(); st.Faults != 0 {
			t.Errorf("%d faults, health %q", st.Faults, k.s.Health())
		}
	})
}

// The directory is on another disk of a sudden, as under a mount, or below an unmounted one: nothing is
// made there and nothing acknowledged, what is open can still be read; and all goes on once the first is back.
func TestDirectoryOnAnotherDisk(t *testing.T) {
	other, err := os.MkdirTemp("/dev/shm", "leafd-test")
	if err != nil {
		t.Skip("no second file system: ", err)
	}
	defer os.RemoveAll(other)
	synctest.Test(t, func(t *testing.T) {
		dir, link := filepath.Join(t.TempDir(), "s"), filepath.Join(t.TempDir(), "link")
		point := func(to string) {
			os.Remove(link)
			if err := os.Symlink(to, link); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if a, b := stat(t, other), stat(t, dir); a.Dev == b.Dev {
			t.Skip("no second file system")
		}
		point(dir)
		k := openKeeper(t, link, (&fault{}).options())
		k.keepAll(100)
		point(other)
		lookTwice(k.s)
		if err := k.keep(); !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "another file system") {
			t.Errorf("the publisher is told %v", err)
		}
		if _, err := k.s.Release(); err == nil {
			t.Error("files that no restart would find are closed")
		}
		if got := heldBy(t, k.l); len(got) != 100 {
			t.Errorf("%d records can be read, want 100", len(got))
		}
		if made, err := os.ReadDir(other); err != nil || len(made) > 0 {
			t.Errorf("on the other disk there is %v, %v", made, err)
		}
		point(dir)
		later(retryMax)
		k.keepAll(1)
		k.checkCrash(dir)
		if err := k.s.Close(); err != nil {
			t.Error(err)
		}
		k.checkCrash(dir)
	})
}

func stat(t *testing.T, path string) (st syscall.Stat_t) {
	t.Helper()
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// Another store took the directory's name: it is left as it is.
func TestAnotherStoreInItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "s")
		k := openKeeper(t, dir, (&fault{}).options())
		defer func() { k.s.Close() }()
		k.keepAll(100)
		if err := os.Rename(dir, dir+".old"); err != nil {
			t.Fatal(err)
		}
		other := openKeeper(t, dir, (&fault{}).options())
		other.keepAll(50)
		lookTwice(k.s)
		if err := k.keep(); !errors.Is(err, ErrFailed) || !errors.Is(err, ErrInUse) {
			t.Errorf("the publisher is told %v", err)
		}
		if err := other.s.Close(); err != nil {
			t.Fatal(err)
		}
		later(retryMax)
		if err := k.keep(); !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "another store") {
			t.Errorf("the publisher is told %v", err)
		}
		other.checkCrash(dir)
		k.checkCrash(dir + ".old")
	})
}

// A meta file that cannot be read for want of descriptors was not taken away.
func TestNoDescriptorsAreNoTakenFile(t *testing.T) {
	dir := t.TempDir()
	real, err := Open(dir, Options{Node: "n"})
	if err != nil {
		t.Fatal(err)
	}
	s := &Store{dir: dir, epoch: real.epoch, lock: real.lock, metaOK: true} // that has not looked yet
	defer real.Close()
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	none := was
	none.Cur = 3
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	_, lack := os.ReadFile(filepath.Join(dir, metaFile))
	taken := s.metaTaken()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if taken || !errors.Is(lack, syscall.EMFILE) {
		t.Errorf("taken: %v, reading: %v", taken, lack)
	}
	s.epoch++ // another store's
	if !s.metaTaken() {
		t.Error("another meta file was not noticed")
	}
}
