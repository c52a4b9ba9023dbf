package storefwd

import (
	"cmp"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Clock tells the time, and whether it is known. A gateway without a battery for its
// clock boots in the past and learns the time minutes later, in one step.
type Clock interface {
	Now() time.Time      // wall clock; may be wrong, and may be set
	Boot() time.Duration // since the machine booted; cannot be set
	BootID() string      // of this boot
	Trusted() bool       // the wall clock is right now
}

// SystemClock is the machine's. It trusts the wall clock once the kernel says that it
// is synchronised, unless trust is "always" or "never".
func SystemClock(trust string) Clock {
	c := &systemClock{trust: trust, start: time.Now(), sinceBoot: sinceBoot}
	if b, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		c.id = strings.TrimSpace(string(b))
	} else {
		c.id = string(appendID(nil, []byte("process"), uint64(os.Getpid()), uint64(c.start.UnixNano())))
	}
	c.base.Store(int64(sinceBoot()))
	c.offset.Store(c.start.UnixNano())
	return c
}

type systemClock struct {
	// Static.
	trust, id string
	start     time.Time
	sinceBoot func() time.Duration // a system call

	base   atomic.Int64 // time since boot at start; grows while the machine sleeps
	offset atomic.Int64 // wall clock less Go's clock since start, Unix ns, when base was looked at last
}

func (c *systemClock) Now() time.Time { return time.Now() }
func (c *systemClock) BootID() string { return c.id }

// Boot asks Go's clocks, which costs no system call. The one that cannot be set stands still while
// the machine sleeps, the wall clock does not: if that has moved, it is looked how long it was.
func (c *systemClock) Boot() time.Duration {
	now := time.Now()
	return c.boot(now.UnixNano(), now.Sub(c.start))
}

func (c *systemClock) boot(wall int64, ran time.Duration) time.Duration {
	if offset := wall - int64(ran); max(offset-c.offset.Load(), c.offset.Load()-offset) > stepFrom {
		c.offset.Store(offset)
		if b := c.sinceBoot() - ran; int64(b) > c.base.Load() {
			c.base.Store(int64(b))
		}
	}
	return time.Duration(c.base.Load()) + ran
}

func (c *systemClock) Trusted() bool {
	switch c.trust {
	case "always":
		return true
	case "never":
		return false
	}
	return synchronised() && time.Now().Year() >= 2026 // no kernel before this program knew the time
}

// run is what is known of the time in one run of the store. Records carry the time
// since boot, so that what is learnt later dates them, too, and no step of the wall
// clock changes their age.
type run struct {
	Epoch uint64 `json:"e"`
	Boot  string `json:"b"`
	Wall  int64  `json:"w,omitempty"` // wall clock less time since boot when it was last trusted, Unix ns; 0: it never was
	Late  int64  `json:"l,omitempty"` // the largest that Wall was
}

const (
	maxRuns   = 64               // older runs are forgotten: their records have no certain time and do not expire
	stepFrom  = int64(1e9)       // the wall clock was set if it moved by more, ns
	clockLook = 10 * time.Second // between looks at the clock
	clockSave = time.Minute      // between writes of what they showed
)

// startRun adds this run to those before.
func (s *Store) startRun() {
	m := &s.meta
	m.Runs = append(m.Runs[max(0, len(m.Runs)-maxRuns+1):len(m.Runs):len(m.Runs)], run{Epoch: s.epoch, Boot: s.o.Clock.BootID()})
	s.lookAtClock()
}

// lookAtClock learns what the time is. It reports whether that is news.
func (s *Store) lookAtClock() (news bool) {
	if !s.o.Clock.Trusted() {
		return false
	}
	r := &s.meta.Runs[len(s.meta.Runs)-1]
	wall := s.o.Clock.Now().UnixNano() - int64(s.o.Clock.Boot())
	if wall <= 0 || r.Wall != 0 && max(wall-r.Wall, r.Wall-wall) <= stepFrom {
		return false
	}
	if r.Wall == 0 || wall < s.early {
		s.early = wall
	}
	r.Wall, r.Late = wall, max(r.Late, wall)
	return true
}

// watchClock is the committer's: it looks now and then, and makes news durable.
func (s *Store) watchClock() {
	s.mu.Lock()
	now := s.mono()
	if now >= s.lookAt {
		s.lookAt = now + int64(clockLook)
		if s.lookAtClock() {
			s.metaNews = true
		}
	}
	due := s.metaNews && now >= s.saveAt && s.metaOK && s.failed == nil
	if due {
		s.metaNews, s.saveAt = false, now+int64(clockSave)
	}
	m := s.meta
	m.Runs = slices.Clone(m.Runs)
	s.dropping = false
	for _, l := range s.logs {
		if l.dropOld() {
			s.dropping = true
		}
		l.declare(now)
	}
	s.unlockAndFire()
	if !due {
		return
	}
	n, err := m.write(s.path(metaFile))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.MetaBytes += int64(n)
	if err != nil { // the old file is there; the disk's other troubles say what is wrong
		s.metaNews = true
	}
}

// clockDue is when watchClock has something to do, by mono.
func (s *Store) clockDue(at int64) int64 {
	if s.dropping {
		return s.mono()
	}
	if s.thisRun().Wall == 0 || s.metaNews {
		at = min(at, max(s.lookAt, s.mono()+int64(clockLook)))
	}
	for _, l := range s.logs {
		at = min(at, l.gapDue())
		if l.ret.MaxAge == 0 || l.msgs == 0 {
			continue
		}
		if o, ok := l.head(); ok {
			age, _ := s.age(o.stamp)
			at = min(at, s.mono()+max(int64(l.ret.MaxAge-age), int64(time.Second)))
		}
	}
	return at
}

func (s *Store) thisRun() *run { return &s.meta.Runs[len(s.meta.Runs)-1] }

// stamp is when a record was taken, as its bytes say.
type stamp struct {
	epoch uint64
	at    int64 // ns: since boot, or Unix time in records of before there was that
	boot  bool
}

// runOf finds what is known of a run; wall is that of any run of the same boot that
// learnt the time.
func (s *Store) runOf(epoch uint64) (r run, ok bool) {
	i, ok := slices.BinarySearchFunc(s.meta.Runs, epoch, func(r run, e uint64) int { return cmp.Compare(r.Epoch, e) })
	if !ok {
		return r, false
	}
	r = s.meta.Runs[i]
	for _, o := range s.meta.Runs {
		if o.Boot == r.Boot && o.Wall != 0 {
			r.Late = max(r.Late, o.Late)
			if r.Wall == 0 {
				r.Wall = o.Wall
			}
		}
	}
	return r, true
}

// date is the time of a stamp, if it is known.
func (s *Store) date(st stamp) (time.Time, bool) {
	if !st.boot {
		return time.Unix(0, st.at), true
	}
	if r, ok := s.runOf(st.epoch); ok && r.Wall != 0 {
		return time.Unix(0, r.Wall+st.at), true
	}
	return time.Time{}, false
}

// age is how old a stamp is at least. Within one boot no wall clock is needed for that.
// ok is false for what an earlier boot took, until the clock is trusted, and for ever
// if it was not trusted then: nothing of that expires.
func (s *Store) age(st stamp) (age time.Duration, ok bool) {
	now, since := s.thisRun(), s.o.Clock.Boot()
	r, known := s.runOf(st.epoch)
	switch {
	case st.boot && known && r.Boot == now.Boot:
		return since - time.Duration(st.at), true
	case now.Wall == 0:
		return 0, false
	case !st.boot:
		return max(0, since+time.Duration(s.early-st.at)), true
	case !known || r.Wall == 0:
		return 0, false
	}
	return max(0, since+time.Duration(s.early-r.Late-st.at)), true
}

// Ago is how long ago a time was; 0 if that is not known, or it is yet to come.
func (s *Store) Ago(t time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.IsZero() {
		return 0
	}
	age, _ := s.age(stamp{at: t.UnixNano()})
	return age
}

// ageAtLeast is how old a stamp is. If that is not known, it is of an earlier boot.
func (s *Store) ageAtLeast(st stamp) (age time.Duration, exact bool) {
	if age, exact = s.age(st); exact {
		return age, true
	}
	if _, known := s.runOf(st.epoch); known {
		age = s.o.Clock.Boot()
	}
	return age, false
}

// stampFlags say how the time in a record that is made now is to be read.
func (s *Store) stampFlags() uint8 {
	if s.thisRun().Wall == 0 {
		return flagBoot | flagEarly
	}
	return flagBoot
}
