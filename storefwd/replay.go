package storefwd

import (
	"bytes"
	"fmt"
	"sort"
	"time"
)

// This file reads a journal back. It trusts no length, and knows how many records there
// were: what is missing is counted where it is missing.

const readPause = 250 * time.Millisecond // before a disk that fails is asked again

// passID tells a pass from every other over the same half.
type passID struct {
	gen uint64
	run uint16
}

// placed is a frame and where it was found.
type placed struct {
	frame
	at    int
	sound bool
}

// reader is what replay gives its findings to. record lends its bytes; missing says that n
// records were durable behind the last one, and cannot be read.
type reader interface {
	record(rec []byte)
	missing(n uint32)
}

// replay gives out every record that is newer than generation folded, in order. It
// returns what was found damaged. The next write goes to a new generation. Of a half that
// was folded it reads one sector.
func (j *journal) replay(folded uint64, to reader) (notes []string) {
	if j.first {
		return j.replayFirst(folded, to)
	}
	var ids [2]passID
	var buf []byte
	for i := range ids {
		if ids[i] = j.firstPass(i); ids[i].gen == 0 {
			var bad int
			buf, bad = j.readHalf(buf, i)
			if ids[i] = j.newestPass(buf); ids[i].gen == 0 && bad > 0 {
				notes = append(notes, fmt.Sprintf("journal half %d: %d sectors are not what was written; messages may be lost", i, bad))
			}
		}
	}
	j.gen = max(j.gen, ids[0].gen, ids[1].gen)
	older, newer := 0, 1
	if ids[0].gen > ids[1].gen {
		older, newer = 1, 0
	}
	wanted := func(gen uint64) bool { return gen>>32 == j.gen>>32 && (gen>>32 != folded>>32 || gen > folded) }
	var prior pass
	if wanted(ids[newer].gen) {
		buf, _ = j.readHalf(buf, newer)
		prior = j.priorOf(j.scan(buf, ids[newer]), buf)
	}
	if wanted(prior.gen) && prior.gen != ids[older].gen && prior.count > 0 {
		to.missing(prior.count)
		notes = append(notes, fmt.Sprintf("journal half %d: none of %d records can be read", older, prior.count))
		prior = pass{}
	}
	for _, i := range []int{older, newer} {
		if id := ids[i]; id.gen != 0 && wanted(id.gen) {
			j.used[i], j.runs[i] = id.gen, id.run
			buf, j.count, notes = j.replayHalf(buf, i, id, prior, to, notes)
		}
	}
	if folded>>32 == j.gen>>32 && folded > j.gen {
		// A fold that only removed records moved on without a write here. What is
		// written from now on must be newer than it, or replay would pass it over.
		j.gen, j.count = folded, 0
	}
	if j.cut {
		notes = append(notes, "the journal is cut off at its end")
	}
	if j.scar != "" {
		notes = append(notes, "the journal's "+j.scar+" header is damaged, the other one is used")
	}
	j.lo, j.hi = 0, 0 // this generation is closed: a torn batch may lie behind its end
	j.bad = len(notes) > 0
	return notes
}

// replayHalf gives out the records of a half, and returns how many there are without a hole.
// prior says what another half knows of them. notes are appended to.
func (j *journal) replayHalf(buf []byte, half int, id passID, prior pass, to reader, notes []string) (b []byte, whole uint32, more []string) {
	b, bad := j.readHalf(buf, half)
	claimed := uint32(0)
	if prior.gen == id.gen {
		claimed = prior.count
	}
	got, lost := 0, 0
	whole = j.replayPass(b, id, claimed, counted{to, &got, &lost})
	switch {
	case lost > 0:
		notes = append(notes, fmt.Sprintf("journal half %d is damaged: %d records cannot be read, %d were", half, lost, got))
	case bad > 0:
		notes = append(notes, fmt.Sprintf("journal half %d: %d sectors are not what was written; the newest messages behind %d records that were read may be lost", half, bad, got))
	}
	return b, whole, notes
}

// counted counts what it hands on.
type counted struct {
	reader
	got, lost *int
}

func (c counted) record(rec []byte) { *c.got++; c.reader.record(rec) }
func (c counted) missing(n uint32)  { *c.lost += int(n); c.reader.missing(n) }

// replayPass walks the frames of one pass in the order of their records. claimed is how many
// were durable, by the account of a later pass. It returns how many there are without a hole.
func (j *journal) replayPass(b []byte, id passID, claimed uint32, to reader) (whole uint32) {
	frames := j.scan(b, id)
	for _, f := range frames {
		claimed = max(claimed, f.safe)
	}
	next, holes := uint32(0), false
	missing := func(upTo uint32) { // what was not durable was promised to nobody
		if next < upTo && !holes {
			whole, holes = next, true
		}
		if upTo = min(upTo, claimed); next < upTo {
			to.missing(upTo - next)
		}
	}
	var scratch []byte
	for _, f := range frames {
		if !f.sound || f.before < next {
			continue
		}
		raw, again, ok := f.content(b[f.at:], scratch)
		scratch = again
		if ok && f.how&flagOpening != 0 {
			var ends []logEnd
			_, ends, raw, ok = f.opening(raw, nil)
			for _, e := range ends {
				j.noteEnd(e.log, e.seq)
			}
		}
		if !ok {
			continue
		}
		missing(f.before)
		next = f.before
		for range f.count {
			rec, rest, ok := nextRecord(raw)
			if raw = rest; ok {
				if log, r, err := parseRecord(rec); err == nil {
					to.record(rec)
					j.noteEnd(log, r.Seq)
					next++
					continue
				}
			}
			missing(next + 1)
			next++
		}
	}
	missing(claimed)
	if !holes {
		whole = next
	}
	return whole
}

// scan finds the frames of a pass, in the order of their records.
func (j *journal) scan(b []byte, id passID) (frames []placed) {
	for at := 0; at+frameHeader <= len(b); {
		f, ok := frame{}, false
		if le.Uint64(b[at+8:]) == id.gen {
			f, ok = j.frameAt(b[at:])
		}
		if !ok || f.run != id.run {
			at += 4
			continue
		}
		sound := f.sound(b[at:])
		frames = append(frames, placed{f, at, sound})
		if at += frameHeader; sound {
			at += (f.size - frameHeader + 3) &^ 3
		}
	}
	sort.SliceStable(frames, func(i, j int) bool { return frames[i].before < frames[j].before })
	return frames
}

// priorOf is what the frames of a pass say of the one before it.
func (j *journal) priorOf(frames []placed, b []byte) (prior pass) {
	for _, f := range frames {
		if !f.sound || f.how&flagOpening == 0 {
			continue
		}
		if raw, _, ok := f.content(b[f.at:], nil); ok {
			if prior, _, _, ok = f.opening(raw, nil); ok {
				return prior
			}
		}
	}
	return pass{}
}

// firstPass is the pass of the frame that a half begins with: the one that was written last
// over it, as each begins there. Its generation is 0 if there is no such frame.
func (j *journal) firstPass(half int) passID {
	b := make([]byte, sector)
	if _, err := j.f.ReadAt(b, j.start(uint64(half))); err != nil {
		return passID{}
	}
	if f, ok := j.frameAt(b[sectorTag:]); ok && int(f.gen&1) == half {
		return passID{f.gen, f.run}
	}
	return passID{}
}

// newestPass finds the pass that was written last over a half: the highest generation of any
// frame in it, wherever the frame lies.
func (j *journal) newestPass(b []byte) (id passID) {
	for at := 0; at+frameHeader <= len(b); at += 4 {
		if g := le.Uint64(b[at+8:]); g>>32 == j.gen>>32 && g > id.gen {
			if f, ok := j.frameAt(b[at:]); ok {
				id = passID{f.gen, f.run}
			}
		}
	}
	return id
}

// readHalf returns what the sectors of a half hold, up to the last that holds something, in
// buf if that is large enough, and how many of them cannot be read or are neither empty nor
// this journal's; these are taken for empty.
func (j *journal) readHalf(buf []byte, half int) (b []byte, bad int) {
	if buf = buf[:cap(buf)]; int64(len(buf)) < j.half {
		buf = make([]byte, j.half)
	}
	b = buf[:j.half]
	at := j.start(uint64(half))
	unreadable := j.readAround(b, at)
	n, end := 0, 0
	for i := 0; i < len(b); i += sector {
		s := b[i : i+sector]
		blank := bytes.Equal(s, emptySector[:])
		if !blank && le.Uint32(s) != j.tag(at+int64(i)) {
			clear(s)
			bad++
		}
		if n += copy(b[n:], s[sectorTag:]); !blank {
			end = n
		}
	}
	return b[:end], bad + unreadable
}

// readAround reads what can be read; of blocks that cannot, it leaves zeroes. It counts
// their sectors. A disk that fails for a moment gets a few more tries at these: what is not read
// now is lost.
func (j *journal) readAround(b []byte, at int64) (unreadable int) {
	left := [][2]int{{0, len(b)}} // from, to
	for try, step := range []int{256 << 10, journalBlock, journalBlock, journalBlock} {
		if try > 1 && len(left) > 0 {
			time.Sleep(readPause)
		}
		var bad [][2]int
		for _, part := range left {
			for i := part[0]; i < part[1]; i += step {
				end := min(i+step, part[1])
				if _, err := j.f.ReadAt(b[i:end], at+int64(i)); err != nil {
					bad = append(bad, [2]int{i, end})
				}
			}
		}
		left = bad
	}
	for _, block := range left {
		clear(b[block[0]:block[1]])
		unreadable += (block[1] - block[0]) / sector
	}
	return unreadable
}

var emptySector [sector]byte
