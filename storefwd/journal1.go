package storefwd

import (
	"fmt"
	"hash/crc32"
)

// This file reads journals of format 1, which versions before packed frames wrote; the
// store replaces one by a fresh journal as soon as it has read it. A half was written from
// its start on; a frame held one record and was padded to 8 bytes:
//
//	0 length of the frame, padding left out    4 crc32c of salt, length, generation, record checksum
//	8 generation                              16 the record

const firstHeader = 16

// replayFirst is replay for format 1. What is missing at the end cannot be seen.
func (j *journal) replayFirst(folded uint64, to reader) (notes []string) {
	var halves [2][]byte
	var gens [2]uint64
	for i := range halves {
		halves[i] = make([]byte, j.half)
		if n := j.readAround(halves[i], j.start(uint64(i))); n > 0 {
			notes = append(notes, fmt.Sprintf("journal half %d: %d sectors cannot be read; messages may be lost", i, n))
		}
		for at := 0; at+firstHeader+recHeader <= len(halves[i]); at += 8 {
			if g := le.Uint64(halves[i][at+8:]); g>>32 == j.gen>>32 && g > gens[i] {
				if _, ok := j.firstFrame(halves[i][at:], g); ok {
					gens[i] = g
				}
			}
		}
	}
	j.gen = max(j.gen, gens[0], gens[1])
	order := []int{0, 1}
	if gens[0] > gens[1] {
		order = []int{1, 0}
	}
	for _, i := range order {
		if g := gens[i]; g == 0 || g>>32 == folded>>32 && g <= folded {
			continue
		}
		j.used[i] = gens[i]
		if bad := j.replayFirstHalf(halves[i], gens[i], to); bad > 0 {
			notes = append(notes, fmt.Sprintf("journal half %d is damaged in %d places; messages may be lost", i, bad))
		}
	}
	return notes
}

// replayFirstHalf walks the frames of one generation. Where one is unreadable it looks for
// the next that can be read: if there is one, something is missing.
func (j *journal) replayFirstHalf(b []byte, gen uint64, to reader) (bad int) {
	clean := true
	for at := 0; at < len(b); {
		rec, ok := j.firstFrame(b[at:], gen)
		if !ok {
			if at%sector == 0 || b[at] != 0 {
				clean = false
			}
			at += 8
			continue
		}
		_, _, err := parseRecord(rec)
		if err == nil {
			to.record(rec)
		}
		if err != nil || !clean {
			bad++
		}
		clean = true
		at += (firstHeader + len(rec) + 7) &^ 7
	}
	return bad
}

// firstFrame is the record of the frame at the start of b, which must be of generation gen.
func (j *journal) firstFrame(b []byte, gen uint64) (rec []byte, ok bool) {
	if len(b) < firstHeader+recHeader {
		return nil, false
	}
	n := le.Uint32(b)
	if le.Uint64(b[8:]) != gen || n < firstHeader+recHeader || uint64(n) > uint64(len(b)) {
		return nil, false
	}
	sum := crc32.Update(crc32.Checksum(j.salt[:], castagnoli), castagnoli, b[:4])
	if le.Uint32(b[4:]) != crc32.Update(sum, castagnoli, b[8:firstHeader+4]) {
		return nil, false
	}
	return b[firstHeader:n], true
}
