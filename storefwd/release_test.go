package storefwd

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

// openUnder are the files below dir that this process has open or mapped.
func openUnder(t *testing.T, dir string) (all []string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if path, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(path, dir) {
			all = append(all, path)
		}
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(maps), dir) {
		all = append(all, "a memory map")
	}
	return all
}

// An operator unmounts the file system under a store, checks it and mounts it again: no file
// stands in the way, nothing is made in the directory below, publishers are refused until
// it is back, and then all goes on in the same process.
func TestReleaseAndComeBack(t *testing.T) {
	f := &fault{kind: "never"}
	dir := filepath.Join(t.TempDir(), "s")
	k := openKeeper(t, dir, f.options())
	defer func() { k.s.Close() }()
	for range 100 { // more than a journal of 256 KiB holds
		if err := k.keep(); err != nil {
			t.Fatal(err)
		}
	}
	back, err := k.s.Release()
	if err != nil {
		t.Fatal(err)
	}
	if open := openUnder(t, dir); len(open) > 0 {
		t.Fatalf("still open: %q", open)
	}
	if err := k.keep(); !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "mounted again") {
		t.Fatalf("a publisher is told %v", err)
	}
	if err := errors.Join(os.Rename(dir, dir+".unmounted"), os.Mkdir(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	looked := make(chan bool, 1)
	k.s.asks <- func() { looked <- !k.s.returned() && k.s.away.unmount }
	if err := k.keep(); !errors.Is(err, ErrFailed) {
		t.Fatalf("a publisher is told %v", err)
	}
	if made, err := os.ReadDir(dir); err != nil || len(made) > 0 || !<-looked {
		t.Fatalf("in the directory below there is %v, %v", made, err)
	}
	if err := errors.Join(os.Remove(dir), os.Rename(dir+".unmounted", dir)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-back:
	case <-time.After(testkit.Patience):
		t.Fatal("the files are not taken again")
	}
	testkit.Eventually(t, func() bool { return k.s.Stats().Failed == "" }, "the store works again")
	if err := k.keep(); err != nil {
		t.Fatal(err)
	}
	if got := heldBy(t, k.l); len(got) != 101 {
		t.Fatalf("%d records, want 101", len(got))
	}
	k.checkCrash(dir)
}

// What another process appends in the meantime is not in RAM. It is told that the store is in use; to one that does not see
// that, from another network namespace, the store is lost: to go on would write over what it appended.
func TestReleaseThenAnotherProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	k := openKeeper(t, dir, (&fault{kind: "never"}).options())
	if err := k.keep(); err != nil {
		t.Fatal(err)
	}
	back, err := k.s.Release()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, errReleased) {
		t.Fatalf("another process opens it: %v", err)
	}
	k.s.away.name.Close()
	other := openKeeper(t, dir, Options{JournalBytes: 256 << 10})
	if err := errors.Join(other.keep(), other.s.Close()); err != nil {
		t.Fatal(err)
	}
	k.s.asks <- func() { k.s.away.unmount = true }
	testkit.Eventually(t, func() bool { return strings.Contains(k.s.Stats().Failed, "restart leafd") }, "the store says what to do")
	if err := k.keep(); !errors.Is(err, ErrFailed) {
		t.Fatalf("a publisher is told %v", err)
	}
	k.s.Close()
	<-back
}
