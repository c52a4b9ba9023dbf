package storefwd

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// The meter goes on over a restart, by day, and agrees with what each run counts.
func TestWearGoesOn(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 1, 31, 23, 0, 0, 0, time.UTC)
	var total int64
	for run := range 3 {
		s, err := Open(dir, Options{Clock: &fakeClock{now: func() time.Time { return now }}})
		if err != nil {
			t.Fatal(err)
		}
		l, err := s.Log("a", Retention{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			if _, err := l.Append(&msg.Msg{Subject: []byte("a"), Data: fmt.Append(nil, i)}); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			s.Barrier(func(err error) { done <- err })
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		st, w := s.Stats(), s.Wear()
		sum := st.JournalBytes + st.BoltBytes + st.MetaBytes
		if got := w.Total() - total; got != sum || w.Causes["journal"] < int64(run+1)*10*sector || w.Today(now) != sum {
			t.Errorf("run %d: %d of %d bytes, %+v", run, got, sum, w)
		}
		if len(w.Days) != run+1 || w.Days[run].Day != dayOf(now) {
			t.Errorf("run %d: %+v", run, w.Days)
		}
		total = w.Total()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		now = now.Add(25 * time.Hour)
	}
}

// Days are bounded, also with a clock that jumps.
func TestWearDaysAreBounded(t *testing.T) {
	now := time.Unix(0, 0)
	s := &Store{o: Options{Clock: &fakeClock{now: func() time.Time { return now }}}}
	for i := range 97 {
		now = time.Unix(int64(i*7%97)*86400, 0)
		s.stats.JournalBytes += 7
		s.countWear()
	}
	if len(s.wear.Days) != wearDays || s.wear.Total() != 7*97 || s.wear.Today(now) != 7 {
		t.Errorf("%+v", s.wear)
	}
}

func FuzzDecodeWear(f *testing.F) {
	f.Add(encodeWear(&Wear{Causes: map[string]int64{"journal": 1}, Days: []WearDay{{1, 2}}}))
	f.Add([]byte("\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if w, err := decodeWear(b); err == nil {
			again, err := decodeWear(encodeWear(&w))
			if err != nil || again.Total() != w.Total() || !slices.Equal(again.Days, w.Days) {
				t.Errorf("%+v, %+v, %v", w, again, err)
			}
		}
	})
}
