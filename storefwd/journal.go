package storefwd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"

	"golang.org/x/sys/unix"
)

// The journal is one file of fixed size: a header block, two halves, the header
// block again.
//
//	| header 4096 | half 0 | half 1 | header 4096 |
//
// A half holds batches. A batch starts on a 512-byte sector that holds nothing
// older, is made durable with one fdatasync, and is a row of frames, each padded to
// 8 bytes:
//
//	0 length of the frame, padding left out    4 crc32c of salt, length, generation, record checksum
//	8 generation                              16 the record (record.go)
//
// Each pass over a half has a generation of its own, one higher than the last, so
// what an older pass left behind is not taken for new. The salt is random and
// never leaves the file: a payload cannot imitate a frame.
type journal struct {
	f    journalFile
	size int64
	half int64
	salt [8]byte
	gen  uint64    // the pass being written; its lowest bit names the half
	off  int64     // next free sector in that half
	used [2]uint64 // by half: the generation of what it holds, 0 if that is of no interest any more
	buf  []byte
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
	journalMagic = "leafdjnl"
	journalBlock = 4096
	sector       = 512
	frameHeader  = 16
	fillBatch    = 64 << 10  // and a fresh one is filled in batches of this
	journalChunk = 128 << 10 // a large batch is written in parts of about this size
)

var errJournalHeader = errors.New("both headers are damaged")

// createJournal makes a journal of the given size that holds recs. Its zeroes are
// really written: in space that is only reserved, the first write of each block
// changes the file's metadata and costs a second write.
func createJournal(path string, size int64, recs [][]byte) (written int64, err error) {
	head := make([]byte, journalBlock)
	copy(head, journalMagic)
	binary.LittleEndian.PutUint32(head[8:], 1)
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
		n, err := fillJournal(unsynced{osFile{f}}, size, recs)
		written += n
		return err
	})
	return written, err
}

// unsynced is a file that is synced later, as a whole.
type unsynced struct{ osFile }

func (unsynced) Datasync() error { return nil }

// journalFor is the size of a journal that fillJournal can put recs into. What a
// hub gave back may be more than was ever in one.
func journalFor(recs [][]byte) int64 {
	var all, largest int64
	for _, r := range recs {
		n := frameSize(len(r))
		all, largest = all+n, max(largest, n)
	}
	batch := max(largest, fillBatch) + sector // a half may end short of one
	half := (all+all/fillBatch*2*sector)/2 + 2*batch
	return (2*half + 2*journalBlock + 2*sector) &^ (2*sector - 1)
}

// fillJournal writes recs into an empty journal, in batches of moderate size.
func fillJournal(f journalFile, size int64, recs [][]byte) (written int64, err error) {
	j, err := openJournal(f, size)
	if err != nil {
		return 0, err
	}
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

// openJournal reads the header of a journal of size bytes.
func openJournal(f journalFile, size int64) (*journal, error) {
	head := make([]byte, 40)
	for _, at := range []int64{0, size - journalBlock} {
		if at < 0 {
			continue
		}
		if _, err := f.ReadAt(head, at); err != nil {
			continue
		}
		half := int64(le.Uint64(head[16:]))
		if string(head[:8]) != journalMagic || crc32.Checksum(head[:36], castagnoli) != le.Uint32(head[36:]) ||
			half <= 0 || half%sector != 0 || half*2+2*journalBlock > size {
			continue
		}
		if v := le.Uint32(head[8:]); v != 1 {
			return nil, fmt.Errorf("format %d is not one this version knows", v)
		}
		j := &journal{f: f, size: size, half: half, off: half, gen: uint64(le.Uint32(head[32:])) << 32}
		copy(j.salt[:], head[24:])
		return j, nil
	}
	return nil, errJournalHeader
}

// room reports whether n bytes of records still fit the current half.
func (j *journal) room(n int64) bool { return j.off+(n+sector-1)&^(sector-1) <= j.half }

// turn starts a new pass in the other half, which canTurn allows once that holds
// nothing of interest.
func (j *journal) turn() {
	j.gen++
	j.off = 0
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

func frameSize(rec int) int64 { return (int64(frameHeader+rec) + 7) &^ 7 }

// write appends one batch and makes it durable. After an error nothing may be
// assumed about the file, and nothing may be written to it any more.
func (j *journal) write(recs [][]byte) (n int, err error) {
	b := j.buf[:0]
	at := j.start(j.gen) + j.off
	for i, r := range recs {
		seal(r)
		from := len(b)
		b = le.AppendUint32(b, uint32(frameHeader+len(r)))
		b = le.AppendUint32(b, 0)
		b = le.AppendUint64(b, j.gen)
		b = append(b, r...)
		le.PutUint32(b[from+4:], j.frameSum(b[from:]))
		for len(b)%8 != 0 {
			b = append(b, 0)
		}
		last := i == len(recs)-1
		for last && (n+len(b))%sector != 0 {
			b = append(b, 0)
		}
		if last || len(b) >= journalChunk {
			if _, err := j.f.WriteAt(b, at+int64(n)); err != nil {
				return 0, err
			}
			n += len(b)
			b = b[:0]
		}
	}
	if j.buf = b; cap(b) > 4*journalChunk {
		j.buf = nil
	}
	if err := j.f.Datasync(); err != nil {
		return 0, err
	}
	j.off += int64(n)
	j.used[j.gen&1] = j.gen
	return n, nil
}

func (j *journal) start(gen uint64) int64 { return journalBlock + int64(gen&1)*j.half }

// frameSum covers the frame's own fields and, through its checksum, the record.
func (j *journal) frameSum(frame []byte) uint32 {
	sum := crc32.Update(crc32.Checksum(j.salt[:], castagnoli), castagnoli, frame[:4])
	return crc32.Update(sum, castagnoli, frame[8:frameHeader+4])
}

// frame decodes the frame at the start of b, which must be of generation gen, or
// of any if gen is 0.
func (j *journal) frame(b []byte, gen uint64) (rec []byte, ok bool) {
	if len(b) < frameHeader+recHeader {
		return nil, false
	}
	n, g := le.Uint32(b), le.Uint64(b[8:])
	if gen != 0 && g != gen || n < frameHeader+recHeader || uint64(n) > uint64(len(b)) || le.Uint32(b[4:]) != j.frameSum(b) {
		return nil, false
	}
	return b[frameHeader:n], true
}

// replay calls fn for every record that is newer than generation folded, in
// order; the bytes are lent. It returns what was found damaged. The next write goes
// to a new generation. Of a half that was folded it reads one sector.
func (j *journal) replay(folded uint64, fn func(rec []byte)) (notes []string) {
	var gens [2]uint64
	var buf []byte
	for i := range gens {
		if gens[i] = j.firstGen(i); gens[i] == 0 {
			buf, _ = j.readHalf(buf, i)
			if gens[i] = j.newest(buf); gens[i] == 0 {
				if n := j.strange(buf); n > 0 {
					notes = append(notes, fmt.Sprintf("journal half %d: %d bytes are not what a power cut leaves; messages may be lost", i, n))
				}
			}
		}
	}
	j.gen = max(j.gen, gens[0], gens[1])
	if folded>>32 == j.gen>>32 {
		// A fold that only removed records moved on without a write here. What is
		// written from now on must be newer than it, or replay would pass it over.
		j.gen = max(j.gen, folded)
	}
	order := []int{0, 1}
	if gens[0] > gens[1] {
		order = []int{1, 0}
	}
	for _, i := range order {
		if g := gens[i]; g == 0 || g>>32 == folded>>32 && g <= folded {
			continue
		}
		var err error
		if buf, err = j.readHalf(buf, i); err != nil {
			notes = append(notes, fmt.Sprintf("journal half %d is unreadable after %d bytes: %v", i, len(buf), err))
		}
		j.used[i] = gens[i]
		if note := j.replayHalf(buf, gens[i], fn); note != "" {
			notes = append(notes, fmt.Sprintf("journal half %d: %s", i, note))
		}
	}
	j.off = j.half // this generation is closed: a torn batch may lie behind its end
	return notes
}

// firstGen is the generation of the frame that a half begins with: that of the pass
// that was written last over it, as each begins there. It is 0 if there is no such frame.
func (j *journal) firstGen(half int) uint64 {
	b := make([]byte, frameHeader+4)
	if _, err := j.f.ReadAt(b, j.start(uint64(half))); err != nil || binary.LittleEndian.Uint32(b[4:]) != j.frameSum(b) {
		return 0
	}
	if g := binary.LittleEndian.Uint64(b[8:]); g>>32 == j.gen>>32 && int(g&1) == half {
		return g
	}
	return 0
}

// readHalf returns what can be read of a half, in buf if that is large enough.
func (j *journal) readHalf(buf []byte, half int) ([]byte, error) {
	if buf = buf[:cap(buf)]; int64(len(buf)) < j.half {
		buf = make([]byte, j.half)
	}
	n, err := j.f.ReadAt(buf, j.start(uint64(half)))
	return buf[:n], err
}

// newest finds the generation of the pass that was written last over a half: the
// highest of any frame in it, wherever the frame lies.
func (j *journal) newest(b []byte) (gen uint64) {
	for at := 0; at+frameHeader+recHeader <= len(b); at += 8 {
		g := le.Uint64(b[at+8:])
		if g>>32 != j.gen>>32 || g <= gen {
			continue
		}
		if _, ok := j.frame(b[at:], g); ok {
			gen = g
		}
	}
	return gen
}

// replayHalf walks the frames of one generation. Where one is unreadable it looks
// for the next that can be read: if there is one, something is missing.
func (j *journal) replayHalf(b []byte, gen uint64, fn func(rec []byte)) (note string) {
	var good, bad, end int
	clean := true
	for at := 0; at < len(b); {
		rec, ok := j.frame(b[at:], gen)
		if ok {
			if _, _, err := parseRecord(rec); err == nil {
				good++
				if !clean {
					bad++
				}
				fn(rec)
			} else {
				bad++
			}
			clean = true
			at += int(frameSize(len(rec)))
			end = min(at, len(b))
			continue
		}
		if at%sector == 0 || b[at] != 0 {
			clean = false
		}
		at += 8
	}
	if end > 0 {
		end = min(end+journalBlock, len(b)) // the rest of an older record, whose head was overwritten
	}
	switch n := j.strange(b[end:]); {
	case bad == 0 && n > 0:
		note = fmt.Sprintf("%d bytes behind the %d records that were read are not what a power cut leaves; messages may be lost", n, good)
	case bad > 0:
		note = fmt.Sprintf("damaged in %d places; %d records were read", bad, good)
	}
	return note
}

// strange counts the bytes of b, from whole blocks, that no pass over the journal can
// have left there: they are not zero, and no frame of this file, torn or old, reaches
// over them. Media that lose a page leave such.
func (j *journal) strange(b []byte) (n int) {
	covered := 0
	for at := 0; at+journalBlock <= len(b); at += journalBlock {
		nonzero, known := false, at < covered
		for o := at; o < at+journalBlock; o += 8 {
			nonzero = nonzero || le.Uint64(b[o:]) != 0
			if o+frameHeader <= len(b) && le.Uint64(b[o+8:])>>32 == j.gen>>32 && le.Uint32(b[o:]) <= uint32(j.half) {
				known = true
				covered = max(covered, o+int(le.Uint32(b[o:])))
			}
		}
		if nonzero && !known {
			n += journalBlock
		}
	}
	return n
}
