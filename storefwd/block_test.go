package storefwd

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"github.com/leafd/leafd/internal/msg"
)

// numbered is a record that only its sequence determines; every third is text.
func blockRecord(log uint32, seq uint64, size int) []byte {
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(seq), byte(seq >> 8), byte(log)}).Read(data)
	if seq%3 == 0 {
		data = bytes.Repeat([]byte("temperature 21.5 "), size/17+1)[:size]
	}
	b := appendRecord(nil, log, 7, seq, int64(seq)*1e6, 0, &msg.Msg{Subject: fmt.Appendf(nil, "plant.%d", seq%40), Data: data})
	seal(b)
	return b
}

func runOf(log uint32, first uint64, sizes ...int) (run []foldRecord) {
	for i, n := range sizes {
		seq := first + uint64(i)
		run = append(run, foldRecord{log, seq, blockRecord(log, seq, n)})
	}
	return run
}

// Whatever a run is made of, its blocks hold it, in order and unchanged, and each fills
// its pages if there was enough.
func TestBlocksHoldTheRun(t *testing.T) {
	var p packer
	var u unpacker
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.SampledFrom([]int{0, 20, 300, 5000, 200000}).Draw(t, "most")
		sizes := rapid.SliceOfN(rapid.IntRange(0, most), 1, 400).Draw(t, "sizes")
		first := rapid.SampledFrom([]uint64{1, 1 << 40, math.MaxUint64 - 1000}).Draw(t, "first")
		p.reset()
		for run := runOf(9, first, sizes...); len(run) > 0; {
			n, b := p.next(run)
			if b == nil && n != 1 || n < 1 || n > len(run) {
				t.Fatalf("%d of %d records, block %v", n, len(run), b != nil)
			}
			if room := blockRoom(len(run[0].rec)); b != nil && n > 1 && len(b) > room {
				t.Fatalf("a block of %d records has %d bytes, more than %d", n, len(b), room)
			}
			if b != nil {
				same(t, &u, b, run[:n])
			}
			run = run[n:]
		}
	})
}

// same holds a block against what it was made of.
func same(t *rapid.T, u *unpacker, b []byte, run []foldRecord) {
	h, err := u.open(b)
	if err != nil || h.log != run[0].log || h.first != run[0].seq || h.count != len(run) {
		t.Fatalf("%+v %v", h, err)
	}
	i := 0
	u.each(h, 0, math.MaxUint64, func(seq uint64, rec []byte) bool {
		if seq != run[i].seq || !bytes.Equal(rec, run[i].rec) {
			t.Fatalf("record %d of %d is another", i, len(run))
		}
		i++
		return true
	})
	if i != len(run) {
		t.Fatalf("%d of %d records", i, len(run))
	}
}

// 100 bytes that cannot be compressed cost less than 130 in store.db, its pages and all
// else included, and text much less.
func TestBlocksFillPages(t *testing.T) {
	for _, c := range []struct {
		name string
		data func(b []byte, i int)
		most int64
	}{
		{"noise", func(b []byte, i int) { rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)}).Read(b) }, 130},
		{"text", func(b []byte, i int) {
			copy(b, fmt.Appendf(nil, `{"sensor":"boiler-%d","celsius":%d.%d,"ok":true,"unit":"C","site":"north","n":%d}`, i%50, i%90, i%10, i))
		}, 60},
	} {
		e := newBolt(filepath.Join(t.TempDir(), "db"), 64<<20)
		if _, err := e.Open(); err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		var written, n int64
		for range 8 {
			b := &foldBatch{}
			for size := 0; size < maxFold; n++ {
				data := make([]byte, 100)
				c.data(data, int(n))
				rec := appendRecord(nil, 9, 7, uint64(n)+1, n*25000, 0, &msg.Msg{Subject: fmt.Appendf(nil, "perf.d.%d", n*7%100), Data: data})
				seal(rec)
				b.put = append(b.put, foldRecord{9, uint64(n) + 1, rec})
				size += len(rec) + 32
			}
			w, err := e.Fold(b)
			if err != nil {
				t.Fatal(err)
			}
			written += w
		}
		t.Logf("%s: %.1f bytes a message written, %.1f kept", c.name, float64(written)/float64(n), float64(e.Size()-e.Free())/float64(n))
		if written/n > c.most {
			t.Errorf("%s: %d bytes a message are written, %d would do", c.name, written/n, c.most)
		}
	}
}

// A flipped bit in a block costs the whole block if it is in its head, else what it hits;
// what is given out as sound is.
func TestBlockDamage(t *testing.T) {
	run := runOf(9, 100, slices.Repeat([]int{60}, 40)...)
	var p packer
	var u unpacker
	n, good := p.next(run)
	if n != 40 {
		t.Fatalf("%d records", n)
	}
	whole := 0
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 1 << (i % 8)
		h, err := u.open(b)
		if (err != nil) != (i < blockHeader) {
			if i >= blockHeader && i < blockHeader+3 {
				continue // the length that s2 puts in front
			}
			t.Fatalf("byte %d: %v", i, err)
		} else if err != nil {
			continue
		}
		u.each(h, 0, math.MaxUint64, func(seq uint64, rec []byte) bool {
			if log, r, err := parseRecord(rec); err == nil && log == 9 && r.Seq == seq {
				if !bytes.Equal(rec, run[seq-100].rec) {
					t.Fatalf("byte %d: record %d is wrong and passes for right", i, seq)
				}
				whole++
			}
			return true
		})
	}
	if share := float64(whole) / float64(40*(len(good)-blockHeader)); share < 0.5 {
		t.Errorf("%.2f of the records survive a flipped bit", share)
	}
}

// Reading a block allocates nothing for each record.
func TestUnpackingAllocatesNothing(t *testing.T) {
	var p packer
	var u unpacker
	_, one := p.next(runOf(9, 1, slices.Repeat([]int{50}, 30)...))
	_, two := p.next(runOf(9, 100, slices.Repeat([]int{70}, 30)...))
	allocs := testing.AllocsPerRun(100, func() {
		for _, b := range [][]byte{one, two} {
			h, err := u.open(b)
			if err != nil {
				t.Fatal(err)
			}
			u.each(h, 0, math.MaxUint64, func(uint64, []byte) bool { return true })
		}
	})
	if allocs > 0 {
		t.Errorf("%.0f allocations", allocs)
	}
}

// Whatever stands in a block, opening it reads nothing outside and asks for no more
// memory than its bounds allow.
func FuzzBlock(f *testing.F) {
	var p packer
	for _, run := range [][]foldRecord{
		runOf(9, 1, 0), runOf(9, 3, 170, 170, 170), runOf(9, 1<<50, slices.Repeat([]int{40}, 50)...), runOf(9, 6, 5000),
	} {
		if _, b := p.next(run); b != nil {
			f.Add(b, true)
			f.Add(b[:len(b)-3], true)
		}
	}
	f.Add([]byte("not a block, and long enough to be one"), false)
	f.Fuzz(func(t *testing.T, b []byte, sound bool) {
		b = bytes.Clone(b)
		if sound && len(b) >= blockHeader {
			le.PutUint32(b, crc32.Checksum(b[4:blockHeader], castagnoli))
		}
		var u unpacker
		if h, _, err := parseBlock(b); err == nil && h.packed > maxPacked/16 {
			return // allowed, and slow
		}
		h, err := u.open(b)
		if err != nil {
			return
		}
		if h.packed > maxBlock && h.count > 1 || h.packed > maxPacked {
			t.Fatalf("%d bytes are unpacked for %d records", h.packed, h.count)
		}
		n := 0
		u.each(h, 0, math.MaxUint64, func(seq uint64, rec []byte) bool {
			if seq != h.first+uint64(n) || len(rec) > maxRecord || rec != nil && len(rec) < recHeader {
				t.Fatalf("record %d has sequence %d and %d bytes", n, seq, len(rec))
			}
			n++
			return true
		})
		if n != h.count {
			t.Fatalf("%d of %d records", n, h.count)
		}
	})
}

// Folds of which nobody knew whether they had happened, repeated with other records
// beside, salvages and removals: what is put is read once, in order, from wherever the log
// begins.
func TestOverlappingBlocks(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		e := newBolt(filepath.Join(dir, "db"), 64<<20)
		if _, err := e.Open(); err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		if _, err := e.Reset(&foldBatch{}); err != nil {
			t.Fatal(err)
		}
		want, base := map[uint64]bool{}, uint64(1)
		for range rapid.IntRange(1, 10).Draw(t, "steps") {
			from := base + rapid.Uint64Range(0, 200).Draw(t, "from")
			to := from + rapid.Uint64Range(0, 150).Draw(t, "more")
			b := &foldBatch{states: map[uint32]logState{}}
			switch rapid.SampledFrom([]string{"put", "put", "put", "alone", "remove", "kill", "hollow", "compact"}).Draw(t, "step") {
			case "alone":
				b.alone = map[uint32]bool{5: true}
				fallthrough
			case "put":
				for seq := from; seq <= to; seq++ {
					b.put = append(b.put, foldRecord{5, seq, blockRecord(5, seq, int(seq%7)*90)})
					want[seq] = true
				}
			case "remove":
				b.remove = []seqRange{{5, base, from}}
				base = from + 1
			case "kill":
				b.states[5] = logState{Base: base}
				for seq := from; seq <= to; seq += 3 {
					b.kill = append(b.kill, seqRange{5, seq, seq})
					delete(want, seq)
				}
			case "hollow":
				b.states[5] = logState{Base: base}
				for width := rapid.Uint64Range(0, 9).Draw(t, "width"); from <= to; from += 2*width + 2 {
					b.hollow = append(b.hollow, seqRange{5, from, from + width})
					for seq := from; seq <= from+width; seq++ {
						delete(want, seq)
					}
				}
			case "compact":
				if _, err := e.Compact(func() bool { return true }); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := e.Fold(b); err != nil {
				t.Fatal(err)
			}
			expectFrom(t, e, want, base)
		}
	})
}

func expectFrom(t *rapid.T, e engine, want map[uint64]bool, base uint64) {
	n, next := 0, base
	err := e.Read(5, base, math.MaxUint64, func(seq uint64, rec []byte) bool {
		if seq < next || !want[seq] || !bytes.Equal(rec, blockRecord(5, seq, int(seq%7)*90)) {
			t.Fatalf("%d is read where %d or more was to come; wanted: %v", seq, next, want[seq])
		}
		next = seq + 1
		n++
		return true
	})
	for seq := range want {
		if seq >= base {
			n--
		}
	}
	if err != nil || n != 0 {
		t.Fatalf("%d records too many: %v", n, err)
	}
}

// Places in the middle of blocks are made hollow: a block is taken apart once for all of its places, and
// a transaction puts no more than about 1 MB again. Of a backlog of which every second message had
// expired each place cost its whole block: 250 MB of RAM, and acknowledgements waited for seconds.
func TestHollowPlacesOfBlocks(t *testing.T) {
	for _, c := range []struct {
		name        string
		every, size int
	}{{"many in each block", 2, 16}, {"one in each", 20, 500}} {
		t.Run(c.name, func(t *testing.T) {
			e := newBolt(filepath.Join(t.TempDir(), "db"), 64<<20)
			if _, err := e.Open(); err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			const last = 12000
			data, all := make([]byte, c.size), &foldBatch{states: map[uint32]logState{5: {Base: 1}}}
			noise := rand.NewChaCha8([32]byte{5})
			for seq := uint64(1); seq <= last; seq++ {
				noise.Read(data)
				rec := appendRecord(nil, 5, 7, seq, int64(seq), 0, &msg.Msg{Subject: []byte("a.b"), Data: data})
				seal(rec)
				all.put = append(all.put, foldRecord{5, seq, rec})
			}
			if _, err := e.Fold(all); err != nil {
				t.Fatal(err)
			}
			var places []seqRange
			for seq := uint64(c.every); seq <= last; seq += uint64(c.every) {
				places = append(places, seqRange{5, seq, seq})
			}
			for folds := 0; len(places) > 0; folds++ {
				b := &foldBatch{states: all.states, hollow: slices.Clone(places)}
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				written, err := e.Fold(b)
				runtime.ReadMemStats(&after)
				if n := after.TotalAlloc - before.TotalAlloc; err != nil || len(b.hollow) == 0 || written > 4<<20 || n > 12<<20 {
					t.Fatalf("fold %d took %d of %d places, wrote %d KB and allocated %d: %v", folds, len(b.hollow), len(places), written>>10, n>>10, err)
				}
				places = places[len(b.hollow):]
			}
			next := uint64(1)
			err := e.Read(5, 1, math.MaxUint64, func(seq uint64, rec []byte) bool {
				if next%uint64(c.every) == 0 {
					next++
				}
				if seq != next || !bytes.Equal(rec, all.put[seq-1].rec) {
					t.Fatalf("%d is read where %d was to come", seq, next)
				}
				next++
				return true
			})
			if err != nil || next != last {
				t.Errorf("read up to %d: %v", next, err)
			}
		})
	}
}

// A state that fails its checksum is made anew from the records, in blocks or not.
func TestRecountReadsBlocks(t *testing.T) {
	e := newBolt(filepath.Join(t.TempDir(), "db"), 64<<20)
	if _, err := e.Open(); err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	b := &foldBatch{put: runOf(9, 11, slices.Repeat([]int{100}, 500)...), states: map[uint32]logState{9: {Name: "a", Last: 510}}}
	if _, err := e.Fold(b); err != nil {
		t.Fatal(err)
	}
	var bytes int64
	for _, r := range b.put {
		bytes += int64(len(r.rec))
	}
	err := e.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(stateBucket).Put([]byte{0, 0, 0, 9}, []byte("broken")) })
	if err != nil {
		t.Fatal(err)
	}
	states, _, err := e.Load()
	if st := states[9]; err != nil || st.Base != 11 || st.Last != 510 || st.Msgs != 500 || st.Bytes != bytes {
		t.Fatalf("%+v %v", st, err)
	}
}

// A store that another machine made, with pages of its kernel's size, is read and written.
func TestStoreOfAnotherPageSize(t *testing.T) {
	_, l, dir := filled(t)
	if err := l.s.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "store.db")
	src, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	dst, err := bolt.Open(path+".16k", 0o600, &bolt.Options{PageSize: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(bolt.Compact(dst, src, 0), src.Close(), dst.Close(), os.Rename(path+".16k", path)); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err = s.Log("OUT/a", Retention{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Cursor("x", CursorConfig{})
	if err != nil {
		t.Fatal(err)
	}
	appendN(t, l, 10)
	for n := 0; n < 160; {
		recs, err := c.Next(t.Context(), make([]Record, 0, 64))
		if err != nil {
			t.Fatal(err)
		}
		n += len(recs)
	}
	if check, err := s.Verify(); err != nil || !check.OK() {
		t.Errorf("%+v, %v", check, err)
	}
}
