package storefwd

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// coreHub is an Uplink to a hub without streams. What was offered arrives at once; it
// answers PINGs when it is flushed, unless it is silent.
type coreHub struct {
	mu      sync.Mutex
	conn    *coreConn
	down    chan struct{}
	arrived []string
	silent  bool
	wants   func(subject string) bool
	refuses func(subject string) error
	doubts  []error // answers to PINGs that stand for something, first to last; then nil
	most    int     // PINGs under way
}

// coreConn is one connection, and the Handover of all that use it.
type coreConn struct {
	hub     *coreHub
	changed chan struct{}

	// Guarded by hub.mu.
	offered int // since the last PING
	pings   []corePing
	lost    bool
}

type corePing struct {
	offered  int
	answered func(error)
}

func newCoreHub() *coreHub {
	h := &coreHub{wants: func(string) bool { return true }}
	h.connect()
	return h
}

func (h *coreHub) connect() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn != nil {
		h.conn.lost = true
		close(h.down)
	}
	h.conn, h.down = &coreConn{hub: h, changed: make(chan struct{}, 1)}, make(chan struct{})
}

func (h *coreHub) Send(*msg.Msg) error  { return errors.New("not over a Handover") }
func (h *coreHub) Hub() (string, int)   { return "", 1 << 20 }
func (h *coreHub) Hears(string) bool    { return false }
func (h *coreHub) Delay() time.Duration { return 0 }
func (h *coreHub) Up() <-chan struct{}  { c := make(chan struct{}); close(c); return c }

func (h *coreHub) Quiet() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.silent {
		return time.Hour
	}
	return 0
}

func (h *coreHub) Ping(answered func(error)) error {
	h.mu.Lock()
	conn := h.conn
	h.mu.Unlock()
	return conn.Ping(answered)
}

func (h *coreHub) Down() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.down
}

func (h *coreHub) handover([]string) (Handover, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conn, nil
}

// Flush answers the PINGs of this connection.
func (h *coreHub) Flush() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for !h.silent && len(h.conn.pings) > 0 {
		p := h.conn.pings[0]
		h.conn.pings = h.conn.pings[1:]
		var doubt error
		if p.offered > 0 && len(h.doubts) > 0 {
			doubt, h.doubts = h.doubts[0], h.doubts[1:]
		}
		h.mu.Unlock()
		p.answered(doubt)
		h.mu.Lock()
	}
}

func (h *coreHub) set(change func()) {
	h.mu.Lock()
	change()
	conn := h.conn
	h.mu.Unlock()
	select {
	case conn.changed <- struct{}{}:
	default:
	}
}

func (h *coreHub) got() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.arrived, " ")
}

func (c *coreConn) Changed() <-chan struct{} { return c.changed }
func (c *coreConn) Close()                   {}

func (c *coreConn) Wanted(subject []byte) bool {
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	return c.hub.wants(string(subject))
}

func (c *coreConn) Offer(m *msg.Msg) (wanted bool, err error) {
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	subject := string(m.Subject)
	if c.lost {
		return false, errors.New("the link is down")
	}
	if c.hub.refuses != nil {
		if err := c.hub.refuses(subject); err != nil {
			return true, err
		}
	}
	if wanted = c.hub.wants(subject); wanted {
		c.hub.arrived = append(c.hub.arrived, subject)
		c.offered++
	}
	return wanted, nil
}

func (c *coreConn) Ping(answered func(error)) error {
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	if c.lost {
		return errors.New("the link is down")
	}
	c.pings = append(c.pings, corePing{c.offered, answered})
	c.offered = 0
	c.hub.most = max(c.hub.most, len(c.pings))
	return nil
}

// byPong appends the subjects and runs a forwarder over h in a bubble for as long as
// fn takes.
func byPong(t *testing.T, h *coreHub, subjects []string, fn func(l *Log, f *Forwarder)) {
	bubbled(t, h, Retention{}, subjects, fn)
}

// bubbled does that over a hub with a stream, too, and with any outbox.
func bubbled(t *testing.T, h Uplink, r Retention, subjects []string, fn func(l *Log, f *Forwarder)) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(t.TempDir(), Options{Node: "n", Clock: SystemClock("always")})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		r.Keep = UntilAcked
		l, err := s.Log("OUT/c", r)
		if err != nil {
			t.Fatal(err)
		}
		put(t, l, subjects...)
		o := ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c"}
		core, _ := h.(*coreHub)
		if core != nil {
			core.connect() // channels of this bubble
			o.Handover = core.handover
		}
		f := NewForwarder(o)
		if h, ok := h.(*fakeHub); ok {
			if h.f = f; h.line != nil {
				defer h.lay(false)()
			}
		}
		defer start(t, f)()
		synctest.Wait()
		fn(l, f)
	})
}

func wantArrived(t *testing.T, h *coreHub, l *Log, left int64, want ...string) {
	t.Helper()
	if got := h.got(); got != strings.Join(want, " ") || l.Stats().Msgs != left {
		t.Errorf("at the hub arrived %q and %d wait, want %q and %d", got, l.Stats().Msgs, want, left)
	}
}

// later lets d pass and everything that follows from it.
func later(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

var threeSubjects = []string{"a.1", "a.2", "a.3"}

func TestFlushConfirms(t *testing.T) {
	h := newCoreHub()
	byPong(t, h, threeSubjects, func(l *Log, f *Forwarder) {
		wantArrived(t, h, l, 0, "a.1", "a.2", "a.3")
		if st := f.Stats(); st.State != Live || st.Confirm != ByFlush || st.Resume != ByNothing || st.Sent != 3 || st.Acked != 3 || st.Resent != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// A barrier behind a record that the hub confirmed in time holds, and nothing is written.
func TestFlushIsSafeWithoutAWrite(t *testing.T) {
	h := newCoreHub()
	byPong(t, h, nil, func(l *Log, _ *Forwarder) {
		before := l.s.Stats()
		safe := make(chan error, 1)
		if _, err := l.Append(&msg.Msg{Subject: []byte("a.1")}); err != nil {
			t.Fatal(err)
		}
		l.s.Barrier(func(err error) { safe <- err })
		later(time.Millisecond)
		select {
		case err := <-safe:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Error("not safe once confirmed")
		}
		later(time.Minute)
		if after := l.s.Stats(); after.Commits != before.Commits {
			t.Errorf("%d commits", after.Commits-before.Commits)
		}
	})
}

// What was sent over a connection that ended before the PONG goes again, over the next.
func TestFlushSendsAgainAfterACut(t *testing.T) {
	h := newCoreHub()
	answered := true
	h.wants = func(subject string) bool { // called with mu
		if subject == "a.2" && answered {
			h.silent, answered = true, false
		}
		return true
	}
	byPong(t, h, threeSubjects, func(l *Log, f *Forwarder) {
		wantArrived(t, h, l, 3, "a.1", "a.2", "a.3")
		h.set(func() { h.silent = false })
		old := h.conn
		h.connect()
		synctest.Wait()
		wantArrived(t, h, l, 0, "a.1", "a.2", "a.3", "a.1", "a.2", "a.3")
		if st := f.Stats(); st.Resent != 3 || st.Acked != 3 || len(old.pings) != 1 {
			t.Errorf("%+v, %d PINGs on the old connection", st, len(old.pings))
		}
	})
}

// A doubt about one PONG takes with it what was sent behind, or that would come first.
func TestFlushSendsAgainAfterADoubt(t *testing.T) {
	h := newCoreHub()
	h.doubts = []error{errors.New("the hub complained")}
	byPong(t, h, threeSubjects, func(l *Log, f *Forwarder) {
		later(time.Second)
		wantArrived(t, h, l, 0, "a.1", "a.2", "a.3", "a.1", "a.2", "a.3")
		if st := f.Stats(); st.Resent != 3 || st.Acked != 3 || !strings.Contains(st.LastError, "not confirmed: the hub complained") {
			t.Errorf("%+v", st)
		}
	})
}

// A hub that is slow to answer is asked once more, and not sent the same again: its
// late answers count.
func TestFlushWaitsForLateAnswers(t *testing.T) {
	h := newCoreHub()
	byPong(t, h, nil, func(l *Log, f *Forwarder) {
		h.set(func() { h.silent = true })
		for i := range 50 {
			if _, err := l.Append(&msg.Msg{Subject: fmt.Appendf(nil, "a.%d", i)}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		later(10 * time.Second) // past AckTimeout
		if st := f.Stats(); st.State != Resuming || h.most > mostPings+2 || len(h.arrived) != 50 {
			t.Errorf("%d PINGs under way, %d arrived, %+v", h.most, len(h.arrived), st)
		}
		h.set(func() { h.silent = false })
		h.Flush()
		later(time.Second)
		if st := f.Stats(); st.State != Live || st.Acked != 50 || st.Resent != 0 || l.Stats().Msgs != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// A message that nobody wants waits, and those behind it; what is before it is
// confirmed. It is not sent before somebody subscribes.
func TestFlushWaitsForInterest(t *testing.T) {
	h := newCoreHub()
	h.wants = func(subject string) bool { return subject != "a.2" }
	byPong(t, h, threeSubjects, func(l *Log, f *Forwarder) {
		later(time.Hour)
		wantArrived(t, h, l, 2, "a.1")
		st := f.Stats()
		if st.State != NoInterest || !strings.Contains(st.Detail, `nobody at the hub subscribes to "a.2"`) || st.InFlight != 0 {
			t.Errorf("%+v", st)
		}
		safe := make(chan error, 1)
		l.s.Barrier(func(err error) { safe <- err })
		if err := <-safe; err != nil { // on disk
			t.Error(err)
		}
		h.set(func() { h.wants = func(string) bool { return true } })
		synctest.Wait()
		wantArrived(t, h, l, 0, "a.1", "a.2", "a.3")
		if st := f.Stats(); st.State != Live || st.Detail != "" || st.Resent != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// One that was given up while it waited holds up nobody any more.
func TestFlushGoesOnBehindWhatWasDropped(t *testing.T) {
	h := newCoreHub()
	h.wants = func(subject string) bool { return subject != "a.2" }
	byPong(t, h, threeSubjects, func(l *Log, _ *Forwarder) {
		l.Drop(2)
		later(time.Minute)
		wantArrived(t, h, l, 0, "a.1", "a.3")
	})
}

// What was looked at while nobody subscribed was not sent: if it is dropped then, it is lost for
// sure, and declared. It was taken for sent, and stayed in doubt for ever.
func TestDroppedWithoutInterest(t *testing.T) {
	h := newCoreHub()
	h.wants = func(string) bool { return false }
	bubbled(t, h, Retention{MaxMsgs: 10, GapSubject: "a.gap"}, nil, func(l *Log, _ *Forwarder) {
		appendN(t, l, 10)
		for range 5 {
			later(time.Minute)
			appendN(t, l, 3)
		}
		h.set(func() { h.wants = func(string) bool { return true } })
		later(time.Hour)
		if st := l.Stats(); st.Msgs != 0 || len(st.InDoubt) > 0 || len(l.gaps) > 0 {
			t.Errorf("an hour after somebody subscribed: %+v, to be declared %+v", st, l.gaps)
		}
	})
}

// What will never pass is given up; what may not pass now is held, and said.
func TestFlushRefused(t *testing.T) {
	h := newCoreHub()
	denied := errors.New("not permitted toward the hub")
	h.refuses = func(subject string) error {
		switch subject {
		case "a.1":
			return never{}
		case "a.3":
			return denied
		}
		return nil
	}
	byPong(t, h, threeSubjects, func(l *Log, f *Forwarder) {
		later(time.Minute)
		if arrived := slices.Compact(strings.Fields(h.got())); !slices.Equal(arrived, []string{"a.2"}) {
			t.Errorf("arrived %q", arrived)
		}
		if st := f.Stats(); st.Rejected != 1 || st.LastError != denied.Error() || l.Stats().Msgs != 1 {
			t.Errorf("%+v, %d wait", st, l.Stats().Msgs)
		}
		h.set(func() { h.refuses = nil })
		later(time.Minute)
		if l.Stats().Msgs != 0 || !strings.HasSuffix(h.got(), "a.3") {
			t.Errorf("arrived %q, %d wait", h.got(), l.Stats().Msgs)
		}
	})
}
