package storefwd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// boltEngine is the engine on disk: one bbolt file with two flat buckets.
//
//	records   log id (u32, big endian) ‖ seq (u64, big endian) → record
//	state     log id → checksum ‖ JSON of logState;  "folded" → generation (u64);
//	          "written" → checksum ‖ JSON of Wear
type boltEngine struct {
	path string // static
	max  int64  // bytes that the file may have, static

	mu   sync.RWMutex // guards the next four: held for writing only while a file is opened or exchanged
	db   *bolt.DB     // nil while there is none that can be read
	file *os.File     // that of db
	bad  bool         // db panicked in the middle: its locks are not free, it cannot be closed
	lost bool         // the last Open failed

	size   atomic.Int64
	mapped atomic.Int64 // about how many bytes were read through the memory map since they were let go
}

var (
	recordsBucket = []byte("records")
	stateBucket   = []byte("state")
	foldedKey     = []byte("folded")
	wearKey       = []byte("written") // no key but a log's has four bytes
)

const (
	boltPage  = 4096    // not the kernel's: 16 KiB pages would quadruple the wear
	boltAlloc = 4 << 20 // the file grows by this
	mapKeep   = 8 << 20 // of the memory map, this much is kept in RAM between reads
)

func newBolt(path string, limit int64) *boltEngine { return &boltEngine{path: path, max: limit} }

// Open makes the file if it is not there: a crash in the middle of that leaves
// path.new, never a half-made file. What the kernel has cached of the file is
// forgotten first: after a failed write it may not be what is on the disk.
func (e *boltEngine) Open() (written int64, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if again := e.file != nil || e.lost; again {
		e.close()
		dropCache(e.path)
	}
	if _, err = os.Lstat(e.path); errors.Is(err, os.ErrNotExist) {
		if written, err = e.create(&foldBatch{}); err != nil {
			return 0, spaceError(err)
		}
	}
	if e.db, e.file, err = openDB(e.path, e.max, false); errors.Is(err, syscall.EROFS) {
		e.db, e.file, _ = openDB(e.path, e.max, true)
	}
	e.lost = err != nil
	e.measure()
	return written, spaceError(err)
}

// openDB maps the file once for all: to map it anew would wait for all readers.
func openDB(path string, limit int64, readOnly bool) (db *bolt.DB, file *os.File, err error) {
	defer func() {
		if err != nil && file != nil {
			abandon(file) // of no effect if bbolt has closed it
		}
	}()
	defer onFaultPanic()()
	defer asError(&err)
	db, err = bolt.Open(path, 0o600, &bolt.Options{
		Timeout: time.Second, PageSize: boltPage, FreelistType: bolt.FreelistMapType, NoStatistics: true, PreLoadFreelist: true,
		InitialMmapSize: int(limit), MaxSize: int(limit), ReadOnly: readOnly,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			var err error
			file, err = os.OpenFile(name, flag|syscall.O_NOFOLLOW, mode)
			return file, err
		},
	})
	if err != nil {
		return nil, file, err
	}
	db.AllocSize = boltAlloc
	// bbolt tells the kernel to expect random access and so to read single pages. A
	// backlog is read in order.
	unix.Syscall(unix.SYS_MADVISE, db.Info().Data, uintptr(limit)&^(boltPage-1), unix.MADV_NORMAL)
	return db, file, nil
}

// CheckFile reports whether bbolt can open the file and read what it says of the logs:
// ErrDamaged if not. It does not read the records. bbolt may crash over a damaged file,
// so this is best called in a process that may.
func CheckFile(path string) error {
	err := checkPages(path)
	if err != nil {
		return err
	}
	e := newBolt(path, 0)
	if e.db, e.file, err = openDB(path, 0, true); err != nil {
		return spaceError(err)
	}
	defer e.Close()
	_, _, err = e.Load()
	return err
}

// close lets go of the file. The caller holds mu.
func (e *boltEngine) close() (err error) {
	switch {
	case e.db == nil:
	case e.bad:
		err = abandon(e.file)
	default:
		err = e.db.Close()
	}
	e.db, e.file, e.bad = nil, nil, false
	return err
}

// abandon closes a file that bbolt does not. Its memory map stays, and would keep the
// lock on the file: nobody could open it again before this process ends.
func abandon(f *os.File) error {
	unix.Flock(int(f.Fd()), unix.LOCK_UN)
	return f.Close()
}

// dropCache makes the kernel forget what it caches of a file that is not mapped.
func dropCache(path string) {
	if f, err := os.Open(path); err == nil {
		unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		f.Close()
	}
}

// create makes a file that holds b and puts it in path's place.
func (e *boltEngine) create(b *foldBatch) (written int64, err error) {
	tmp := e.path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	if err := fillBolt(tmp, e.max, b); err != nil {
		os.Remove(tmp)
		return 0, err
	}
	info, err := os.Stat(tmp)
	if err != nil {
		return 0, err
	}
	if err := os.Rename(tmp, e.path); err != nil {
		return 0, err
	}
	return info.Size(), syncDir(filepath.Dir(e.path))
}

func fillBolt(path string, limit int64, b *foldBatch) error {
	db, _, err := openDB(path, limit, false)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{recordsBucket, stateBucket} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return apply(tx, b)
	})
	return errors.Join(err, db.Close())
}

func (e *boltEngine) Load() (states map[uint32]logState, folded uint64, err error) {
	states = map[uint32]logState{}
	var broken []uint32
	err = e.view(func(tx *bolt.Tx, _ *bolt.Bucket) error {
		return tx.Bucket(stateBucket).ForEach(func(k, v []byte) error {
			switch {
			case bytes.Equal(k, foldedKey) && len(v) == 8:
				folded = binary.BigEndian.Uint64(v)
			case len(k) == 4:
				s, err := decodeState(v)
				if id := binary.BigEndian.Uint32(k); err == nil {
					states[id] = s
				} else {
					broken = append(broken, id)
				}
			}
			return nil
		})
	})
	for _, id := range broken {
		s, err := e.recount(id)
		if err != nil {
			return nil, 0, err
		}
		states[id] = s
	}
	return states, folded, err
}

// Wear returns what Fold was given, nil if that was nothing.
func (e *boltEngine) Wear() (b []byte, err error) {
	err = e.view(func(tx *bolt.Tx, _ *bolt.Bucket) error {
		b = bytes.Clone(tx.Bucket(stateBucket).Get(wearKey))
		return nil
	})
	return b, err
}

// recount rebuilds the state of a log from its records: the one scan there is,
// for a state that failed its checksum.
func (e *boltEngine) recount(id uint32) (s logState, err error) {
	err = e.Read(id, 0, 1<<64-1, func(seq uint64, rec []byte) bool {
		s.add(seq, rec)
		return true
	})
	return s, err
}

// Read finds a key that a flipped bit has moved by its neighbours: keys ascend.
func (e *boltEngine) Read(log uint32, from, to uint64, fn func(seq uint64, rec []byte) bool) error {
	disorder := fmt.Errorf("%w: keys out of order", ErrDamaged)
	return e.view(func(_ *bolt.Tx, records *bolt.Bucket) error {
		low, high := recordKey(make([]byte, 12), log, from), recordKey(make([]byte, 12), log, to)
		c := records.Cursor()
		k, _ := c.Seek(low)
		if k == nil {
			if last, _ := c.Last(); bytes.Compare(last, low) >= 0 {
				return disorder
			}
			return nil
		}
		var v []byte
		if before, _ := c.Prev(); before == nil {
			k, v = c.First()
		} else if bytes.Compare(before, low) >= 0 {
			return disorder
		} else {
			k, v = c.Next()
		}
		var last []byte
		for ; k != nil; k, v = c.Next() {
			e.mapped.Add(int64(len(v) + len(k) + elemSize))
			if bytes.Compare(k, last) <= 0 || len(k) != 12 {
				return disorder
			}
			if last = k; bytes.Compare(k, high) > 0 {
				if k, _ = c.Next(); k != nil && bytes.Compare(k, last) <= 0 {
					return disorder
				}
				return nil
			}
			if !fn(binary.BigEndian.Uint64(k[4:]), v) {
				return nil
			}
		}
		return nil
	})
}

func (e *boltEngine) view(fn func(tx *bolt.Tx, records *bolt.Bucket) error) (err error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.db == nil {
		return errEngineDown
	}
	defer onFaultPanic()()
	defer asError(&err)
	return e.db.View(func(tx *bolt.Tx) error {
		records := tx.Bucket(recordsBucket)
		if records == nil || tx.Bucket(stateBucket) == nil {
			return fmt.Errorf("%w: a bucket is missing", ErrDamaged)
		}
		defer e.letGo(tx)
		return fn(tx, records)
	})
}

// letGo takes the file's pages out of this process once it has read many: they
// stay in the kernel's cache as long as there is room, but do not count as ours.
// Within a transaction the memory map stays where it is.
func (e *boltEngine) letGo(tx *bolt.Tx) {
	if e.mapped.Load() < mapKeep {
		return
	}
	e.mapped.Store(0)
	unix.Syscall(unix.SYS_MADVISE, e.db.Info().Data, uintptr(tx.Size()), unix.MADV_DONTNEED)
}

func (e *boltEngine) Fold(b *foldBatch) (written int64, err error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.db == nil {
		return 0, errEngineDown
	}
	defer func() { err = spaceError(err) }()
	defer onFaultPanic()()
	defer asError(&err)
	e.bad = true // until bbolt's locks are free again
	tx, err := e.db.Begin(true)
	if err != nil {
		e.bad = false
		return 0, err
	}
	defer func() {
		tx.Rollback() // of no effect after Commit; after a panic it may panic, too
		e.bad = false
	}()
	if err := apply(tx, b); err != nil {
		return 0, err
	}
	if err := tx.Commit(); err != nil {
		return 0, err
	}
	stats := tx.Stats()
	e.measure()
	if e.mapped.Add(stats.GetPageAlloc()) >= mapKeep {
		e.db.View(func(tx *bolt.Tx) error { e.letGo(tx); return nil })
	}
	return stats.GetPageAlloc() + boltPage, nil // the pages of the tree, and one meta page
}

func apply(tx *bolt.Tx, b *foldBatch) error {
	records, state := tx.Bucket(recordsBucket), tx.Bucket(stateBucket)
	if records == nil || state == nil {
		return fmt.Errorf("%w: a bucket is missing", ErrDamaged)
	}
	records.FillPercent = 0.9 // keys only ever grow within a log
	for _, r := range b.remove {
		if err := removeRange(records, r); err != nil {
			return err
		}
	}
	for _, r := range b.kill {
		if err := records.Delete(recordKey(make([]byte, 12), r.log, r.from)); err != nil {
			return err
		}
	}
	for _, r := range b.put {
		if err := records.Put(recordKey(make([]byte, 12), r.log, r.seq), r.rec); err != nil {
			return err
		}
	}
	for id, s := range b.states {
		v, err := encodeState(s)
		if err == nil {
			err = state.Put(binary.BigEndian.AppendUint32(nil, id), v)
		}
		if err != nil {
			return err
		}
	}
	if b.wear != nil {
		if err := state.Put(wearKey, b.wear); err != nil {
			return err
		}
	}
	if b.folded == 0 {
		return nil
	}
	return state.Put(foldedKey, binary.BigEndian.AppendUint64(nil, b.folded))
}

// removeRange collects first and deletes then: a cursor skips keys when its page
// changes under it.
func removeRange(records *bolt.Bucket, r seqRange) error {
	var keys [][]byte
	c := records.Cursor()
	for k, _ := c.Seek(recordKey(make([]byte, 12), r.log, r.from)); len(k) == 12 &&
		binary.BigEndian.Uint32(k) == r.log && binary.BigEndian.Uint64(k[4:]) <= r.to; k, _ = c.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		if err := records.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

func recordKey(b []byte, log uint32, seq uint64) []byte {
	binary.BigEndian.PutUint32(b, log)
	binary.BigEndian.PutUint64(b[4:], seq)
	return b
}

// Reset exchanges the file for a fresh one, since a bbolt file never shrinks. In a
// crash either the old file is there or the new one.
func (e *boltEngine) Reset(b *foldBatch) (written int64, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer func() { err = spaceError(err) }()
	if written, err = e.create(b); err != nil {
		return 0, err
	}
	e.close()
	e.db, e.file, err = openDB(e.path, e.max, false)
	e.measure()
	return written, err
}

func (e *boltEngine) measure() {
	if info, err := os.Stat(e.path); err == nil {
		e.size.Store(info.Size())
	}
}

func (e *boltEngine) Size() int64 { return e.size.Load() }

func (e *boltEngine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.close()
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

// spaceError marks what says that there is no room. bbolt passes some errors on as
// text alone.
func spaceError(err error) error {
	switch {
	case err == nil, errors.Is(err, errNoSpace):
		return err
	case errors.Is(err, berrors.ErrDatabaseReadOnly):
		return fmt.Errorf("%w: %w", syscall.EROFS, err)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum), errors.Is(err, io.EOF):
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("%w: %w", ErrInUse, err)
	case errors.Is(err, berrors.ErrMaxSizeReached):
		return fmt.Errorf("%w: %w", errMaxSize, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), strings.Contains(err.Error(), syscall.ENOSPC.Error()):
		return fmt.Errorf("%w: %w", errNoSpace, err)
	}
	return err
}
