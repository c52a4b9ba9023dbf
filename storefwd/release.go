package storefwd

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// This file lets go of all files of a store that stays open, so that an operator can unmount
// a file system that the kernel made read-only, check it and mount it again. Meanwhile
// nothing is acknowledged and nothing can be read. RAM keeps what the journal is for.

const (
	releaseFor  = 10 * time.Minute // if it is not unmounted until then the files are taken again
	releaseLook = int64(250 * time.Millisecond)
)

// released is a store without files. Owned by the committer.
type released struct {
	watch   int // inotify of the directory: it tells of an unmount and does not stand in its way
	name    net.Listener
	until   int64 // by mono
	unmount bool  // there was one
	back    chan struct{}
}

// nameOfRelease is that of a socket which tells other processes that the files are only released, and is never
// read. It is in no file system, so it does not stand in the way of an unmount and can be made while the
// disk cannot be written, and it goes with the process.
func nameOfRelease(epoch uint64) string { return "@leafd-released-" + strconv.FormatUint(epoch, 10) }

// notReleased is an error if the process that made the epoch still runs, and will take its files again: what others
// append or drop meanwhile it would not know of.
func notReleased(epoch uint64) error {
	c, err := net.Dial("unix", nameOfRelease(epoch))
	if err != nil {
		return nil // nobody has it
	}
	c.Close()
	return errReleased
}

var errReleased = errors.New("leafd runs, and its files are only closed by leafd outbox release; wait until it has taken them again, which is 10 minutes after that at the latest, or stop it")

// Release lets go of all files and returns once they are closed. They are taken again when the
// file system was unmounted and the same store is there again, or after 10 minutes if it was
// not; then, or at Close, back is closed. A store that another process wrote to meanwhile
// is not taken: this one must be closed then.
func (s *Store) Release() (back <-chan struct{}, err error) {
	asked := make(chan struct{})
	select {
	case s.asks <- func() { back, err = s.releaseNow(); close(asked) }:
		<-asked
		return back, err
	case <-s.done:
		return nil, ErrClosed
	}
}

func (s *Store) releaseNow() (back <-chan struct{}, err error) {
	if s.away != nil {
		return s.away.back, nil
	}
	if !s.loaded || !s.metaOK {
		return nil, errors.New("the store could not be opened yet; stop leafd")
	}
	if names := s.takenFiles(); names != "" {
		return nil, fmt.Errorf("%s: not where a start would find them; what is open is all there is", names)
	}
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch for the unmount: %w", err)
	}
	if _, err := unix.InotifyAddWatch(watch, s.dir, unix.IN_DELETE_SELF|unix.IN_MOVE_SELF); err != nil {
		return nil, errors.Join(fmt.Errorf("watch for the unmount: %w", err), unix.Close(watch))
	}
	name, err := net.Listen("unix", nameOfRelease(s.epoch))
	if err != nil {
		unix.Close(watch)
		return nil, err
	}
	s.commit(everything)
	s.away = &released{watch: watch, name: name, until: s.mono() + int64(releaseFor), back: make(chan struct{})}
	s.letGo(errors.New("the files are closed, for the file system to be unmounted and checked; it goes on once that is mounted again"))
	return s.away.back, nil
}

// letGo closes all files; why is what publishers are told.
func (s *Store) letGo(why error) {
	s.closeJournal()
	s.mu.Lock()
	s.setReadable(false)
	s.retryAt = s.mono() + releaseLook
	s.setFailed(fmt.Errorf("%w: %w", ErrFailed, why))
	s.unlockAndFire()
	err := s.eng.Close()
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
	}
	s.engineOK, s.lock = false, nil
	if err != nil {
		s.o.Logger.Warn("store: closing a file failed", "dir", s.dir, "err", err)
	}
}

// returned reports whether the files may be taken again.
func (s *Store) returned() bool {
	a := s.away
	if a.unmount = a.unmount || unmounted(a.watch); !a.unmount && s.mono() < a.until {
		return false
	}
	err := s.isOurs()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.mu.Lock()
		s.setFailed(fmt.Errorf("%w: %w", ErrFailed, err))
		s.mu.Unlock()
	}
	return err == nil
}

// isOurs looks whether the directory has the store that RAM knows, as this run left it.
func (s *Store) isOurs() error {
	if err := s.ourMeta(); err != nil {
		return err
	}
	_, err := os.Lstat(s.path("store.db")) // bbolt would make a new one
	return err
}

// ourMeta looks whether the directory's meta file is that of this run.
func (s *Store) ourMeta() error {
	b, err := os.ReadFile(s.path(metaFile))
	if err != nil {
		return err
	}
	m, err := decodeMeta(b)
	if err != nil {
		return fmt.Errorf("%s: %w", metaFile, err)
	}
	if m.epoch() != s.epoch {
		return errors.New("it is another store, or another process opened it meanwhile; restart leafd")
	}
	return nil
}

// unmounted reads what inotify has to say: of an unmount, or that the directory is another now.
func unmounted(watch int) (yes bool) {
	var b [16 * unix.SizeofInotifyEvent]byte
	n, err := unix.Read(watch, b[:])
	for at := 0; err == nil && at+unix.SizeofInotifyEvent <= n; at += unix.SizeofInotifyEvent + int(le.Uint32(b[at+12:])) {
		yes = yes || le.Uint32(b[at+4:])&(unix.IN_UNMOUNT|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_IGNORED) != 0
	}
	return yes
}

// comeBack ends it.
func (s *Store) comeBack() {
	if s.away != nil {
		unix.Close(s.away.watch)
		s.away.name.Close()
		close(s.away.back)
		s.away = nil
	}
}
