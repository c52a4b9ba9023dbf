package storefwd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/leafd/leafd/internal/msg"
)

// conflated is what a log with Conflate must hold. Messages are numbers.
type conflated struct {
	t      *rapid.T
	dir    string
	gate   sync.RWMutex
	s      *Store
	l      *Log
	c      *Cursor
	n      uint64            // the last number
	last   map[string]uint64 // of each subject
	safe   map[string]uint64 // of these, the last behind a barrier
	acked  map[string]uint64
	handed map[string]uint64 // the last sequence handed out since the last reset, of each row that is to ascend
	order  CursorConfig
	given  uint64 // the highest ever, in this run
	out    []Record
}

func (m *conflated) open() {
	o := Options{Node: "n", JournalBytes: 256 << 10, CommitInterval: time.Hour, FoldAfter: time.Hour}
	o.faults.journal = func(f journalFile) journalFile { return gatedFile{f, &m.gate} }
	o.faults.engine = func(e engine) engine { return gatedEngine{e, &m.gate} }
	var err error
	if m.s, err = Open(m.dir, o); err != nil {
		m.t.Fatal(err)
	}
	r := Retention{Keep: UntilAcked, Conflate: true, MaxMsgs: 40, Grace: time.Hour, GraceBytes: 64 << 10}
	if m.l, err = m.s.Log("OUT/a", r); err != nil {
		m.t.Fatal(err)
	}
	cfg := m.order
	cfg.Ahead, cfg.MaxPending = true, 10
	if m.c, err = m.l.Cursor("hub", cfg); err != nil {
		m.t.Fatal(err)
	}
	m.handed, m.given, m.out = map[string]uint64{}, 0, nil
	for !m.scanned() {
		runtime.Gosched()
	}
}

func (m *conflated) scanned() bool {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	return m.l.conf.scan > m.l.conf.scanTo
}

func (m *conflated) append(t *rapid.T) {
	subjects := rapid.SampledFrom([]int{1, 3, 10}).Draw(t, "subjects")
	for range rapid.IntRange(1, 100).Draw(t, "n") {
		m.n++
		subject := fmt.Sprint("a.", int(m.n)%subjects)
		data := make([]byte, sizeOf(m.n))
		binary.BigEndian.PutUint64(data, m.n)
		msg := &msg.Msg{Subject: []byte(subject), Data: data}
		if _, err := m.l.Append(msg); err != nil {
			m.barrier(t)
			if _, err = m.l.Append(msg); err != nil {
				t.Fatal(err)
			}
		}
		m.last[subject] = m.n
	}
}

func (m *conflated) barrier(t *rapid.T) {
	done := make(chan error, 1)
	m.s.Barrier(func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for subject, n := range m.last {
		m.safe[subject] = n
	}
	_, waiting := m.present()
	for subject, n := range waiting {
		if n > 1 {
			t.Fatalf("%d of %s wait", n, subject)
		}
	}
}

func (m *conflated) take(t *rapid.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // so that Next never waits
	recs, err := m.c.Next(ctx, make([]Record, 0, 10))
	for i := 0; m.c.mixes() && len(recs) == 0 && i < 2000; i++ { // the engine is told first
		runtime.Gosched()
		recs, err = m.c.Next(ctx, recs)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	m.out = append(m.out, recs...)
	for _, r := range recs {
		row := "" // of a subject alone, if the order is not the log's
		if m.c.mixes() {
			row = string(r.Subject)
		}
		if r.Seq <= m.handed[row] {
			t.Fatalf("seq %d of %s is handed out behind %d", r.Seq, r.Subject, m.handed[row])
		}
		m.handed[row] = r.Seq
		m.given = max(m.given, r.Seq)
	}
}

func (m *conflated) ack(t *rapid.T) {
	for len(m.out) > 0 && rapid.IntRange(0, 4).Draw(t, "more") > 0 {
		i := rapid.IntRange(0, len(m.out)-1).Draw(t, "which")
		r := m.out[i]
		m.c.Ack(r.Seq)
		m.acked[string(r.Subject)] = max(m.acked[string(r.Subject)], binary.BigEndian.Uint64(r.Data))
		m.out = append(m.out[:i:i], m.out[i+1:]...)
	}
}

// reset is a session that ended: what was on its way is handed out again, if it is
// still the newest.
func (m *conflated) reset(*rapid.T) {
	m.c.reset()
	m.handed, m.out = map[string]uint64{}, nil
}

func (m *conflated) fold(*rapid.T) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	m.s.foldNow()
}

func (m *conflated) reopen(t *rapid.T) {
	if err := m.s.Close(); err != nil {
		t.Fatal(err)
	}
	m.open()
}

func (m *conflated) crash(t *rapid.T) {
	old := m.dir
	m.dir += "x"
	m.gate.Lock()
	err := os.CopyFS(m.dir, os.DirFS(old))
	m.gate.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	m.s.Close()
	m.open()
	there, _ := m.present()
	for subject, n := range m.safe {
		if there[subject] < n && m.acked[subject] < n {
			t.Fatalf("%s: %d was safe, after a crash it is %d", subject, n, there[subject])
		}
	}
	for subject := range m.last {
		m.last[subject] = max(there[subject], m.acked[subject])
		m.safe[subject] = m.last[subject]
		m.acked[subject] = min(m.acked[subject], m.last[subject])
	}
}

// present is the newest of each subject. It checks what is there against the accounts.
func (m *conflated) present() (all map[string]uint64, waiting map[string]int) {
	all, waiting = map[string]uint64{}, map[string]int{}
	from, size := uint64(0), int64(0)
	msgs := int64(0)
	for {
		recs, err := m.l.Read(nil, from)
		if err != nil {
			m.t.Fatal(err)
		}
		if len(recs) == 0 {
			break
		}
		for _, r := range recs {
			n := binary.BigEndian.Uint64(r.Data)
			if len(r.Data) != sizeOf(n) || n <= all[string(r.Subject)] {
				m.t.Fatalf("%s: %d of %d bytes behind %d", r.Subject, n, len(r.Data), all[string(r.Subject)])
			}
			all[string(r.Subject)] = n
			from, size = r.Seq+1, size+int64(r.size)
			msgs++
			if r.Seq > m.given {
				waiting[string(r.Subject)]++
			}
		}
	}
	st := m.l.Stats()
	delete(st.Lost, LostNoRoom.String()) // refused, and tried again
	if st.Msgs != msgs || st.Bytes != size || len(st.Lost) > 0 {
		m.t.Fatalf("%d messages with %d bytes are there: %+v", msgs, size, st)
	}
	return all, waiting
}

func (m *conflated) check(t *rapid.T) {
	there, _ := m.present()
	for subject, n := range m.last {
		if there[subject] != n && m.acked[subject] != n {
			t.Fatalf("%s: the last is %d, there is %d", subject, n, there[subject])
		}
	}
}

func TestConflationAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		order := rapid.SampledFrom([]CursorConfig{{}, {Newest: true, Backlog: 5}, {LiveShare: 30, Backlog: 5}}).Draw(rt, "order")
		m := &conflated{t: rt, order: order, dir: filepath.Join(dir, "s"), last: map[string]uint64{}, safe: map[string]uint64{}, acked: map[string]uint64{}}
		m.open()
		defer func() { m.s.Close(); os.RemoveAll(dir) }()
		rt.Repeat(map[string]func(*rapid.T){
			"append": m.append, "append more": m.append, "barrier": m.barrier, "take": m.take, "ack": m.ack, "reset": m.reset, "fold": m.fold,
			"reopen": m.reopen, "crash": m.crash, "": m.check,
		})
	})
}

// An older value never follows a newer one of its subject: with the newest first, that is handed
// out once it supersedes the older one.
func TestNewestFirstConflated(t *testing.T) {
	s, l, c := tailLogIn(t, t.TempDir(), Retention{Conflate: true}, CursorConfig{Ahead: true, Newest: true, Backlog: 1})
	defer s.Close()
	appendOf := func(subject string) {
		t.Helper()
		if _, err := l.Append(&msg.Msg{Subject: []byte(subject), Data: noise(1, chunkBytes)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, subject := range []string{"a", "b", "c", "d"} {
		appendOf(subject)
	}
	waitSafe(t, s)
	appendOf("a")
	got := take(t, c, 1)
	waitSafe(t, s)
	if got = append(got, take(t, c, 3)...); !slices.Equal(got, []uint64{4, 5, 3, 2}) || l.Stats().Conflated != 1 {
		t.Errorf("handed out %v of %+v; want 4 5 3 2, for 5 supersedes 1", got, l.Stats())
	}
}

// What waits to be superseded by one that is not safe itself, and is dropped for room, is written
// all the same. Its publisher was told that it is safe, and nothing was written.
func TestConflatedDroppedBeforeSafe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(t.TempDir(), Options{Node: "n", SpillAfter: time.Hour, CommitInterval: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		l, err := s.Log("OUT/c", Retention{Keep: UntilAcked, Conflate: true, MaxMsgs: 2, GapSubject: "a.gap"})
		if err != nil {
			t.Fatal(err)
		}
		l.setLive(true, time.Hour) // all waits for the hub
		put(t, l, "a.1")
		var told, written atomic.Int64
		s.Barrier(func(err error) {
			s.mu.Lock()
			written.Store(int64(l.written))
			s.mu.Unlock()
			if told.Add(1); err != nil {
				t.Error(err)
			}
		})
		put(t, l, "a.1", "a.2", "a.3")
		s.mu.Lock()
		s.unlockAndFire()
		synctest.Wait()
		if told.Load() > 0 && written.Load() == 0 {
			t.Error("the publisher of the first is told that it is safe, and nothing is written")
		}
		later(2 * time.Hour)
		if told.Load() != 1 || written.Load() == 0 {
			t.Errorf("two hours later it was told %d times, when %d were written", told.Load(), written.Load())
		}
	})
}

// Two markers have one subject, and neither says what the other does: if the hub lost the first, it
// is sent again. It was taken for superseded by the second.
func TestConflatedMarkerLost(t *testing.T) {
	once := true
	h := &fakeHub{takes: []string{">"}}
	h.lost = func(subject string) bool {
		drop := once && subject == "a.gap"
		once = once && !drop
		return drop
	}
	bubbled(t, h, Retention{Conflate: true, GapSubject: "a.gap"}, []string{"a.1"}, func(l *Log, f *Forwarder) {
		l.s.mu.Lock()
		l.lose(LostOldest, 0, 0, 1)
		l.lose(LostExpired, 0, 0, 1)
		l.s.mu.Unlock()
		later(time.Minute)
		wantSubjects(t, h, "a.1", "a.gap", "a.gap")
		if st := l.Stats(); st.Msgs != 0 || st.Last != 3 || len(l.gaps) != 0 || once {
			t.Errorf("%+v, to be declared %v, %+v", st, l.gaps, f.Stats())
		}
	})
}
