package storefwd

import (
	"testing"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// A full log gives up what is dead by its own Nats-TTL before it drops or refuses what
// lives: five of five were turned away for ten that nobody would get.
func TestFullOfTheDead(t *testing.T) {
	for _, full := range []Full{DropNewest, Refuse, DropOldest} {
		k := &fakeClock{id: "one", wall: time.Unix(1800000000, 0), boot: time.Minute, trusted: true}
		s, err := Open(t.TempDir(), Options{Node: "n", Clock: k})
		if err != nil {
			t.Fatal(err)
		}
		l, err := s.Log("OUT/c", Retention{Keep: UntilAcked, MaxMsgs: 10, Full: full, GapSubject: "a.gap"})
		if err != nil {
			t.Fatal(err)
		}
		put := func(n int, header string) {
			for range n {
				if _, err := l.Append(&msg.Msg{Subject: []byte("a.1"), Header: []byte("NATS/1.0\r\n" + header + "\r\n")}); err != nil {
					t.Errorf("full %v: %v", full, err)
				}
			}
		}
		put(10, "Nats-TTL: 2\r\n")
		s.mu.Lock()
		k.boot, k.wall = k.boot+3*time.Second, k.wall.Add(3*time.Second)
		s.mu.Unlock()
		put(10, "")
		if st := l.Stats(); st.Msgs != 10 || st.Lost["expired"] != 10 || len(st.Lost) != 1 {
			t.Errorf("full %v: %+v", full, st)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A gap marker is beyond the bounds of a full log, each time that the hub is asked what it
// has: one message was dropped for the marker, and declared by another marker, and so on for
// as long as the hub's stream refused.
func TestMarkerTakesNobodysPlace(t *testing.T) {
	s, l, _ := tailLog(t, t.TempDir(), Retention{MaxMsgs: 10, GapSubject: "a.gap"})
	defer s.Close()
	appendN(t, l, 15)
	l.setLive(true, time.Hour)
	for range 3 {
		l.settleDoubt(false)
		s.mu.Lock()
		l.declare(s.mono() + int64(time.Hour))
		s.mu.Unlock()
	}
	if st := l.Stats(); st.Lost["oldest_dropped"] != 5 || st.Msgs != 11 {
		t.Errorf("%+v", st)
	}
}
