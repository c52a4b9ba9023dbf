package storefwd

import (
	"errors"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// fillUp appends until no more is taken, and says how many that were, with the one refused.
func fillUp(s *Store, l *Log) (n uint64) {
	for err := error(nil); err == nil; {
		n++
		if _, err = l.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(n)}); err == nil && n%100 == 0 {
			err = s.await()
		}
	}
	return n
}

// A store that has reached max_size takes messages again once most of what is in it was
// acknowledged. It stayed full for ever: pages are free only after the transaction that frees them,
// and each one wanted to put something, too.
func TestMaxSizeIsLeftAgain(t *testing.T) {
	for _, full := range []Full{Refuse, DropNewest} {
		synctest.Test(t, func(t *testing.T) {
			s, err := Open(t.TempDir(), Options{JournalBytes: 1 << 20, FoldAfter: time.Hour, MaxSize: 16 << 20})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			l, err := s.Log("OUT/a", Retention{Keep: UntilAcked, Full: full})
			if err != nil {
				t.Fatal(err)
			}
			n := fillUp(s, l)
			if h := strings.Join(s.Health(), "; "); full == Refuse && !strings.Contains(h, "store.max_size") {
				t.Errorf("full, and the remedy is not told: %q", h)
			}
			c, err := l.Cursor("hub", CursorConfig{MaxPending: 1 << 20})
			if err != nil {
				t.Fatal(err)
			}
			for acked := uint64(0); acked < n*9/10; acked += 500 {
				ackAll(t, c, 500)
			}
			later(time.Minute)
			before := l.Stats().Last
			if _, err = l.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(n + 1)}); err == nil {
				err = s.await()
			}
			if last := l.Stats().Last; err != nil || last != before+1 {
				t.Errorf("%v: nine tenths of %d messages are acknowledged, and a minute later it is full: %v, %d after %d, %q", full, n, err, last, before, s.Health())
			}
		})
	}
}

// A store that says that there is room again takes messages. Until the pause ran out that the last
// refusal had begun it went on refusing them.
func TestRoomIsTakenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(t.TempDir(), Options{JournalBytes: 1 << 20, FoldAfter: time.Hour, MaxSize: 16 << 20, faults: faults{retry: time.Hour}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		l, err := s.Log("OUT/a", Retention{Keep: UntilAcked, Full: Refuse})
		if err != nil {
			t.Fatal(err)
		}
		n := fillUp(s, l)
		l.Drop(math.MaxUint64)
		later(time.Minute)
		if _, err = l.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(n + 1)}); err == nil {
			err = s.await()
		}
		if st := s.Stats(); err != nil || st.Full {
			t.Errorf("all is dropped, and a minute later: %v, full %v", err, st.Full)
		}
	})
}

// What a full store refuses it does not store, and counts; all else it keeps and acknowledges. Of what
// came in after its journal was full, too, 28,122 of 400,000 messages were refused, counted nowhere,
// and stored.
func TestRefusedIsNotStored(t *testing.T) {
	for _, full := range []Full{Refuse, DropNewest} {
		synctest.Test(t, func(t *testing.T) {
			s, err := Open(t.TempDir(), Options{JournalBytes: 1 << 20, FoldAfter: time.Hour, MaxSize: 8 << 20})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			l, err := s.Log("OUT/a", Retention{Keep: UntilAcked, Full: full})
			if err != nil {
				t.Fatal(err)
			}
			kept, refused := int64(0), uint64(0)
			for n := uint64(1); refused < 20000; n++ {
				if _, err := l.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(n)}); err == nil {
					kept++
				} else if refused++; !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "max_size") {
					t.Fatalf("%v: the reason is %v", full, err)
				}
				if n%500 == 0 {
					if err := s.await(); err != nil {
						t.Fatalf("%v: %d are kept, %d refused, and then what has its place: %v", full, kept, refused, err)
					}
				}
				if n%5000 == 0 {
					later(10 * time.Second) // it is tried again, and is full still
				}
			}
			if st := l.Stats(); st.Msgs != kept || len(st.Lost) != 1 || st.Lost[LostRefused.String()] != refused {
				t.Errorf("%v: %d are kept and %d refused; the log has %d, and of others %v", full, kept, refused, st.Msgs, st.Lost)
			}
			live, err := s.Log("OUT/live", Retention{Keep: UntilAcked, Full: full})
			if err != nil {
				t.Fatal(err)
			}
			live.setLive(true, time.Minute)
			s.mu.Lock()
			s.journalRoom = 0
			s.mu.Unlock()
			if _, err := live.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(1)}); err != nil {
				t.Errorf("%v: a hub is there to acknowledge it: %v", full, err)
			}
		})
	}
}

// max_size is lowered below what is stored: no more goes for that than does not fit. With these
// sizes, and others, nearly all went.
func TestMaxSizeLowered(t *testing.T) {
	for _, stored := range []uint64{30777, 33108, 33885} {
		dir, n := t.TempDir(), uint64(0)
		fill := func(s *Store, l *Log, to uint64) {
			t.Helper()
			for n < to {
				n++
				if _, err := l.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(n)}); err != nil {
					t.Fatal(err)
				}
				if n%500 == 0 {
					waitSafe(t, s)
				}
			}
		}
		s, l := openBacklog(t, dir, Options{MaxSize: 1 << 30})
		fill(s, l, stored)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s, l = openBacklog(t, dir, Options{MaxSize: 8 << 20})
		fill(s, l, n+4000)
		if st := l.Stats(); st.Bytes < 4<<20 {
			t.Errorf("all that is left of %d messages is %d KB, lost %v", n, st.Bytes>>10, st.Lost)
		}
		s.Close()
	}
}

// A store as large as it may be, or larger since max_size was lowered, is damaged: what can be read of
// it is taken over all the same.
func TestSalvageOfAFullStore(t *testing.T) {
	for name, after := range map[string]int64{"full": 16 << 20, "lowered": 8 << 20} {
		t.Run(name, func(t *testing.T) {
			dir, n := t.TempDir(), uint64(0)
			open := func(maxSize int64) (*Store, *Log) {
				s, err := Open(dir, Options{Node: "n", JournalBytes: 1 << 20, FoldAfter: time.Hour, MaxSize: maxSize})
				if err != nil {
					t.Fatal(err)
				}
				l, err := s.Log("OUT/a", Retention{Keep: UntilAcked, Full: Refuse})
				if err != nil {
					t.Fatal(err)
				}
				return s, l
			}
			s, l := open(16 << 20)
			for err := error(nil); err == nil; {
				if _, err = l.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(n + 1)}); err == nil {
					if n++; n%500 == 0 {
						err = s.await()
					}
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			damage(t, filepath.Join(dir, "store.db"), 1<<20, make([]byte, 4096))
			s, l = open(after)
			defer s.Close()
			if got := readBack(t, s, l); len(got) < int(n*9/10) {
				t.Errorf("%d of %d messages are left: %q", len(got), n, s.Health())
			}
		})
	}
}

// A full store is stopped and started again and again, and has all that it had each time: what does
// not fit stays in the journal. The oldest went, to make room for what was durable already.
func TestStopOfAFullStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, n := t.TempDir(), uint64(0)
		s, l := openBacklog(t, dir, Options{MaxSize: 8 << 20})
		fill := func(to uint64) {
			t.Helper()
			for n < to {
				n++
				if _, err := l.Append(&msg.Msg{Subject: []byte("a.b"), Data: payload(n)}); err != nil {
					t.Fatal(err)
				}
				if n%100 == 0 {
					waitSafe(t, s)
				}
			}
		}
		fill(20000)
		for i := range uint64(12) {
			before := l.Stats()
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s, l = openBacklog(t, dir, Options{MaxSize: 8 << 20})
			later(10 * time.Second)
			if st := l.Stats(); st.First != before.First || st.Msgs != before.Msgs || st.Last != n {
				t.Errorf("stop %d of a store with %d to %d, %d: it has %d to %d, %d", i, before.First, before.Last, before.Msgs, st.First, st.Last, st.Msgs)
			}
			fill(n + 100*i) // the journal is full to another degree each time
		}
		later(2 * time.Hour)
		if got := readBack(t, s, l); len(got) < 7000 || got[len(got)-1] != n || n-got[0]+1 != uint64(len(got)) {
			t.Errorf("%d messages, of %d, are left", len(got), n)
		}
		if h := s.Health(); len(h) > 0 {
			t.Errorf("still full: %q", h)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
