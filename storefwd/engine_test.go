package storefwd

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// memEngine is an engine in RAM: what boltEngine is held against.
type memEngine struct {
	recs   map[uint32]map[uint64][]byte
	states map[uint32]logState
	folded uint64
	open   bool
}

func (e *memEngine) Open() (int64, error) {
	if e.open = true; e.recs == nil {
		e.recs, e.states = map[uint32]map[uint64][]byte{}, map[uint32]logState{}
	}
	return 0, nil
}

func (e *memEngine) Load() (map[uint32]logState, uint64, error) {
	if !e.open {
		return nil, 0, errEngineDown
	}
	return e.states, e.folded, nil
}

func (e *memEngine) Fold(b *foldBatch) (int64, error) {
	if !e.open {
		return 0, errEngineDown
	}
	for _, r := range slices.Concat(b.remove, b.hollow) {
		for seq := range e.recs[r.log] {
			if seq >= r.from && seq <= r.to {
				delete(e.recs[r.log], seq)
			}
		}
	}
	for _, r := range b.kill {
		delete(e.recs[r.log], r.from)
	}
	for _, r := range b.put {
		if e.recs[r.log] == nil {
			e.recs[r.log] = map[uint64][]byte{}
		}
		e.recs[r.log][r.seq] = bytes.Clone(r.rec)
	}
	for id, st := range b.states {
		e.states[id] = st
	}
	e.folded = max(e.folded, b.folded)
	return 1, nil
}

func (e *memEngine) Read(log uint32, from, to uint64, fn func(seq uint64, rec []byte) bool) error {
	if !e.open {
		return errEngineDown
	}
	var seqs []uint64
	for seq := range e.recs[log] {
		if seq >= from && seq <= to {
			seqs = append(seqs, seq)
		}
	}
	slices.Sort(seqs)
	for _, seq := range seqs {
		if !fn(seq, e.recs[log][seq]) {
			break
		}
	}
	return nil
}

func (e *memEngine) Reset(b *foldBatch) (int64, error) {
	e.recs = map[uint32]map[uint64][]byte{}
	return e.Fold(b)
}

func (e *memEngine) Taken() bool                        { return false }
func (e *memEngine) Compact(func() bool) (int64, error) { return 0, nil }

func (e *memEngine) Size() int64  { return 0 }
func (e *memEngine) Free() int64  { return 0 }
func (e *memEngine) Close() error { e.open = false; return nil }

// Every engine passes this.
func TestEngines(t *testing.T) {
	engines := map[string]func(t *testing.T) engine{
		"memory": func(*testing.T) engine { return &memEngine{} },
		"bolt":   func(t *testing.T) engine { return newBolt(filepath.Join(t.TempDir(), "db"), 64<<20) },
	}
	for name, fresh := range engines {
		t.Run(name, func(t *testing.T) { testEngine(t, fresh(t)) })
	}
}

func testEngine(t *testing.T, e engine) {
	must := func(_ int64, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	expect := func(what string, log uint32, from, to uint64, want ...uint64) {
		t.Helper()
		var got []uint64
		err := e.Read(log, from, to, func(seq uint64, rec []byte) bool {
			if string(rec) != string(recFor(log, seq)) {
				t.Fatalf("%s: record %d of log %d is another", what, seq, log)
			}
			got = append(got, seq)
			return true
		})
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("%s: %v %v, want %v", what, got, err, want)
		}
	}
	if err := e.Read(1, 0, 9, nil); !errors.Is(err, errEngineDown) {
		t.Fatalf("read before open: %v", err)
	}
	if _, err := e.Fold(&foldBatch{}); !errors.Is(err, errEngineDown) {
		t.Fatalf("fold before open: %v", err)
	}
	must(e.Open())
	expect("empty", 1, 0, 1<<64-1)
	var put []foldRecord
	for _, seq := range []uint64{1, 2, 5, 9} {
		put = append(put, foldRecord{1, seq, recFor(1, seq)})
	}
	put = append(put, foldRecord{2, 1, recFor(2, 1)}, foldRecord{3, 1 << 60, recFor(3, 1<<60)})
	must(e.Fold(&foldBatch{put: put, states: map[uint32]logState{1: {Name: "a", Last: 9}}, folded: 7}))
	must(e.Fold(&foldBatch{put: put[:3], states: map[uint32]logState{2: {Name: "b", Last: 1}}})) // again
	expect("all", 1, 0, 1<<64-1, 1, 2, 5, 9)
	expect("part", 1, 2, 8, 2, 5)
	expect("a gap", 1, 6, 8)
	expect("behind", 1, 10, 1<<64-1)
	expect("the next log", 2, 0, 1<<64-1, 1)
	expect("a large sequence", 3, 1, 1<<64-1, 1<<60)
	expect("no such log", 4, 0, 1<<64-1)
	must(e.Open()) // what a fault does
	expect("after another open", 1, 0, 1<<64-1, 1, 2, 5, 9)
	states, folded, err := e.Load()
	if err != nil || folded != 7 || len(states) != 2 || states[1].Name != "a" || states[1].Last != 9 {
		t.Fatalf("%v %d %v", states, folded, err)
	}
	must(e.Fold(&foldBatch{remove: []seqRange{{1, 0, 2}, {1, 9, 100}}}))
	expect("after a removal", 1, 0, 1<<64-1, 5)
	testPacked(t, e, expect)
	must(e.Reset(&foldBatch{put: []foldRecord{{1, 11, recFor(1, 11)}}, states: map[uint32]logState{1: {Name: "a", Last: 11}}, folded: 8}))
	expect("after a reset", 1, 0, 1<<64-1, 11)
	if _, folded, err = e.Load(); err != nil || folded != 8 {
		t.Fatal(folded, err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := e.Read(1, 0, 9, nil); !errors.Is(err, errEngineDown) {
		t.Fatalf("read after close: %v", err)
	}
}

// testPacked is about long runs, which an engine may pack: what is removed or killed in the
// middle of one, and what is kept single because that is likely.
func testPacked(t *testing.T, e engine, expect func(what string, log uint32, from, to uint64, want ...uint64)) {
	var want []uint64
	without := func(seqs ...uint64) []uint64 {
		want = slices.DeleteFunc(want, func(seq uint64) bool { return slices.Contains(seqs, seq) })
		return want
	}
	fold := func(b *foldBatch) {
		t.Helper()
		if _, err := e.Fold(b); err != nil {
			t.Fatal(err)
		}
	}
	for _, alone := range []bool{false, true} {
		log, from := uint32(7), uint64(251)
		if alone {
			log = 8
		}
		put := &foldBatch{alone: map[uint32]bool{8: true}, states: map[uint32]logState{log: {Name: "p", Base: 1}}}
		want = nil
		for seq := uint64(100); seq < 400; seq++ {
			put.put, want = append(put.put, foldRecord{log, seq, recFor(log, seq)}), append(want, seq)
		}
		fold(put)
		expect("a run", log, 0, 1<<64-1, want...)
		expect("a part of it", log, 203, 205, 203, 204, 205)
		begins := map[uint32]logState{log: {Name: "p", Base: from, First: from}}
		fold(&foldBatch{remove: []seqRange{{log, 1, from - 1}}, states: begins})
		want = want[from-100:]
		expect("from where the log begins", log, from, 1<<64-1, want...)
		fold(&foldBatch{kill: []seqRange{{log, 300, 300}, {log, 399, 399}, {log, 5000, 5000}}, states: begins})
		expect("without what was killed", log, from, 1<<64-1, without(300, 399)...)
		fold(&foldBatch{kill: []seqRange{{log, 300, 300}, {log, from, from}}, states: begins})
		expect("without more", log, from, 1<<64-1, without(from)...)
		if _, err := e.Compact(func() bool { return true }); err != nil {
			t.Fatal(err)
		}
		expect("after a compaction", log, from, 1<<64-1, want...)
		if states, _, err := e.Load(); err != nil || states[log].Base != from {
			t.Fatalf("after a compaction: %+v %v", states, err)
		}
		fold(&foldBatch{hollow: []seqRange{{log, 330, 335}, {log, 350, 380}, {log, 9000, 9999}}, states: begins})
		want = slices.DeleteFunc(want, func(seq uint64) bool { return seq >= 330 && seq <= 335 || seq >= 350 && seq <= 380 })
		expect("with hollow places", log, from, 1<<64-1, want...)
		fold(&foldBatch{remove: []seqRange{{log, from, 320}}, states: map[uint32]logState{log: {Name: "p", Base: 321}}})
		want = want[slices.Index(want, 321):]
		expect("from where it begins now", log, 321, 1<<64-1, want...)
		fold(&foldBatch{remove: []seqRange{{log, 321, 1 << 62}}})
		expect("nothing", log, 0, 1<<64-1)
	}
}

func recFor(log uint32, seq uint64) []byte {
	b := bytes.Repeat([]byte{byte(log), byte(seq)}, 30+int(seq%9)*200)
	le.PutUint32(b[4:], log)
	le.PutUint64(b[16:], seq)
	return b
}

// A unit of the file that became zero takes keys with it: a search that meets them must not
// be led past records that are still there. Found by TestDamage.
func TestZeroedUnitsAreNoticed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	e := newBolt(path, 64<<20)
	if _, err := e.Open(); err != nil {
		t.Fatal(err)
	}
	const n = 300
	random := rand.NewChaCha8([32]byte{})
	for _, log := range []uint32{0xca813ffc, 0xd9d1cc08} {
		b := &foldBatch{states: map[uint32]logState{log: {Name: fmt.Sprint(log), Last: n}}}
		for seq := uint64(1); seq <= n; seq++ {
			rec := recFor(log, seq)
			random.Read(rec[40:])
			b.put = append(b.put, foldRecord{log, seq, rec})
		}
		if _, err := e.Fold(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	noticed := 0
	for at := 2 * boltPage; at < len(whole); at += boltPage {
		for _, unit := range []int{boltPage, 64 << 10} {
			b := slices.Clone(whole)
			clear(b[at:min(at+unit, len(b))])
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if checkPages(path) != nil {
				noticed++
				continue
			}
			for _, log := range []uint32{0xca813ffc, 0xd9d1cc08} {
				got, err := countAll(path, log)
				if err != nil {
					noticed++
				} else if got != n {
					t.Errorf("%d bytes at %d are zero: %d records of %x are read, and nothing is said", unit, at, got, log)
				}
			}
		}
	}
	if noticed == 0 {
		t.Error("nothing was ever damaged")
	}
}

// countAll opens a file and counts the records of a log.
func countAll(path string, log uint32) (n int, err error) {
	e := newBolt(path, 64<<20)
	defer e.Close()
	if _, err := e.Open(); err != nil {
		return 0, err
	}
	err = e.Read(log, 1, 1<<62, func(uint64, []byte) bool { n++; return true })
	return n, err
}

// A file that may not grow takes no more, says why, and is as it was before.
func TestMaxSize(t *testing.T) {
	e := newBolt(filepath.Join(t.TempDir(), "db"), 16<<20)
	if _, err := e.Open(); err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	var err error
	seq, noise := uint64(0), rand.NewChaCha8([32]byte{})
	for err == nil {
		b := &foldBatch{}
		for range 100 {
			seq++
			b.put = append(b.put, foldRecord{1, seq, make([]byte, 8000)})
			noise.Read(b.put[len(b.put)-1].rec)
		}
		_, err = e.Fold(b)
	}
	if !errors.Is(err, errMaxSize) || !errors.Is(err, errNoSpace) {
		t.Fatalf("a full file answers %v", err)
	}
	if e.Size() > 16<<20 {
		t.Fatalf("the file has %d bytes", e.Size())
	}
	if _, err := e.Fold(&foldBatch{remove: []seqRange{{1, 0, 500}}}); err != nil {
		t.Fatalf("removing from a full file: %v", err)
	}
	if _, err := e.Fold(&foldBatch{put: []foldRecord{{1, seq + 1, make([]byte, 8000)}}}); err != nil {
		t.Fatalf("into the room that this made: %v", err)
	}
}

// testdata/format1.tar.gz is a store as the first version wrote it and lost power:
// 1…300 folded, 100 of them acknowledged, 301…350 in the journal.
func TestFirstFormat(t *testing.T) {
	dir := t.TempDir()
	unpack(t, "testdata/format1.tar.gz", dir)
	s, err := Open(dir, Options{FoldAfter: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Node() != "old" || len(s.Health()) != 1 { // the log is not configured yet
		t.Fatalf("node %q, health %q", s.Node(), s.Health())
	}
	head := make([]byte, 12)
	if b, err := os.ReadFile(filepath.Join(dir, "journal")); err != nil || copy(head, b) < 12 || head[8] != journalFormat {
		t.Fatalf("the journal begins with %q (%v), not as one of format %d", head, err, journalFormat)
	}
	l, err := s.Log("OUT/a", Retention{Keep: UntilAcked})
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Cursor("hub", CursorConfig{MaxPending: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for want := uint64(101); want <= 350; {
		recs, err := c.Next(t.Context(), make([]Record, 0, 300))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range recs {
			if n := binary.BigEndian.Uint64(r.Data); n != want || string(r.Header) != "NATS/1.0\r\nK: v\r\n\r\n" || r.QoS != 1 {
				t.Fatalf("%d is %d, %q", want, n, r.Header)
			}
			want++
		}
	}
}

func unpack(t *testing.T, path, dir string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(h.Name)), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A store that has reached max_size goes by the policy of its logs: the oldest goes, or
// the publisher is refused. Nobody hangs.
func TestMaxSizeIsFull(t *testing.T) {
	for _, full := range []Full{DropOldest, Refuse} {
		s, err := Open(t.TempDir(), Options{MaxSize: 16 << 20, JournalBytes: 4 << 20})
		if err != nil {
			t.Fatal(err)
		}
		l, err := s.Log("a", Retention{Full: full})
		if err != nil {
			t.Fatal(err)
		}
		var refused int
		data := make([]byte, 16000)
		noise := rand.NewChaCha8([32]byte{})
		for range 2500 { // 40 MB
			noise.Read(data)
			_, err := l.Append(&msg.Msg{Subject: []byte("a"), Data: data})
			done := make(chan error, 1)
			s.Barrier(func(err error) { done <- err })
			if err = errors.Join(err, <-done); err != nil {
				refused++
				if !errors.Is(err, ErrFull) {
					t.Fatal(err)
				}
			}
		}
		st, lost := s.Stats(), l.Stats().Lost["oldest_dropped"]
		if st.BoltSize > 16<<20 {
			t.Fatalf("the file has %d bytes", st.BoltSize)
		}
		if full == DropOldest && (refused > 0 || lost < 1250 || lost > 2250) || full == Refuse && (refused < 750 || lost > 0) {
			t.Fatalf("policy %d: %d refused, %d dropped, %d there: %q", full, refused, lost, l.Stats().Msgs, s.Health())
		}
		if err := s.Close(); err != nil && full == DropOldest {
			t.Fatal(err)
		}
	}
}

// What a fold removes it has looked at through the memory map: those pages are let go after each.
// A backlog of 935 MB that was dropped for narrower bounds left 188 MB of the map in RAM.
func TestRemovedPagesAreLetGo(t *testing.T) {
	e := newBolt(t.TempDir()+"/db", 1<<24)
	if _, err := e.Open(); err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	states := map[uint32]logState{7: {Name: "a", Last: 42}}
	rec := sampleRecord("a.b", "", "hello")
	if _, err := e.Fold(&foldBatch{states: states, put: []foldRecord{{7, 1, rec}, {7, 2, rec}}}); err != nil {
		t.Fatal(err)
	}
	if e.mapped.Load() == 0 {
		t.Fatal("nothing is counted")
	}
	if _, err := e.Fold(&foldBatch{states: states, remove: []seqRange{{7, 1, 1}}}); err != nil || e.mapped.Load() != 0 {
		t.Errorf("%d bytes of the map are counted, %v", e.mapped.Load(), err)
	}
}
