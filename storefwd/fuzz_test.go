package storefwd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bytesFile is a file in memory.
type bytesFile struct{ *bytes.Reader }

func (bytesFile) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }
func (bytesFile) Datasync() error                        { return nil }
func (bytesFile) Close() error                           { return nil }

// Whatever stands in a journal, replay gives out whole records, each once, and the next
// generation is above those that it saw. What it gives out is never more than was written.
func FuzzJournal(f *testing.F) {
	const size = 64 << 10
	var recs [][]byte
	for n := range 90 { // four frames: plain, packed, and two batches
		recs = append(recs, sampleRecord(fmt.Sprintf("a.%d", n), "", strings.Repeat("x", n%50)))
	}
	path := filepath.Join(f.TempDir(), "journal")
	if _, err := createJournal(path, size, 1, recs); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	half := journalBlock + (size-2*journalBlock)/2
	f.Add([]byte{}, uint32(0), uint64(0))
	f.Add([]byte{1}, uint32(8), uint64(1))
	f.Add(good[half:half+512], uint32(half+512), uint64(0))
	f.Add(good[half:half+512], uint32(journalBlock), uint64(2))
	for at := range frameHeader + openingMin {
		f.Add([]byte{0xff, 0xff}, uint32(half+sectorTag+at), uint64(0))
	}
	f.Add(good[journalBlock-8:journalBlock], uint32(half), uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, at uint32, folded uint64) {
		file := bytes.Clone(good)
		if n := int(at % size); n < len(file) {
			copy(file[n:], b)
		}
		j, err := openJournal(bytesFile{bytes.NewReader(file)}, size, sector, 2)
		if err != nil {
			return
		}
		var got fuzzReader
		j.replay(folded, &got)
		if got.bad > 0 || got.records+got.lost > len(recs) && got.lost > 0 {
			t.Fatalf("of %d records replay gives out %d, misses %d, and %d are none", len(recs), got.records, got.lost, got.bad)
		}
		for _, g := range j.used {
			if g > j.gen {
				t.Fatalf("generation %d is in use, the next would be %d", g, j.gen+1)
			}
		}
	})
}

// So it is for a journal of the first format.
func FuzzFirstJournal(f *testing.F) {
	const size, half = 64 << 10, 28 << 10
	good := make([]byte, size)
	copy(good, journalMagic)
	le.PutUint32(good[8:], 1)
	le.PutUint64(good[16:], half)
	copy(good[24:36], "saltsaltgen.")
	le.PutUint32(good[36:], crc32.Checksum(good[:36], castagnoli))
	gen := uint64(le.Uint32(good[32:]))<<32 + 1
	at := journalBlock + half
	for n := range 9 {
		rec := sampleRecord(fmt.Sprintf("a.%d", n), "", "x")
		frame := le.AppendUint32(nil, uint32(firstHeader+len(rec)))
		frame = le.AppendUint64(le.AppendUint32(frame, 0), gen)
		frame = append(frame, rec...)
		sum := crc32.Update(crc32.Checksum(good[24:32], castagnoli), castagnoli, frame[:4])
		le.PutUint32(frame[4:], crc32.Update(sum, castagnoli, frame[8:firstHeader+4]))
		at += (copy(good[at:], frame) + 7) &^ 7
	}
	var all fuzzReader
	if j, err := openJournal(bytesFile{bytes.NewReader(good)}, size, sector, 2); err != nil || len(j.replay(0, &all)) > 0 || all.records != 9 {
		f.Fatalf("%v, %+v", err, all)
	}
	f.Add([]byte{0xff}, uint16(journalBlock+half))
	f.Add([]byte{0, 1}, uint16(journalBlock+half+8))
	f.Add(good[journalBlock+half:journalBlock+half+64], uint16(journalBlock+half+1024))
	f.Fuzz(func(t *testing.T, b []byte, at uint16) {
		file := bytes.Clone(good)
		copy(file[at:], b)
		j, err := openJournal(bytesFile{bytes.NewReader(file)}, size, sector, 2)
		if err != nil {
			return
		}
		var got fuzzReader
		if j.replay(0, &got); got.bad > 0 {
			t.Fatalf("replay gives out %d records, and %d are none", got.records, got.bad)
		}
	})
}

type fuzzReader struct{ records, lost, bad int }

func (r *fuzzReader) missing(n uint32) { r.lost += int(n) }
func (r *fuzzReader) record(rec []byte) {
	r.records++
	if _, _, err := parseRecord(rec); err != nil {
		r.bad++
	}
}

// A meta file that is accepted is what the writer makes.
func FuzzMeta(f *testing.F) {
	good, err := meta{Format: 1, Base: 7, Boots: 9, Node: "n"}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"format":1}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		if again, err := m.encode(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%q is taken for %q", b, again)
		}
	})
}

// A log state survives a round trip, and only with its checksum.
func FuzzState(f *testing.F) {
	good, err := encodeState(logState{Name: "a", Base: 1, First: 2, Last: 9, Msgs: 3, Epochs: []epochStart{{1, 2}}, Cursors: map[string]uint64{"hub": 4},
		Early: map[string][]span{"hub": {{6, 7}, {9, 9}}}, Mark: mark{Stream: "S", Domain: "hub", At: 12, Seq: 4, Read: 13}, Scattered: true, Tail: 1, TailMsgs: 1, Holes: []span{{1, 1}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good[4:], true)
	f.Add([]byte(`{"epochs":null}`), true)
	f.Add([]byte(`{"last":18446744073709551615,"cursors":{"hub":18446744073709551615},"early":{"hub":[{"f":0,"t":18446744073709551615},{"f":3,"t":2}],"b":null}}`), true)
	f.Add(good, false)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal {
			b = append(binary.LittleEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli)), b...)
		}
		st, err := decodeState(b)
		if err != nil {
			return
		}
		again, err := encodeState(st)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeState(again); err != nil {
			t.Fatalf("does not survive a round trip: %v", err)
		}
		s := &Store{logs: map[uint32]*Log{}, start: time.Now(), wake: make(chan struct{}, 1)}
		s.o.setDefaults()
		l := s.restoreLog(1, st)
		for _, c := range l.cursors {
			for i, d := range c.done.s {
				if d.From > d.To || d.To > l.last || i > 0 && d.From <= c.done.s[i-1].To+1 {
					t.Fatalf("acknowledged are %v of %d", c.done.s, l.last)
				}
			}
			if c.taken.n < c.floor || c.floor > l.last {
				t.Fatalf("floor %d of %d, taken %d", c.floor, l.last, c.taken.n)
			}
		}
	})
}

// Pages full of anything: the scan ends, and the check finds damage or none; neither
// reads outside the file.
func FuzzPages(f *testing.F) {
	path := filepath.Join(f.TempDir(), "db")
	e := newBolt(path, 1<<20)
	if _, err := e.Open(); err != nil {
		f.Fatal(err)
	}
	b := &foldBatch{states: map[uint32]logState{7: {Name: "a", Last: 42}}}
	rec := sampleRecord("a.b", "", "hello")
	for seq := range uint64(200) {
		binary.LittleEndian.PutUint64(rec[16:], seq)
		seal(rec)
		b.put = append(b.put, foldRecord{7, seq, bytes.Clone(rec)})
	}
	if _, err := e.Fold(b); err != nil {
		f.Fatal(err)
	}
	if err := e.Close(); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	good = good[:min(len(good), 16*boltPage)]
	for i := range 8 {
		f.Add(good[i*boltPage:i*boltPage+64], uint16(i*boltPage/16))
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, uint16(4*boltPage/16+1))
	f.Fuzz(func(t *testing.T, b []byte, at uint16) {
		file := bytes.Clone(good)
		if n := int(at) * 16; n < len(file) {
			copy(file[n:], b)
		}
		if _, err := scanPages(bytes.NewReader(file), int64(len(file)), func(key, value []byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "db")
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkPages(path); err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
		if m, ok := decodeBoltMeta(file[boltPage:]); ok {
			walkFuzzed(t, file, m)
		}
	})
}

// walkFuzzed reads the records of a file. That ends, in the order of the keys or with damage.
func walkFuzzed(t *testing.T, file []byte, m boltMeta) {
	w, err := walkPages(file[:min(uint64(len(file)), m.pages*boltPage)], m.root, recordsBucket)
	if err == nil {
		err = w.each(func(k, v []byte) error { return nil })
	}
	if err == nil {
		err = w.sound(keyOf(7, 20), keyOf(7, 60))
	}
	if err == nil {
		_, err = w.read(&unpacker{}, 7, 10, 150, func(uint64, []byte) bool { return true })
	}
	if err != nil && !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
}
