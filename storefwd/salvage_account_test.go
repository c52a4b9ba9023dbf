package storefwd

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// The disk fails once while a salvage writes, and works again: what was to be written is read
// anew. A record with no sequence came into the file, and the salvage never ended.
func TestSalvageFailsOnce(t *testing.T) {
	dir := backlog(t, 6000, 1000)
	file := filepath.Join(dir, "store.db")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n, at := uint64(0), int64(0) // one of the last page
	for i := uint64(1020); i < 4900; i += 10 {
		if p := payload(i); len(p) >= 24 && int64(bytes.Index(b, p[8:24])) > at {
			n, at = i, int64(bytes.Index(b, p[8:24]))
		}
	}
	for at &^= boltPage - 1; le.Uint64(b[at:]) != uint64(at/boltPage); { // its first one
		at -= boltPage
	}
	page := slices.Clone(b[at : at+boltPage*(1+int64(le.Uint32(b[at+12:])))])
	le.PutUint64(page, uint64(len(b)/boltPage))
	damage(t, file, int64(len(b)), page) // as older pages are: its records are there twice
	damage(t, file, 0, make([]byte, 2*boltPage))
	o := Options{}
	o.faults.engine = func(e engine) engine { return &failsOnce{engine: e, at: n} }
	s, l := openBacklog(t, dir, o)
	defer s.Close()
	if got := readBack(t, s, l); len(got) != 5000 || got[0] != 1001 {
		t.Fatalf("%d messages: %q", len(got), s.Health())
	}
	if st := l.Stats(); st.Msgs != 5000 || st.Lost["damaged"] != 0 {
		t.Fatalf("%+v", st)
	}
}

// failsOnce is an engine that cannot write one record at first.
type failsOnce struct {
	engine
	at     uint64
	failed bool
}

func (e *failsOnce) Fold(b *foldBatch) (int64, error) {
	if !e.failed && len(b.states) == 0 && slices.ContainsFunc(b.put, func(r foldRecord) bool { return r.seq == e.at }) {
		e.failed = true
		return 0, fmt.Errorf("test: the disk fails")
	}
	return e.engine.Fold(b)
}

// What a damaged file has lost is declared, and still to be after a restart. What it knew of
// earlier losses and of the hub is not forgotten.
func TestSalvageKeepsTheAccount(t *testing.T) {
	dir := backlog(t, 6000, 0)
	open := func() (*Store, *Log) {
		s, err := Open(dir, Options{Node: "n"})
		if err != nil {
			t.Fatal(err)
		}
		l, err := s.Log("OUT/a", Retention{Keep: UntilAcked, GapSubject: "gap"})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.awaitSalvage(t.Context()); err != nil {
			t.Fatal(err)
		}
		return s, l
	}
	earlier, at := gap{From: 2, To: 9, Count: 5, Reason: LostOldest.String()}, mark{Stream: "S", At: 9, Seq: 3}
	s, l := open()
	s.mu.Lock()
	l.addGap(earlier)
	l.hub, l.foreign = at, "T"
	s.mu.Unlock()
	if _, err := l.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(6001)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "store.db")
	for n := range uint64(3) {
		damage(t, file, whereIs(t, file, 3000+n*20)&^(boltPage-1), make([]byte, boltPage))
	}
	damage(t, file, 0, make([]byte, 2*boltPage))
	for run := range 3 {
		s, l := open()
		s.mu.Lock()
		lost, old, hub, foreign := l.gaps[LostDamaged.String()], l.gaps[LostOldest.String()], l.hub, l.foreign
		here := uint64(l.msgs)
		s.mu.Unlock()
		if lost.Count == 0 || lost.Count != 6001-here || lost.From == 0 || lost.To > 6001 {
			t.Errorf("run %d: %+v declared, %d are here", run, lost, here)
		}
		if old.Count != earlier.Count || old.From != earlier.From || old.To != earlier.To || hub != at || foreign != "T" {
			t.Errorf("run %d: %+v, %+v, %q", run, old, hub, foreign)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// whereIs finds payload n, or one soon after, in a file.
func whereIs(t *testing.T, path string, n uint64) int64 {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(50) { // a sector of the journal may end in it
		if p := payload(n + i); len(p) >= 24 && bytes.Contains(b, p[8:24]) {
			return int64(bytes.Index(b, p[8:24]))
		}
	}
	t.Fatalf("%d is not in %s", n, path)
	return 0
}

// One run's records, the older ones in store.db and the newer ones in the journal, are one
// run's after a salvage, too: else the hub's are not known for ours, and sent twice.
func TestSalvageJoinsARun(t *testing.T) {
	s, l := openBacklog(t, t.TempDir(), Options{})
	defer s.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	l.epochs = []epochStart{{7, 4000}, {8, 4500}}
	l.takeSalvaged(logState{}, 1, logState{Last: 3999, Epochs: []epochStart{{6, 1}, {7, 2000}}})
	if want := []epochStart{{6, 1}, {7, 2000}, {8, 4500}}; !slices.Equal(l.epochs, want) {
		t.Errorf("%v", l.epochs)
	}
}

// A journal that is to be smaller is, once it is empty, and not written anew at each start.
func TestJournalBecomesSmaller(t *testing.T) {
	dir := t.TempDir()
	size := func(bytes int64) int64 {
		s, err := Open(dir, Options{Node: "n", JournalBytes: bytes})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, "journal"))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	if large, small := size(4<<20), size(1<<20); large != 4<<20 || small != 1<<20 {
		t.Errorf("%d, %d", large, small)
	}
}

// What a damaged journal has lost is in store.db before a sound journal takes its place: a crash
// right behind that made it a loss that nobody knew of.
func TestDamagedJournalLossOutlivesACrash(t *testing.T) {
	dir := t.TempDir()
	s, l := openBacklog(t, dir, Options{})
	for n := uint64(1); n <= 300; n++ {
		if _, err := l.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(n)}); err != nil {
			t.Fatal(err)
		}
		if n%100 == 0 {
			safe := make(chan error, 1)
			s.Barrier(func(err error) { safe <- err })
			if err := <-safe; err != nil {
				t.Fatal(err)
			}
		}
	}
	killed := t.TempDir()
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	journal := filepath.Join(killed, "journal")
	damage(t, journal, whereIs(t, journal, 50), bytes.Repeat([]byte{0x5a}, journalBlock))
	after := t.TempDir()
	s, l = openBacklog(t, killed, Options{})
	s.mu.Lock()
	lost := l.lost[LostDamaged]
	s.mu.Unlock()
	if err := os.CopyFS(after, os.DirFS(killed)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s, l = openBacklog(t, after, Options{})
	defer s.Close()
	s.mu.Lock()
	g := l.gaps[LostDamaged.String()]
	s.mu.Unlock()
	if lost == 0 || g.Count != lost {
		t.Errorf("%d lost, %+v to be declared after a crash", lost, g)
	}
	testkit.Eventually(t, func() bool { return l.Stats().Msgs == 300-int64(lost) }, "the rest is here")
}
