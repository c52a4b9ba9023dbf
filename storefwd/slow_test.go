package storefwd

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

const gets = "$JS.hub.API.STREAM.MSG.GET.S"

// slowGets is a hub to which messages of its stream are large, on a slow line: each takes so long. asked
// counts how often it was asked for one.
func slowGets(long time.Duration) (h *fakeHub, asked *int) {
	h, asked = &fakeHub{takes: []string{"a.>"}, dated: true}, new(int)
	h.line = func(subject string) {
		if subject == gets {
			*asked++
			<-time.After(long)
		}
	}
	return h, asked
}

// The last message of the stream takes longer to come than ack_timeout. It was asked for five times, a second
// apart, and given up before the first answer had come, again and again: nothing was sent any more, 7.6 MB
// came in a minute, and the hub's JetStream was said not to answer.
func TestAnswerOnASlowLine(t *testing.T) {
	h, asked := slowGets(30 * time.Second)
	h.stored, h.newest = []fakeMsg{{subject: "a.0"}}, time.Unix(1, 0)
	bubbled(t, h, Retention{}, []string{"a.1"}, func(l *Log, f *Forwarder) {
		later(20 * time.Second)
		if st := f.Stats(); st.State != Resuming || !strings.Contains(st.Detail, "on its way") || st.LastError != "" {
			t.Errorf("while it comes: %+v", st)
		}
		later(15 * time.Second)
		if st := f.Stats(); st.State != Live || l.Stats().Msgs != 0 || st.LastError != "" || *asked != 1 {
			t.Errorf("asked %d times, %d wait, %+v", *asked, l.Stats().Msgs, st)
		}
	})
}

// Where a stream stands as it stood, its last message is not asked for again. It is where others have
// come, even if they are as many.
func TestEndIsReadOnce(t *testing.T) {
	h, asked := slowGets(time.Second)
	bubbled(t, h, Retention{}, []string{"a.1"}, func(l *Log, f *Forwarder) {
		again := func() int {
			before := *asked
			f.mu.Lock()
			resync := f.resync
			f.mu.Unlock()
			resync(errResync)
			later(time.Minute)
			return *asked - before
		}
		later(time.Minute)
		if first, second := again(), again(); first != 1 || second != 0 {
			t.Errorf("asked %d times, and %d the next time", first, second)
		}
		h.mu.Lock()
		h.stored[0].id, h.newest = "", time.Now() // set back, and another has come in its place
		h.mu.Unlock()
		if again() == 0 || f.Stats().Resume != ByReads {
			t.Errorf("not read: %+v", f.Stats())
		}
	})
}

// An acknowledgement that is behind something large was missed after ack_timeout, and all that was on its way
// looked for in the stream, which is more to come.
func TestAcknowledgementOnASlowLine(t *testing.T) {
	h := &fakeHub{takes: []string{"a.>"}}
	h.line = func(subject string) {
		if subject == "a.1" {
			<-time.After(time.Minute)
		}
	}
	bubbled(t, h, Retention{}, []string{"a.1", "a.2"}, func(l *Log, f *Forwarder) {
		later(2 * time.Minute)
		if st := f.Stats(); l.Stats().Msgs != 0 || st.Resumed != 0 || st.LastError != "" {
			t.Errorf("%d wait, %+v", l.Stats().Msgs, st)
		}
	})
}

// busyHub counts how many messages it is asked for at once.
type busyHub struct {
	*fakeHub
	open, most atomic.Int64
}

func (h *busyHub) Send(m *msg.Msg) error {
	h.most.Store(max(h.most.Load(), h.open.Add(1)))
	return h.fakeHub.Send(m)
}

// What is read back is asked for a little at a time on a slow line, and much at a time on a long one that
// is good. It was 64 at a time: of 1 MB each they are 85 MB, for which the hub cuts off a link.
func TestAskedForAtOnce(t *testing.T) {
	for _, c := range []struct {
		together    bool          // answers come so, not one after the other
		long        time.Duration // that each takes
		least, most int64         // asked for at once
	}{{false, 10 * time.Second, 1, 4}, {true, 700 * time.Millisecond, 32, readers}} {
		synctest.Test(t, func(t *testing.T) {
			s, l := openWith(t, t.TempDir())
			defer s.Close()
			h := &busyHub{fakeHub: &fakeHub{}}
			for i := range 500 {
				h.stored = append(h.stored, fakeMsg{subject: fmt.Sprint("a.", i)})
			}
			h.line = func(string) {
				<-time.After(c.long)
				h.open.Add(-1)
			}
			f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c"})
			h.f = f
			defer h.lay(c.together)()
			if _, err := f.walk(t.Context(), "S", getMsg{NextOf: ">"}, 1, 500); err != nil {
				t.Fatal(err)
			}
			if most := h.most.Load(); most < c.least || most > c.most {
				t.Errorf("%+v: %d", c, most)
			}
		})
	}
}
