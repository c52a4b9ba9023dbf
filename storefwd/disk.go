package storefwd

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// This file has what the store asks of the kernel beyond reading and writing.

// allocate gives a file that ends at from n bytes more, its own if the file system can
// do that.
func allocate(f *os.File, from, n int64) error {
	if n <= 0 {
		return nil
	}
	err := unix.Fallocate(int(f.Fd()), 0, from, n)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = f.Truncate(from + n)
	}
	return err
}

// diskRoom is what the file system of dir has left for us, in bytes; -1 if it does not say.
func diskRoom(dir string) int64 {
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil {
		return -1
	}
	return int64(fs.Bavail) * int64(fs.Bsize)
}

// dropCache makes the kernel forget what it caches of a file that is not mapped.
func dropCache(path string) {
	if f, err := os.Open(path); err == nil {
		unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		f.Close()
	}
}

// asError turns what bbolt does on a damaged file, a panic or a fault in its memory
// map, into an error.
func asError(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: %v", ErrDamaged, p)
	}
}

// onFaultPanic makes a fault in a memory map a panic of this goroutine instead of
// the end of the process. The result undoes it.
func onFaultPanic() (undo func()) {
	old := debug.SetPanicOnFault(true)
	return func() { debug.SetPanicOnFault(old) }
}
