package storefwd

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// A message that is to live for ever goes to the hub with the Nats-TTL that it came with. It was
// given one of a second.
func TestTTLNever(t *testing.T) {
	for _, v := range []string{"never", "0"} {
		s, l, c := tailLog(t, t.TempDir(), Retention{})
		defer s.Close()
		if _, err := l.Append(&msg.Msg{Subject: []byte("a.1"), Header: []byte("NATS/1.0\r\nNats-TTL: " + v + "\r\n\r\n")}); err != nil {
			t.Fatal(err)
		}
		recs, err := c.Next(t.Context(), make([]Record, 0, 1))
		if err != nil {
			t.Fatal(err)
		}
		f := &Forwarder{origin: []byte("n")}
		if h := string(f.appendHeader(nil, &recs[0])); strings.Count(h, "Nats-TTL: ") != 1 || !strings.Contains(h, "Nats-TTL: "+v+"\r\n") {
			t.Errorf("%q", h)
		}
	}
}

// A marker that has expired is no message that is lost: what it declared is to be declared anew.
func TestMarkerExpires(t *testing.T) {
	dir := t.TempDir()
	open := func(boot string, trusted bool) (*fakeClock, *Store, *Log, *Cursor) {
		t.Helper()
		k := &fakeClock{id: boot, wall: time.Unix(1800000000, 0), boot: time.Minute, trusted: trusted}
		s, err := Open(dir, Options{Node: "n", Clock: k})
		if err != nil {
			t.Fatal(err)
		}
		l, err := s.Log("OUT/c", Retention{Keep: UntilAcked, MaxAge: time.Hour, GapSubject: "a.gap"})
		if err != nil {
			t.Fatal(err)
		}
		c, err := l.Cursor("hub", CursorConfig{Ahead: true})
		if err != nil {
			t.Fatal(err)
		}
		return k, s, l, c
	}
	_, s, l, _ := open("one", false)
	appendN(t, l, 1) // nobody will ever know how old it is
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	k, s, l, c := open("two", true)
	defer s.Close()
	s.mu.Lock()
	l.lose(LostOldest, 0, 0, 7)
	l.drains = true
	l.declare(s.mono())
	l.drains = false
	s.mu.Unlock()
	onCommitter(s, func() { k.boot += 2 * time.Hour })
	waitSafe(t, s)
	appendN(t, l, 1)
	if seqs := take(t, c, 2); !slices.Equal(seqs, []uint64{1, 3}) {
		t.Fatal(seqs)
	}
	if st := l.Stats(); l.gaps["oldest_dropped"].Count != 7 || st.Lost["expired"] > 0 {
		t.Errorf("to be declared %+v, %+v", l.gaps, st)
	}
}

// A backlog that has grown old while nobody looked, or is more than the outbox may hold from now
// on, is dropped a piece at a time: all at once it kept everybody waiting, for seconds with a
// million messages.
func TestBacklogIsDroppedInPieces(t *testing.T) {
	const n = 2*dropMost + dropMost/2
	for why, now := range map[Loss]Retention{
		LostExpired: {Keep: UntilAcked, MaxAge: time.Hour},
		LostOldest:  {Keep: UntilAcked, MaxMsgs: 1, Full: DropOldest},
	} {
		dir := t.TempDir()
		k := &fakeClock{id: "one", wall: time.Unix(1800000000, 0), boot: time.Minute, trusted: true}
		s, err := Open(dir, Options{Node: "n", Clock: k})
		if err != nil {
			t.Fatal(err)
		}
		l, err := s.Log("OUT/c", Retention{Keep: UntilAcked})
		if err != nil {
			t.Fatal(err)
		}
		appendN(t, l, n)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		k.boot += 2 * time.Hour
		if s, err = Open(dir, Options{Node: "n", Clock: k}); err != nil {
			t.Fatal(err)
		}
		var left []int64
		onCommitter(s, func() {
			if l, err = s.Log("OUT/c", now); err == nil {
				left = append(left, l.Stats().Msgs)
				appendN(t, l, 1)
				left = append(left, l.Stats().Msgs)
				s.watchClock()
				left = append(left, l.Stats().Msgs)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if st := l.Stats(); !slices.Equal(left, []int64{n - dropMost, n - 2*dropMost + 1, 1}) || st.Lost[why.String()] != n {
			t.Errorf("%v: left %v of %d; %+v", why, left, n, st.Lost)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestAged(t *testing.T) {
	for _, c := range []struct {
		header string
		age    time.Duration
		want   string
	}{
		{"NATS/1.0\r\nA: 1\r\nNats-TTL: 1h\r\nB: 2\r\n\r\n", 10 * time.Minute, "NATS/1.0\r\nNats-TTL: 3000\r\nA: 1\r\nB: 2\r\n\r\n"},
		{"NATS/1.0\r\nNats-TTL: 60\r\n\r\n", time.Hour, "NATS/1.0\r\nNats-TTL: 1\r\n\r\n"},
		{"NATS/1.0\r\nNats-TTL: 60\r\n\r\n", 0, "NATS/1.0\r\nNats-TTL: 60\r\n\r\n"},
		{"NATS/1.0\r\nNats-TTL: 60\r\n\r\n", -time.Hour, "NATS/1.0\r\nNats-TTL: 60\r\n\r\n"},
		{"NATS/1.0\r\nNats-TTL: never\r\n\r\n", time.Hour, "NATS/1.0\r\nNats-TTL: never\r\n\r\n"},
		{"NATS/1.0 503\r\nNats-TTL: 60\r\n\r\n", 30 * time.Second, "NATS/1.0 503\r\nNats-TTL: 30\r\n\r\n"},
		{"", time.Hour, ""},
	} {
		if got := Aged([]byte(c.header), c.age); string(got) != c.want {
			t.Errorf("%q, %v old: %q, want %q", c.header, c.age, got, c.want)
		}
	}
}
