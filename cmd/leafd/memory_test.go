package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Under qemu-user smaps has the emulator's addresses: by these the start of leafd's data was
// given back, with it the runtime's poller, and no client was heard any more.
func TestDropTextTrustsNoForeignAddresses(t *testing.T) {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(page)
	from := uintptr(unsafe.Pointer(&page[0]))
	line := fmt.Sprintf("%x-%x r--p 00000000 fe:00 1    /leafd\n", from, from+uintptr(len(page)))
	for _, c := range []struct {
		maps string
		want byte
	}{{"", 7}, {fmt.Sprintf("1000-%x r--p 00000000 fe:00 1    /leafd\n", from), 7}, {line, 0}} {
		proc := t.TempDir()
		if err := errors.Join(os.Symlink("/leafd", filepath.Join(proc, "exe")), os.WriteFile(filepath.Join(proc, "maps"), []byte(c.maps), 0o600),
			os.WriteFile(filepath.Join(proc, "smaps"), []byte(line+"Private_Dirty:         0 kB\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
		page[0] = 7
		if err := dropText(proc); err != nil {
			t.Fatal(err)
		}
		if page[0] != c.want {
			t.Errorf("maps %q: the page has %d, want %d", c.maps, page[0], c.want)
		}
	}
}
