package storefwd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// The journal is one file of fixed size: a header block, two halves, the header
// block again.
//
//	| header 4096 | half 0 | half 1 | header 4096 |
//
// A half is filled in one pass, from both ends: of its batches each goes to the other end
// than the one before it.
//
//	| batch 0 | batch 2 | … free, 64 KiB at least … | batch 3 | batch 1 |
//
// A batch is a row of frames (frame.go). It starts and ends with a sector, which holds
// nothing older, and is made durable with one sync. Its frames say how many records of the
// pass were durable before it: so a batch is the proof, in another place, that all before
// it were there. What damage takes of them is known to be missing. The newest has none until the
// next, or until mark writes a batch without records for it.
//
// Each sector begins with 4 bytes that tell it from what never was written: crc32c of
// the salt and its place. The other 508 are what frames are made of.
//
// Each pass has a generation of its own, one higher than the last, and is of one run of the
// store, so what an older pass or a torn batch left behind is not taken for new. The salt is
// random and never leaves the file: a payload cannot imitate a frame.
//
// Owned by one goroutine, the committer's after Open.
type journal struct {
	f     journalFile
	size  int64
	half  int64
	align int64 // batches are of whole units of this, a multiple of sector
	first bool  // the file is of format 1: it can be replayed, not written
	salt  [8]byte
	run   uint16 // of the store: meta.run

	gen    uint64    // the pass being written; its lowest bit names the half
	lo, hi int64     // what is free of that half
	top    bool      // the next batch goes to its upper end
	count  uint32    // records of the pass
	weight int64     // of these, by frameSize
	prior  pass      // the one before
	used   [2]uint64 // by half: the generation of what it holds, 0 if that is of no interest any more
	runs   [2]uint16 // and the run that wrote it
	bad    bool      // replay found damage: a fresh journal is to take its place
	cut    bool      // the file is shorter than its header says
	scar   string    // which of the two headers is damaged
	ends   []logEnd  // of the logs written to last

	buf       []byte // aligned; what is to be written of a batch
	fill      int    // bytes in it
	flushed   int64  // bytes of the batch that were written already
	raw, pack []byte // one frame, before and after packing
	head      []byte // its fields
	place     [16]byte
}

// pass names a pass and says how many records it has.
type pass struct {
	gen   uint64
	count uint32
}

// journalFile is what the journal needs of *os.File; tests put faults in between.
type journalFile interface {
	ReadAt(b []byte, off int64) (int, error)
	WriteAt(b []byte, off int64) (int, error)
	Datasync() error
	Close() error
}

type osFile struct{ *os.File }

func (f osFile) Datasync() error { return unix.Fdatasync(int(f.Fd())) }

const (
	journalMagic  = "leafdjnl"
	journalFormat = 2
	journalBlock  = 4096
	sector        = 512
	sectorTag     = 4
	sectorRoom    = sector - sectorTag
	batchExtra    = journalBlock + sector // at most what a batch weighs beside its records' frameSize
	fillBatch     = 64 << 10              // and a fresh one is filled in batches of this
	journalChunk  = 128 << 10             // a large batch is written in parts of this
	apart         = 64 << 10              // a batch is so far away from the one that it proves, in a journal that has the room
)

var (
	errJournalHeader = errors.New("both headers are damaged")
	errJournalUnread = errors.New("no header of the journal can be read") // which the disk may do later
)

// createJournal makes a journal of the given size that holds recs. Its zeroes are
// really written: in space that is only reserved, the first write of each block
// changes the file's metadata and costs a second write.
func createJournal(path string, size int64, run uint16, recs [][]byte) (written int64, err error) {
	head := make([]byte, journalBlock)
	copy(head, journalMagic)
	binary.LittleEndian.PutUint32(head[8:], journalFormat)
	binary.LittleEndian.PutUint64(head[16:], uint64(size-2*journalBlock)/2)
	copy(head[24:36], random(12)) // salt, and the upper half of all generations
	binary.LittleEndian.PutUint32(head[36:], crc32.Checksum(head[:36], castagnoli))
	written = size + 2*journalBlock
	err = replaceFile(path, func(f *os.File) error {
		if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		zero := make([]byte, 256<<10)
		for off := int64(0); off < size; off += int64(len(zero)) {
			if _, err := f.WriteAt(zero[:min(int64(len(zero)), size-off)], off); err != nil {
				return err
			}
		}
		_, err1 := f.WriteAt(head, 0)
		_, err2 := f.WriteAt(head, size-journalBlock)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		n, err := fillJournal(unsynced{osFile{f}}, size, run, recs)
		written += n
		return err
	})
	return written, err
}

// unsynced is a file that is synced later, as a whole.
type unsynced struct{ osFile }

func (unsynced) Datasync() error { return nil }
func (unsynced) Close() error    { return nil }

// journalFor is the size of a journal that fillJournal can put recs into. What a
// hub gave back may be more than was ever in one.
func journalFor(recs [][]byte) int64 {
	if len(recs) == 0 {
		return 0
	}
	var all, largest int64
	for _, r := range recs {
		n := frameSize(len(r))
		all, largest = all+n, max(largest, n)
	}
	batch := max(largest, fillBatch) + batchExtra // a half may end short of one
	half := (all+all/fillBatch*2*batchExtra)/2 + 2*batch + apart
	return (2*half + 4*journalBlock) &^ (2*journalBlock - 1)
}

// fillJournal writes recs into an empty journal, in batches of moderate size.
func fillJournal(f journalFile, size int64, run uint16, recs [][]byte) (written int64, err error) {
	j, err := openJournal(f, size, journalBlock, run)
	if err != nil {
		return 0, err
	}
	defer j.close()
	for len(recs) > 0 {
		n, bytes := 0, int64(0)
		for n < len(recs) && (n == 0 || bytes+frameSize(len(recs[n])) <= fillBatch) {
			bytes += frameSize(len(recs[n]))
			n++
		}
		if !j.room(bytes) {
			if !j.canTurn() {
				return written, errors.New("the journal is too small for what it is to hold")
			}
			j.turn()
		}
		w, err := j.write(recs[:n])
		if err != nil {
			return written, err
		}
		written += int64(w)
		recs = recs[n:]
	}
	return written, nil
}

// openJournal reads the header of a journal of size bytes. Batches will be of whole units
// of align bytes, and of the given run.
func openJournal(f journalFile, size, align int64, run uint16) (*journal, error) {
	head := make([]byte, 40)
	var unread error
	for _, at := range []int64{0, size - journalBlock} {
		if at < 0 {
			continue
		}
		if _, err := f.ReadAt(head, at); err != nil {
			if !errors.Is(err, io.EOF) {
				unread = err
			}
			continue
		}
		half := int64(le.Uint64(head[16:]))
		if string(head[:8]) != journalMagic || crc32.Checksum(head[:36], castagnoli) != le.Uint32(head[36:]) ||
			half <= 0 || half%sector != 0 || half > 1<<30 {
			continue
		}
		cut := half > (size-2*journalBlock)/2
		if cut && at > 0 {
			continue
		}
		v := le.Uint32(head[8:])
		if v != 1 && v != journalFormat {
			return nil, fmt.Errorf("format %d is not one this version knows", v)
		}
		j := &journal{f: f, size: size, half: half, align: align, first: v == 1, cut: cut, run: run, gen: uint64(le.Uint32(head[32:])) << 32}
		copy(j.salt[:], head[24:])
		if at > 0 {
			j.scar = "first"
		} else if _, err := f.ReadAt(head, size-journalBlock); !cut && (err != nil || crc32.Checksum(head[:36], castagnoli) != le.Uint32(head[36:])) {
			j.scar = "last"
		}
		return j, nil
	}
	if unread != nil {
		return nil, fmt.Errorf("%w: %w", errJournalUnread, unread)
	}
	return nil, errJournalHeader
}

// room reports whether records that weigh n bytes by frameSize still fit the current half.
// How well they pack does not count: what is in the journal is in RAM, too.
func (j *journal) room(n int64) bool {
	if j.untouched() {
		return n+batchExtra <= j.half
	}
	return j.weight+n <= j.half && j.lo+n+batchExtra+min(apart, j.half/8) <= j.hi
}

// left is the least that records may weigh in all and still fit, if no half is freed.
func (j *journal) left() int64 {
	if j.untouched() || j.canTurn() {
		return j.half - batchExtra
	}
	return min(j.half-j.weight, j.hi-j.lo-batchExtra-min(apart, j.half/8))
}

// untouched reports whether nothing was written in this pass.
func (j *journal) untouched() bool { return j.lo == 0 && j.hi == j.half }

// turn starts a new pass in the other half, which canTurn allows once that holds
// nothing of interest.
func (j *journal) turn() {
	j.prior = pass{j.gen, j.count}
	j.gen++
	j.lo, j.hi, j.top, j.count, j.weight = 0, j.half, false, 0, 0
}

func (j *journal) canTurn() bool { return j.used[(j.gen+1)&1] == 0 }

// free forgets the passes up to generation upTo.
func (j *journal) free(upTo uint64) {
	for i, g := range j.used {
		if g <= upTo {
			j.used[i] = 0
		}
	}
}

// close closes the file. Whatever it says, nothing depends on this file any more.
func (j *journal) close() {
	if j.buf != nil {
		unix.Munmap(j.buf)
		j.buf = nil
	}
	j.f.Close()
}

// write appends one batch and makes it durable. After an error nothing may be
// assumed about the file, and nothing may be written to it any more.
func (j *journal) write(recs [][]byte) (n int, err error) {
	size, err := j.put(recs)
	if err != nil {
		return 0, err
	}
	if err := j.f.Datasync(); err != nil {
		return 0, err
	}
	if j.top {
		j.hi -= size
	} else {
		j.lo += size
	}
	j.top = !j.top
	j.count += uint32(len(recs))
	for _, r := range recs {
		j.weight += frameSize(len(r))
		j.noteEnd(le.Uint32(r[4:]), le.Uint64(r[16:]))
	}
	j.used[j.gen&1], j.runs[j.gen&1] = j.gen, j.run
	return int(size), nil
}

// mark proves the newest batch where the next will be, which overwrites it. It is not
// synced: what it says is true already, and whether it reaches the disk now or with the next
// batch is no harm.
func (j *journal) mark() (n int, err error) {
	if j.count == 0 || j.hi-j.lo < j.align {
		return 0, nil
	}
	size, err := j.put(nil)
	return int(size), err
}

// put writes a batch to the end whose turn it is, or, if it is larger than the buffer, to
// the lower one: it is long enough then to prove the one beside it.
func (j *journal) put(recs [][]byte) (size int64, err error) {
	if j.buf == nil {
		if j.buf, err = unix.Mmap(-1, 0, journalChunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE); err != nil {
			return 0, err
		}
	}
	j.fill, j.flushed = 0, 0
	for done := 0; ; {
		n, err := j.putFrame(recs[done:], done)
		if err != nil {
			return 0, err
		}
		if done += n; done == len(recs) {
			break
		}
	}
	end := (j.fill + int(j.align) - 1) &^ (int(j.align) - 1)
	clear(j.buf[j.fill:end])
	j.fill = end
	at := j.lo + j.flushed
	if j.top {
		at = j.hi - int64(end)
	}
	if err := j.flush(at); err != nil {
		return 0, err
	}
	return j.flushed, nil
}

// emit adds bytes of a frame to the batch.
func (j *journal) emit(p []byte) error {
	for len(p) > 0 {
		if j.fill == len(j.buf) {
			j.top = false
			if err := j.flush(j.lo + j.flushed); err != nil {
				return err
			}
		}
		if j.fill%sector == 0 {
			j.fill += sectorTag
		}
		n := copy(j.buf[j.fill:j.fill+sector-j.fill%sector], p)
		j.fill += n
		p = p[n:]
	}
	return nil
}

// flush writes the buffer to a place in the half.
func (j *journal) flush(at int64) error {
	if j.fill == 0 {
		return nil
	}
	at += j.start(j.gen)
	for i := 0; i < j.fill; i += sector {
		le.PutUint32(j.buf[i:], j.tag(at+int64(i)))
	}
	_, err := j.f.WriteAt(j.buf[:j.fill], at)
	j.flushed += int64(j.fill)
	j.fill = 0
	return err
}

// tag marks the sector at offset at of the file as one of this journal.
func (j *journal) tag(at int64) uint32 {
	le.PutUint64(j.place[len(j.salt):], uint64(at))
	copy(j.place[:], j.salt[:])
	return crc32.Checksum(j.place[:], castagnoli)
}

func (j *journal) start(gen uint64) int64 { return journalBlock + int64(gen&1)*j.half }
