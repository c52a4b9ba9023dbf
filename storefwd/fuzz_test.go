package storefwd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
)

// bytesFile is a file in memory.
type bytesFile struct{ *bytes.Reader }

func (bytesFile) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }
func (bytesFile) Datasync() error                        { return nil }
func (bytesFile) Close() error                           { return nil }

// Whatever stands in a journal, replay gives out whole records, and the next
// generation is above those that it saw.
func FuzzJournal(f *testing.F) {
	const size = 256 << 10
	path := filepath.Join(f.TempDir(), "journal")
	if _, err := createJournal(path, size, [][]byte{sampleRecord("a", "", "1"), sampleRecord("b.c", "", "22")}); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{}, uint32(0), uint64(0))
	f.Add([]byte{1}, uint32(8), uint64(1))
	f.Add(good[journalBlock:journalBlock+512], uint32(journalBlock+size/2), uint64(2))
	f.Add(good[journalBlock:journalBlock+512], uint32(journalBlock+512), uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, at uint32, folded uint64) {
		file := bytes.Clone(good)
		if n := int(at % size); n < len(file) {
			copy(file[n:], b)
		}
		j, err := openJournal(bytesFile{bytes.NewReader(file)}, size)
		if err != nil {
			return
		}
		j.replay(folded, func(rec []byte) {
			if _, _, err := parseRecord(rec); err != nil {
				t.Fatal("replay gives out what is not a record")
			}
		})
		for _, g := range j.used {
			if g > j.gen {
				t.Fatalf("generation %d is in use, the next would be %d", g, j.gen+1)
			}
		}
	})
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
	good, err := encodeState(logState{Name: "a", Base: 1, First: 2, Last: 9, Msgs: 3, Epochs: []epochStart{{1, 2}}, Cursors: map[string]uint64{"hub": 4}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good[4:], true)
	f.Add([]byte(`{"epochs":null}`), true)
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
	})
}
