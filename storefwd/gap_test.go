package storefwd

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

// What an outage costs is declared once the log drains, exactly, also when a marker
// itself is dropped, and over a restart.
func TestGapMarkers(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ret := Retention{MaxMsgs: 10, GapSubject: "a.gap"}
		s, l, _ := tailLog(t, dir, ret)
		appendN(t, l, 25) // 15 are gone
		l.setLive(true, time.Hour)
		time.Sleep(time.Second)
		l.setLive(false, 0) // the marker is the 26th, and did not get away
		appendN(t, l, 11)   // it is dropped with ten more
		if n := l.Stats().Lost["oldest_dropped"]; n != 26 {
			t.Errorf("%d counted as dropped", n)
		}
		s.Close()
		s, l, c := tailLog(t, dir, ret)
		defer s.Close()
		appendN(t, l, 1)
		l.settleDoubt(false)
		l.setLive(true, time.Hour)
		time.Sleep(10 * time.Second)
		declared, data := uint64(0), 0
		for data < 10 || declared == 0 {
			recs, err := c.Next(t.Context(), make([]Record, 0, 1))
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range recs {
				c.Ack(r.Seq)
				if string(r.Subject) != "a.gap" {
					data++
					continue
				}
				var g gap
				if err := json.Unmarshal(r.Data, &g); err != nil || g.Reason != "oldest_dropped" || g.From != 1 || g.Outbox != "OUT/a" ||
					string(headerValue(r.Header, []byte("Leafd-Gap"))) != g.Reason {
					t.Fatalf("%s %v", r.Data, err)
				}
				declared += g.Count
			}
		}
		if declared != 27 || data != 10 { // of 37 that were appended
			t.Errorf("%d declared and %d there, of 37", declared, data)
		}
	})
}

// A marker that the hub's stream does not take is tried again, less and less often, and at once when
// there is more to declare, or the hub was asked anew. It declares all of it then.
func TestMarkerNotTaken(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, l, c := tailLog(t, dir, Retention{MaxMsgs: 10, GapSubject: "a.gap"})
		defer s.Close()
		appendN(t, l, 12)
		l.setLive(true, time.Hour)
		take(t, c, 10)
		marker := func() (seq, count uint64) {
			t.Helper()
			recs, err := c.Next(t.Context(), make([]Record, 0, 1))
			if err != nil {
				t.Fatal(err)
			}
			var g gap
			if err := json.Unmarshal(recs[0].Data, &g); err != nil {
				t.Fatalf("%s: %v", recs[0].Data, err)
			}
			return recs[0].Seq, g.Count
		}
		refused := func() {
			t.Helper()
			seq, count := marker()
			if c.lose(seq, LostRejected); count != 2 {
				t.Errorf("%d declared, want 2", count)
			}
		}
		after := func(want time.Duration) {
			t.Helper()
			began := time.Now()
			if refused(); time.Since(began) != want {
				t.Errorf("a marker after %v, want %v", time.Since(began), want)
			}
		}
		after(0)
		for _, wait := range []time.Duration{5, 10, 20, 40} {
			after(wait * time.Second)
		}
		l.settleDoubt(false)
		after(5 * time.Second)
		time.Sleep(6 * time.Second)
		c.lose(3, LostRejected)
		_, one := marker() // for each of two reasons
		_, other := marker()
		if one+other != 3 || len(l.gaps) > 0 {
			t.Errorf("%d and %d declared, %v to be, want 3 in all", one, other, l.gaps)
		}
	})
}

// An outbox that is overloaded for long declares its losses all the while: nothing was declared until
// the load ended, 3,188 dropped in 67 s.
func TestOverloadIsDeclared(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, l, _ := tailLog(t, dir, Retention{MaxMsgs: 300, GapSubject: "a.gap"})
		defer s.Close()
		h := &fakeHub{}
		f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a", "a.>"}, Class: "c", Rate: 4000})
		h.f = f
		l.cursors[0].open = false // it is the forwarder's
		declared := func() (count, markers uint64) {
			h.mu.Lock()
			defer h.mu.Unlock()
			for _, m := range h.stored {
				var g gap
				if _, body, ok := strings.Cut(m.header, "\r\n\r\n"); ok && m.subject == "a.gap" {
					if err := json.Unmarshal([]byte(body), &g); err != nil {
						t.Fatalf("%s: %v", body, err)
					}
					count, markers = count+g.Count, markers+1
				}
			}
			return count, markers
		}
		appendN(t, l, 400)
		defer start(t, f)()
		for range 1000 {
			later(117 * time.Millisecond)
			appendN(t, l, 7)
		}
		if n, markers := declared(); n < l.Stats().Lost["oldest_dropped"]/2 || markers > 24 {
			t.Errorf("%d of %d declared in 2 minutes, by %d markers", n, l.Stats().Lost["oldest_dropped"], markers)
		}
		later(time.Minute)
		if n, _ := declared(); n != l.Stats().Lost["oldest_dropped"] || l.Stats().Msgs != 0 {
			t.Errorf("%d declared once all is there: %+v", n, l.Stats())
		}
	})
}

// In a backlog there is one marker at a time, and there are none while nothing is sent: what only
// waits gets no longer by them, and costs no flash.
func TestOneMarkerInABacklog(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, l, _ := tailLog(t, dir, Retention{MaxMsgs: 10, GapSubject: "a.gap"})
		defer s.Close()
		data := 0
		after := func(n, want int) {
			t.Helper()
			appendN(t, l, n)
			data += n
			later(time.Minute)
			if got := int(l.Stats().Appended) - data; got != want {
				t.Errorf("%d markers of %d messages, want %d", got, data, want)
			}
		}
		after(25, 0)
		l.setDrains()
		after(1, 1)
		after(3, 1)  // three more are lost, and the marker still waits
		after(20, 2) // the marker, too
		l.setLive(false, 0)
		after(40, 2)
		l.setDrains()
		after(0, 3)
		if n := l.gaps["oldest_dropped"].Count; n != 0 {
			t.Errorf("%d are not declared", n)
		}
	})
}

// A marker in the journal tells that all before it was acknowledged, or is lost and declared. What
// was acknowledged, and is not at the hub any more after a power cut on both sides, is sent again:
// it was taken for declared, and dropped.
func TestMarkerAndAHubThatForgets(t *testing.T) {
	dir := t.TempDir()
	s, l, c := tailLog(t, dir, Retention{MaxMsgs: 10, GapSubject: "a.gap"})
	appendN(t, l, 13) // three are dropped
	if err := s.await(); err != nil {
		t.Fatal(err)
	}
	take(t, c, 10)
	for seq := uint64(4); seq <= 9; seq++ {
		c.Ack(seq)
	}
	l.setLive(true, time.Hour) // now it may be declared: 10 is the first that is left
	testkit.Eventually(t, func() bool {
		l.s.mu.Lock()
		defer l.s.mu.Unlock()
		return len(l.gaps) == 0
	}, "the marker is made")
	if err := s.await(); err != nil {
		t.Fatal(err)
	}
	dir = killed(t, dir)
	s.Close()
	for _, blind := range []bool{true, false} { // a hub that cannot be asked, one that has nothing
		s, l, _ = tailLog(t, killed(t, dir), Retention{MaxMsgs: 100, GapSubject: "a.gap"})
		l.settleDoubt(blind)
		l.s.mu.Lock()
		o, ok := l.head()
		l.s.mu.Unlock()
		if want := map[bool]uint64{true: 10, false: 4}[blind]; !ok || o.seq != want || l.Stats().Lost["oldest_dropped"] != 0 {
			t.Errorf("blind %v: seq %d is next, want %d; lost %v", blind, o.seq, want, l.Stats().Lost)
		}
		s.Close()
	}
}
