package storefwd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// payload is what message n carries: whoever reads it can tell that it is whole.
func payload(n uint64) []byte {
	b := make([]byte, 8+int(n*2654435761%900))
	if n%97 == 0 {
		b = make([]byte, 9000) // lies on overflow pages
	}
	rand.NewChaCha8([32]byte(binary.BigEndian.AppendUint64(make([]byte, 24), n))).Read(b)
	binary.BigEndian.PutUint64(b, n)
	return b
}

// backlog makes a closed store whose file has messages acked+1…msgs, and returns the
// directory.
func backlog(t *testing.T, msgs, acked uint64) (dir string) {
	t.Helper()
	dir = t.TempDir()
	s, l := openBacklog(t, dir, Options{})
	for n := uint64(1); n <= msgs; n++ {
		if _, err := l.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(n)}); err != nil {
			t.Fatal(err)
		}
		if n%500 == 0 {
			done := make(chan error, 1)
			s.Barrier(func(err error) { done <- err })
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
	}
	c, err := l.Cursor("hub", CursorConfig{MaxPending: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for n := uint64(0); n < acked; {
		recs, err := c.Next(t.Context(), make([]Record, 0, acked-n))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range recs {
			c.Ack(r.Seq)
			n++
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func openBacklog(t *testing.T, dir string, o Options) (*Store, *Log) {
	t.Helper()
	o.Node, o.JournalBytes, o.FoldAfter = "n", 1<<20, time.Hour
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Log("OUT/a", Retention{Keep: UntilAcked})
	if err != nil {
		t.Fatal(err)
	}
	return s, l
}

// readBack reads all that the log gives out, which must be what was appended, in order.
func readBack(t *testing.T, s *Store, l *Log) (got []uint64) {
	t.Helper()
	if err := s.awaitSalvage(t.Context()); err != nil {
		t.Fatal(err)
	}
	for from := uint64(0); ; {
		var recs []Record
		testkit.Eventually(t, func() (ok bool) {
			var err error
			recs, err = l.Read(nil, from)
			return err == nil
		}, "the log can be read")
		if len(recs) == 0 {
			return got
		}
		for _, r := range recs {
			n := binary.BigEndian.Uint64(r.Data)
			if !bytes.Equal(r.Data, payload(n)) {
				t.Fatalf("record %d is not what was appended", r.Seq)
			}
			if len(got) > 0 && n <= got[len(got)-1] {
				t.Fatalf("%d after %d", n, got[len(got)-1])
			}
			got, from = append(got, n), r.Seq+1
		}
	}
}

func damage(t *testing.T, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// Units of 4 to 64 KiB are overwritten anywhere, with noise or zeroes: the store
// opens, gives out nothing that is wrong or out of order, takes new messages behind the
// others, and what is missing is declared.
func TestDamagedUnits(t *testing.T) {
	const msgs, acked = 6000, 700
	master := backlog(t, msgs, acked)
	info, err := os.Stat(filepath.Join(master, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	var there, missing int
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(master)); err != nil {
			t.Fatal(err)
		}
		unit := make([]byte, 4096<<rnd.IntN(5))
		if rnd.IntN(2) == 0 {
			for i := range unit {
				unit[i] = byte(rnd.Uint32())
			}
		}
		damage(t, filepath.Join(dir, "store.db"), rnd.Int64N(info.Size()-int64(len(unit)))&^4095, unit)
		s, l := openBacklog(t, dir, Options{})
		if _, err := l.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(msgs + 1)}); err != nil {
			t.Fatal(err)
		}
		got := readBack(t, s, l)
		if len(got) == 0 || got[len(got)-1] != msgs+1 {
			t.Fatalf("seed %d: what was appended after the damage is not there, behind the others", seed)
		}
		lost := l.Stats().Lost["damaged"]
		if gone := uint64(msgs - acked + 1 - min(len(got), msgs-acked+1)); lost < gone {
			t.Fatalf("seed %d: %d messages are gone, %d declared lost: %q", seed, gone, lost, s.Health())
		}
		there, missing = there+len(got), missing+msgs-acked+1-len(got)
		if err := s.Close(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		s, l = openBacklog(t, dir, Options{})
		if again := readBack(t, s, l); len(again) != len(got) {
			t.Fatalf("seed %d: %d messages, and %d after another start", seed, len(got), len(again))
		}
		s.Close()
	}
	t.Logf("%d messages, %d of them gone: %.1f %% recovered", there+missing, missing, 100*float64(there)/float64(there+missing))
}

// Without either meta page bbolt cannot open the file at all; every record is there.
func TestBothMetaPagesGone(t *testing.T) {
	dir := backlog(t, 3000, 1000)
	damage(t, filepath.Join(dir, "store.db"), 0, make([]byte, 2*boltPage))
	s, l := openBacklog(t, dir, Options{})
	defer s.Close()
	if got := readBack(t, s, l); len(got) != 2000 || got[0] != 1001 {
		t.Fatalf("%d messages from %d on, want 2000 from 1001 on: %q", len(got), got[0], s.Health())
	}
	if n := l.Stats().Lost["damaged"]; n != 0 {
		t.Fatalf("%d declared lost, all are there", n)
	}
	if m, _ := filepath.Glob(filepath.Join(dir, "store.db.corrupt-*")); len(m) != 1 {
		t.Fatalf("the damaged file is kept as %q", m)
	}
	c, err := l.Cursor("hub", CursorConfig{})
	if err != nil {
		t.Fatal(err)
	}
	recs, err := c.Next(t.Context(), nil)
	if err == nil && len(recs) == 0 {
		recs, err = c.Next(t.Context(), make([]Record, 0, 1))
	}
	if err != nil || binary.BigEndian.Uint64(recs[0].Data) != 1001 {
		t.Fatalf("the cursor begins with %v, %v", recs, err)
	}
}

// The file breaks while the store is open: the reader that finds out waits until it
// is salvaged, and appends go on meanwhile.
func TestDamageWhileOpen(t *testing.T) {
	const msgs = 6000
	dir := backlog(t, msgs, 0)
	s, l := openBacklog(t, dir, Options{})
	defer s.Close()
	path := filepath.Join(dir, "store.db")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	damage(t, path, info.Size()/3&^4095, make([]byte, 64<<10))
	damage(t, path, info.Size()/2&^4095, bytes.Repeat([]byte{0xa5}, 64<<10))
	if _, err := l.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(msgs + 1)}); err != nil {
		t.Fatal(err)
	}
	got := readBack(t, s, l)
	if len(got) < msgs*9/10 || got[len(got)-1] != msgs+1 {
		t.Fatalf("%d messages are left", len(got))
	}
	if lost := l.Stats().Lost["damaged"]; int(lost) < msgs+1-len(got) {
		t.Fatalf("%d messages are gone, %d declared lost", msgs+1-len(got), lost)
	}
	if h := fmt.Sprint(s.Health()); !strings.Contains(h, "lost, between sequence") {
		t.Fatalf("health: %s", h)
	}
}

// The process dies in the middle of a salvage: the next one starts over and loses nothing.
func TestSalvageInterrupted(t *testing.T) {
	dir := backlog(t, 6000, 1000)
	damage(t, filepath.Join(dir, "store.db"), 0, make([]byte, 2*boltPage))
	for fold := range 3 {
		o := Options{}
		o.faults.engine = func(e engine) engine { return &stopsAfter{engine: e, folds: fold} }
		s, _ := openBacklog(t, dir, o)
		testkit.Eventually(t, func() bool { return s.Stats().Faults > 0 }, "the salvage stops")
		copied := t.TempDir()
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		s.Close()
		dir = copied
	}
	s, l := openBacklog(t, dir, Options{})
	defer s.Close()
	if got := readBack(t, s, l); len(got) != 5000 || got[0] != 1001 {
		t.Fatalf("%d messages: %q", len(got), s.Health())
	}
	if st := l.Stats(); st.Msgs != 5000 || st.Lost["damaged"] != 0 {
		t.Fatalf("%+v", st)
	}
}

// stopsAfter is an engine whose disk fails after some folds.
type stopsAfter struct {
	engine
	folds int
}

func (e *stopsAfter) Fold(b *foldBatch) (int64, error) {
	if e.folds--; e.folds < 0 {
		return 0, fmt.Errorf("test: the disk fails")
	}
	return e.engine.Fold(b)
}

// A salvage stops, and what the journal still has of the damaged file is folded into the new
// one: the next salvage does not expect these twice, and declares nothing.
func TestSalvageAfterAFold(t *testing.T) {
	dir := backlog(t, 1000, 0)
	s, l := openBacklog(t, dir, Options{})
	for n := uint64(1001); n <= 1300; n++ {
		if _, err := l.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(n)}); err != nil {
			t.Fatal(err)
		}
	}
	safe := make(chan error, 1)
	s.Barrier(func(err error) { safe <- err })
	if err := <-safe; err != nil {
		t.Fatal(err)
	}
	journal := filepath.Join(dir, "journal")
	before, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	s.Close() // which folds
	if err := os.WriteFile(journal, before, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "store.db"), filepath.Join(dir, "store.db"+salvageMark+"1-0")); err != nil {
		t.Fatal(err)
	}
	o := Options{}
	o.faults.engine = func(e engine) engine { return refusesSalvage{e} }
	s, _ = openBacklog(t, dir, o)
	testkit.Eventually(t, func() bool { return s.Stats().Faults > 0 }, "the salvage stops")
	s.Close()
	s, l = openBacklog(t, dir, Options{})
	defer s.Close()
	if got := readBack(t, s, l); len(got) != 1300 {
		t.Fatalf("%d messages", len(got))
	}
	if st := l.Stats(); st.Lost["damaged"] != 0 || strings.Contains(fmt.Sprint(s.Health()), "lost") {
		t.Fatalf("%+v %q", st, s.Health())
	}
}

// refusesSalvage is an engine whose disk fails for what a salvage found.
type refusesSalvage struct{ engine }

func (e refusesSalvage) Fold(b *foldBatch) (int64, error) {
	if len(b.put) > 0 && len(b.states) == 0 {
		return 0, fmt.Errorf("test: the disk fails")
	}
	return e.engine.Fold(b)
}

// One bit flips anywhere in store.db: what is missing then, if anything, is declared, by
// the time the log was read to its end; nothing wrong is given out. A flipped key hid
// the records behind it.
func TestFlippedBit(t *testing.T) {
	const msgs = 600
	master := backlog(t, msgs, 0)
	info, err := os.Stat(filepath.Join(master, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(master)); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "store.db")
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := rnd.Int64N(info.Size())
		if seed%2 == 0 { // in the head of a page, or its elements
			at = at&^4095 + rnd.Int64N(512)
		}
		b[at] ^= 1 << rnd.IntN(8)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, l := openBacklog(t, dir, Options{})
		c, err := l.Cursor("hub", CursorConfig{MaxPending: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(msgs + 1)}); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		s.Barrier(func(err error) { done <- err })
		<-done
		got := 0
		for last := uint64(0); last <= msgs; {
			recs, err := c.Next(t.Context(), make([]Record, 0, 100))
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range recs {
				n := binary.BigEndian.Uint64(r.Data)
				if n <= last || !bytes.Equal(r.Data, payload(n)) {
					t.Fatalf("seed %d: %d after %d", seed, n, last)
				}
				last = n
				got++
				c.Ack(r.Seq)
			}
		}
		if lost := l.Stats().Lost["damaged"]; uint64(msgs+1-got) != lost {
			t.Fatalf("seed %d, byte %d: %d messages are gone, %d declared lost: %q", seed, at, msgs+1-got, lost, s.Health())
		}
		s.Close()
	}
}

// Garbage over all that a half of the journal holds: what was there is gone, and
// Health says that something may be.
func TestJournalOverwritten(t *testing.T) {
	dir := t.TempDir()
	k := openKeeper(t, dir, Options{JournalBytes: 256 << 10, FoldAfter: time.Hour})
	defer k.s.Close()
	for range 10 {
		if err := k.keep(); err != nil {
			t.Fatal(err)
		}
	}
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	k2 := openKeeper(t, copied, Options{JournalBytes: 256 << 10})
	if h := k2.s.Health(); len(h) != 0 || len(heldBy(t, k2.l)) != 10 {
		t.Fatalf("sound: %q", h)
	}
	k2.s.Close()
	info, err := os.Stat(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	half := (info.Size() - 2*journalBlock) / 2
	for i := range int64(2) {
		damage(t, filepath.Join(dir, "journal"), journalBlock+i*half, bytes.Repeat([]byte{0x5a, 0xa5, 0x3c}, 64<<10/3))
	}
	copied = t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	k3 := openKeeper(t, copied, Options{JournalBytes: 256 << 10})
	defer k3.s.Close()
	if h := fmt.Sprint(k3.s.Health()); !strings.Contains(h, "messages may be lost") {
		t.Fatalf("health: %s", h)
	}
}

// A disk whose syncs do nothing lost one leaf of store.db in a power cut. Nothing saw it at
// the start, for leaves are not read then; the first transaction that met it panicked, and
// as the journal was full the publisher who waited was refused: "log is full: fold: damaged".
// It must wait for a fresh file, and nothing else.
func TestLeafGoneUnderAFold(t *testing.T) {
	dir, n := backlog(t, 3000, 0), uint64(3000)
	f := &fault{kind: "fold", err: syscall.EIO}
	f.left.Store(1)
	f.holds.Store(true)
	s, l := openBacklog(t, dir, f.options())
	for refused := false; !refused; refused = s.await() != nil {
		n++
		if _, err := l.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(n)}); err != nil {
			t.Fatal(err)
		}
	}
	cut := t.TempDir()
	if err := os.CopyFS(cut, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	f.holds.Store(false)
	s.Close()
	loseLeaf(t, filepath.Join(cut, "store.db"), 3000)

	s, l = openBacklog(t, cut, Options{})
	if _, err := l.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(n)}); err != nil {
		t.Fatal(err)
	}
	if err := s.await(); err != nil {
		t.Fatalf("refused: %v", err)
	}
	got := readBack(t, s, l)
	if lost := l.Stats().Lost["damaged"]; lost == 0 || len(got)+int(lost) < int(n) || got[len(got)-1] != n {
		t.Fatalf("%d messages are there up to %d, %d declared lost: %q", len(got), got[len(got)-1], lost, s.Health())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// A transaction that ends in a panic must not leave the file locked.
func TestPanicLeavesNoLock(t *testing.T) {
	path := filepath.Join(backlog(t, 3000, 0), "store.db")
	loseLeaf(t, path, 3000)
	e := newBolt(path, 1<<30)
	if _, err := e.Open(); err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	id := crc32.Checksum([]byte("OUT/a"), castagnoli)
	for range 2 {
		if _, err := e.Fold(&foldBatch{put: []foldRecord{{id, 3001, blockRecord(id, 3001, 10)}}}); !errors.Is(err, ErrDamaged) {
			t.Fatalf("a transaction on a lost leaf: %v", err)
		}
		if _, err := e.Open(); err != nil {
			t.Fatalf("the same file, opened again: %v", err)
		}
	}
	e.bad = true // as if bbolt had not given back its own locks either
	if _, err := e.Open(); err != nil {
		t.Fatalf("a file that was abandoned, opened again: %v", err)
	}
}

// loseLeaf makes zeroes of each leaf page that has the record seq.
func loseLeaf(t *testing.T, path string, seq uint64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	for at := 0; at+boltPage <= len(b); at += boltPage {
		has := false
		eachLeaf(b[at:], func(_ uint32, key, value []byte) {
			h, _, err := parseBlock(value)
			has = has || len(key) == blockKey && err == nil && h.first <= seq && binary.BigEndian.Uint64(key[4:]) >= seq
		})
		if has {
			damage(t, path, int64(at), make([]byte, boltPage))
			lost++
		}
	}
	if lost == 0 {
		t.Fatalf("no leaf of %s has record %d", path, seq)
	}
}

// await waits until all that was appended is safe, or refused.
func (s *Store) await() error {
	done := make(chan error, 1)
	s.Barrier(func(err error) { done <- err })
	return <-done
}

// Damage within a block costs the records that it hits, damage of its head the block,
// and no other; both are declared, in a file that is sound otherwise and in one that has to
// be salvaged. Records that went before, and are in the block still, are not lost again.
func TestDamagedBlock(t *testing.T) {
	const msgs, acked = 2000, 100
	master := backlog(t, msgs, acked)
	b, err := os.ReadFile(filepath.Join(master, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	type place struct {
		at          int64 // in the file
		first, last uint64
		count       int
	}
	var places, blocks []place
	_, err = scanPages(bytes.NewReader(b), int64(len(b)), func(key, value []byte) error {
		p := place{at: int64(bytes.Index(b, value)), count: 1}
		if h, _, err := parseBlock(value); len(key) == blockKey && err == nil {
			p.first, p.count = h.first, h.count
		} else if len(key) == singleKey && isRecord(value) {
			p.first = binary.BigEndian.Uint64(key[4:])
		} else {
			return nil
		}
		p.last = binary.BigEndian.Uint64(key[4:])
		places = append(places, p)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range places {
		alone := true // no older page has some of its records, too
		for j, o := range places {
			alone = alone && (i == j || o.first > p.last || o.last < p.first)
		}
		if p.first > acked && p.count > 1 && alone {
			blocks = append(blocks, p)
		}
	}
	if len(blocks) < 4 {
		t.Fatalf("%d blocks", len(blocks))
	}
	for _, c := range []struct {
		name     string
		at       int64 // in the block
		meta     bool  // the meta pages are gone, too
		min, max func(count int) int
	}{
		{"a record", 3000, false, func(int) int { return 1 }, func(int) int { return 1 }},
		{"a record, salvaged", 3000, true, func(int) int { return 1 }, func(int) int { return 1 }},
		{"a head", 9, false, func(n int) int { return n }, func(n int) int { return n }},
		{"a head, salvaged", 9, true, func(n int) int { return n }, func(n int) int { return n }},
	} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(master)); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, "journal")); err != nil { // all of it is folded, and a salvage would take it from there
			t.Fatal(err)
		}
		block := blocks[len(blocks)/2]
		at := block.at + c.at
		damage(t, filepath.Join(dir, "store.db"), at, []byte{b[at] ^ 4})
		if c.meta {
			damage(t, filepath.Join(dir, "store.db"), 0, make([]byte, 2*boltPage))
		}
		s, l := openBacklog(t, dir, Options{})
		got := readBack(t, s, l)
		gone, lost := msgs-acked-len(got), 0
		testkit.Eventually(t, func() bool { // what is taken over is counted at its end
			lost = int(l.Stats().Lost["damaged"])
			return lost == gone
		}, "%s: all declared", c.name)
		if gone < c.min(block.count) || gone > c.max(block.count) || lost != gone {
			t.Errorf("%s: %d messages are gone of a block of %d, %d declared lost: %q", c.name, gone, block.count, lost, s.Health())
		}
		s.Close()
	}
}

// What a salvage finds in old pages, and was acknowledged long ago, does not get into the new file:
// nobody would remove it, for it is before the first that counts.
func TestSalvageLeavesNoOldRecords(t *testing.T) {
	for range 3 { // which old pages there are is never the same
		leavesNoOldRecords(t)
	}
}

func leavesNoOldRecords(t *testing.T) {
	t.Helper()
	dir := backlog(t, 6000, 0)
	s, l := openBacklog(t, dir, Options{})
	c, err := l.Cursor("hub", CursorConfig{MaxPending: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		ackAll(t, c, 500)
	}
	foldAll(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	damage(t, filepath.Join(dir, "store.db"), 0, make([]byte, 2*boltPage))
	s, l = openBacklog(t, dir, Options{})
	defer s.Close()
	if got := readBack(t, s, l); len(got) != 1000 {
		t.Errorf("%d messages", len(got))
	}
	for range 3 {
		if _, err := l.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(7000)}); err != nil {
			t.Fatal(err)
		}
		waitSafe(t, s)
		s.mu.Lock()
		s.foldNow()
		s.mu.Unlock()
		foldAll(t, s)
	}
	s.mu.Lock()
	first := l.first
	s.mu.Unlock()
	there, below := 0, 0
	err = s.eng.Read(l.id, 0, math.MaxUint64, func(seq uint64, _ []byte) bool {
		there++
		if seq < first {
			below++
		}
		return true
	})
	if err != nil || below > 100 {
		t.Errorf("%d of %d records in the file are before the first, %d: %v", below, there, first, err)
	}
}
