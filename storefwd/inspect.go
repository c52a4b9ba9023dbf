package storefwd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// This file is what a person does with a store: look at all that is in it, whether
// somebody opened the log or not, throw some of it away, and check it.

// All describes every log that the store knows, by name, those that nobody opened
// included. A log whose name is lost is called "#" and its id.
func (s *Store) All() []LogStats {
	s.mu.Lock()
	logs := slices.Collect(maps.Values(s.logs))
	s.mu.Unlock()
	slices.SortFunc(logs, func(a, b *Log) int { return cmp.Compare(a.label(), b.label()) })
	all := make([]LogStats, 0, len(logs))
	for _, l := range logs {
		st := l.Stats()
		st.Name = l.label()
		all = append(all, st)
	}
	return all
}

func (l *Log) label() string {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return labelOf(l.name, l.id)
}

func labelOf(name string, id uint32) string {
	if name == "" {
		return fmt.Sprintf("#%08x", id)
	}
	return name
}

// Lookup finds a log by its name or by the one that All gives it, opened or not. Of
// one that nobody opened only Read, Stats and Drop are of use. A log that was never
// folded has left no name on the disk: it takes the one that it is found by.
func (s *Store) Lookup(name string) (*Log, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.logs[crc32.Checksum([]byte(name), castagnoli)]; l != nil && cmpOr(l.name, name) == name {
		l.name = name
		return l, true
	}
	for id, l := range s.logs {
		if l.name == "" && labelOf(l.name, id) == name {
			return l, true
		}
	}
	return nil, false
}

// Drop gives up all records up to sequence to, as lost by a person's decision. It
// says how many these were. They are gone from the disk with the next fold, and a
// crash before that brings them back.
func (l *Log) Drop(to uint64) (msgs, bytes int64) {
	for more := true; more; {
		l.s.mu.Lock()
		more = false
		for range trimStep {
			o, ok := l.head()
			if !ok || o.seq > to {
				break
			}
			if more = true; !l.isEarly(o) {
				msgs, bytes = msgs+1, bytes+o.size
			}
			l.drop(o, LostOperator)
		}
		l.trimEpochs()
		l.wakeReaders()
		l.s.unlockAndFire()
	}
	return msgs, bytes
}

// Readable waits until a damaged file is salvaged, and says why what the logs hold cannot be read.
func (s *Store) Readable(ctx context.Context) error {
	for {
		if err := s.awaitSalvage(ctx); err != nil {
			return err
		}
		s.mu.Lock()
		readable, again, suspected := s.readable, s.salvaging != nil, s.suspected != nil
		s.mu.Unlock()
		if readable {
			return nil
		}
		if !again && !suspected {
			return errEngineDown
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// ReadOnly is a store that no process has open, seen without changing a byte of it:
// no epoch is counted, nothing is moved aside. Its methods are safe for all
// goroutines.
type ReadOnly struct {
	s     *Store // its health is what is damaged
	files []*os.File
}

// OpenReadOnly looks at the store in dir. The error is fs.ErrNotExist if there is
// none, and ErrInUse while a process has it open.
func OpenReadOnly(dir string, o Options) (*ReadOnly, error) {
	o.setDefaults()
	v := &ReadOnly{s: &Store{
		o: o, dir: dir, start: time.Now(), wake: make(chan struct{}, 1), logs: map[uint32]*Log{},
		loaded: true, readable: true, closed: true, failed: ErrClosed,
	}}
	lock, err := v.open("lock")
	if err != nil {
		return nil, reason(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another process uses it: %w", ErrInUse), v.Close())
	}
	if b, err := os.ReadFile(v.s.path(metaFile)); err != nil {
		v.found(metaFile, reason(err))
	} else if v.s.meta, err = decodeMeta(b); errors.Is(err, errNewer) {
		return nil, errors.Join(err, v.Close())
	} else if err != nil {
		v.found(metaFile, err)
	}
	v.s.epoch = v.s.meta.epoch() + 1 // so that ages are counted from now
	v.s.startRun()
	v.openEngine()
	v.openJournal()
	return v, nil
}

func (v *ReadOnly) open(name string) (*os.File, error) {
	f, err := os.OpenFile(v.s.path(name), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err == nil {
		v.files = append(v.files, f)
	}
	return f, err
}

// found is called by OpenReadOnly, or with mu.
func (v *ReadOnly) found(file string, err error) {
	v.s.note(fmt.Sprintf("%s cannot be read: %v", file, err))
}

// openEngine takes over what the bbolt file says. Without the file there are no
// records in it.
func (v *ReadOnly) openEngine() {
	path := v.s.path("store.db")
	damaged, _ := filepath.Glob(path + salvageMark + "*")
	if len(damaged) > 0 {
		v.s.note(filepath.Base(damaged[0]) + " was damaged and is not salvaged yet: what is in it is not shown; start leafd")
	}
	info, err := os.Stat(path)
	if err != nil {
		v.s.eng = newBolt(path, v.s.o.MaxSize)
		if errors.Is(err, fs.ErrNotExist) && len(damaged) == 0 && v.s.meta.Opens > 0 {
			v.s.note(dbGone)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			v.found("store.db", reason(err))
		}
		return
	}
	e := newBolt(path, max(v.s.o.MaxSize, info.Size()))
	v.s.eng = e
	if err := checkPages(path); err != nil { // bbolt may end the process over it
		v.found("store.db", err)
		return
	}
	if e.db, e.file, err = openDB(path, e.max, e.max, true); err != nil {
		v.found("store.db", err)
		return
	}
	e.measure()
	states, folded, err := e.Load()
	if err != nil {
		v.found("store.db", err)
		return
	}
	for id, st := range states {
		if v.s.restoreLog(id, st); st.counted {
			v.s.note(countedNote(id))
		}
	}
	v.s.folded = folded
}

func (v *ReadOnly) openJournal() {
	f, err := v.open("journal")
	if errors.Is(err, fs.ErrNotExist) {
		v.s.note(v.s.journalGone())
		return
	}
	if err != nil {
		v.found("the journal", reason(err))
		return
	}
	info, err := f.Stat()
	if err != nil {
		v.found("the journal", reason(err))
		return
	}
	j, err := openJournal(osFile{f}, info.Size(), sector, 0)
	if err != nil {
		v.found("the journal", err)
		return
	}
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	for _, n := range v.s.replayJournal(j) {
		v.s.note(n)
	}
	for _, l := range v.s.logs {
		l.enforce() // what the journal says was dropped
	}
}

// All is that of Store.
func (v *ReadOnly) All() []LogStats { return v.s.All() }

// Lookup is that of Store. Nothing can be appended to what it finds.
func (v *ReadOnly) Lookup(name string) (*Log, bool) { return v.s.Lookup(name) }

// Whole is err, in which a look at the logs ended, or nil, with what was found damaged by
// then: what the look showed may not be all.
func (v *ReadOnly) Whole(err error) error {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	if v.s.suspected != nil {
		v.found("store.db", v.s.suspected)
	}
	if len(v.s.health) == 0 {
		return err
	}
	if errors.Is(err, errEngineDown) {
		err = nil // for one of these reasons
	}
	return errors.Join(err, fmt.Errorf("the store is damaged: %s; what was shown may not be all: start leafd, which takes over what can be read, and ask it again", strings.Join(v.s.health, "; ")))
}

// Verify is that of Store.
func (v *ReadOnly) Verify() (Check, error) {
	c := Check{At: time.Now(), Notes: v.s.Stats().Salvaged}
	v.s.verifyEngine(&c)
	for _, st := range v.s.All() {
		if l, ok := v.s.Lookup(st.Name); ok {
			c.Journal += l.ramMsgs
		}
	}
	return c, nil
}

// Close gives the directory back.
func (v *ReadOnly) Close() (err error) {
	if v.s.eng != nil {
		err = v.s.eng.Close()
	}
	for _, f := range v.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// Check is what Verify found.
type Check struct {
	Records, Bytes int64     // sound, in bbolt
	Journal        int64     // sound, in the journal
	Damaged        int64     // records whose checksum does not match, or that are not where they belong
	Missing        int64     // records that a log counts and nothing has
	Notes          []string  // what is damaged, in sentences for people
	At             time.Time // when it was done
}

// OK reports whether nothing is damaged.
func (c *Check) OK() bool { return c.Damaged == 0 && c.Missing == 0 && len(c.Notes) == 0 }

// Verify reads every record there is and compares its checksum. It changes nothing.
// Commits wait while it reads the journal.
func (s *Store) Verify() (Check, error) {
	c := Check{At: s.o.Clock.Now()}
	s.verifyEngine(&c)
	asked := make(chan struct{})
	select {
	case s.asks <- func() { s.verifyJournal(&c); close(asked) }:
		<-asked
		return c, nil
	case <-s.done:
		return c, ErrClosed
	}
}

// verifyEngine reads what is in bbolt, in steps, so that no transaction is long.
func (s *Store) verifyEngine(c *Check) {
	s.mu.Lock()
	logs := slices.Collect(maps.Values(s.logs))
	s.mu.Unlock()
	for _, l := range logs {
		before := l.inBolt()
		count := int64(0)
		err := l.scan(func(seq uint64, b []byte) {
			if id, r, err := parseRecord(b); err != nil || id != l.id || r.Seq != seq {
				c.Damaged++
			} else {
				c.Records++
				c.Bytes += int64(len(b))
			}
			if seq >= before.from && seq <= before.to {
				count++
			}
		})
		switch after := l.inBolt(); {
		case err != nil:
			c.Notes = append(c.Notes, fmt.Sprintf("log %q cannot be read from store.db: %v", l.label(), err))
		case before == after && before.msgs > count:
			c.Missing += before.msgs - count
		}
	}
}

// inBolt is what a log counts in bbolt.
func (l *Log) inBolt() (b struct {
	from, to uint64
	msgs     int64
}) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	b.from, b.to, b.msgs = l.first, l.folded, l.msgs-l.ramMsgs
	return b
}

const scanStep = 4096

// scan calls fn for what bbolt has of a log, waiting for removal or not: what a block
// has besides was removed.
func (l *Log) scan(fn func(seq uint64, b []byte)) error {
	if l.inBolt().to == 0 {
		return nil
	}
	l.s.mu.Lock()
	from := min(l.base, l.first)
	l.s.mu.Unlock()
	for {
		n := 0
		err := l.s.eng.Read(l.id, from, 1<<64-1, func(seq uint64, b []byte) bool {
			fn(seq, b)
			from = seq + 1
			n++
			return n < scanStep
		})
		if err != nil || n < scanStep {
			return err
		}
	}
}

// verifyJournal reads the journal, on the committer's goroutine. What RAM knows to
// be in it must be there.
func (s *Store) verifyJournal(c *Check) {
	if s.j == nil {
		c.Notes = append(c.Notes, "the journal is not open: the disk does not work")
		return
	}
	there := journalPlaces{}
	var buf []byte
	for i, gen := range s.j.used {
		if gen != 0 {
			buf, _, c.Notes = s.j.replayHalf(buf, i, passID{gen, s.j.runs[i]}, pass{}, there, c.Notes)
		}
	}
	c.Journal = int64(len(there))
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, l := range s.logs {
		for i := range l.ram.len() {
			if r := *l.ram.at(i); r.seq <= l.journaled && !r.gone && !there[recordPlace{id, r.seq}] {
				c.Missing++
			}
		}
	}
}

// journalPlaces are the records that a journal has.
type journalPlaces map[recordPlace]bool

type recordPlace struct {
	log uint32
	seq uint64
}

func (p journalPlaces) record(b []byte) { p[recordPlace{le.Uint32(b[4:]), le.Uint64(b[16:])}] = true }
func (p journalPlaces) missing(uint32)  {}
