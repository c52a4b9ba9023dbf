package storefwd

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// model is what a log must hold: numbers in the order of their appends. A number
// below safe must be there; one above may be lost in a crash; one that was
// acknowledged may come back after a crash, since floors are written lazily.
type model struct {
	t       *rapid.T
	dir     string
	s       *Store
	l       *Log
	c       *Cursor
	next    uint64            // number of the next append
	live    []uint64          // appended and not acknowledged
	safe    map[uint64]bool   // behind a barrier, or found on disk
	acked   map[uint64]bool   // ever
	dropped map[uint64]bool   // for newer ones, ever
	tail    []uint64          // acknowledged last, in order: the hub may go back behind them
	seq     map[uint64]uint64 // where they are in the log
	ret     Retention
	order   CursorConfig
	out     []uint64          // handed out and not acknowledged, if the order is not the log's
	fault   map[string]*fault // by kind
	gate    sync.RWMutex      // held for reading by every write, so that crash copies no half of one
}

// gatedFile and gatedEngine make each write one step in the eyes of crash: copying
// two files while they change gives a state that no crash does.
type gatedFile struct {
	journalFile
	gate *sync.RWMutex
}

func (f gatedFile) WriteAt(b []byte, off int64) (int, error) {
	f.gate.RLock()
	defer f.gate.RUnlock()
	return f.journalFile.WriteAt(b, off)
}

type gatedEngine struct {
	engine
	gate *sync.RWMutex
}

func (e gatedEngine) Fold(b *foldBatch) (int64, error) {
	e.gate.RLock()
	defer e.gate.RUnlock()
	return e.engine.Fold(b)
}

func (e gatedEngine) Reset(b *foldBatch) (int64, error) {
	e.gate.RLock()
	defer e.gate.RUnlock()
	return e.engine.Reset(b)
}

func (m *model) open() {
	for _, f := range m.fault {
		f.hit.Store(0)
	}
	o := Options{Node: "n", JournalBytes: 256 << 10, CommitInterval: time.Hour, FoldAfter: time.Hour}
	o.faults.journal = func(f journalFile) journalFile {
		return gatedFile{faultyFile{faultyFile{f, m.fault["write"]}, m.fault["sync"]}, &m.gate}
	}
	o.faults.engine = func(e engine) engine {
		return gatedEngine{faultyEngine{faultyEngine{e, m.fault["fold"]}, m.fault["folded"]}, &m.gate}
	}
	o.faults.retry = time.Millisecond
	s, err := Open(m.dir, o)
	if err != nil {
		m.t.Fatal(err)
	}
	l, err := s.Log("OUT/a", m.ret)
	if err != nil {
		m.t.Fatal(err)
	}
	cfg := m.order
	cfg.MaxPending, cfg.MaxPendingBytes, cfg.Ahead, cfg.Backlog = 1<<20, 64<<20, true, 5
	c, err := l.Cursor("hub", cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	m.s, m.l, m.c, m.out = s, l, c, nil
}

// present reads the whole log.
func (m *model) present() (got []uint64) {
	recs, from := []Record(nil), uint64(0)
	for {
		var err error
		if recs, err = m.l.Read(recs[:0], from); err != nil {
			m.t.Fatal(err)
		}
		if len(recs) == 0 {
			return got
		}
		for _, r := range recs {
			n := binary.BigEndian.Uint64(r.Data)
			if string(r.Subject) != "a.b" || len(r.Data) != sizeOf(n) {
				m.t.Fatalf("record %d is not what was appended: %q, %d bytes", r.Seq, r.Subject, len(r.Data))
			}
			got, from = append(got, n), r.Seq+1
		}
	}
}

func sizeOf(n uint64) int { return 8 + int(n*2654435761%3000) }

func (m *model) append(t *rapid.T) {
	for range rapid.IntRange(1, 40).Draw(t, "n") {
		data := noise(m.next, sizeOf(m.next))
		if m.next%3 > 0 { // of these blocks hold more
			clear(data[8:])
		}
		seq, err := m.l.Append(&msg.Msg{Subject: []byte("a.b"), Data: data})
		for errors.Is(err, ErrFull) || errors.Is(err, ErrFailed) { // more than half a journal is not safe yet, or the disk fails
			m.barrier(t)
			seq, err = m.l.Append(&msg.Msg{Subject: []byte("a.b"), Data: data})
		}
		if err != nil {
			t.Fatal(err)
		}
		m.seq[m.next] = seq
		m.live = append(m.live, m.next)
		m.next++
		m.dropOldest()
	}
}

// dropOldest is what a bound does.
func (m *model) dropOldest() {
	for m.ret.Full == DropOldest && int64(len(m.live)) > m.ret.MaxMsgs {
		n := m.live[0]
		m.dropped[n] = true
		delete(m.safe, n)
		m.live, m.tail = m.live[1:], nil // it may be given up for that
		m.out = slices.DeleteFunc(m.out, func(o uint64) bool { return o == n })
	}
}

func (m *model) barrier(t *rapid.T) {
	for {
		done := make(chan error, 1)
		m.s.Barrier(func(err error) { done <- err })
		err := <-done
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		runtime.Gosched() // the store is opening its files anew
	}
	m.allSafe()
}

// breakDisk makes one of the next calls fail.
func (m *model) breakDisk(t *rapid.T) {
	kind := rapid.SampledFrom([]string{"write", "sync", "fold", "folded"}).Draw(t, "kind")
	m.fault[kind].left.Store(int64(rapid.IntRange(1, 3).Draw(t, "nth")))
}

// mendDisk waits for the end of what breakDisk began.
func (m *model) mendDisk() {
	for _, f := range m.fault {
		f.left.Store(0)
	}
	for {
		st, hits := m.s.Stats(), int64(0)
		for _, f := range m.fault {
			hits += f.hit.Load()
		}
		if st.Failed == "" && st.Faults >= hits {
			return
		}
		runtime.Gosched()
	}
}

// takeFiles takes files away, and has the store notice.
func (m *model) takeFiles(t *rapid.T) {
	way := rapid.SampledFrom(slices.Sorted(maps.Keys(waysToTake))).Draw(t, "way")
	m.mendDisk()
	var err error
	onCommitter(m.s, func() {
		err = errors.Join(os.RemoveAll(m.dir+".old"), waysToTake[way](m.dir))
		for range 2 {
			m.s.filesAt = 0
			m.s.watchFiles()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	m.fault["write"].hit.Add(1) // a fault like any, for mendDisk
	m.mendDisk()
}

// allSafe notes what a barrier promises: not for what the hub had and gave up, which
// is written soon, without anybody waiting.
func (m *model) allSafe() {
	for _, n := range m.live {
		m.safe[n] = m.safe[n] || !m.acked[n]
	}
}

// ackAnyhow is a cursor that leaves the order of the log: each record is handed out
// once until a reset, and what is acknowledged, in any order, is gone.
func (m *model) ackAnyhow(t *rapid.T) {
	out := map[uint64]bool{}
	for _, n := range m.out {
		out[n] = true
	}
	for left := min(len(m.live)-len(m.out), rapid.IntRange(1, 50).Draw(t, "n")); left > 0; {
		recs, err := m.c.Next(t.Context(), make([]Record, 0, left))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range recs {
			n := binary.BigEndian.Uint64(r.Data)
			if _, waits := slices.BinarySearch(m.live, n); !waits || out[n] {
				t.Fatalf("cursor hands out %d, waits %v, out %v", n, waits, out[n])
			}
			out[n] = true
			m.out = append(m.out, n)
		}
		left -= len(recs)
	}
	if len(m.out) == 0 {
		return
	}
	for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, len(m.out)-1), 0, len(m.out), rapid.ID).Draw(t, "acked") {
		n := m.out[i]
		m.c.Ack(m.seq[n])
		m.acked[n] = true
		delete(m.safe, n)
		m.tail = append(m.tail, n)
		at, _ := slices.BinarySearch(m.live, n)
		m.live = slices.Delete(m.live, at, at+1)
	}
	m.out = slices.DeleteFunc(m.out, func(n uint64) bool { return m.acked[n] && !slices.Contains(m.live, n) })
	if rapid.Bool().Draw(t, "reset") {
		m.c.reset()
		m.out = nil
	}
}

func (m *model) ack(t *rapid.T) {
	if m.c.mixes() {
		m.ackAnyhow(t)
		return
	}
	if len(m.live) == 0 {
		return
	}
	n := rapid.IntRange(1, len(m.live)).Draw(t, "n")
	backward := rapid.Bool().Draw(t, "backward")
	for handed := 0; handed < n; { // Next hands out what is acknowledged then
		recs, err := m.c.Next(t.Context(), make([]Record, 0, n-handed))
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		for _, r := range recs {
			if got := binary.BigEndian.Uint64(r.Data); got != m.live[handed] {
				t.Fatalf("cursor hands out %d, want %d", got, m.live[handed])
			}
			handed++
		}
		if backward {
			slices.Reverse(recs)
		}
		for _, r := range recs {
			m.c.Ack(r.Seq)
		}
	}
	for _, v := range m.live[:n] {
		m.acked[v] = true
		delete(m.safe, v)
	}
	m.tail = append(m.tail, m.live[:n]...)
	m.live = m.live[n:]
}

// rewind is a hub that went back behind one of the tail, or, where the order is not the
// log's, nobody knows behind what. Everything acknowledged behind that is there again, or
// it is no longer kept.
func (m *model) rewind(t *rapid.T) {
	k, to := 0, uint64(0)
	if !m.c.mixes() {
		if len(m.tail) == 0 {
			return
		}
		k = rapid.IntRange(0, len(m.tail)-1).Draw(t, "k")
		to = m.seq[m.tail[k]] - 1
	}
	m.mendDisk() // while it is broken the tail may not be had
	m.c.rewind(to)
	got := m.present()
	there := map[uint64]bool{}
	for i, n := range got {
		there[n] = true
		if i > 0 && n <= got[i-1] {
			t.Fatalf("%d after %d", n, got[i-1])
		}
		if _, waits := slices.BinarySearch(m.live, n); !waits && (!m.acked[n] || m.seq[n] <= to) {
			t.Fatalf("%d came back, acknowledged %v, at %d behind %d", n, m.acked[n], m.seq[n], to)
		}
	}
	must := m.live
	if m.ret.GraceBytes > 1<<20 {
		must = slices.Concat(must, m.tail[k:])
	}
	for _, n := range must {
		if !there[n] {
			t.Fatalf("%d is gone", n)
		}
	}
	m.live, m.tail, m.out = got, slices.Clone(m.tail[:k]), nil
}

// fold lets the journal go into the engine soon.
func (m *model) fold(*rapid.T) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	m.s.foldNow()
}

func (m *model) reopen(t *rapid.T) {
	m.mendDisk()
	if err := m.s.Close(); err != nil {
		t.Fatal(err)
	}
	m.open()
	m.l.settleDoubt(false)
	for _, n := range m.live {
		m.safe[n] = true
	}
	m.dropOldest()
	if !m.ret.GraceOnDisk || m.c.mixes() {
		m.tail = nil
	}
}

// crash goes on with a copy of the files as they are, as if the process had died.
func (m *model) crash(t *rapid.T) {
	m.mendDisk()
	old := m.dir
	m.dir = filepath.Join(filepath.Dir(old), filepath.Base(old)+"x")
	m.gate.Lock()
	err := os.CopyFS(m.dir, os.DirFS(old))
	m.gate.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.s.Close(); err != nil {
		t.Fatal(err)
	}
	m.open()
	got := m.present()
	must := slices.DeleteFunc(slices.Clone(m.live), func(n uint64) bool { return !m.safe[n] })
	// What was acknowledged and came back leaves less room, unless the log knows that it
	// was handed out before older ones.
	room := len(must)
	if m.ret.Full == DropOldest && !m.l.scatter {
		for _, n := range got {
			if m.acked[n] || m.dropped[n] {
				room--
			}
		}
		for len(must) > max(room, 0) && (len(got) == 0 || must[0] < got[0]) {
			must = must[1:]
		}
	}
	var live []uint64
	for _, n := range got {
		if n >= m.next {
			t.Fatalf("%d was never appended", n)
		}
		if len(live) > 0 && n <= live[len(live)-1] {
			t.Fatalf("%d after %d", n, live[len(live)-1])
		}
		live = append(live, n)
		if len(must) > 0 && must[0] == n {
			must = must[1:]
		} else if !m.acked[n] && !m.dropped[n] && len(must) > 0 {
			t.Fatalf("%d stands before %d, which was safe", n, must[0])
		}
	}
	if len(must) > 0 {
		t.Fatalf("%d safe records are gone, the first is %d", len(must), must[0])
	}
	m.live, m.tail = live, nil
	for _, n := range m.live {
		m.safe[n] = true
	}
	m.l.settleDoubt(false)
	m.dropOldest()
}

func (m *model) check(t *rapid.T) {
	got := m.present()
	if len(got) != len(m.live) {
		t.Fatalf("log holds %d records, want %d", len(got), len(m.live))
	}
	for i, n := range got {
		if n != m.live[i] {
			t.Fatalf("record %d is %d, want %d", i, n, m.live[i])
		}
	}
	if st := m.l.Stats(); st.Msgs != int64(len(m.live)) {
		t.Fatalf("stats say %d messages, there are %d", st.Msgs, len(m.live))
	}
}

// A fold that only removes records ends a generation without a write to the journal.
// The next open took the generation from the journal alone, went back behind that
// fold, and what it wrote then was passed over by the replay after a crash: safe
// records were lost. Found by TestLogAgainstModel.
func TestGenerationsNeverGoBack(t *testing.T) {
	dir, foldAfter := t.TempDir(), time.Millisecond
	var s *Store
	var l *Log
	open := func() {
		var err error
		if s, err = Open(dir, Options{JournalBytes: 256 << 10, FoldAfter: foldAfter}); err != nil {
			t.Fatal(err)
		}
		if l, err = s.Log("a", Retention{Keep: UntilAcked}); err != nil {
			t.Fatal(err)
		}
	}
	appendSafely := func() {
		if _, err := l.Append(&msg.Msg{Subject: []byte("a")}); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		s.Barrier(func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	ackAll := func() {
		c, err := l.Cursor("hub", CursorConfig{})
		if err != nil {
			t.Fatal(err)
		}
		recs, err := c.Next(t.Context(), make([]Record, 0, 10))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range recs {
			c.Ack(r.Seq)
		}
	}
	crash := func() {
		old := s
		dir = killed(t, dir)
		old.Close()
		open()
	}
	open()
	appendSafely()
	testkit.Eventually(t, func() bool { return s.Stats().Folds == 1 }, "the record folded")
	ackAll()
	s.Close() // folds its removal, and nothing else
	foldAfter = time.Hour
	open()
	appendSafely()
	crash()
	defer s.Close()
	if n := l.Stats().Msgs; n != 1 {
		t.Fatalf("%d records after the crash, want the one that was safe", n)
	}
}

// setBack adds hubs that go back to the actions, as make soak does. TestForwarderSendsAgainWhatTheHubLost
// and the tests of tail_test.go are about these alone.
var setBack = flag.Bool("setback", false, "the model's hub goes back now and then")

func TestLogAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		m := &model{
			t: rt, dir: filepath.Join(dir, "s"), acked: map[uint64]bool{}, dropped: map[uint64]bool{}, safe: map[uint64]bool{}, seq: map[uint64]uint64{},
			fault: map[string]*fault{},
			order: rapid.SampledFrom([]CursorConfig{{}, {Newest: true}, {LiveShare: 30}, {LiveShare: 100}}).Draw(rt, "order"),
			ret: Retention{
				Keep: UntilAcked, Full: Refuse, MaxBytes: 64 << 20, Grace: time.Hour,
				GraceBytes:  rapid.SampledFrom([]int64{16 << 10, 64 << 20}).Draw(rt, "grace bytes"),
				GraceOnDisk: rapid.Bool().Draw(rt, "grace on disk"),
			},
		}
		if !*setBack && rapid.Bool().Draw(rt, "small") { // what a hub gives back is over the bound for a while
			m.ret.Full, m.ret.MaxMsgs = DropOldest, 60
		}
		for _, kind := range []string{"write", "sync", "fold", "folded"} {
			m.fault[kind] = &fault{kind: kind, err: syscall.EIO}
		}
		m.open()
		defer func() { m.s.Close(); os.RemoveAll(dir) }()
		actions := map[string]func(*rapid.T){
			"append": m.append, "append more": m.append, "barrier": m.barrier, "ack": m.ack, "fold": m.fold, "break": m.breakDisk,
			"reopen": m.reopen, "crash": m.crash, "take": m.takeFiles, "": m.check,
		}
		if *setBack {
			actions["rewind"] = m.rewind
		}
		rt.Repeat(actions)
	})
}
