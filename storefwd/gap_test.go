package storefwd

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"
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
		l.settleDoubt(true)
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
