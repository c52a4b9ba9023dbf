package storefwd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// fault fails one call, the nth of its kind, or all from there on while it holds.
type fault struct {
	kind  string // "write", "sync", "fold", "folded" (applied, and then an error)
	left  atomic.Int64
	holds atomic.Bool
	err   error
	hit   atomic.Int64
}

func (f *fault) at(kind string) error {
	if kind != f.kind || f.left.Add(-1) > 0 || f.left.Load() < 0 && !f.holds.Load() {
		return nil
	}
	f.hit.Add(1)
	return f.err
}

type faultyFile struct {
	journalFile
	f *fault
}

func (j faultyFile) WriteAt(b []byte, off int64) (int, error) {
	if err := j.f.at("write"); err != nil {
		n, _ := j.journalFile.WriteAt(b[:len(b)/2], off)
		return n, err
	}
	return j.journalFile.WriteAt(b, off)
}

func (j faultyFile) Datasync() error {
	if err := j.f.at("sync"); err != nil {
		return err
	}
	return j.journalFile.Datasync()
}

type faultyEngine struct {
	engine
	f *fault
}

func (e faultyEngine) Fold(b *foldBatch) (int64, error) {
	if err := e.f.at("fold"); err != nil {
		return 0, err
	}
	n, err := e.engine.Fold(b)
	if err != nil {
		return n, err
	}
	if fault := e.f.at("folded"); fault != nil {
		return 0, fault
	}
	return n, nil
}

func (f *fault) options() Options {
	o := Options{Node: "n", JournalBytes: 256 << 10, FoldAfter: time.Hour}
	o.faults.journal = func(j journalFile) journalFile { return faultyFile{j, f} }
	o.faults.engine = func(e engine) engine { return faultyEngine{e, f} }
	o.faults.retry = time.Millisecond
	return o
}

// keeper appends numbered messages and knows which were promised.
type keeper struct {
	t    *testing.T
	s    *Store
	l    *Log
	next uint64
	safe map[uint64]bool
}

func openKeeper(t *testing.T, dir string, o Options) *keeper {
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Log("OUT/a", Retention{Keep: UntilAcked})
	if err != nil {
		t.Fatal(err)
	}
	return &keeper{t: t, s: s, l: l, safe: map[uint64]bool{}}
}

// keep appends one message and waits for the promise or the refusal.
func (k *keeper) keep() error {
	k.next++
	n := k.next
	data := noise(n, 3000)
	if _, err := k.l.Append(&msg.Msg{Subject: []byte("a.b"), Data: data}); err != nil {
		return err
	}
	done := make(chan error, 1)
	k.s.Barrier(func(err error) { done <- err })
	err := <-done
	if err == nil {
		k.safe[n] = true
	}
	return err
}

// noise is size bytes that do not compress and begin with n.
func noise(n uint64, size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)}).Read(b)
	binary.BigEndian.PutUint64(b, n)
	return b
}

// heldBy reads what the log holds.
func heldBy(t *testing.T, l *Log) (got []uint64) {
	t.Helper()
	for from := uint64(0); ; {
		recs, err := l.Read(nil, from)
		if err != nil {
			t.Fatal(err)
		}
		if len(recs) == 0 {
			return got
		}
		for _, r := range recs {
			got, from = append(got, binary.BigEndian.Uint64(r.Data)), r.Seq+1
		}
	}
}

// checkCrash opens a copy of the files as they are now and looks for what was promised.
func (k *keeper) checkCrash(dir string) {
	k.t.Helper()
	copied := k.t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		k.t.Fatal(err)
	}
	again := openKeeper(k.t, copied, Options{JournalBytes: 256 << 10})
	defer again.s.Close()
	if h := again.s.Health(); len(h) > 0 {
		k.t.Fatalf("after the crash: %v", h)
	}
	there := map[uint64]bool{}
	for _, n := range heldBy(k.t, again.l) {
		if there[n] {
			k.t.Fatalf("%d is there twice", n)
		}
		there[n] = true
	}
	for n := range k.safe {
		if !there[n] {
			k.t.Fatalf("%d was promised and is gone", n)
		}
	}
}

// Whichever write or sync of the journal fails first: who waits is told, nothing that was
// promised is lost, and acknowledging goes on without a restart.
func TestFirstFaultThenRecovery(t *testing.T) {
	const msgs = 120 // more than a journal of 256 KiB holds
	for _, kind := range []string{"write", "sync", "fold", "folded"} {
		t.Run(kind, func(t *testing.T) {
			for n, hit := int64(1), true; hit; n += 7 {
				f := &fault{kind: kind, err: syscall.EIO}
				f.left.Store(n)
				dir := t.TempDir()
				k := openKeeper(t, dir, f.options())
				refused := 0
				for range msgs {
					if err := k.keep(); err != nil {
						refused++
						testkit.Eventually(t, func() bool { return k.s.Stats().Failed == "" }, "the store works again")
					}
				}
				hit = f.hit.Load() > 0
				if journal := kind == "write" || kind == "sync"; journal && hit && refused == 0 {
					t.Fatalf("%s %d failed and nobody was told", kind, n)
				}
				if refused > 1 {
					t.Fatalf("%s %d failed and %d publishers were refused: %v", kind, n, refused, k.s.Health())
				}
				if got := heldBy(t, k.l); len(got) != msgs {
					t.Fatalf("%s %d failed: the log holds %d of %d", kind, n, len(got), msgs)
				}
				k.checkCrash(dir)
				if err := k.s.Close(); err != nil {
					t.Fatal(err)
				}
				k.checkCrash(dir)
			}
		})
	}
}

// A file system that was mounted for reading only: publishers are refused with the reason, what
// is stored can be read, and nothing but writing again is needed to go on.
func TestReadOnlyThenWritable(t *testing.T) {
	dir := t.TempDir()
	f := &fault{kind: "write", err: syscall.EROFS}
	var broken atomic.Bool
	o := f.options()
	o.faults.step = func(name string) error {
		if broken.Load() && name == "journal" {
			return fmt.Errorf("journal: %w", syscall.EROFS)
		}
		return nil
	}
	k := openKeeper(t, dir, o)
	defer func() { k.s.Close() }()
	for range 100 {
		if err := k.keep(); err != nil {
			t.Fatal(err)
		}
	}
	broken.Store(true)
	f.left.Store(1)
	if err := k.keep(); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EROFS) {
		t.Fatalf("the publisher was told %v", err)
	}
	if err := k.keep(); !errors.Is(err, ErrFailed) {
		t.Fatalf("an append while the disk is broken: %v", err)
	}
	if h := k.s.Health(); len(h) != 1 {
		t.Fatalf("health: %q", h)
	}
	if got := heldBy(t, k.l); len(got) != 101 {
		t.Fatalf("%d records can be read, want 101", len(got))
	}
	broken.Store(false)
	testkit.Eventually(t, func() bool { return k.s.Stats().Recoveries == 1 }, "the store works again")
	if err := k.keep(); err != nil {
		t.Fatal(err)
	}
	if h := k.s.Health(); len(h) != 0 {
		t.Fatalf("health: %q", h)
	}
	k.checkCrash(dir)
}

// bbolt's file fails and goes on failing: the journal takes what it has room for, then
// publishers are refused; nobody waits for ever, and all ends by itself.
func TestEngineFailsForAWhile(t *testing.T) {
	for _, fail := range []error{syscall.EIO, fmt.Errorf("%w: %w", errNoSpace, syscall.ENOSPC)} {
		dir := t.TempDir()
		f := &fault{kind: "fold", err: fail}
		f.left.Store(1)
		f.holds.Store(true)
		k := openKeeper(t, dir, f.options())
		kept := 0
		for range 200 {
			if err := k.keep(); err == nil {
				kept++
			}
		}
		if kept < 54 || kept > 70 { // two halves of 124 KiB, less what is between their ends, 3.5 KiB each
			t.Fatalf("%v: the journal took %d", fail, kept)
		}
		if h := k.s.Health(); len(h) != 1 {
			t.Fatalf("health: %q", h)
		}
		k.checkCrash(dir)
		f.holds.Store(false)
		testkit.Eventually(t, func() bool { return k.keep() == nil }, "records are taken again")
		if h := k.s.Health(); len(h) != 0 {
			t.Fatalf("health: %q", h)
		}
		k.checkCrash(dir)
		k.s.Close()
	}
}

// goneEngine is an engine whose file can be neither opened nor written while it is gone.
type goneEngine struct {
	engine
	gone *atomic.Bool
}

func (e goneEngine) Open() (int64, error) {
	if e.gone.Load() {
		return 0, syscall.EIO
	}
	return e.engine.Open()
}

func (e goneEngine) Load() (map[uint32]logState, uint64, error) {
	if e.gone.Load() {
		return nil, 0, syscall.EIO
	}
	return e.engine.Load()
}

func (e goneEngine) Fold(b *foldBatch) (int64, error) {
	if e.gone.Load() {
		return 0, syscall.EIO
	}
	return e.engine.Fold(b)
}

// openGone opens a store whose store.db is gone, for as long as gone says.
func openGone(t *testing.T) (s *Store, gone *atomic.Bool) {
	t.Helper()
	gone = new(atomic.Bool)
	o := Options{Node: "n", FoldAfter: time.Hour}
	o.faults.engine = func(e engine) engine { return goneEngine{e, gone} }
	s, err := Open(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s, gone
}

// store.db cannot be opened for a moment, after a compaction that failed, say: it is tried again
// though there is nothing to fold. Readers waited for the next fold.
func TestEngineComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, gone := openGone(t)
		defer s.Close()
		readable := func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.readable
		}
		gone.Store(true)
		onCommitter(s, func() { s.foldFailed(syscall.EIO) }) // as compactDue does
		if readable() {
			t.Error("a file that is gone can be read")
		}
		gone.Store(false)
		later(time.Minute)
		if !readable() {
			t.Error("a minute after the disk works again nobody has opened the file: ", s.Health())
		}
	})
}

// A publisher that waits because the disk is behind is let go when the disk fails: before,
// it waited until the restart.
func TestFailureLetsPublishersGo(t *testing.T) {
	var held sync.Mutex
	held.Lock()
	f := &fault{kind: "sync", err: syscall.EIO}
	f.left.Store(1)
	f.holds.Store(true)
	o := f.options()
	o.faults.journal = func(j journalFile) journalFile { return slowFile{faultyFile{j, f}, &held} }
	k := openKeeper(t, t.TempDir(), o)
	defer func() { k.s.Close() }()
	for {
		if _, err := k.l.Append(&msg.Msg{Subject: []byte("a"), Data: make([]byte, 3000)}); err != nil {
			break
		}
	}
	behind := k.l.Flush()
	if behind == nil {
		t.Fatal("the log is full of unsafe records and does not slow its publishers")
	}
	k.s.Barrier(func(error) {})
	held.Unlock()
	<-behind
	f.holds.Store(false)
}

// slowFile is a disk that stalls until somebody unlocks it.
type slowFile struct {
	journalFile
	held *sync.Mutex
}

func (f slowFile) WriteAt(b []byte, off int64) (int, error) {
	f.held.Lock()
	defer f.held.Unlock()
	return f.journalFile.WriteAt(b, off)
}

// A gateway whose disk is full, failing or read-only when it starts runs all the same; it
// keeps what it is given from the moment that the disk works, after what was there.
func TestStartOnABrokenDisk(t *testing.T) {
	for _, step := range []string{"lock", "engine", "records", "meta", "journal"} {
		for _, fail := range []error{syscall.ENOSPC, syscall.EIO, syscall.EROFS} {
			dir := t.TempDir()
			f := &fault{}
			k := openKeeper(t, dir, f.options())
			for range 60 {
				if err := k.keep(); err != nil {
					t.Fatal(err)
				}
			}
			c, err := k.l.Cursor("hub", CursorConfig{})
			if err != nil {
				t.Fatal(err)
			}
			recs, err := c.Next(t.Context(), make([]Record, 0, 10))
			if err != nil || len(recs) != 10 {
				t.Fatal(len(recs), err)
			}
			for _, r := range recs {
				c.Ack(r.Seq)
			}
			if err := k.s.Close(); err != nil {
				t.Fatal(err)
			}
			var broken atomic.Bool
			broken.Store(true)
			o := f.options()
			o.faults.step = func(name string) error {
				if broken.Load() && name == step {
					return fail
				}
				return nil
			}
			k = openKeeper(t, dir, o)
			if err := k.keep(); !errors.Is(err, ErrFailed) {
				t.Fatalf("%s fails with %v, and an append with %v", step, fail, err)
			}
			c, err = k.l.Cursor("hub", CursorConfig{})
			if err != nil {
				t.Fatal(err)
			}
			broken.Store(false)
			testkit.Eventually(t, func() bool { return k.keep() == nil }, "records are taken again")
			if got := heldBy(t, k.l); len(got) < 51 || got[0] != 11 {
				t.Fatalf("the log holds %d records from %v on", len(got), got[:1])
			}
			if recs, err = c.Next(t.Context(), recs[:0]); err != nil || binary.BigEndian.Uint64(recs[0].Data) != 11 {
				t.Fatalf("the cursor does not go on where it was: %v", err)
			}
			if err := k.s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A barrier was refused for want of room, and so was each later one that came without an
// append in between, without a look at the disk, until commit_interval was over. With a full
// log there was no append. Found by the model.
func TestRefusalIsNotForLater(t *testing.T) {
	f := &fault{kind: "fold", err: syscall.EIO}
	f.left.Store(1)
	f.holds.Store(true)
	o := f.options()
	o.CommitInterval = time.Hour
	k := openKeeper(t, t.TempDir(), o)
	defer func() { k.s.Close() }()
	for k.keep() == nil {
	}
	f.holds.Store(false)
	testkit.Eventually(t, func() bool {
		k.s.mu.Lock()
		defer k.s.mu.Unlock()
		return k.s.mono() > k.s.retryAt
	}, "the pause after the refusal is over")
	testkit.Eventually(t, func() bool {
		done := make(chan error, 1)
		k.s.Barrier(func(err error) { done <- err })
		return <-done == nil
	}, "what waits becomes safe once the disk works")
}

// A hub that went back makes more records wait for bbolt than a journal holds; a fault just
// then asked for a journal that holds them all, in vain, until the restart. Found by the model.
func TestFreshJournalHoldsAll(t *testing.T) {
	for _, size := range []int{1, 100, 3000, 70_000, 300_000} {
		var recs [][]byte
		for total := 0; total < 1<<20; total += size {
			recs = append(recs, sampleRecord("a.b", "", string(noise(uint64(len(recs)), size+8))))
		}
		for n := 1; n <= len(recs); n = n*3 + 1 {
			path := filepath.Join(t.TempDir(), "journal")
			if _, err := createJournal(path, max(256<<10, journalFor(recs[:n])), 1, recs[:n]); err != nil {
				t.Fatalf("%d records of %d bytes: %v", n, size, err)
			}
		}
	}
}

// journal_size was lowered, and what the last run left keeps the large journal. A write of it fails while a large
// message waits: the fresh journal has room for that, or nothing would be acknowledged any more.
func TestLargeRecordAndASmallerJournal(t *testing.T) {
	dir := t.TempDir()
	s, l, _ := openGaps(t, dir, Options{JournalBytes: 4 << 20, FoldAfter: time.Hour})
	appendN(t, l, 10)
	waitSafe(t, s)
	d := killed(t, dir)
	s.Close()
	f := &fault{kind: "write", err: syscall.EIO}
	s, l, _ = openGaps(t, d, f.options()) // 256 KiB
	defer s.Close()
	f.left.Store(1)
	if _, err := l.Append(&msg.Msg{Subject: []byte("a"), Data: noise(1, 500<<10)}); err != nil {
		t.Fatal(err)
	}
	if s.await() == nil {
		t.Error("no fault")
	}
	testkit.Eventually(t, func() bool { return s.Stats().Failed == "" }, "the store works again")
	testkit.Eventually(t, func() bool {
		_, err := l.Append(&msg.Msg{Subject: []byte("a"), Data: []byte("x")})
		return err == nil
	}, "it takes what comes")
	waitSafe(t, s)
}
