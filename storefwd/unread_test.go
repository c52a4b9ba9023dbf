package storefwd

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// What is here cannot be read for once, which says nothing of what is there.

// unread lets one read fail, when left is down to it: of one record if seq is set, else of any.
type unread struct {
	engine
	seq  uint64
	left *atomic.Int64
}

func (e unread) Read(log uint32, from, to uint64, fn func(uint64, []byte) bool) error {
	if (e.seq == 0 || from == e.seq && to == e.seq) && e.left.Add(-1) == 0 {
		return syscall.EIO
	}
	return e.engine.Read(log, from, to, fn)
}

// openUnread opens a store that reads as left says.
func openUnread(t *testing.T, dir string, seq uint64, left *atomic.Int64) *Store {
	t.Helper()
	o := Options{Node: "n", FoldAfter: time.Hour}
	o.faults.engine = func(e engine) engine { return unread{e, seq, left} }
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// awaitReadable returns once the store was looked into and nothing is left to be dropped.
func awaitReadable(t *testing.T, s *Store) {
	t.Helper()
	testkit.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.readable && s.suspected == nil && s.salvaging == nil && !s.dropping
	}, "store.db can be read again")
}

// held is how many records can be read.
func held(t *testing.T, l *Log) (n int) {
	t.Helper()
	for from := uint64(0); ; {
		recs, err := l.Read(nil, from)
		if err != nil {
			t.Fatal(err)
		}
		if len(recs) == 0 {
			return n
		}
		n += len(recs)
		from = recs[len(recs)-1].Seq + 1
	}
}

// A backlog that has to be dropped for a bound is not passed over.
func TestUnreadWhileDropping(t *testing.T) {
	dir := t.TempDir()
	s, l, _ := tailLog(t, dir, Retention{GapSubject: "gap"})
	appendN(t, l, 1000)
	s.Close()
	s, l, _ = tailLog(t, dir, Retention{GapSubject: "gap"})
	appendN(t, l, 10) // in the journal
	waitSafe(t, s)
	d := killed(t, dir)
	s.Close()
	var left atomic.Int64
	s = openUnread(t, d, 0, &left)
	left.Store(1)
	l, err := s.Log("OUT/a", Retention{Keep: UntilAcked, MaxMsgs: 300, GapSubject: "gap"})
	if err != nil {
		t.Fatal(err)
	}
	awaitReadable(t, s)
	if n, st := held(t, l), l.Stats(); n != 300 || st.Msgs != 300 || st.Lost["oldest_dropped"] != 710 {
		t.Errorf("%d can be read, the accounts say %d, lost %v; want 300, and 710 dropped", n, st.Msgs, st.Lost)
	}
}

// The same while it runs: the next one that has to go for a large one cannot be read.
func TestUnreadWhileFull(t *testing.T) {
	dir := t.TempDir()
	s, l, _ := tailLog(t, dir, Retention{GapSubject: "gap"})
	appendN(t, l, 1000)
	s.Close()
	var left atomic.Int64
	s = openUnread(t, dir, 0, &left)
	l, err := s.Log("OUT/a", Retention{Keep: UntilAcked, MaxBytes: 45000, GapSubject: "gap"})
	if err != nil {
		t.Fatal(err)
	}
	for few := false; !few; {
		s.mu.Lock()
		if few = l.oldest.len() >= 1 && l.oldest.len() <= 8; few {
			left.Store(1)
		}
		s.mu.Unlock()
		if _, err := l.Append(&msg.Msg{Subject: []byte("a"), Data: make([]byte, 400)}); err != nil {
			t.Fatal(err)
		}
	}
	waitSafe(t, s)
	awaitReadable(t, s)
	if n, st := held(t, l), l.Stats(); n != int(st.Msgs) || left.Load() > 0 {
		t.Errorf("%d can be read, the accounts say %d, lost %v", n, st.Msgs, st.Lost)
	}
}

// unreadForwarder has five messages in store.db, which the hub has, too: their acknowledgements were lost.
func unreadForwarder(t *testing.T, o Options) (*Store, *Forwarder, *fakeHub) {
	t.Helper()
	dir, h := t.TempDir(), &fakeHub{takes: []string{"a.>"}}
	s, _ := openWith(t, dir, "a.1", "a.2", "a.3", "a.4", "a.5")
	epoch := s.Epoch()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= 5; seq++ {
		h.stored = append(h.stored, fakeMsg{subject: fmt.Sprint("a.", seq), id: string(appendID(nil, []byte("n/c"), epoch, seq))})
	}
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	l, err := s.Log("OUT/c", Retention{Keep: UntilAcked, Grace: time.Hour, GraceBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c", RetryMin: 1, RetryMax: 1, AckTimeout: 100 * time.Millisecond})
	h.f = f
	return s, f, h
}

// What the hub is found to have is acknowledged, as soon as that can be read here.
func TestUnreadInResume(t *testing.T) {
	var left atomic.Int64
	left.Store(1)
	o := Options{Node: "n"}
	o.faults.engine = func(e engine) engine { return unread{e, 3, &left} }
	_, f, h := unreadForwarder(t, o)
	drain(t, f, h)
	wantSubjects(t, h, "a.1", "a.2", "a.3", "a.4", "a.5")
}

// slowLook takes its time to look through all of store.db.
type slowLook struct {
	engine
	looked chan struct{} // a look has to wait for it
}

func (e slowLook) Read(log uint32, from, to uint64, fn func(uint64, []byte) bool) error {
	if from == 0 {
		<-e.looked
	}
	return e.engine.Read(log, from, to, fn)
}

// suspecting meets a read that fails, of somebody else, when the stream is asked where it stands;
// when it is asked again that was looked into.
type suspecting struct {
	*fakeHub
	s      *Store
	once   sync.Once
	asked  atomic.Int64
	looked chan struct{}
}

func (h *suspecting) Send(m *msg.Msg) error {
	if strings.Contains(string(m.Subject), "STREAM.INFO") {
		h.once.Do(func() {
			h.s.mu.Lock()
			h.s.suspect(syscall.EIO)
			h.s.mu.Unlock()
		})
	}
	if strings.Contains(string(m.Subject), "STREAM.MSG.GET") && h.asked.Add(1) == 2 { // the whole of it was read
		time.AfterFunc(50*time.Millisecond, func() { close(h.looked) })
	}
	return h.fakeHub.Send(m)
}

func TestLookedIntoWhileResuming(t *testing.T) {
	looked := make(chan struct{})
	o := Options{Node: "n"}
	o.faults.engine = func(e engine) engine { return slowLook{e, looked} }
	s, f, h := unreadForwarder(t, o)
	f.up = &suspecting{fakeHub: h, s: s, looked: looked}
	drain(t, f, h)
	wantSubjects(t, h, "a.1", "a.2", "a.3", "a.4", "a.5")
}

// late is an engine of which one read comes when a fresh file has just taken the place of a damaged one.
type late struct {
	engine
	armed, bad            atomic.Bool
	began, reopened, read chan struct{}
	once                  sync.Once
}

func (e *late) Read(log uint32, from, to uint64, fn func(uint64, []byte) bool) error {
	if e.armed.CompareAndSwap(true, false) {
		close(e.began)
		<-e.reopened
		defer close(e.read)
	} else if e.bad.Load() {
		return ErrDamaged
	}
	return e.engine.Read(log, from, to, fn)
}

func (e *late) Open() (int64, error) {
	n, err := e.engine.Open()
	if e.bad.Load() {
		if st, _, err := e.engine.Load(); err == nil && len(st) == 0 { // the fresh one
			e.bad.Store(false)
			e.once.Do(func() { close(e.reopened); <-e.read })
		}
	}
	return n, err
}

func TestReaderMeetsTheFreshFile(t *testing.T) {
	dir := t.TempDir()
	s, l, _ := tailLog(t, dir, Retention{GapSubject: "gap"})
	appendN(t, l, 1000)
	s.Close()
	e := &late{began: make(chan struct{}), reopened: make(chan struct{}), read: make(chan struct{})}
	o := Options{Node: "n", FoldAfter: time.Hour}
	o.faults.engine = func(en engine) engine { e.engine = en; return e }
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err = s.Log("OUT/a", Retention{Keep: UntilAcked, GapSubject: "gap"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Cursor("hub", CursorConfig{Ahead: true, MaxPending: 2000})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got := make(chan int, 1)
	e.armed.Store(true)
	go func() {
		n := 0
		for n < 1000 {
			recs, err := c.Next(ctx, make([]Record, 0, 100))
			if err != nil {
				break
			}
			n += len(recs)
		}
		got <- n
	}()
	<-e.began
	e.bad.Store(true)
	s.mu.Lock()
	s.suspect(ErrDamaged) // somebody else's read found damage
	s.mu.Unlock()
	if n := <-got; n != 1000 {
		t.Errorf("%d of 1000 were handed out; %+v", n, l.Stats())
	}
}

// Accounts are of what is handed out again, or nothing is.
func TestUnreadInRewind(t *testing.T) {
	var left atomic.Int64
	s := openUnread(t, t.TempDir(), 0, &left)
	l, err := s.Log("OUT/a", Retention{Keep: UntilAcked, Grace: time.Hour, GraceBytes: 1 << 20, GraceOnDisk: true, GapSubject: "gap"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Cursor("hub", CursorConfig{Ahead: true, MaxPending: 1000})
	if err != nil {
		t.Fatal(err)
	}
	appendN(t, l, 50)
	waitSafe(t, s)
	ackAll(t, c, 50)
	foldAll(t, s)
	left.Store(1)
	if _, err := c.rewind(0); err == nil {
		t.Error("taken back, and not counted")
	}
	awaitReadable(t, s)
	if missing, err := c.rewind(0); err != nil || missing.n != 0 {
		t.Errorf("%v, missing %+v", err, missing)
	}
	ackAll(t, c, 50)
	if st := l.Stats(); st.Msgs != 0 || st.Bytes != 0 || st.Acked != 50 {
		t.Errorf("all are acknowledged; the accounts say %+v", st)
	}
}

// What a marker declares that the stream does not take is declared again.
func TestUnreadMarkerIsNotForgotten(t *testing.T) {
	var left atomic.Int64
	s := openUnread(t, t.TempDir(), 0, &left)
	l, err := s.Log("OUT/a", Retention{Keep: UntilAcked, MaxMsgs: 10, GapSubject: "gap"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Cursor("hub", CursorConfig{Ahead: true, MaxPending: 1000})
	if err != nil {
		t.Fatal(err)
	}
	l.settleDoubt(false)
	appendN(t, l, 12)
	waitSafe(t, s)
	l.setLive(true, time.Hour)
	seqs := take(t, c, 11) // the last is the marker
	for _, seq := range seqs[:10] {
		c.Ack(seq)
	}
	foldAll(t, s)
	left.Store(1)
	for range 2 { // the second time it can be read
		c.lose(seqs[10], LostRejected)
		awaitReadable(t, s)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := l.gaps["oldest_dropped"]; g.Count != 2 {
		t.Errorf("%+v is to be declared, want the two that were dropped", l.gaps)
	}
}
