package storefwd

import (
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/klauspost/compress/s2"
)

// This file packs records that follow one another in a log, without a gap, into one
// value, a block. Little endian:
//
//	 0 crc32c of 4…24       4 log id            8 sequence of the first record
//	16 how many (u32)      20 bytes packed (u32)
//	24 what is packed, compressed by s2 if that makes it shorter
//
// It names its own log and sequences, as a record does. What is packed has the heads of
// the records by column, since most columns hardly change from one record to the next:
//
//	the first bytes of all heads, the second bytes of all, … up to the 44th
//	subject, header and data of the first record, of the second, …
//
// A head is the length of the record (u32) and its first 40 bytes, the checksum among
// them: each record is checked for itself, and damage costs those that it hits.
const (
	blockHeader = 24
	columns     = 4 + recHeader

	maxBlock  = 64 << 10 // bytes packed into a block of more than one record
	maxPacked = maxRecord + 4
)

// blockHead says what is in a block.
type blockHead struct {
	log    uint32
	first  uint64
	count  int // 1 or more
	packed uint32
}

func (h *blockHead) last() uint64 { return h.first + uint64(h.count) - 1 }

// parseBlock checks all of a block but what is packed. The result borrows b.
func parseBlock(b []byte) (h blockHead, data []byte, err error) {
	if len(b) < blockHeader || crc32.Checksum(b[4:blockHeader], castagnoli) != le.Uint32(b) {
		return h, nil, fmt.Errorf("%w: the head of a block", ErrDamaged)
	}
	count, data := le.Uint32(b[16:]), b[blockHeader:]
	h = blockHead{log: le.Uint32(b[4:]), first: le.Uint64(b[8:]), packed: le.Uint32(b[20:])}
	most := uint32(maxBlock)
	if count == 1 {
		most = maxPacked
	}
	if count == 0 || h.packed > most || count > h.packed/columns || h.first+uint64(count)-1 < h.first {
		return h, nil, fmt.Errorf("%w: the bounds of a block", ErrDamaged)
	}
	h.count = int(count)
	if uint64(len(data)) != uint64(h.packed) {
		if n, err := s2.DecodedLen(data); err != nil || uint32(n) != h.packed || len(data) > int(h.packed) {
			return h, nil, fmt.Errorf("%w: the length of a block", ErrDamaged)
		}
	}
	return h, data, nil
}

// unpacker opens blocks, one after the other, in buffers that it keeps. The zero value
// is ready. It belongs to one goroutine at a time.
type unpacker struct {
	head blockHead // of the block that raw is from; count 0: it is not whole
	sum  uint32    // of that block's data
	raw  []byte
	rec  []byte
}

// open unpacks a block, unless that is what it did last. If the data are damaged it
// unpacks what it can: whoever takes a record checks it.
func (u *unpacker) open(b []byte) (blockHead, error) {
	h, data, err := parseBlock(b)
	if err != nil {
		return h, err
	}
	sum := crc32.Checksum(data, castagnoli)
	if h == u.head && sum == u.sum {
		return h, nil
	}
	u.head, u.sum = blockHead{}, sum
	u.raw = slices.Grow(u.raw[:0], int(h.packed))[:h.packed]
	if len(data) == len(u.raw) {
		copy(u.raw, data)
	} else {
		clear(u.raw)
		if _, err := s2.Decode(u.raw[:0:len(u.raw)], data); err != nil {
			return h, nil
		}
	}
	u.head = h
	return h, nil
}

// each calls fn for the records of h, which was opened last, with from ≤ seq ≤ to, until
// it returns false. rec is borrowed until fn returns, and nil where there is none.
func (u *unpacker) each(h blockHead, from, to uint64, fn func(seq uint64, rec []byte) bool) bool {
	at := columns * h.count
	for i := range h.count {
		seq := h.first + uint64(i)
		if seq > to {
			break
		}
		size := 0
		for j := range 4 {
			size |= int(u.raw[j*h.count+i]) << (8 * j)
		}
		end := at + size - recHeader
		broken := size < recHeader || size-recHeader > len(u.raw)-at
		if broken {
			end = len(u.raw) + 1 // and what follows is, too
		}
		if seq >= from {
			var rec []byte
			if !broken {
				rec = u.gather(h.count, i, u.raw[at:end])
			}
			if !fn(seq, rec) {
				return false
			}
		}
		at = end
	}
	return true
}

// gather puts record i together.
func (u *unpacker) gather(count, i int, body []byte) []byte {
	u.rec = slices.Grow(u.rec[:0], recHeader+len(body))[:recHeader]
	for j := range u.rec {
		u.rec[j] = u.raw[(4+j)*count+i]
	}
	u.rec = append(u.rec, body...)
	return u.rec
}

// A leaf page of bbolt holds at least two values, so a block has half of some pages, and
// the larger the records are the more pages: else the last one that does not fit would
// leave much of a small block empty.
const (
	leafPages    = 4
	maxLeafPages = 16
	perBlock     = 16 // records that fit, if that many do in the largest
)

func blockRoom(record int) int {
	pages := leafPages
	for ; pages < maxLeafPages && pages*boltPage/2 < perBlock*record; pages *= 2 {
	}
	return (pages*boltPage-pageHeader)/2 - elemSize - blockKey
}

// packer makes blocks. What it returns is good until reset. The zero value is ready; it
// belongs to one goroutine.
type packer struct {
	raw, out []byte
	arena    []byte  // blocks, until reset
	ratio    float64 // of the last block: its length to that of its records
}

const arenaSize = 256 << 10

// reset takes back all blocks that were made.
func (p *packer) reset() {
	if p.arena = p.arena[:0]; cap(p.arena) > arenaSize {
		p.arena = nil
	}
	if cap(p.raw) > 2*maxBlock {
		p.raw, p.out = nil, nil
	}
}

// keep returns a copy of b in the arena.
func (p *packer) keep(b []byte) []byte {
	if len(b) > cap(p.arena)-len(p.arena) {
		p.arena = make([]byte, 0, max(arenaSize, len(b)))
	}
	at := len(p.arena)
	p.arena = append(p.arena, b...)
	return p.arena[at:len(p.arena):len(p.arena)]
}

// next makes a block of the first n records of a run, as many as fill their pages. It is
// nil, and n 1, if that one is shorter as it is.
func (p *packer) next(run []foldRecord) (n int, block []byte) {
	room := blockRoom(len(run[0].rec))
	n = p.guess(run, room)
	for grown := false; ; {
		raw := p.pack(run[:n])
		p.ratio = float64(len(p.out)) / float64(raw)
		fits := n * room / len(p.out) // if all are alike
		if len(p.out) > room && n > 1 {
			n, grown = max(1, min(n-1, fits)), true
			continue
		}
		if fits = min(fits, len(run), p.guess(run, room)); fits > n && !grown {
			n, grown = fits, true
			continue
		}
		break
	}
	if n == 1 && len(p.out) >= len(run[0].rec) {
		return 1, nil
	}
	return n, p.keep(p.out)
}

// guess is how many records of a run will fit if they compress as the last ones did.
func (p *packer) guess(run []foldRecord, room int) (n int) {
	if p.ratio == 0 {
		p.ratio = 0.8
	}
	most := min(int(float64(room-blockHeader)/p.ratio), maxBlock)
	for _, r := range run {
		if most -= columns - recHeader + len(r.rec); most < 0 {
			break
		}
		n++
	}
	return max(n, 1)
}

// pack makes a block of all of run, in out, and returns how many bytes it packed.
func (p *packer) pack(run []foldRecord) (packed int) {
	n := len(run)
	packed = columns * n
	for _, r := range run {
		packed += len(r.rec) - recHeader
	}
	p.raw = slices.Grow(p.raw[:0], packed)[:packed]
	at := columns * n
	for i, r := range run {
		for j := range 4 {
			p.raw[j*n+i] = byte(len(r.rec) >> (8 * j))
		}
		for j, b := range r.rec[:recHeader] {
			p.raw[(4+j)*n+i] = b
		}
		at += copy(p.raw[at:], r.rec[recHeader:])
	}
	p.out = slices.Grow(p.out[:0], blockHeader+s2.MaxEncodedLen(packed))
	head := p.out[:blockHeader]
	le.PutUint32(head[4:], run[0].log)
	le.PutUint64(head[8:], run[0].seq)
	le.PutUint32(head[16:], uint32(n))
	le.PutUint32(head[20:], uint32(packed))
	le.PutUint32(head, crc32.Checksum(head[4:], castagnoli))
	data := s2.Encode(p.out[blockHeader:cap(p.out)], p.raw)
	if len(data) >= packed {
		data = append(p.out[:blockHeader], p.raw...)[blockHeader:]
	}
	p.out = p.out[:blockHeader+len(data)]
	return packed
}
