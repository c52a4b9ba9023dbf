package storefwd

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// fakeClock is a machine's clock that a test sets.
type fakeClock struct {
	now     func() time.Time // in place of wall
	wall    time.Time
	boot    time.Duration
	id      string
	trusted bool
}

func (c *fakeClock) Now() time.Time {
	if c.now != nil {
		return c.now()
	}
	return c.wall
}
func (c *fakeClock) Boot() time.Duration { return c.boot }
func (c *fakeClock) BootID() string      { return c.id }
func (c *fakeClock) Trusted() bool       { return c.trusted }

// What the machine slept counts at once: nothing that became too old meanwhile is sent, and nothing that comes
// then is as old. That the wall clock was set counts for nothing.
func TestSleepCounts(t *testing.T) {
	asleep := time.Duration(0)
	ran := 5 * time.Second
	c := &systemClock{sinceBoot: func() time.Duration { return time.Minute + ran + asleep }}
	c.base.Store(int64(time.Minute))
	c.offset.Store(1000)
	wall := func(set time.Duration) int64 { return 1000 + int64(ran+asleep+set) }
	for _, step := range []struct{ slept, set time.Duration }{{}, {time.Hour, 0}, {time.Second * 2, 0}, {0, -time.Hour}, {0, 24 * time.Hour}, {time.Minute, -time.Hour}} {
		ran += time.Second
		asleep += step.slept
		if got := c.boot(wall(step.set), ran); got != time.Minute+ran+asleep {
			t.Errorf("%+v: %v since the boot, want %v", step, got, time.Minute+ran+asleep)
		}
	}
}

// machine is a gateway whose clock jumps about.
type machine struct {
	t     *testing.T
	rng   *rand.Rand
	dir   string
	truth time.Time // what the time really is
	clk   *fakeClock
	right bool // the clock was right in this run
	s     *Store
	l     *Log
	c     *Cursor

	born              map[string]time.Time     // when each message id was really taken
	life              map[string]time.Duration // how long it may live
	jumps, gone, sent int
}

const machineMaxAge = 48 * time.Hour

func (m *machine) open() {
	var err error
	if m.s, err = Open(m.dir, Options{Node: "n", JournalBytes: 256 << 10, CommitInterval: time.Hour, FoldAfter: time.Hour, Clock: m.clk}); err != nil {
		m.t.Fatal(err)
	}
	if m.l, err = m.s.Log("OUT/a", Retention{Keep: UntilAcked, MaxAge: machineMaxAge}); err != nil {
		m.t.Fatal(err)
	}
	if m.c, err = m.l.Cursor("hub", CursorConfig{Ahead: true, MaxPending: 1000}); err != nil {
		m.t.Fatal(err)
	}
	m.right = m.clk.trusted
}

// onCommitter runs fn as the committer does its work: where no clock is being read, nor a file.
func onCommitter(s *Store, fn func()) {
	done := make(chan struct{})
	s.asks <- func() { fn(); close(done) }
	<-done
}

// onCommitter has the clock looked at, too.
func (m *machine) onCommitter(fn func()) {
	onCommitter(m.s, func() {
		fn()
		m.s.mu.Lock()
		m.s.lookAt = 0
		m.s.mu.Unlock()
		m.s.watchClock()
	})
}

func (m *machine) pass(d time.Duration) {
	m.truth = m.truth.Add(d)
	m.onCommitter(func() { m.clk.wall, m.clk.boot = m.clk.wall.Add(d), m.clk.boot+d })
}

// somewhere is a wall clock as a machine without a battery may have it.
func (m *machine) somewhere() time.Time {
	m.jumps++
	switch m.rng.IntN(5) {
	case 0:
		return time.Unix(m.rng.Int64N(1000), 0) // 1970
	case 1:
		return m.truth.AddDate(20, 0, 0)
	case 2:
		return m.truth.Add(-time.Hour)
	case 3:
		return m.clk.wall // saved at the shutdown
	}
	return m.truth.Add(time.Duration(m.rng.Int64N(int64(2000*time.Hour))) - 1000*time.Hour)
}

func (m *machine) append() {
	ttl := time.Duration(m.rng.IntN(3)) * 10 * time.Hour
	seq, err := m.l.Append(&msg.Msg{Subject: []byte("a"), Data: []byte("x"), Expiry: ttl})
	if err != nil {
		m.t.Fatal(err)
	}
	id := fmt.Sprint(m.s.Epoch(), ".", seq)
	if _, twice := m.born[id]; twice {
		m.t.Fatalf("id %s is there twice", id)
	}
	m.born[id], m.life[id] = m.truth, machineMaxAge
	if ttl > 0 {
		m.life[id] = min(ttl, machineMaxAge)
	}
}

// drain reads all there is. What is neither there nor was sent before has expired.
func (m *machine) drain(acks bool) {
	there := map[string]bool{}
	for {
		w, err := m.c.want() // as Next does, without waiting
		if err != nil {
			m.t.Fatal(err)
		}
		if w.From > w.To {
			break
		}
		recs, err := m.l.read(make([]Record, 0, min(w.room, 64)), w.From, w.To, readBytes)
		if err != nil {
			m.t.Fatal(err)
		}
		recs = m.c.handOut(recs, 0, w)
		for _, r := range recs {
			id := fmt.Sprint(r.Epoch, ".", r.Seq)
			there[id] = true
			if acks {
				m.c.Ack(r.Seq)
				delete(m.born, id)
				m.sent++
			}
		}
	}
	for id, born := range m.born {
		if there[id] {
			continue
		}
		if age := m.truth.Sub(born); age < m.life[id]-2*time.Second {
			m.t.Fatalf("%s expired at the age of %v, it had %v", id, age, m.life[id])
		}
		m.gone++
		delete(m.born, id)
	}
	if !acks {
		m.c.reset()
	}
}

func (m *machine) step() {
	switch m.rng.IntN(12) {
	case 0, 1, 2, 3:
		m.append()
	case 4, 5:
		m.pass(time.Duration(m.rng.Int64N(int64(20 * time.Hour))))
	case 6: // set by hand, or by a program that nobody vouches for
		m.onCommitter(func() { m.clk.wall, m.clk.trusted = m.somewhere(), false })
	case 7: // the network is there
		m.onCommitter(func() { m.clk.wall, m.clk.trusted = m.truth, true })
		m.right = true
	case 8: // its server is mad
		if m.right {
			m.jumps++
			m.onCommitter(func() { m.clk.wall, m.clk.trusted = m.truth.AddDate(20, 0, 0).Add(-time.Hour), true })
		}
	case 9:
		m.drain(m.rng.IntN(2) == 0)
	case 10: // restart of leafd
		m.s.Close()
		m.clk.trusted = m.clk.trusted && m.clk.wall.Equal(m.truth)
		m.open()
	case 11: // power cut, or a reboot
		if m.rng.IntN(2) == 0 {
			done := make(chan error, 1)
			m.s.Barrier(func(err error) { done <- err })
			<-done
			to := m.dir + "x"
			if err := os.CopyFS(to, os.DirFS(m.dir)); err != nil {
				m.t.Fatal(err)
			}
			m.s.Close()
			m.dir = to
		} else {
			m.s.Close()
		}
		m.truth = m.truth.Add(time.Duration(m.rng.Int64N(int64(30 * time.Hour))))
		m.clk = &fakeClock{id: fmt.Sprint("boot", m.rng.Int64()), wall: m.somewhere(), boot: time.Second}
		if m.rng.IntN(3) == 0 {
			m.clk.wall, m.clk.trusted = m.truth, true
		}
		m.open()
	}
}

// Ids never collide and nothing expires before its time, whatever the wall clock says.
func TestClockJumps(t *testing.T) {
	rounds, steps := 8, 150
	if testing.Short() {
		rounds = 2
	}
	var jumps, gone, sent int
	for round := range rounds {
		m := &machine{
			t: t, rng: rand.New(rand.NewPCG(1, uint64(round))), dir: filepath.Join(t.TempDir(), "s"),
			truth: time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC), born: map[string]time.Time{}, life: map[string]time.Duration{},
		}
		m.clk = &fakeClock{id: "boot", wall: time.Unix(100, 0), boot: time.Minute}
		m.open()
		for range steps {
			m.step()
		}
		m.drain(true)
		m.s.Close()
		jumps, gone, sent = jumps+m.jumps, gone+m.gone, sent+m.sent
	}
	if gone == 0 || sent == 0 {
		t.Errorf("%d expired and %d sent: the test shows nothing", gone, sent)
	}
	t.Logf("jumps tried %d, ids that collided 0, expired %d, of these too early 0, sent %d", jumps, gone, sent)
}

// What this boot took grows old though nobody knows what time it is.
func TestAgeNeedsNoWallClock(t *testing.T) {
	m := &machine{t: t, dir: t.TempDir(), clk: &fakeClock{id: "one", wall: time.Unix(50, 0)}, born: map[string]time.Time{}, life: map[string]time.Duration{}, rng: rand.New(rand.NewPCG(1, 1))}
	m.open()
	defer func() { m.s.Close() }()
	m.append()
	m.pass(machineMaxAge - time.Minute)
	if st := m.l.Stats(); st.Msgs != 1 {
		t.Fatalf("%+v", st)
	}
	m.onCommitter(func() { m.clk.wall = m.clk.wall.AddDate(20, 0, 0) })
	if st := m.l.Stats(); st.Msgs != 1 {
		t.Fatalf("a step of the wall clock made it old: %+v", st)
	}
	m.pass(2 * time.Minute)
	if st := m.l.Stats(); st.Msgs != 0 || st.Lost[LostExpired.String()] != 1 {
		t.Fatalf("%+v", st)
	}
}

// What an earlier boot took is older than this boot, if no more is known.
func TestAgeOfAnEarlierBoot(t *testing.T) {
	m := &machine{t: t, dir: t.TempDir(), clk: &fakeClock{id: "one", wall: time.Unix(50, 0)}, born: map[string]time.Time{}, life: map[string]time.Duration{}, rng: rand.New(rand.NewPCG(1, 1))}
	m.open()
	m.append()
	if err := m.s.Close(); err != nil {
		t.Fatal(err)
	}
	m.clk = &fakeClock{id: "two", wall: time.Unix(50, 0), boot: time.Hour}
	m.open()
	defer func() { m.s.Close() }()
	if st := m.l.Stats(); st.Msgs != 1 || st.OldestAge != time.Hour || !st.OlderStill {
		t.Errorf("%+v", st)
	}
	m.append()
	m.l.Drop(1)
	m.pass(time.Minute)
	if st := m.l.Stats(); st.Msgs != 1 || st.OldestAge != time.Minute || st.OlderStill {
		t.Errorf("%+v", st)
	}
}

// lateClock knows the time once it was told.
type lateClock struct {
	Clock
	told atomic.Bool
}

func (c *lateClock) Trusted() bool { return c.told.Load() }

// A gateway that nobody sends to learns what the time is, too.
func TestTimeIsLearntAtRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clk := &lateClock{Clock: SystemClock("always")}
		dir := t.TempDir()
		s, err := Open(dir, Options{Node: "n", Clock: clk})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		<-time.After(time.Minute)
		clk.told.Store(true)
		<-time.After(2 * clockLook)
		m, _, err := readMeta(dir, "n", nil)
		if err != nil || m.Runs[len(m.Runs)-1].Wall == 0 {
			t.Errorf("%v, %+v", err, m.Runs)
		}
	})
}

func TestDatesOfRecords(t *testing.T) {
	dir := t.TempDir()
	clk := &fakeClock{id: "one", wall: time.Unix(50, 0), boot: 10 * time.Second}
	m := &machine{t: t, dir: dir, clk: clk}
	m.open()
	if _, err := m.l.Append(&msg.Msg{Subject: []byte("a"), Header: []byte("NATS/1.0\r\nNats-TTL: 1h\r\n\r\n")}); err != nil {
		t.Fatal(err)
	}
	header := func() string {
		recs, err := m.l.Read(nil, 0)
		if err != nil || len(recs) != 1 {
			t.Fatal(recs, err)
		}
		f := &Forwarder{origin: []byte("n")}
		return string(f.appendHeader(nil, &recs[0]))
	}
	if h := header(); strings.Contains(h, "Leafd-Time") || !strings.Contains(h, "Nats-TTL: 3600\r\n") {
		t.Errorf("at once: %q", h)
	}
	m.pass(time.Minute)
	if h := header(); !strings.Contains(h, "Leafd-Time-Uncertain: true\r\n") || !strings.Contains(h, "Nats-TTL: 3540\r\n") {
		t.Errorf("before the time is known: %q", h)
	}
	m.onCommitter(func() { clk.wall, clk.trusted = time.Date(2027, 1, 1, 0, 2, 0, 0, time.UTC), true })
	if h := header(); !strings.Contains(h, "Leafd-Time: 2027-01-01T00:01:00Z\r\n") || !strings.Contains(h, "Nats-TTL: 3540\r\n") || strings.Count(h, "TTL") != 1 {
		t.Errorf("once it is: %q", h)
	}
	m.s.Close()
	m.clk = &fakeClock{id: "two", wall: time.Unix(60, 0), boot: time.Second}
	m.open()
	if h := header(); !strings.Contains(h, "Leafd-Time: 2027-01-01T00:01:00Z\r\n") {
		t.Errorf("in the next boot: %q", h)
	}
	m.onCommitter(func() { m.clk.wall, m.clk.trusted = time.Date(2027, 1, 1, 0, 31, 0, 0, time.UTC), true })
	m.pass(0)
	if h := header(); !strings.Contains(h, "Nats-TTL: 1800\r\n") {
		t.Errorf("half an hour later: %q", h)
	}
	m.s.Close()
}
