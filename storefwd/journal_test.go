package storefwd

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// memFile is a file in memory that knows what of it was not synced.
type memFile struct {
	b      []byte
	writes [][2]int // offset and length, since the last sync
}

func (f *memFile) ReadAt(b []byte, off int64) (int, error) {
	return bytes.NewReader(f.b).ReadAt(b, off)
}
func (f *memFile) WriteAt(b []byte, off int64) (int, error) {
	f.writes = append(f.writes, [2]int{int(off), len(b)})
	return copy(f.b[off:], b), nil
}
func (f *memFile) Datasync() error { f.writes = nil; return nil }
func (f *memFile) Close() error    { return nil }

// memJournal is an empty journal in memory.
func memJournal(t testing.TB, dir string, size, align int64) (*journal, *memFile) {
	path := filepath.Join(dir, "journal")
	if _, err := createJournal(path, size, 1, nil); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f := &memFile{b: b}
	return reopened(t, f, align, 1), f
}

// reopened is what a journal over the file as it is says.
func reopened(t testing.TB, f *memFile, align int64, run uint16) *journal {
	j, err := openJournal(f, int64(len(f.b)), align, run)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// numbers are the records that replay gives out, by the number they begin with, and -n for n
// that it misses.
type numbers []int

func (r *numbers) record(b []byte) {
	*r = append(*r, int(binary.BigEndian.Uint64(viewRecord(b).Data)))
}
func (r *numbers) missing(n uint32) { *r = append(*r, -int(n)) }

func (r numbers) lost() (n int) {
	for _, i := range r {
		n -= min(i, 0)
	}
	return n
}

// numbered is a record of log that begins with n.
func numbered(log uint32, n, size int) []byte {
	b := appendRecord(nil, log, 7, uint64(n+1), int64(n), flagBoot, &msg.Msg{Subject: []byte("a.b"), Data: noise(uint64(n), size), QoS: 1})
	seal(b)
	return b
}

// batches writes the records from number first on, in batches of the given sizes.
func batches(t testing.TB, j *journal, first int, sizes ...int) int {
	for _, n := range sizes {
		var recs [][]byte
		var weight int64
		for range n {
			r := numbered(1, first, 100)
			weight += frameSize(len(r))
			recs = append(recs, r)
			first++
		}
		if !j.room(weight) {
			j.free(j.gen - 1)
			j.turn()
		}
		if _, err := j.write(recs); err != nil {
			t.Fatal(err)
		}
	}
	return first
}

// Whatever the sizes of records and batches, and wherever the journal turns, replay gives all
// of them in their order, and the next run goes on behind them.
func TestJournalHoldsWhatItWasGiven(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		align := rapid.SampledFrom([]int64{sector, journalBlock}).Draw(rt, "align")
		j, f := memJournal(t, dir, 256<<10, align)
		held := map[uint64]numbers{} // by pass
		next := 0
		for range rapid.IntRange(1, 60).Draw(rt, "batches") {
			var recs [][]byte
			var weight int64
			var batch numbers
			for range rapid.IntRange(1, 30).Draw(rt, "records") {
				r := numbered(1, next, rapid.SampledFrom([]int{8, 100, 150, 4000, 9000, 70000}).Draw(rt, "size"))
				if weight += frameSize(len(r)); weight > j.half-batchExtra {
					break
				}
				recs, batch = append(recs, r), append(batch, next)
				next++
			}
			if !j.room(weight) {
				delete(held, j.gen-1)
				j.free(j.gen - 1)
				j.turn()
			}
			if n, err := j.write(recs); err != nil || int64(n)%align != 0 {
				rt.Fatal(n, err)
			}
			held[j.gen] = append(held[j.gen], batch...)
			if rapid.IntRange(0, 9).Draw(rt, "mark") == 0 {
				j.mark()
			}
			if rapid.IntRange(0, 9).Draw(rt, "restart") > 0 {
				continue
			}
			gen := j.gen
			j = reopened(t, f, align, j.run+1)
			var got numbers
			notes := j.replay(gen-2, &got)
			if want := slices.Concat(held[gen-1], held[gen]); !slices.Equal(got, want) || len(notes) > 0 || j.bad {
				rt.Fatalf("replay gives %v, not %v: %q", got, want, notes)
			}
		}
	})
}

// One sector after the other is zero, or garbage: what is missing is known, but of the newest
// batch, and with a mark of that, too.
func TestJournalKnowsWhatItLost(t *testing.T) {
	for _, marked := range []bool{false, true} {
		j, good := memJournal(t, t.TempDir(), 256<<10, sector)
		n := batches(t, j, 0, 700, 1, 30, 250, 30, 1, 1, 100, 40, 2, 25)
		if marked {
			j.mark()
		}
		var undeclared int
		for at := journalBlock; at < len(good.b)-journalBlock; at += sector {
			for _, fill := range []byte{0, 0xa5} {
				f := &memFile{b: slices.Clone(good.b)}
				for i := range sector {
					f.b[at+i] = fill
				}
				var got numbers
				hurt := reopened(t, f, sector, 2)
				notes := hurt.replay(j.gen-2, &got)
				missing := n - countThere(got)
				switch {
				case got.lost() == missing:
				case !marked && got.lost() == 0 && missing <= 25: // of the newest batch
					undeclared++
				default:
					t.Fatalf("marked %v, sector at %d is %#x: %d are missing, %d known: %q", marked, at, fill, missing, got.lost(), notes)
				}
				if got.lost() > 60 {
					t.Fatalf("one sector cost %d records", got.lost())
				}
				if (got.lost() > 0 || fill > 0) && !hurt.bad {
					t.Fatalf("sector at %d is %#x, and the journal is called sound", at, fill)
				}
			}
		}
		if marked != (undeclared == 0) {
			t.Errorf("marked %v: %d sectors of the newest batch cost it without a trace", marked, undeclared)
		}
		j.close()
	}
}

func countThere(got numbers) (n int) {
	for _, i := range got {
		if i >= 0 {
			n++
		}
	}
	return n
}

// Damage of 64 KiB anywhere takes nothing without a trace but the newest batch.
func TestJournalKnowsLargeDamage(t *testing.T) {
	j, good := memJournal(t, t.TempDir(), 1<<20, sector)
	n := batches(t, j, 0, slices.Repeat([]int{40, 1, 90}, 25)...) // more than one half
	if j.gen&0xff != 2 {
		t.Fatalf("it did not turn: %d", j.gen&0xff)
	}
	for at := journalBlock; at < len(good.b)-journalBlock-apart; at += journalBlock {
		f := &memFile{b: slices.Clone(good.b)}
		clear(f.b[at : at+apart])
		var got numbers
		reopened(t, f, sector, 2).replay(j.gen-2, &got)
		if missing := n - countThere(got); missing != got.lost() && !(missing-got.lost() <= 90) {
			t.Fatalf("64 KiB at %d are zero: %d are missing, %d known", at, missing, got.lost())
		}
	}
}

// Of a batch that a power cut tore any sectors may be there. Nobody was told of it, so none of
// it is missing, and all before it is there.
func TestTornBatchIsNoDamage(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, last := range []int{1, 25, 300} {
		j, f := memJournal(t, t.TempDir(), 256<<10, sector)
		n := batches(t, j, 0, 20, 5, 40)
		j.mark()
		before := slices.Clone(f.b)
		batches(t, j, n, last)
		for range 300 {
			torn := &memFile{b: slices.Clone(before)}
			for at := 0; at < len(torn.b); at += sector {
				if random.IntN(2) == 0 {
					copy(torn.b[at:at+sector], f.b[at:at+sector])
				}
			}
			var got numbers
			again := reopened(t, torn, sector, 2)
			if notes := again.replay(j.gen-2, &got); len(notes) > 0 || got.lost() > 0 || countThere(got) < n || got[n-1] != n-1 {
				t.Fatalf("%d of %d are there, %d missing: %q", countThere(got), n, got.lost(), notes)
			}
			// The next run goes on, and knows how much of this pass there is.
			again.f.Datasync()
			rest := slices.Clone(got)
			again.turn()
			batches(t, again, n+last, 1, 1)
			var more numbers
			if notes := reopened(t, torn, sector, 3).replay(j.gen-2, &more); len(notes) > 0 || !slices.Equal(more, append(rest, n+last, n+last+1)) {
				t.Fatalf("after another run: %v, %q", more, notes)
			}
			again.close()
		}
	}
}

// A torn batch of one run is never taken for one of the next, though both have the same
// generation and the start of the first is gone.
func TestTornBatchOfAnotherRun(t *testing.T) {
	j, f := memJournal(t, t.TempDir(), 256<<10, sector)
	batches(t, j, 0, 1)
	for range 2 {
		j.free(j.gen - 1)
		j.turn()
		batches(t, j, 0, 20)
	}
	base := slices.Clone(f.b)
	folded := j.gen - 1
	j.free(folded)
	j.turn()
	batches(t, j, 20, 200)
	start := int(j.start(j.gen))
	copy(f.b[start:start+sector], base[start:]) // the first sector did not reach the disk
	again := reopened(t, f, sector, 2)
	var got numbers
	again.replay(folded, &got)
	if again.turn(); again.gen != j.gen || len(got) != 20 {
		t.Fatalf("generations %d and %d, %d records: the case is another", again.gen, j.gen, len(got))
	}
	batches(t, again, 1000, 1)
	got = nil
	if notes := reopened(t, f, sector, 3).replay(folded, &got); len(notes) > 0 || len(got) != 21 || got[20] != 1000 {
		t.Fatalf("%v, %q", got, notes)
	}
}

// A half that is gone as a whole is known by the other, unless it was folded.
func TestJournalKnowsALostHalf(t *testing.T) {
	j, f := memJournal(t, t.TempDir(), 256<<10, sector)
	batches(t, j, 0, 20, 30)
	j.turn()
	batches(t, j, 50, 10)
	start := j.start(j.gen - 1)
	clear(f.b[start : start+j.half])
	for folded, want := range map[uint64]int{j.gen - 2: 50, j.gen - 1: 0} {
		var got numbers
		if reopened(t, f, sector, 2).replay(folded, &got); got.lost() != want || countThere(got) != 10 {
			t.Errorf("folded up to %d: %d known to be lost, want %d", folded&0xff, got.lost(), want)
		}
	}
}

// Writing a batch allocates nothing.
func TestJournalWriteAllocates(t *testing.T) {
	j, _ := memJournal(t, t.TempDir(), 4<<20, sector)
	var recs [][]byte
	for n := range 100 {
		recs = append(recs, numbered(1, n, 100))
	}
	if !testkit.RaceEnabled {
		if n := testing.AllocsPerRun(100, func() {
			if !j.room(100 * frameSize(200)) {
				j.free(j.gen)
				j.turn()
			}
			if _, err := j.write(recs); err != nil {
				t.Fatal(err)
			}
		}); n > 1 { // memFile notes the write
			t.Errorf("%v allocations a batch", n)
		}
	}
}

// marked reports whether the journal's newest batch is.
func marked(s *Store) bool {
	is := make(chan bool, 1)
	s.asks <- func() { is <- s.markAt == 0 && s.j.count > 0 }
	return <-is
}

// Damage at the end of the journal of a store that rested: counted for its log, and in
// Health, and the journal is replaced, so that it is not counted again.
func TestDamagedEndIsDeclared(t *testing.T) {
	dir := t.TempDir()
	o := Options{JournalBytes: 256 << 10, FoldAfter: time.Hour}
	k := openKeeper(t, dir, o)
	defer k.s.Close()
	other, err := k.s.Log("OUT/b", Retention{})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 10 {
		if _, err := other.Append(&msg.Msg{Subject: []byte("b"), Data: noise(uint64(n), 10)}); err != nil {
			t.Fatal(err)
		}
		if err := k.keep(); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, func() bool { return marked(k.s) }, "the newest batch is marked")
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	// The newest batch, a record of each log, is the lowest of the upper end.
	damage(t, filepath.Join(copied, "journal"), k.s.j.start(k.s.j.gen)+k.s.j.hi, make([]byte, sector))
	for run := range 2 {
		again := openKeeper(t, copied, o)
		lost := again.l.Stats().Lost["damaged"]
		b, err := again.s.Log("OUT/b", Retention{})
		if err != nil {
			t.Fatal(err)
		}
		lost += b.Stats().Lost["damaged"]
		again.s.mu.Lock()
		if g := again.l.gaps["damaged"]; run == 0 && (g.From != 10 || g.To != 10 || g.Count != 1) {
			t.Errorf("the stream will be told %+v", again.l.gaps)
		}
		again.s.mu.Unlock()
		h := strings.Join(again.s.Health(), "; ")
		if run == 0 && (lost != 2 || !strings.Contains(h, "between sequence 10 and 10")) || run == 1 && (lost != 0 || h != "") {
			t.Errorf("start %d: %d lost, health %q", run, lost, h)
		}
		if n := len(heldBy(t, again.l)); n != 9 {
			t.Errorf("start %d: %d are there", run, n)
		}
		if again.s.Stats().JournalMode == "" {
			t.Error("how the journal is written is not said")
		}
		again.s.Close()
	}
}
