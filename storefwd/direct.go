package storefwd

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// This file writes past the page cache. A cache writes pages of 4 KiB, whatever has changed
// in them; a device takes sectors of 512 bytes. So a small batch costs an eighth, and what is
// read is what the device has, even after an error.

// directFile is a file opened with O_DIRECT. Writes must be of whole, aligned units, from
// aligned memory; reads may be of anything.
type directFile struct {
	osFile
	align int64
}

// diskFile is a journal's file and how it is to be used.
type diskFile struct {
	journalFile
	size  int64
	align int64 // writes are of whole, aligned units of this
	mode  string
	at    namedFile
}

// openDisk opens a file, past the page cache if cached is false and the file system can do
// that.
func openDisk(path string, flags int, cached bool) (*diskFile, error) {
	if !cached {
		if f, err := os.OpenFile(path, flags|unix.O_DIRECT, 0); err == nil {
			if align := directAlign(f); align > 0 {
				return newDisk(f, &directFile{osFile{f}, align}, align, fmt.Sprintf("direct, in units of %d bytes", align))
			}
			f.Close()
		}
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, err
	}
	return newDisk(f, osFile{f}, sector, "through the page cache")
}

func newDisk(f *os.File, j journalFile, align int64, mode string) (*diskFile, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &diskFile{j, info.Size(), align, mode, placeOf(f.Name())}, nil
}

// directAlign is the unit in which f can be read and written, 0 if there is none that suits.
func directAlign(f *os.File) int64 {
	var st unix.Statx_t
	if unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st) == nil && st.Mask&unix.STATX_DIOALIGN != 0 {
		align := int64(max(st.Dio_offset_align, sector))
		if st.Dio_offset_align == 0 || align > journalBlock || align&(align-1) != 0 || int(st.Dio_mem_align) > os.Getpagesize() {
			return 0
		}
		return align
	}
	for _, align := range []int64{sector, journalBlock} { // the kernel does not say
		if _, err := (&directFile{osFile{f}, align}).ReadAt(make([]byte, align), align); err == nil {
			return align
		}
	}
	return 0
}

// ReadAt implements [io.ReaderAt].
func (f *directFile) ReadAt(b []byte, off int64) (n int, err error) {
	from := off &^ (f.align - 1)
	size := min(256<<10, (int64(len(b))+off-from+f.align-1)&^(f.align-1))
	buf, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return 0, fmt.Errorf("memory to read: %w", err)
	}
	defer unix.Munmap(buf)
	for skip := off - from; n < len(b); skip = 0 {
		want := min(size, (int64(len(b)-n)+skip+f.align-1)&^(f.align-1))
		got, err := f.osFile.ReadAt(buf[:want], from)
		if int64(got) > skip {
			n += copy(b[n:], buf[skip:got])
		}
		if from += int64(got); n < len(b) && err != nil {
			return n, err
		}
	}
	return n, nil
}
