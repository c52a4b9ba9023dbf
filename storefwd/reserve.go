package storefwd

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// This file keeps a little of the disk back. A copy-on-write tree needs free pages
// even to delete, so on a full disk the store could not help itself; the reserve is
// let go then, and taken again when there is room.

const reserveFile = "reserve"

// letReserveGo gives its blocks to whoever needs them, which need not be us. It
// reports whether there were any.
func (s *Store) letReserveGo() bool {
	if os.Remove(s.path(reserveFile)) != nil {
		return false
	}
	s.o.Logger.Warn("store: no room on the disk, the reserve is let go", "dir", s.dir, "bytes", s.o.Reserve)
	return true
}

// keepReserve takes the reserve if it is missing and the disk has room for it and
// for a fold besides. That there is none is no reason to stop anything.
func (s *Store) keepReserve() {
	if s.o.Reserve < 0 || s.mono() < s.reserveAt {
		return
	}
	s.reserveAt = s.mono() + int64(retryMax)
	if info, err := os.Lstat(s.path(reserveFile)); err == nil && info.Size() == s.o.Reserve {
		return
	}
	if diskRoom(s.dir) < 2*s.o.Reserve+4*maxFold {
		return
	}
	err := replaceFile(s.path(reserveFile), func(f *os.File) error {
		err := unix.Fallocate(int(f.Fd()), 0, 0, s.o.Reserve)
		if !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		_, err = f.Write(make([]byte, s.o.Reserve))
		return err
	})
	if err != nil {
		s.o.Logger.Warn("store: no reserve could be taken", "dir", s.dir, "err", err)
	}
}
