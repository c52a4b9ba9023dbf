package storefwd

import (
	"encoding/json"
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
