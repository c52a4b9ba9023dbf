package storefwd

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// This file notices that files of the running store were taken away: removed, renamed, exchanged for
// others, covered by a mount, or the journal cut off. What is open can be read and written as before, so no
// call fails, and a restart finds nothing of it. The committer looks before it writes, once a second at most, and at the
// close; it does not wake for that. A difference counts when it is seen twice. Then all is as after a fault of the
// journal: who waits is refused, and recover.go writes files that are really there, the journal from RAM, store.db from
// the one that is still open. What is on a disk that cannot be reached any more stays there: nothing is made on the one
// that took its place, which is what an unmount leaves, too.

const (
	filesLook  = int64(time.Second)            // between looks at the files' names
	filesAgain = int64(100 * time.Millisecond) // before a difference is looked at again
)

// namedFile is what a name led to when the file was opened. To ask the name both times, not the descriptor, is
// right where a file system tells the two by different numbers.
type namedFile struct {
	path string
	info fs.FileInfo // nil: not known
}

func placeOf(path string) namedFile {
	info, err := os.Lstat(path)
	if err != nil {
		return namedFile{path: path}
	}
	return namedFile{path, info}
}

// taken reports whether the name leads nowhere now, to another file, or to less of it. A disk that does not
// say has other troubles, which are found elsewhere.
func (f namedFile) taken() bool {
	if f.info == nil {
		return false
	}
	info, err := os.Lstat(f.path)
	if err != nil {
		return leadsNowhere(err)
	}
	return !os.SameFile(f.info, info) || info.Size() < f.info.Size()
}

// leadsNowhere reports whether err is about the name, not about the disk, or for want of descriptors or memory.
func leadsNowhere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)
}

// takenFiles names the files that were taken away.
func (s *Store) takenFiles() string {
	var names []string
	for _, f := range []struct {
		name  string
		taken bool
	}{
		{"lock", s.lock != nil && s.lockAt.taken()},
		{metaFile, s.metaTaken()},
		{"store.db", s.eng.Taken()},
		{"journal", s.j != nil && s.journalAt.taken()},
	} {
		if f.taken {
			names = append(names, f.name)
		}
	}
	return strings.Join(names, ", ")
}

// metaTaken reads the file if it is another one: leafd itself may have written that, or a repair of the disk.
func (s *Store) metaTaken() bool {
	if s.lock == nil || !s.metaOK || s.metaAt.info != nil && !s.metaAt.taken() {
		return false
	}
	at := placeOf(s.path(metaFile))
	var cannot syscall.Errno
	switch err := s.ourMeta(); {
	case errors.As(err, &cannot) && !leadsNowhere(err):
		return false
	case err != nil:
		return true
	}
	s.metaAt = at
	return false
}

// watchFiles looks at the files' names, if it is time, and recovers from what it finds.
func (s *Store) watchFiles() {
	now := s.mono()
	if now < s.filesAt || !s.working() {
		return
	}
	s.filesAt = now + filesLook
	names, again := s.takenFiles(), s.suspicious
	s.suspicious = names != "" && !again
	switch {
	case names == "":
	case !again:
		s.filesAt = now + filesAgain
	default:
		s.lost(names)
		s.recover()
	}
}

// lost has recover make these files anew.
func (s *Store) lost(names string) {
	s.taken = fmt.Sprintf("%s in the store's directory: removed, exchanged, cut off or covered by a mount while leafd runs", names)
	s.engineOK = s.engineOK && !s.eng.Taken()
	s.metaOK = s.metaOK && !s.metaTaken()
	s.fail(errors.New(s.taken))
}

// lastLook is that at the close: RAM and the open files go now, so all has to be in files that the next start
// finds.
func (s *Store) lastLook() {
	s.filesAt = math.MaxInt64
	if s.away != nil {
		return
	}
	if names := s.takenFiles(); names != "" {
		s.lost(names)
	}
	if s.taken != "" {
		s.tryAgain()
	}
}

// takeDir takes the directory that has the store's name now, with nothing in it, or a copy of what was.
func (s *Store) takeDir() error {
	if err := s.sameDisk(); err != nil {
		return err
	}
	lock, err := lockDir(s.dir)
	if err != nil {
		return err
	}
	if err := s.ourMeta(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, lock.Close())
	}
	s.lock.Close()
	s.lock, s.lockAt, s.metaOK = lock, placeOf(lock.Name()), false
	return s.bringMeta() // before records that are under its epoch
}

// sameDisk is an error if the directory, or where it would be made, is not on the file system of the open files.
func (s *Store) sameDisk() error {
	at, err := filepath.Abs(s.dir)
	if err != nil {
		return err
	}
	info, err := os.Stat(at)
	for ; err != nil && at != filepath.Dir(at); info, err = os.Stat(at) {
		at = filepath.Dir(at)
	}
	if err == nil && device(info) != device(s.lockAt.info) {
		err = errors.New("the directory is on another file system now: unmount that, or mount the store's again; a restart would find nothing of what the store holds")
	}
	return err
}

func device(info fs.FileInfo) uint64 { return uint64(info.Sys().(*syscall.Stat_t).Dev) }
