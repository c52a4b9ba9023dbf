package storefwd

import (
	"encoding/binary"
	"hash/crc32"
	"slices"

	"github.com/klauspost/compress/s2"
)

// A frame holds some records of a batch, about 4 KiB before they are packed, so that
// damage of a sector costs no more than these. Little endian, padded to 4 bytes:
//
//	 0 length, padding left out           4 crc32c of salt and all other fields
//	 8 generation                        16 records of the pass before this frame
//	20 of these, durable before its batch 24 length of the content, unpacked
//	28 crc32c of the content             32 records in it · 33 how · 34 run (u16)
//	36 the content, for flagPacked as an s2 block
//
// The content is records (record.go), each behind its length as a uvarint. That of the first
// frame of a batch has the opening before them:
//
//	0 generation of the pass before   8 records of that pass   12 logs (u8)
//	13 for each: id (u32), the last of its sequences that was durable in this file (u64)
//
// So what is missing is known by number even if all frames of a batch are, and to which log.
type frame struct {
	size   int
	gen    uint64
	before uint32 // records of the pass
	safe   uint32 // of these were durable when the batch was written
	raw    int
	sum    uint32
	count  uint8
	how    uint8
	run    uint16
}

// logEnd is the last sequence of a log that is in the journal.
type logEnd struct {
	log uint32
	seq uint64
}

const (
	frameHeader = 36
	flagPacked  = 1
	flagOpening = 2

	frameRaw   = 4000     // a record that would make the content larger begins another frame
	packMost   = 64 << 10 // a larger record is not packed, so that no large buffer is needed
	maxEnds    = 16       // logs in an opening
	openingMin = 13
	endSize    = 12
)

// frameSize is at most what a record of n bytes adds to a batch.
func frameSize(n int) int64 {
	return (int64(frameHeader+binary.MaxVarintLen32+n+3)&^3*sector + sectorRoom - 1) / sectorRoom
}

// putFrame adds as many of recs to the batch as go into one frame; done were before. It
// seals them.
func (j *journal) putFrame(recs [][]byte, done int) (n int, err error) {
	f := frame{gen: j.gen, run: j.run, before: j.count + uint32(done), safe: j.count}
	raw := j.raw[:0]
	if done == 0 {
		f.how = flagOpening
		raw = j.appendOpening(raw)
	}
	var large []byte
	for n < len(recs) && (n == 0 || len(raw)+len(recs[n])+binary.MaxVarintLen32 <= frameRaw) {
		r := recs[n]
		seal(r)
		n++
		raw = binary.AppendUvarint(raw, uint64(len(r)))
		if len(r) > packMost {
			large = r
			break
		}
		raw = append(raw, r...)
	}
	j.raw = raw
	f.raw, f.count = len(raw)+len(large), uint8(n)
	content := raw
	if alone := done == 0 && n == len(recs); large == nil && !(alone && frameHeader+len(raw) <= sectorRoom) {
		j.pack = slices.Grow(j.pack[:0], s2.MaxEncodedLen(len(raw)))
		if packed := s2.Encode(j.pack[:cap(j.pack)], raw); len(packed) < len(raw) {
			content = packed
			f.how |= flagPacked
		}
	}
	return n, j.emitFrame(&f, content, large)
}

// emitFrame adds a frame whose content is that of a and b.
func (j *journal) emitFrame(f *frame, a, b []byte) error {
	f.size = frameHeader + len(a) + len(b)
	f.sum = crc32.Update(crc32.Checksum(a, castagnoli), castagnoli, b)
	j.head = j.appendFrame(j.head[:0], f)
	if err := j.emit(j.head); err != nil {
		return err
	}
	if err := j.emit(a); err != nil {
		return err
	}
	if err := j.emit(b); err != nil {
		return err
	}
	return j.emit(padding[:-f.size&3])
}

var padding [4]byte

func (j *journal) appendFrame(b []byte, f *frame) []byte {
	b = le.AppendUint32(b, uint32(f.size))
	b = le.AppendUint32(b, 0)
	b = le.AppendUint64(b, f.gen)
	b = le.AppendUint32(b, f.before)
	b = le.AppendUint32(b, f.safe)
	b = le.AppendUint32(b, uint32(f.raw))
	b = le.AppendUint32(b, f.sum)
	b = append(b, f.count, f.how)
	b = le.AppendUint16(b, f.run)
	le.PutUint32(b[4:], j.frameSum(b))
	return b
}

func (j *journal) appendOpening(b []byte) []byte {
	b = le.AppendUint64(b, j.prior.gen)
	b = le.AppendUint32(b, j.prior.count)
	b = append(b, uint8(len(j.ends)))
	for _, e := range j.ends {
		b = le.AppendUint32(b, e.log)
		b = le.AppendUint64(b, e.seq)
	}
	return b
}

// noteEnd notes that seq of a log is durable in the journal.
func (j *journal) noteEnd(log uint32, seq uint64) {
	for i := range j.ends {
		if e := &j.ends[i]; e.log == log {
			e.seq = max(e.seq, seq)
			return
		}
	}
	if len(j.ends) == maxEnds { // the first of them is forgotten
		j.ends = slices.Delete(j.ends, 0, 1)
	}
	j.ends = append(j.ends, logEnd{log, seq})
}

// frameSum covers the frame's own fields and, through its checksum, the content.
func (j *journal) frameSum(b []byte) uint32 {
	sum := crc32.Update(crc32.Checksum(j.salt[:], castagnoli), castagnoli, b[:4])
	return crc32.Update(sum, castagnoli, b[8:frameHeader])
}

// frameAt decodes the fields of a frame at the start of b; what it holds may be damaged.
func (j *journal) frameAt(b []byte) (f frame, ok bool) {
	if len(b) < frameHeader || le.Uint64(b[8:])>>32 != j.gen>>32 || le.Uint32(b[4:]) != j.frameSum(b) {
		return f, false
	}
	f = frame{
		gen: le.Uint64(b[8:]), before: le.Uint32(b[16:]), safe: le.Uint32(b[20:]), sum: le.Uint32(b[28:]),
		count: b[32], how: b[33], run: le.Uint16(b[34:]),
	}
	size, raw := le.Uint32(b), le.Uint32(b[24:])
	if size < frameHeader || int64(size) > j.half || f.safe > f.before || f.how > flagPacked|flagOpening ||
		f.how&flagPacked != 0 && raw > 2*packMost || f.how&flagPacked == 0 && raw != size-frameHeader {
		return f, false
	}
	f.size, f.raw = int(size), int(raw)
	return f, true
}

// sound reports whether the frame at the start of b is as it was written.
func (f *frame) sound(b []byte) bool {
	return f.size <= len(b) && crc32.Checksum(b[frameHeader:f.size], castagnoli) == f.sum
}

// content unpacks what the sound frame at the start of b holds; scratch is used, if that is
// large enough, and given back.
func (f *frame) content(b, scratch []byte) (raw, again []byte, ok bool) {
	b = b[frameHeader:f.size]
	if f.how&flagPacked == 0 {
		return b, scratch, true
	}
	if n, err := s2.DecodedLen(b); err != nil || n != f.raw {
		return nil, scratch, false
	}
	scratch = slices.Grow(scratch[:0], f.raw)
	raw, err := s2.Decode(scratch[:cap(scratch)], b)
	return raw, scratch, err == nil && len(raw) == f.raw
}

// opening takes it off the content of a batch's first frame. ends are appended to.
func (f *frame) opening(raw []byte, ends []logEnd) (prior pass, more []logEnd, rest []byte, ok bool) {
	if len(raw) < openingMin || raw[12] > maxEnds || len(raw) < openingMin+int(raw[12])*endSize {
		return pass{}, ends, nil, false
	}
	prior = pass{le.Uint64(raw), le.Uint32(raw[8:])}
	n := int(raw[12])
	for raw = raw[openingMin:]; n > 0; n-- {
		ends = append(ends, logEnd{le.Uint32(raw), le.Uint64(raw[4:])})
		raw = raw[endSize:]
	}
	return prior, ends, raw, true
}

// nextRecord takes one record off the content.
func nextRecord(raw []byte) (rec, rest []byte, ok bool) {
	n, w := binary.Uvarint(raw)
	if w <= 0 || n > maxRecord || n > uint64(len(raw)-w) {
		return nil, nil, false
	}
	return raw[w : w+int(n) : w+int(n)], raw[w+int(n):], true
}
