package storefwd

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// TestSiblings lets publishers publish to a committer as commit.go has it, by a clock of
// its own, and counts how many of them one sync carries.
func TestSiblings(t *testing.T) {
	const sync = 500
	closed := func(turn int64) func(i int, answered int64) int64 {
		return func(i int, answered int64) int64 { return answered + turn*int64(i+1)/10 }
	}
	for name, c := range map[string]struct {
		next        func(i int, answered int64) int64 // when publisher i of ten publishes again
		least, most float64                           // of a sync
	}{
		"together soon":      {closed(200), 8.9, 10},
		"as long as a sync":  {closed(500), 8.9, 10},
		"much later":         {closed(2000), 3, 6},
		"without an answer":  {func(i int, _ int64) int64 { return -100 }, 4.5, 6.5},
		"one is often away":  {func(i int, at int64) int64 { return at + 200 + int64(i/9)*10_000 }, 7, 10},
		"one after a minute": {func(i int, at int64) int64 { return at + 200 + int64(i/9)*60_000_000 }, 7.9, 9.1},
	} {
		t.Run(name, func(t *testing.T) {
			perSync := publishTogether(c.next, sync, 4000)
			if perSync < c.least || perSync > c.most {
				t.Errorf("%.2f publishes a sync, want %v to %v", perSync, c.least, c.most)
			}
		})
	}
}

// publishTogether returns how many publishes of ten publishers a sync carries. next says
// when one that was answered publishes again; if that is negative, it publishes every so
// many ns times ten, answered or not.
func publishTogether(next func(i int, answered int64) int64, sync int64, syncs int) float64 {
	type publish struct {
		i  int
		at int64
	}
	var b siblings
	var coming []publish
	for i := range 10 {
		coming = append(coming, publish{i, int64(i) * 100})
	}
	var waiting []publish
	arrive := func(now int64) {
		for k := 0; k < len(coming); k++ {
			p := coming[k]
			if p.at > now {
				continue
			}
			waiting = append(waiting, p)
			if every := next(p.i, 0); every < 0 {
				coming[k].at -= every * 10
			} else {
				coming = slices.Delete(coming, k, k+1)
			}
			k--
		}
	}
	now, carried := int64(0), 0
	for range syncs {
		for arrive(now); len(waiting) == 0 || b.missing(len(waiting), now); arrive(now) {
			now++
		}
		batch := len(waiting)
		began := now
		now += sync
		arrive(now)
		b.written(len(waiting), began, now)
		for _, p := range waiting[:batch] {
			if at := next(p.i, now); at >= 0 {
				coming = append(coming, publish{p.i, at})
			}
		}
		waiting = waiting[batch:]
		carried += batch
	}
	return float64(carried) / float64(syncs)
}

// heldFile has each sync of the journal wait, once it is on.
type heldFile struct {
	journalFile
	on         *atomic.Bool
	began, end chan struct{}
}

func (f heldFile) Datasync() error {
	if f.on.Load() {
		f.began <- struct{}{}
		<-f.end
	}
	return f.journalFile.Datasync()
}

// TestCommitAwaitsSiblings has one publish while the record of another is synced: the
// commit after that waits for the one who was answered, and carries both.
func TestCommitAwaitsSiblings(t *testing.T) {
	held := heldFile{on: new(atomic.Bool), began: make(chan struct{}), end: make(chan struct{})}
	o := Options{Node: "n", FoldAfter: time.Hour}
	o.faults.journal = func(f journalFile) journalFile { held.journalFile = f; return held }
	s, err := Open(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := s.Log("OUT/a", Retention{Keep: UntilAcked})
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.siblings.write = int64(time.Hour)
	s.mu.Unlock()
	held.on.Store(true)
	publish := func() chan error {
		if _, err := l.Append(&msg.Msg{Subject: []byte("a")}); err != nil {
			t.Error(err)
		}
		safe := make(chan error, 1)
		s.Barrier(func(err error) { safe <- err })
		return safe
	}
	first := publish()
	<-held.began
	second := publish()
	held.end <- struct{}{}
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	third := publish()
	<-held.began
	held.on.Store(false)
	held.end <- struct{}{}
	if err := errors.Join(<-second, <-third); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Commits != 2 || st.CommitMsgs != 3 {
		t.Errorf("%d commits of %d messages, want 2 of 3", st.Commits, st.CommitMsgs)
	}
}
