package storefwd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

// This file knows how records lie in their bucket: each as a value of its own, or many
// in a block.
//
//	log id (u32, big endian) ‖ seq (u64, big endian)              → record
//	log id ‖ seq of the last record ‖ 'b'                         → block
//
// So the first key from a sequence on is the one that holds it, if any does. A block has
// no gap, and none lies wholly in another: in the order of their ends they are in the order
// of their beginnings, too, and whoever passes over what he has had already reads every
// record once, in order. Blocks overlap at all only after a fold of which nobody knew
// whether it had happened.
const (
	singleKey = 12
	blockKey  = 13
	blockMark = 'b'
)

var errDisorder = fmt.Errorf("%w: keys out of order", ErrDamaged)

func recordKey(b []byte, log uint32, seq uint64) []byte {
	binary.BigEndian.PutUint32(b, log)
	binary.BigEndian.PutUint64(b[4:], seq)
	return b
}

func keyOf(log uint32, seq uint64) []byte { return recordKey(make([]byte, singleKey), log, seq) }

func isKey(k []byte) bool {
	return len(k) == singleKey || len(k) == blockKey && k[singleKey] == blockMark
}

// holds reports whether k is a key of log, and which sequence its last record has.
func holds(k []byte, log uint32) (last uint64, ok bool) {
	if !isKey(k) || binary.BigEndian.Uint32(k) != log {
		return 0, false
	}
	return binary.BigEndian.Uint64(k[4:]), true
}

// reach is what lies under a key: the sequences of its first and its last record.
func reach(k, v []byte) (first, last uint64, err error) {
	last = binary.BigEndian.Uint64(k[4:])
	if len(k) == singleKey {
		return last, last, nil
	}
	h, _, err := parseBlock(v)
	if err == nil && (h.log != binary.BigEndian.Uint32(k) || h.last() != last) {
		err = fmt.Errorf("%w: a block under a key that is not its own", ErrDamaged)
	}
	return h.first, last, err
}

// own reports whether what lies under a key says that it belongs there.
func own(k, v []byte) bool {
	if !isKey(k) {
		return false
	}
	if len(k) == blockKey {
		_, _, err := reach(k, v)
		return err == nil
	}
	seq := binary.BigEndian.Uint64(k[4:])
	return len(v) >= recHeader && seq > 0 && le.Uint64(v[16:]) == seq && le.Uint32(v[4:]) == binary.BigEndian.Uint32(k)
}

// put stores records, ascending within each log: what is consecutive in blocks, but
// for the logs whose records are to be alone.
func (t table) put(p *packer, recs []foldRecord, alone map[uint32]bool) error {
	for len(recs) > 0 {
		n := 1
		for n < len(recs) && recs[n].log == recs[0].log && recs[n].seq == recs[n-1].seq+1 {
			n++
		}
		if err := t.putRun(p, recs[:n], alone[recs[0].log]); err != nil {
			return err
		}
		recs = recs[n:]
	}
	return nil
}

func (t table) putRun(p *packer, run []foldRecord, alone bool) error {
	k, _ := t.Cursor().Seek(keyOf(run[0].log, run[0].seq))
	_, meets := holds(k, run[0].log) // something there may be the same records
	for len(run) > 0 {
		key, value, n := keyOf(run[0].log, run[0].seq), run[0].rec, 1
		if packable := packable(run); packable > 0 && !alone {
			var block []byte
			if n, block = p.next(run[:packable]); block != nil {
				key, value = append(keyOf(run[0].log, run[n-1].seq), blockMark), block
			}
		}
		there := false
		if meets {
			var err error
			if there, err = t.replace(run[0].log, run[0].seq, run[n-1].seq); err != nil {
				return err
			}
		}
		if !there {
			if err := t.Put(key, value); err != nil {
				return err
			}
		}
		run = run[n:]
	}
	return nil
}

// packable is how many records at the beginning of a run can be in blocks.
func packable(run []foldRecord) (n int) {
	for _, r := range run {
		if len(r.rec) < recHeader || len(r.rec) > maxRecord {
			break
		}
		n++
	}
	return n
}

// replace removes what lies wholly in first…last, which is about to be put. It reports
// whether that lies in something itself, and so is there.
func (t table) replace(log uint32, first, last uint64) (there bool, err error) {
	c := t.Cursor()
	k, v := c.Seek(keyOf(log, last))
	if _, ok := holds(k, log); ok {
		begin, _, err := reach(k, v)
		if err != nil || begin <= first {
			return err == nil, err
		}
	}
	var gone [][]byte
	for k, v = c.Seek(keyOf(log, first)); ; k, v = c.Next() {
		end, ok := holds(k, log)
		if !ok || end > last {
			break
		}
		if begin, _, err := reach(k, v); err != nil {
			return false, err
		} else if begin >= first {
			gone = append(gone, bytes.Clone(k))
		}
	}
	return false, t.deleteAll(gone)
}

// remove deletes what ends in a range. A block that goes beyond it stays: readers know
// where a log begins.
func (t table) remove(r seqRange) error {
	var gone [][]byte // collected first: a cursor skips keys when its page changes under it
	c := t.Cursor()
	for k, _ := c.Seek(keyOf(r.log, r.from)); ; k, _ = c.Next() {
		if end, ok := holds(k, r.log); !ok || end > r.to {
			break
		}
		gone = append(gone, bytes.Clone(k))
	}
	return t.deleteAll(gone)
}

// hollow deletes what lies in places, of one log and ascending, anywhere. What else is in their
// blocks, from base on, is put again: of a block at once, however many of the places it has.
func (t table) hollow(u *unpacker, p *packer, places []seqRange, base uint64) error {
	var rest []foldRecord
	log, next := places[0].log, places[0].from
	for {
		k, v := t.Cursor().Seek(keyOf(log, next))
		end, ok := holds(k, log)
		if !ok {
			return nil
		}
		first, _, err := reach(k, v)
		for len(places) > 0 && places[0].to < first {
			places = places[1:]
		}
		if err != nil || len(places) == 0 {
			return err
		}
		if next = places[0].from; next > end {
			continue
		}
		next, rest = end+1, rest[:0]
		k = bytes.Clone(k)
		if first < places[0].from || end > places[0].to {
			h, err := u.open(v)
			if err != nil {
				return err
			}
			rest = u.without(h, places, base, p, rest)
		}
		if err := t.Delete(k); err != nil {
			return err
		}
		if err := t.put(p, rest, nil); err != nil {
			return err
		}
	}
}

// without appends to rest the records of h, which was opened last, from base on that are in none of
// places. They are the packer's.
func (u *unpacker) without(h blockHead, places []seqRange, base uint64, p *packer, rest []foldRecord) []foldRecord {
	u.each(h, base, h.last(), func(seq uint64, rec []byte) bool {
		for len(places) > 0 && places[0].to < seq {
			places = places[1:]
		}
		if rec != nil && (len(places) == 0 || seq < places[0].from) {
			rest = append(rest, foldRecord{h.log, seq, p.keep(rec)})
		}
		return true
	})
	return rest
}

func (t table) deleteAll(keys [][]byte) error {
	for _, k := range keys {
		if err := t.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// kill deletes one record, wherever it is.
func (t table) kill(u *unpacker, p *packer, log uint32, seq, base uint64) error {
	for {
		k, v := t.Cursor().Seek(keyOf(log, seq))
		if _, ok := holds(k, log); !ok {
			return nil
		}
		first, _, err := reach(k, v)
		if err != nil || first > seq {
			return err
		}
		if k = bytes.Clone(k); len(k) == singleKey {
			err = t.Delete(k)
		} else {
			err = t.killIn(u, p, k, v, seq, base)
		}
		if err != nil {
			return err
		}
	}
}

// killIn puts alone what else is in a block, from base on.
func (t table) killIn(u *unpacker, p *packer, k, v []byte, seq, base uint64) error {
	h, err := u.open(v)
	if err == nil {
		err = t.Delete(k)
	}
	if err != nil {
		return err
	}
	u.each(h, base, h.last(), func(s uint64, rec []byte) bool {
		if s == seq || rec == nil {
			return true
		}
		var there bool
		if there, err = t.replace(h.log, s, s); err == nil && !there {
			err = t.Put(keyOf(h.log, s), p.keep(rec))
		}
		return err == nil
	})
	return err
}

// read calls fn for the records of a log with from ≤ seq ≤ to until it returns false.
// It finds a key that a flipped bit has moved by its neighbours, for keys ascend, or by
// the block under it. seen counts the bytes that it looked at.
func (w *walker) read(u *unpacker, log uint32, from, to uint64, fn func(seq uint64, rec []byte) bool) (seen int64, err error) {
	low := keyOf(log, from)
	if err := w.seek(low); err != nil {
		return 0, err
	}
	if before, v, err := w.prev(); err != nil {
		return 0, err
	} else if before != nil {
		if bytes.Compare(before, low) >= 0 || !own(before, v) { // the search was led astray
			return 0, errDisorder
		}
		w.next()
	}
	for {
		k, v, err := w.next()
		if k == nil || err != nil {
			return seen, err
		}
		seen += int64(len(v) + len(k) + elemSize)
		if !isKey(k) {
			return seen, errDisorder
		}
		end, ours := holds(k, log)
		first := end
		if ours {
			if first, _, err = reach(k, v); err != nil {
				return seen, err
			}
		}
		if !ours || first > to { // one more look at the order
			_, _, err := w.next()
			return seen, err
		}
		if more, err := handOut(u, k, v, from, to, fn); !more || err != nil {
			return seen, err
		}
		from = max(from, end+1)
	}
}

// handOut calls fn for what lies under a key.
func handOut(u *unpacker, k, v []byte, from, to uint64, fn func(seq uint64, rec []byte) bool) (more bool, err error) {
	if len(k) == singleKey {
		seq := binary.BigEndian.Uint64(k[4:])
		return seq < from || fn(seq, v), nil
	}
	h, err := u.open(v)
	return err == nil && u.each(h, from, to, fn), err
}

// copyFrom puts what another table has from a key on, about room bytes of it. It returns
// the key to go on with, nil at the end.
func (t table) copyFrom(from *walker, key []byte, room int) (next []byte, err error) {
	t.FillPercent = 0.9
	if err := from.seek(key); err != nil {
		return nil, err
	}
	for some := false; ; some = true {
		k, v, err := from.next()
		if k == nil || err != nil {
			return nil, err
		}
		if !isKey(k) {
			return nil, errDisorder
		}
		if room -= len(v); room < 0 && some {
			return bytes.Clone(k), nil
		}
		if err := t.Put(k, v); err != nil {
			return nil, err
		}
	}
}

// hollowAreas is where the hollow places of b are, those in one block together. It leaves places to
// the next transaction once what is to be put again weighs maxFold bytes.
func (w *walker) hollowAreas(b *foldBatch) (areas []seqRange, err error) {
	room, end := maxFold, uint64(0) // up to end it has been looked at
	for i, r := range b.hollow {
		if n := len(areas); n > 0 && areas[n-1].log == r.log && r.to <= end {
			areas[n-1].to = r.to
			continue
		}
		if room <= 0 {
			b.hollow = b.hollow[:i]
			break
		}
		areas, end = append(areas, r), r.from-1
		for _, seq := range []uint64{r.from, r.to} {
			if seq <= end {
				continue
			}
			h, err := w.blockAt(r.log, seq)
			if err != nil {
				return nil, err
			}
			if end = seq; h.count > 0 && (h.first < r.from || h.last() > r.to) {
				room, end = room-int(h.packed), h.last()
			}
		}
	}
	return areas, nil
}

// blockAt is the head of the block that a sequence is in; count 0: it is in none.
func (w *walker) blockAt(log uint32, seq uint64) (h blockHead, err error) {
	if err := w.seek(keyOf(log, seq)); err != nil {
		return h, err
	}
	k, v, err := w.next()
	if _, ok := holds(k, log); !ok || err != nil || len(k) == singleKey {
		return h, err
	}
	if h, _, err = parseBlock(v); err != nil || h.first > seq {
		return blockHead{}, err
	}
	return h, nil
}

// soundFor looks at the pages in which b will change something, and cuts it where that is too much.
func (w *walker) soundFor(b *foldBatch) error {
	look := func(log uint32, from, to uint64) error {
		return w.sound(keyOf(log, from), append(keyOf(log, to), blockMark))
	}
	areas, err := w.hollowAreas(b)
	if err != nil {
		return err
	}
	for _, r := range slices.Concat(b.remove, areas) {
		if err := look(r.log, r.from, r.to); err != nil {
			return err
		}
	}
	for _, r := range b.kill {
		if err := look(r.log, r.from, r.from); err != nil {
			return err
		}
	}
	for recs := b.put; len(recs) > 0; {
		n := 1
		for n < len(recs) && recs[n].log == recs[0].log {
			n++
		}
		if err := look(recs[0].log, recs[0].seq, recs[n-1].seq); err != nil {
			return err
		}
		recs = recs[n:]
	}
	return nil
}
