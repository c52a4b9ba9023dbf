package storefwd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// This file brings the store and its files together: at Open, and again after an
// error of the disk, without a restart.
//
// After a failed write or sync the kernel may have dropped the data and call it
// clean, and a second sync of the same file would say nothing. So the file is
// closed and never written again: what RAM holds goes into a fresh journal that takes
// its place whole, or into another transaction on a bbolt file that was opened anew.
// RAM holds all that the journal is needed for, so nothing has to be read back.

const (
	retryMin = time.Second
	retryMax = 30 * time.Second

	mostUnread = 10 // tries to read a journal before it is given up
)

// bring takes the steps that are missing until records can be made safe. It is
// Open's, and then the committer's. A step that failed is tried again by the next
// call; those behind it wait, so that a disk that can only be read serves readers.
func (s *Store) bring() error {
	err := s.takeSteps()
	if errors.Is(err, errNoSpace) && s.letReserveGo() {
		err = s.takeSteps()
	}
	if err == nil {
		s.keepReserve()
	}
	return err
}

func (s *Store) takeSteps() error {
	for _, step := range []struct {
		name string
		take func() error
	}{
		{"lock", s.bringLock}, {"engine", s.bringEngine}, {"records", s.bringRecords}, {"meta", s.bringMeta}, {"journal", s.bringJournal},
	} {
		if f := s.o.faults.step; f != nil {
			if err := f(step.name); err != nil {
				return err
			}
		}
		if err := step.take(); err != nil {
			return spaceError(err)
		}
	}
	return nil
}

func (s *Store) bringLock() (err error) {
	switch {
	case s.lock == nil:
		s.lock, err = lockDir(s.dir)
		s.lockAt = placeOf(s.path("lock"))
	case s.lockAt.taken():
		return s.takeDir()
	}
	if err == nil && s.away != nil {
		err = s.isOurs() // now that nobody else can open it
	}
	return err
}

// bringEngine opens the bbolt file and learns from it what logs there are. One that
// is damaged is moved aside, to be salvaged.
func (s *Store) bringEngine() error {
	if s.engineOK {
		return nil
	}
	if s.lockAt.taken() {
		return errors.New("the directory is not the store's any more")
	}
	s.findDamaged()
	if _, err := os.Lstat(s.path("store.db")); !s.loaded && s.salvage == nil && s.meta.Opens > 1 && errors.Is(err, fs.ErrNotExist) {
		s.mu.Lock()
		s.note(dbGone) // it was durable before meta.json was
		s.mu.Unlock()
	}
	var written int64
	err := s.check()
	if err == nil {
		written, err = s.openEngine()
	}
	if errors.Is(err, ErrDamaged) {
		if err := s.quarantine(err); err != nil {
			return err
		}
		s.findDamaged()
		written, err = s.openEngine()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.MetaBytes += written
	s.engineOK = err == nil
	return err
}

const dbGone = "store.db is gone, and with it all that was in it and not in the journal"

func countedNote(id uint32) string {
	return fmt.Sprintf("store.db: the account of log #%08x failed its checksum and was made anew from its records; losses that were not declared yet are forgotten", id)
}

// check looks at the file's structure before bbolt does, the first time and after others had
// it in hand. Only damage counts here.
func (s *Store) check() error {
	path := s.path("store.db")
	if _, err := os.Lstat(path); s.loaded && s.away == nil || err != nil {
		return nil
	}
	if err := s.o.Check(path); errors.Is(err, ErrDamaged) {
		return err
	}
	return nil
}

// openEngine opens the file and, the first time, takes over what it says. A file
// that can only be read does for that.
func (s *Store) openEngine() (written int64, err error) {
	written, openErr := s.eng.Open()
	states, folded, err := s.eng.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.setReadable(false)
		return written, cmpErr(openErr, err)
	}
	if !s.loaded {
		for id, st := range states {
			if s.restoreLog(id, st); st.counted {
				s.note(countedNote(id))
			}
		}
		s.loaded, s.folded = true, folded
		s.loadWear()
	}
	s.setReadable(s.salvaging == nil)
	return written, openErr
}

// bringRecords puts back into RAM what the journal holds and bbolt does not.
func (s *Store) bringRecords() error {
	if s.replayed {
		return nil
	}
	path := s.path("journal")
	f, err := openDisk(path, os.O_RDWR|unix.O_NOFOLLOW, s.cached)
	readOnly := errors.Is(err, syscall.EROFS)
	if readOnly {
		f, err = openDisk(path, os.O_RDONLY, s.cached)
	}
	if errors.Is(err, fs.ErrNotExist) {
		s.nothingToReplay(s.journalGone())
		return nil
	}
	if err != nil {
		return err
	}
	j, err := openJournal(s.faulty(f.journalFile), f.size, f.align, s.meta.run())
	if s.unread++; errors.Is(err, errJournalUnread) && s.unread < mostUnread {
		f.Close()
		return err // the disk fails: what is there may be read later
	}
	if err != nil {
		f.Close()
		kept, moveErr := moveAside(path, s.epoch)
		if moveErr != nil {
			return moveErr
		}
		s.nothingToReplay(fmt.Sprintf("the journal could not be read (%v) and is kept as %s", err, kept))
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.replayJournal(j) {
		s.note(n)
	}
	s.replayed = true
	for _, l := range s.logs {
		if l.claimed {
			l.enforce()
		}
	}
	s.useJournal(j, f)
	// What a killed process wrote and did not sync was given out: it is to be durable
	// before the journal says so.
	if readOnly || j.f.Datasync() != nil {
		s.closeJournal()
	}
	return nil
}

func (s *Store) nothingToReplay(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note(why)
	s.replayed = true
}

// journalGone is what to say where no journal is. At the first start there is none, and in a crash or on a
// full disk that may last for any number of starts. But its name is durable before anything of it
// is folded, and from then on one is only exchanged for another.
func (s *Store) journalGone() string {
	if s.folded == 0 {
		return ""
	}
	return "the journal is gone, and with it all that was in it and not in store.db"
}

// replayJournal puts what the journal holds back into RAM, and says what is damaged.
func (s *Store) replayJournal(j *journal) (notes []string) {
	to := &restorer{s: s}
	notes = j.replay(s.folded, to)
	return append(notes, to.declare(j.ends)...)
}

// restore takes back one record of the journal.
func (s *Store) restore(b []byte) {
	id, r, err := parseRecord(b)
	if err != nil {
		return
	}
	l := s.logs[id]
	if l == nil {
		l = s.restoreLog(id, logState{})
	}
	if b[32] == kindLost || b[32] == kindCut {
		if l.replayTold(b, r.Seq) {
			l.told = append(l.told, append(l.alloc(len(b)), b...))
		}
		return
	}
	if r.Seq <= l.folded || r.Seq <= l.journaled {
		return // folded before the crash, or seen in the other half
	}
	if r.Seq < l.first || l.wasAcked(r.Seq) { // acknowledged, dropped or superseded when that was folded
		l.journaled, l.last = r.Seq, max(l.last, r.Seq)
		l.replayGap(r.Seq, b)
		return
	}
	l.insert(&rec{log: l, seq: r.Seq, buf: append(l.alloc(len(b)), b...), state: recSafe, filed: true}, r.Epoch)
	l.oldMsgs, l.oldBytes = l.oldMsgs+1, l.oldBytes+int64(len(b))
	l.journaled = r.Seq
	l.replayGap(r.Seq, b)
	s.dirty()
}

// bringMeta makes the epoch durable, before anything is stored under it.
func (s *Store) bringMeta() error {
	if s.metaOK {
		return nil
	}
	n, err := s.meta.write(s.path(metaFile))
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.MetaBytes += int64(n)
	s.metaOK = true
	return nil
}

// bringJournal makes a fresh journal if there is none that can be trusted. It holds
// from its first moment what the old one does and bbolt not.
//
// In a crash the old file is there, with what was durable of it, or the new one.
func (s *Store) bringJournal() error {
	if j := s.j; j != nil && !j.first && !j.bad && (j.size == s.o.JournalBytes || j.used != [2]uint64{}) {
		return nil // one of another size is exchanged when it is empty
	}
	s.saveGaps()
	s.mu.Lock()
	recs, waiting := s.unfolded(), s.largest()
	s.mu.Unlock()
	path, size, run := s.path("journal"), max(s.o.JournalBytes, journalFor(recs), journalFor(waiting)), s.meta.run()
	size = (size + 2*journalBlock - 1) &^ (2*journalBlock - 1) // one of format 1 may have another
	n, err := createJournal(path, size, run, recs)
	if err != nil && s.j != nil && !s.j.first && errors.Is(spaceError(err), errNoSpace) && !errors.Is(err, errExchanged) {
		return nil // the one there is will do
	}
	s.closeJournal()
	if err != nil {
		return err
	}
	dropCache(path) // it was made through the cache, and may go on without
	f, err := openDisk(path, os.O_RDWR, s.cached)
	if err != nil {
		return err
	}
	j, err := openJournal(s.faulty(f.journalFile), size, f.align, run)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	var found counter
	if notes := j.replay(0, &found); int(found) < len(recs) || j.bad {
		j.close()
		return fmt.Errorf("of %d records written to a new journal %d can be read: %v", len(recs), found, notes)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.MetaBytes += n
	s.useJournal(j, f)
	return nil
}

// saveGaps writes down what is known of losses before the journal is exchanged that told of
// them: after a crash the new one would not.
func (s *Store) saveGaps() {
	s.mu.Lock()
	owes := false
	for _, l := range s.logs {
		owes = owes || l.gapNews || len(l.gaps) > 0
	}
	s.mu.Unlock()
	if !owes {
		return
	}
	n, err := s.eng.Fold(s.statesOnly())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stats.BoltBytes += n; err == nil {
		return
	}
	for _, l := range s.logs { // as soon as that works, then
		if l.gapNews = l.gapNews || l.gapFolding; l.gapNews {
			s.foldNow()
		}
	}
}

// counter counts the records of a journal.
type counter int

func (c *counter) record([]byte)  { *c++ }
func (c *counter) missing(uint32) {}

// unfolded lists the records that are safe in the journal alone, in their order. Those
// that somebody still has to read are what counts, and what was told of losses.
func (s *Store) unfolded() (recs [][]byte) {
	for _, l := range s.logs {
		from := len(recs)
		for _, b := range l.told {
			seal(b)
			recs = append(recs, b)
		}
		for i := range l.ram.len() {
			if r := *l.ram.at(i); r.seq <= l.journaled && !r.gone {
				seal(r.buf) // it may never have been in the journal
				recs = append(recs, r.buf)
			}
		}
		if len(l.told) > 0 {
			own := recs[from:]
			sort.SliceStable(own, func(i, j int) bool { return le.Uint64(own[i][16:]) < le.Uint64(own[j][16:]) })
		}
	}
	return recs
}

// largest is the largest record that waits to be written: it was taken while the journal had room for it.
func (s *Store) largest() (one [][]byte) {
	for i := range s.queue.len() {
		if b := (*s.queue.at(i)).buf; len(one) == 0 || len(b) > len(one[0]) {
			one = [][]byte{b}
		}
	}
	return one
}

// useJournal goes on with j, whose records are all in RAM.
func (s *Store) useJournal(j *journal, f *diskFile) {
	if s.stats.JournalMode != f.mode {
		s.o.Logger.Info("store: the journal is written "+f.mode, "dir", s.dir)
		s.stats.JournalMode = f.mode
	}
	s.j, s.journalAt, s.limit, s.journalRoom = j, f.at, j.half, j.left()
	s.sealGen = j.gen
	for _, l := range s.logs {
		l.sealed = l.journaled
	}
	if j.used != [2]uint64{} {
		s.dirty()
	}
}

func (s *Store) closeJournal() {
	if s.j != nil {
		s.j.close()
		s.j = nil
		dropCache(s.path("journal"))
	}
}

// fail ends all acknowledging until recover has succeeded.
func (s *Store) fail(err error) {
	s.closeJournal()
	s.cached = s.cached || errors.Is(err, syscall.EINVAL) // it was direct, in spite of what the file system said
	s.mu.Lock()
	s.stats.Faults++
	s.atOnce()
	s.setFailed(fmt.Errorf("%w: %w", ErrFailed, err))
	s.wakeAll()
	s.unlockAndFire()
}

// atOnce has the committer try again without a pause. The caller holds mu.
func (s *Store) atOnce() { s.retryAt, s.pause = 0, cmpOr(s.o.faults.retry, retryMin) }

// backOff says when the committer tries again.
func (s *Store) backOff() {
	s.retryAt = s.mono() + int64(s.pause)
	s.pause = min(2*s.pause, retryMax)
}

// setFailed notes why nothing is acknowledged, and logs it if it is news.
func (s *Store) setFailed(err error) {
	if s.failed == nil || s.failed.Error() != err.Error() {
		s.o.Logger.Error("store: nothing is acknowledged until the disk works again", "dir", s.dir, "err", err)
	}
	s.failed = err
	s.release()
}

// release lets publishers go on that wait for the disk: they will be refused.
func (s *Store) release() {
	if s.behind != nil {
		close(s.behind)
		s.behind = nil
	}
}

// recover tries to get the files back after fail, or after an Open that could not
// have all of them.
func (s *Store) recover() {
	s.mu.Lock()
	due := s.failed != nil && !s.closed && s.mono() >= s.retryAt
	s.mu.Unlock()
	if !due {
		return
	}
	if s.away != nil && !s.returned() {
		s.mu.Lock()
		s.retryAt = s.mono() + releaseLook
		s.mu.Unlock()
		return
	}
	s.tryAgain()
}

func (s *Store) tryAgain() {
	err := s.bring()
	if err == nil {
		s.comeBack()
	} else if s.away != nil {
		s.letGo(err)
	}
	s.mu.Lock()
	if err != nil {
		s.setFull(err)
		s.setFailed(fmt.Errorf("%w: %w", ErrFailed, err))
		s.backOff()
	} else {
		s.failed = nil
		if s.taken != "" {
			s.note(s.taken + "; made anew with all that was in them, but leave that directory to leafd alone")
			s.taken = ""
		}
		s.atOnce()
		s.stats.Recoveries++
		s.setFull(nil)
		s.o.Logger.Info("store: the disk works again, acknowledging goes on", "dir", s.dir)
	}
	s.wakeAll()
	s.unlockAndFire()
}

// wakeAll lets all readers look again.
func (s *Store) wakeAll() {
	for _, l := range s.logs {
		l.wakeReaders()
	}
}

// setReadable says whether what is in bbolt can be read; readers wait while it is not.
func (s *Store) setReadable(ok bool) {
	if s.readable = ok; !ok {
		return
	}
	for _, l := range s.logs {
		l.enforce()
	}
	s.wakeAll()
}

// stops reports whether an error of Open is one that waiting does not help: the
// person who started the program must do something.
func stops(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, ErrInUse) || errors.Is(err, syscall.ENOTDIR) ||
		errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.EISDIR) || errors.Is(err, errNode)
}

func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }
