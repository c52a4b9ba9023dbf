package storefwd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// drained is an outbox that is opened again and again, and the messages it was given:
// their subjects are numbered, whatever their places in the log.
type drained struct {
	h    *fakeHub
	o    ForwarderOptions
	dir  string
	next int
	gate sync.RWMutex // as in model

	s *Store
	l *Log
	f *Forwarder
}

// open opens it with n more messages, all safe.
func (d *drained) open(t *testing.T, n int) {
	t.Helper()
	o := Options{Node: "n", JournalBytes: 1 << 20}
	o.faults.journal = func(f journalFile) journalFile { return gatedFile{f, &d.gate} }
	o.faults.engine = func(e engine) engine { return gatedEngine{e, &d.gate} }
	var err error
	if d.s, err = Open(d.dir, o); err != nil {
		t.Fatal(err)
	}
	if d.l, err = d.s.Log("OUT/c", Retention{Keep: UntilAcked, Grace: time.Hour, GraceBytes: 16 << 20, GraceOnDisk: true}); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if d.append(t); i%500 == 0 {
			waitSafe(t, d.s)
		}
	}
	waitSafe(t, d.s)
	fo := d.o
	fo.Log, fo.Uplink, fo.Filters, fo.Class, fo.RetryMin, fo.RetryMax = d.l, d.h, []string{"a.>"}, "c", 1, 1
	d.f = NewForwarder(fo)
	d.h.f = d.f
}

func (d *drained) append(t *testing.T) {
	d.next++
	if _, err := d.l.Append(&msg.Msg{Subject: fmt.Append(nil, "a.", d.next), Data: make([]byte, 100)}); err != nil {
		t.Error(err)
	}
}

// crash goes on with the files as they are.
func (d *drained) crash(t *testing.T) {
	t.Helper()
	waitSafe(t, d.s)
	next := t.TempDir()
	d.gate.Lock()
	err := os.CopyFS(next, os.DirFS(d.dir))
	d.gate.Unlock()
	if err := errors.Join(err, d.s.Close()); err != nil {
		t.Fatal(err)
	}
	d.dir = next
}

func (d *drained) close(t *testing.T) {
	t.Helper()
	if err := d.s.Close(); err != nil {
		t.Fatal(err)
	}
}

// run forwards until stop says so.
func (d *drained) run(t *testing.T, stop func() bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.f.Run(ctx) }()
	testkit.Eventually(t, stop, "enough is forwarded")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func (d *drained) empty() bool { return d.l.Stats().Msgs == 0 }

func arrivals(h *fakeHub) (all []int) {
	for _, s := range h.subjects() {
		n, _ := strconv.Atoi(strings.TrimPrefix(s, "a."))
		all = append(all, n)
	}
	return all
}

func wantOnce(t *testing.T, got []int, n int) {
	t.Helper()
	got = slices.Sorted(slices.Values(got))
	for i := range n {
		if i >= len(got) || got[i] != i+1 {
			t.Fatalf("the hub has %d messages, of %d; the %dth is not there once", len(got), n, i+1)
		}
	}
	if len(got) > n {
		t.Fatalf("the hub has %d messages, want %d", len(got), n)
	}
}

// parts counts into how few ascending rows the numbers can be laid.
func parts(all []int) int {
	var ends []int
	for _, n := range all {
		at := slices.IndexFunc(ends, func(e int) bool { return e < n })
		if at < 0 {
			ends = append(ends, n)
		} else {
			ends[at] = n // the row that ends highest: ends descend
		}
	}
	return len(ends)
}

// Newest first: what comes while a backlog drains goes before what is left of it, and
// within a chunk the order is that of the log.
func TestNewestFirst(t *testing.T) {
	d := &drained{h: &fakeHub{}, dir: t.TempDir(), o: ForwarderOptions{Newest: true}}
	d.open(t, 2000)
	defer d.close(t)
	d.h.answer = func(subject string) string {
		if subject == "a.1000" { // in the middle of the drain
			for range 50 {
				d.append(t)
			}
		}
		return ""
	}
	d.run(t, d.empty)
	got := arrivals(d.h)
	wantOnce(t, got, 2050)
	if got[0] < 2000-chunkMsgs || got[len(got)-1] > 2*chunkMsgs {
		t.Errorf("it began with %d and ended with %d", got[0], got[len(got)-1])
	}
	if late, old := slices.Index(got, 2001), slices.Index(got, 200); late > old {
		t.Errorf("what came meanwhile is number %d in the stream, behind the oldest at %d", late, old)
	}
	for i := 1; i < len(got); i++ {
		if d := got[i-1] - got[i]; d > 3*chunkMsgs && got[i-1] < 2001 {
			t.Errorf("%d follows %d: a chunk is larger than it may be", got[i], got[i-1])
		}
	}
}

// What comes gets its share of the bytes, in order, and the backlog the rest, in order.
func TestLiveShare(t *testing.T) {
	for _, share := range []int{20, 50, 100} {
		d := &drained{h: &fakeHub{}, dir: t.TempDir(), o: ForwarderOptions{LiveShare: share}}
		d.open(t, 4000)
		d.h.answer = func(string) string {
			if n := len(d.h.stored); n%2 == 0 && n < 4000 {
				d.append(t)
			}
			return ""
		}
		d.run(t, d.empty)
		got := arrivals(d.h)
		wantOnce(t, got, 6000)
		if n := parts(got); n > 2 {
			t.Errorf("share %d: %d parts, want a live one and the backlog", share, n)
		}
		live := 0
		for _, n := range got[:4000] {
			if n > 4000 {
				live++
			}
		}
		want := min(40*share, 2000) // of 4,000; no more than 2,000 came
		if share == 100 {
			want = 1700 // the last ones came when the first 4,000 were there
		}
		if live < want*3/4 || live > max(want*5/4, 2000*share/100) {
			t.Errorf("share %d: %d of the first 4000 were live, want about %d", share, live, want)
		}
		d.close(t)
	}
}

// Strict order is kept where nothing else is asked for.
func TestOldestFirst(t *testing.T) {
	d := &drained{h: &fakeHub{}, dir: t.TempDir()}
	d.open(t, 1000)
	defer d.close(t)
	d.run(t, d.empty)
	if got := arrivals(d.h); parts(got) != 1 {
		t.Errorf("%v", got)
	}
}

// A crash in the middle of a drain, in any order: what the hub has is found from the
// mark on, and neither lost nor sent again.
func TestCrashInMidDrain(t *testing.T) {
	for _, o := range []ForwarderOptions{{}, {Newest: true}, {LiveShare: 30}} {
		d := &drained{h: &fakeHub{}, dir: t.TempDir(), o: o}
		for round := range 4 {
			d.open(t, []int{3000, 100, 100, 100}[round])
			until := 700 * (round + 1)
			d.h.answer = func(string) string {
				if n := len(d.h.stored); o.LiveShare > 0 && n%3 == 0 && n < until {
					d.append(t)
				}
				return ""
			}
			d.run(t, func() bool { return len(d.h.subjects()) >= until })
			d.crash(t)
		}
		d.h.answer = nil
		d.open(t, 0)
		d.run(t, d.empty)
		wantOnce(t, arrivals(d.h), d.next)
		if n := parts(arrivals(d.h)); !o.Newest && n > 2 || n > 1 && !o.Newest && o.LiveShare == 0 {
			t.Errorf("%+v: %d parts", o, n)
		}
		if st := d.f.Stats(); st.Resume != ByChain || st.Duplicates > 0 {
			t.Errorf("%+v", st)
		}
		d.close(t)
	}
}

// A hub that was restored from an older copy while leafd was down is noticed by the
// mark, and what is still here goes again, once.
func TestHubSetBackWhileDown(t *testing.T) {
	for _, o := range []ForwarderOptions{{}, {Newest: true}, {LiveShare: 30}} {
		for _, since := range [][]fakeMsg{nil, {{"other", "", ""}}} {
			d := &drained{h: &fakeHub{stored: slices.Clone(since)}, dir: t.TempDir(), o: o}
			d.open(t, 2000)
			d.run(t, d.empty)
			d.close(t)
			d.h.stored = append(d.h.stored[:500:500], since...)
			d.open(t, 10)
			d.run(t, d.empty)
			wantOnce(t, arrivals(d.h), 2010)
			if st, ls := d.f.Stats(), d.l.Stats(); st.WentBack != 1 || len(ls.Lost) > 0 {
				t.Errorf("%+v %+v: %+v %+v", o, since, st, ls)
			}
			d.close(t)
		}
	}
}

// Acknowledgements far apart do not pile up: a hub acknowledges every second record of
// each chunk, and then, unasked, every second one there is.
func TestIsolatedAcknowledgementsAreBounded(t *testing.T) {
	const records = 300_000
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := s.Log("a", Retention{Keep: UntilAcked, Memory: true, MaxMsgs: records})
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Cursor("hub", CursorConfig{Newest: true, Ahead: true, MaxPending: records, MaxPendingBytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	m := &msg.Msg{Subject: []byte("a")}
	for range records {
		if _, err := l.Append(m); err != nil {
			t.Fatal(err)
		}
	}
	for {
		recs, err := c.Next(t.Context(), make([]Record, 0, chunkMsgs))
		if err != nil {
			t.Fatal(err)
		}
		if len(c.done.s) > fewSpans {
			if recs[0].Seq != c.floor+1 {
				t.Fatalf("%d is given out, while %d waits", recs[0].Seq, c.floor+1)
			}
			break
		}
		for i := 0; i < len(recs); i += 2 {
			c.Ack(recs[i].Seq)
		}
	}
	if n := len(c.done.s); n < fewSpans || n > fewSpans+chunkMsgs {
		t.Errorf("%d ranges", n)
	}
	for seq := uint64(2); seq < records; seq += 2 {
		c.Ack(seq)
	}
	if n := len(c.done.s); n > mostSpans {
		t.Errorf("%d ranges", n)
	}
	for seq := l.Stats().First; seq <= records; seq++ { // none is stuck
		c.Ack(seq)
	}
	if st := l.Stats(); st.Msgs != 0 || st.Acked != records || len(c.done.s) != 0 {
		t.Errorf("%+v, %d ranges", st, len(c.done.s))
	}
}

// slowReader is an engine whose next Read lets something happen before it returns.
type slowReader struct {
	engine
	meanwhile *func() // nil: nothing
}

func (e slowReader) Read(log uint32, from, to uint64, fn func(uint64, []byte) bool) error {
	err := e.engine.Read(log, from, to, fn)
	if f := *e.meanwhile; f != nil {
		*e.meanwhile = nil
		f()
	}
	return err
}

// A fold that takes a record out of its hollow place does not let it appear to whoever
// has just read it.
func TestHollowStaysHollowUnderAFold(t *testing.T) {
	var gate sync.RWMutex
	var meanwhile func()
	o := Options{Node: "n", CommitInterval: time.Hour, FoldAfter: time.Hour}
	o.faults.engine = func(e engine) engine { return slowReader{gatedEngine{e, &gate}, &meanwhile} }
	s, err := Open(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := s.Log("OUT/a", Retention{Keep: UntilAcked, Grace: time.Hour, GraceBytes: 1500})
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Cursor("hub", CursorConfig{Ahead: true})
	if err != nil {
		t.Fatal(err)
	}
	appendN(t, l, 3)
	if _, err := l.Append(&msg.Msg{Subject: []byte("a"), Data: make([]byte, 2000)}); err != nil {
		t.Fatal(err)
	}
	appendN(t, l, 3)
	waitSafe(t, s)
	s.mu.Lock()
	s.foldNow()
	s.mu.Unlock()
	testkit.Eventually(t, func() bool { return s.Stats().Folds == 1 }, "all is in the engine")
	seqs := take(t, c, 7)
	gate.Lock()    // no fold
	c.Ack(seqs[3]) // early, and too large to be kept
	for _, seq := range slices.Delete(seqs, 3, 4) {
		c.Ack(seq)
	}
	c.rewind(0)
	meanwhile = func() {
		gate.Unlock()
		testkit.Eventually(t, func() bool { return s.Stats().Folds > 1 }, "a fold")
	}
	recs, err := l.Read(nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	if meanwhile != nil || len(recs) != 6 || slices.ContainsFunc(recs, func(r Record) bool { return len(r.Data) == 2000 }) {
		t.Errorf("%d records are read, want the 6 that are kept", len(recs))
	}
}
