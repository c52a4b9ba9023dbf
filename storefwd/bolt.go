package storefwd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// boltEngine is the engine on disk: one bbolt file with two flat buckets.
//
//	records   records, packed and single (table.go)
//	state     log id → checksum ‖ JSON of logState;  "folded" → generation (u64);
//	          "written" → checksum ‖ JSON of Wear
type boltEngine struct {
	path string // static
	max  int64  // bytes that the file may have, static
	most int64  // the same, or what it had when it was opened under a larger max, or salvaged; owned as packer is

	renamed   bool      // the file took another's place, and the directory was not synced since; owned as packer is
	at        namedFile // of file; owned as packer is
	packer    packer    // owned by the caller of Open, Fold, Reset and Compact
	unpackers sync.Pool // of *unpacker

	mu   sync.RWMutex // guards the next four: held for writing only while a file is opened or exchanged
	db   *bolt.DB     // nil while there is none that can be read
	file *os.File     // that of db
	bad  bool         // db panicked in the middle: its locks are not free, it cannot be closed
	lost bool         // the last Open failed

	size   atomic.Int64
	free   atomic.Int64 // of size
	mapped atomic.Int64 // about how many bytes were read through the memory map since they were let go
}

// table is the bucket of records within a transaction that changes it.
type table struct{ *bolt.Bucket }

var (
	recordsBucket = []byte("records")
	stateBucket   = []byte("state")
	foldedKey     = []byte("folded")
	wearKey       = []byte("written") // no key but a log's has four bytes
)

const (
	boltPage  = 4096    // not the kernel's: 16 KiB pages would quadruple the wear
	boltAlloc = 4 << 20 // the file grows by this
	boltSlack = 1 << 18 // and by this much more than the records of a batch weigh: other pages
	mapKeep   = 8 << 20 // of the memory map, this much is kept in RAM between reads
)

func newBolt(path string, limit int64) *boltEngine { return &boltEngine{path: path, max: limit} }

// Open makes the file if it is not there: a crash in the middle of that leaves
// path.new, never a half-made file. What the kernel has cached of the file is
// forgotten first: after a failed write it may not be what is on the disk.
func (e *boltEngine) Open() (written int64, err error) {
	if e.Taken() {
		if written, err = e.writeAnew(); err != nil {
			return 0, spaceError(err)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if again := e.file != nil || e.lost; again {
		e.close()
		dropCache(e.path)
	}
	os.Remove(e.fresh()) // what a crash left of it; if it cannot be, whoever needs the name says so
	os.Remove(e.path + ".tmp")
	if _, err = os.Lstat(e.path); errors.Is(err, os.ErrNotExist) {
		if written, err = e.create(&foldBatch{}); err != nil {
			return 0, spaceError(err)
		}
	}
	if e.db, e.file, err = openDB(e.path, e.max, e.max, false); errors.Is(err, syscall.EROFS) {
		e.db, e.file, _ = openDB(e.path, e.max, e.max, true)
	}
	if err == nil {
		err = e.syncName()
	}
	e.at = placeOf(e.path)
	e.lost = err != nil
	if e.measure(); e.most == 0 && e.file != nil {
		e.most = max(e.max, e.Size()-boltSlack)
	}
	return written, spaceError(err)
}

// openDB maps mapped bytes of the file, all that it may have if it is to be read: to map
// it anew would wait for all readers.
func openDB(path string, mapped, limit int64, readOnly bool) (db *bolt.DB, file *os.File, err error) {
	defer func() {
		if err != nil && file != nil {
			abandon(file) // of no effect if bbolt has closed it
		}
	}()
	defer onFaultPanic()()
	defer asError(&err)
	db, err = bolt.Open(path, 0o600, &bolt.Options{
		Timeout: time.Second, PageSize: boltPage, FreelistType: bolt.FreelistMapType, NoStatistics: true, PreLoadFreelist: true,
		InitialMmapSize: int(mapped), MaxSize: int(limit), ReadOnly: readOnly,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			var err error
			file, err = os.OpenFile(name, flag|syscall.O_NOFOLLOW, mode)
			return file, err
		},
	})
	if err != nil {
		return nil, file, err
	}
	db.AllocSize = boltPage // makeRoom is ahead of it
	// bbolt tells the kernel to expect random access and so to read single pages. A
	// backlog is read in order.
	unix.Syscall(unix.SYS_MADVISE, db.Info().Data, uintptr(mapped)&^(boltPage-1), unix.MADV_NORMAL)
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
	if e.db, e.file, err = openDB(path, 0, 0, true); err != nil {
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

// create makes a file that holds b and puts it in path's place.
func (e *boltEngine) create(b *foldBatch) (written int64, err error) {
	size := int64(0)
	for _, r := range b.put {
		size += int64(len(r.rec))
	}
	err = e.build(size, func(db *bolt.DB) error {
		return db.Update(func(tx *bolt.Tx) error { return e.apply(tx, b) })
	})
	if err != nil {
		return 0, err
	}
	return e.takePlace()
}

func (e *boltEngine) fresh() string { return e.path + ".new" }

// build makes a fresh file beside, of about size bytes, that holds what fill puts there.
func (e *boltEngine) build(size int64, fill func(*bolt.DB) error) (err error) {
	if err := os.Remove(e.fresh()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(e.fresh())
		}
	}()
	db, file, err := openDB(e.fresh(), min(size+boltAlloc, e.max), e.max, false)
	if err != nil {
		return err
	}
	if err = allocate(file, 0, size); err != nil {
		return errors.Join(err, db.Close())
	}
	err = db.Update(func(tx *bolt.Tx) error {
		_, err1 := tx.CreateBucketIfNotExists(recordsBucket)
		_, err2 := tx.CreateBucketIfNotExists(stateBucket)
		return errors.Join(err1, err2)
	})
	if err == nil {
		err = fill(db)
	}
	return errors.Join(err, db.Close())
}

// takePlace renames the fresh file. Bytes are those it has.
func (e *boltEngine) takePlace() (written int64, err error) {
	info, err := os.Stat(e.fresh())
	if err != nil {
		return 0, err
	}
	if err := os.Rename(e.fresh(), e.path); err != nil {
		return 0, err
	}
	e.renamed = true
	return info.Size(), e.syncName()
}

// syncName makes the name of a file that took the place of another durable: until then a crash
// may bring the other one back, and what is folded from now on is not in that.
func (e *boltEngine) syncName() error {
	if !e.renamed {
		return nil
	}
	if err := syncDir(filepath.Dir(e.path)); err != nil {
		return fmt.Errorf("%w: %w", errExchanged, err)
	}
	e.renamed = false
	return nil
}

func (e *boltEngine) Load() (states map[uint32]logState, folded uint64, err error) {
	states = map[uint32]logState{}
	var broken []uint32
	err = e.view(func(_, state *walker) error {
		return state.each(func(k, v []byte) error {
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
		s.counted = true
		states[id] = s
	}
	return states, folded, err
}

// Wear returns what Fold was given, nil if that was nothing.
func (e *boltEngine) Wear() (b []byte, err error) {
	err = e.view(func(_, state *walker) error {
		return state.each(func(k, v []byte) error {
			if bytes.Equal(k, wearKey) {
				b = bytes.Clone(v)
			}
			return nil
		})
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

func (e *boltEngine) Read(log uint32, from, to uint64, fn func(seq uint64, rec []byte) bool) error {
	u, _ := e.unpackers.Get().(*unpacker)
	if u == nil {
		u = &unpacker{}
	}
	err := e.view(func(records, _ *walker) error {
		seen, err := records.read(u, log, from, to, fn)
		e.mapped.Add(seen)
		return err
	})
	if cap(u.raw) <= 2*maxBlock {
		e.unpackers.Put(u)
	}
	return err
}

// view lends the buckets as they are now.
func (e *boltEngine) view(fn func(records, state *walker) error) (err error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.db == nil {
		return errEngineDown
	}
	defer onFaultPanic()()
	defer asError(&err)
	return e.db.View(func(tx *bolt.Tx) error {
		records, err := walkTx(e.db, tx, recordsBucket)
		if err != nil {
			return err
		}
		state, err := walkTx(e.db, tx, stateBucket)
		if err != nil {
			return err
		}
		defer e.letGo(tx)
		return fn(records, state)
	})
}

// walkTx finds a bucket among those of the transaction, as it was when that began.
func walkTx(db *bolt.DB, tx *bolt.Tx, bucket []byte) (*walker, error) {
	mapped := db.Info()
	pages := unsafe.Slice(*(**byte)(unsafe.Pointer(&mapped.Data)), int(tx.Size()))
	return walkPages(pages, uint64(tx.Cursor().Bucket().Root()), bucket)
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
	if err := e.makeRoom(b); err != nil {
		return 0, err
	}
	limit := e.most
	switch {
	case b.salvaged: // it was all in a file that large, if not in these pages
		limit = 0
	case len(b.put) == 0:
		limit += boltSlack // to remove takes pages, too
	}
	e.db.MaxSize = int(limit)
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
	if err := e.sound(tx, b); err != nil {
		return 0, err
	}
	if err := e.apply(tx, b); err != nil {
		return 0, err
	}
	if err := tx.Commit(); err != nil {
		return 0, err
	}
	stats := tx.Stats()
	if e.measure(); b.salvaged {
		e.most = max(e.most, e.Size()-boltSlack)
	}
	seen := stats.GetPageAlloc()
	if len(b.remove) > 0 {
		seen += mapKeep // pages that are gone now were looked at, about so many
	}
	if e.mapped.Add(seen) >= mapKeep {
		e.db.View(func(tx *bolt.Tx) error { e.letGo(tx); return nil })
	}
	return stats.GetPageAlloc() + boltPage, nil // the pages of the tree, and one meta page
}

// sound looks at all pages that bbolt will touch to apply b, before it does.
func (e *boltEngine) sound(tx *bolt.Tx, b *foldBatch) error {
	state, err := walkTx(e.db, tx, stateBucket)
	if err == nil {
		err = state.each(func([]byte, []byte) error { return nil })
	}
	if err != nil {
		return err
	}
	records, err := walkTx(e.db, tx, recordsBucket)
	if err != nil {
		return err
	}
	return records.soundFor(b)
}

func (e *boltEngine) apply(tx *bolt.Tx, b *foldBatch) error {
	records, state := table{tx.Bucket(recordsBucket)}, tx.Bucket(stateBucket)
	if records.Bucket == nil || state == nil {
		return fmt.Errorf("%w: a bucket is missing", ErrDamaged)
	}
	records.FillPercent = 0.9 // keys only ever grow within a log
	e.packer.reset()
	for _, r := range b.remove {
		if err := records.remove(r); err != nil {
			return err
		}
	}
	var u unpacker
	for places := b.hollow; len(places) > 0; {
		log, n := places[0].log, 1
		for n < len(places) && places[n].log == log {
			n++
		}
		if err := records.hollow(&u, &e.packer, places[:n], b.states[log].Base); err != nil {
			return err
		}
		places = places[n:]
	}
	for _, r := range b.kill {
		if err := records.kill(&u, &e.packer, r.log, r.from, b.states[r.log].Base); err != nil {
			return err
		}
	}
	if err := records.put(&e.packer, b.put, b.alone); err != nil {
		return err
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

// Reset exchanges the file for a fresh one, since a bbolt file never shrinks. In a
// crash either the old file is there or the new one.
func (e *boltEngine) Reset(b *foldBatch) (written int64, err error) {
	defer func() { err = spaceError(err) }()
	if written, err = e.create(b); err != nil {
		return 0, err
	}
	return written, e.exchange()
}

// Compact copies everything into a fresh file, in steps, and exchanges the two as Reset
// does.
func (e *boltEngine) Compact(goOn func() bool) (written int64, err error) {
	defer func() { err = spaceError(err) }()
	e.mu.RLock()
	source := e.db
	e.mu.RUnlock()
	live := e.Size() - e.Free()
	err = e.build(live+live/16+boltAlloc/4, func(fresh *bolt.DB) error {
		next := []byte{0}
		for next != nil {
			if !goOn() {
				return errStopped
			}
			err := e.view(func(records, _ *walker) error {
				if e.db != source {
					return errStopped
				}
				return fresh.Update(func(tx *bolt.Tx) (err error) {
					next, err = table{tx.Bucket(recordsBucket)}.copyFrom(records, next, compactStep)
					return err
				})
			})
			if err != nil {
				return err
			}
			e.mapped.Add(compactStep)
		}
		return e.copyState(fresh)
	})
	if err != nil {
		return 0, err
	}
	if written, err = e.takePlace(); err != nil {
		return 0, err
	}
	return written, e.exchange()
}

func (e *boltEngine) copyState(fresh *bolt.DB) error {
	return e.view(func(_, state *walker) error {
		return fresh.Update(func(tx *bolt.Tx) error {
			return state.each(tx.Bucket(stateBucket).Put)
		})
	})
}

// exchange turns from the file that was under path to the one that is now.
func (e *boltEngine) exchange() (err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.close()
	e.db, e.file, err = openDB(e.path, e.max, e.max, false)
	e.at = placeOf(e.path)
	e.measure()
	return err
}

// Taken implements engine. A file that took this one's place a moment ago is ours.
func (e *boltEngine) Taken() bool { return e.db != nil && !e.renamed && e.at.taken() }

// writeAnew puts a copy of the open file in path's place, while readers go on. It is what the disk has, page by page: if
// some of that is damaged it is found as ever.
func (e *boltEngine) writeAnew() (written int64, err error) {
	err = replaceFile(e.path, func(f *os.File) error {
		written, err = io.Copy(f, io.NewSectionReader(e.file, 0, math.MaxInt64))
		return err
	})
	return written, err
}

// makeRoom gives the file space for a batch, all of it allocated: a disk that is full
// says so here, and not in the middle.
func (e *boltEngine) makeRoom(b *foldBatch) error {
	need, size := int64(boltSlack), e.Size()
	for _, r := range b.put {
		need += int64(len(r.rec)) + elemSize + blockKey
	}
	if len(b.put) == 0 || e.Free() >= 2*need {
		return nil
	}
	to := min((size+2*need-e.Free()+boltAlloc-1)/boltAlloc*boltAlloc, e.max)
	if to <= size {
		return nil
	}
	err := allocate(e.file, size, to-size)
	if errors.Is(err, syscall.ENOSPC) && e.Free() >= need {
		return nil
	}
	e.measure()
	return err
}

// measure notes the size of the file and what of it is free. The caller holds mu.
func (e *boltEngine) measure() {
	if e.file == nil {
		return
	}
	if info, err := e.file.Stat(); err == nil {
		e.size.Store(info.Size())
		e.free.Store(freeSpace(e.file, info.Size()))
	}
}

func (e *boltEngine) Size() int64 { return e.size.Load() }
func (e *boltEngine) Free() int64 { return e.free.Load() }

func (e *boltEngine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.close()
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
