package leaf

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// handOver begins a Handover and collects the answers to its PINGs.
func handOver(t testing.TB, l *Link, filters ...string) (*Handover, chan error) {
	t.Helper()
	h, err := l.Handover(filters)
	if err != nil {
		t.Fatal(err)
	}
	return h, make(chan error, 100)
}

func offer(t testing.TB, h *Handover, subject string) {
	t.Helper()
	if wanted, err := h.Offer(text(subject)); !wanted || err != nil {
		t.Fatalf("offer %s: %v %v", subject, wanted, err)
	}
}

func pingOf(t testing.TB, l *Link, h *Handover, answers chan error) {
	t.Helper()
	if err := h.Ping(func(err error) { answers <- err }); err != nil {
		t.Fatal(err)
	}
	l.Flush()
}

func answer(t testing.TB, answers chan error) error {
	t.Helper()
	select {
	case err := <-answers:
		return err
	case <-time.After(testkit.Patience):
		t.Fatal("the hub did not answer")
		return nil
	}
}

// joinedLink is a link that is up and has its first PONG.
func joinedLink(t testing.TB, o LinkOptions) (*Link, *hubConn) {
	l, h := startLink(t, o)
	c := h.accept()
	c.join()
	c.sees("PONG\r\n")
	waitUp(t, l)
	return l, c
}

// A PONG belongs to the oldest PING, be that of the keepalive or of a Handover.
func TestHandoverKeepsItsPlace(t *testing.T) {
	l, hub := startLink(t, LinkOptions{})
	c := hub.accept()
	c.join() // its PING is not answered yet
	waitUp(t, l)
	first, answers1 := handOver(t, l, "a")
	second, answers2 := handOver(t, l, "b")
	pingOf(t, l, first, answers1)
	l.live.Load().ping()
	pingOf(t, l, second, answers2)
	c.sees("", "PING", "PING", "PING")
	for i, want := range []string{"0 0", "1 0", "1 0", "1 1", "1 1"} {
		c.sees("PONG\r\n")
		if got := fmt.Sprint(len(answers1), " ", len(answers2)); got != want {
			t.Errorf("after %d PONGs answers %s, want %s", i+1, got, want)
		}
	}
}

// What the hub wants is sent, with the groups that are to have it, and nothing else.
func TestHandoverOffersWhatIsWanted(t *testing.T) {
	l, c := joinedLink(t, LinkOptions{DenyExports: []string{"plain.no"}})
	local := l.router.Attach("local", &testkit.Sink{}, EachSub)
	if err := local.Subscribe(&msg.Sub{Subject: "group", Queue: "q1"}); err != nil {
		t.Fatal(err)
	}
	if err := local.Subscribe(&msg.Sub{Subject: "here", Queue: "q1"}); err != nil {
		t.Fatal(err)
	}
	c.sees("LS+ plain.*\r\nLS+ group q1 1\r\nLS+ plain.both q2 3\r\n", "LS+ group q1 1", "LS+ here q1 1")
	h, _ := handOver(t, l, ">")
	for _, tc := range []struct {
		subject string
		wanted  bool
		err     error
		line    string
	}{
		{"plain.x", true, nil, "LMSG plain.x 2"},
		{"group", true, nil, "LMSG group | q1 2"},
		{"plain.both", true, nil, "LMSG plain.both | q2 2"},
		{"here", false, nil, ""},
		{"elsewhere", false, nil, ""},
		{"plain.no", true, ErrDenied, ""},
		{"plain..x", true, ErrBadSubject, ""},
	} {
		wanted, err := h.Offer(text(tc.subject))
		if wanted != tc.wanted || !errors.Is(err, tc.err) || err == nil && wanted != h.Wanted([]byte(tc.subject)) {
			t.Errorf("%s: %v %v", tc.subject, wanted, err)
		}
		l.Flush()
		if tc.line == "" {
			c.sees("")
		} else {
			c.sees("", tc.line, "hi")
		}
	}
	if _, err := h.Offer(&msg.Msg{Subject: []byte("plain.x"), Data: make([]byte, 1001)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("more than max_payload: %v", err)
	}
}

// A PONG proves nothing if the hub complained since the first message that it is
// behind, or if a subscriber of such messages left.
func TestHandoverDoubts(t *testing.T) {
	l, c := joinedLink(t, LinkOptions{})
	c.sees("LS+ a.>\r\nLS+ a.b\r\nLS+ x\r\n")
	h, answers := handOver(t, l, "a.*", "b")
	for _, tc := range []struct{ before, between, doubt string }{
		{"", "", ""},
		{"", "LS- x\r\n", ""},
		{"", "-ERR 'maximum subscriptions exceeded'\r\n", ""},
		{"-ERR 'oops'\r\n", "", ""},
		{"", "-ERR 'oops'\r\n", "the hub said: oops"},
		{"", "LS- a.b\r\nLS+ a.b\r\n", "left"},
		{"LS- a.b\r\n", "", ""},
		{"", "LS+ a.b\r\n", ""},
	} {
		c.sees(tc.before)
		offer(t, h, "a.b")
		l.Flush()
		c.sees(tc.between, "LMSG a.b 2", "hi")
		pingOf(t, l, h, answers)
		c.sees("PONG\r\n", "PING")
		if err := answer(t, answers); (err == nil) != (tc.doubt == "") || err != nil && !strings.Contains(err.Error(), tc.doubt) {
			t.Errorf("%q, a message, %q: %v", tc.before, tc.between, err)
		}
	}
	h.Close()
	if n := len(l.live.Load().asked.handovers); n != 0 {
		t.Errorf("%d handovers are left", n)
	}
}

// Whoever waits for interest is told of what concerns it.
func TestHandoverChanged(t *testing.T) {
	l, c := joinedLink(t, LinkOptions{})
	h, _ := handOver(t, l, "a.*")
	for _, tc := range []struct {
		op   string
		told int
	}{{"LS+ x\r\n", 0}, {"LS+ *.b\r\n", 1}, {"LS- *.b\r\n", 1}, {"LS- x\r\n", 0}} {
		if c.sees(tc.op); len(h.Changed()) != tc.told {
			t.Errorf("%q: told %d times", tc.op, len(h.Changed()))
		}
		select {
		case <-h.Changed():
		default:
		}
	}
}

// A Handover ends with its session: the next one confirms nothing of it.
func TestHandoverEndsWithTheSession(t *testing.T) {
	l, hub := startLink(t, LinkOptions{ReconnectMin: time.Millisecond, ReconnectMax: time.Millisecond})
	if _, err := l.Handover(nil); err != ErrLinkDown {
		t.Errorf("before the link is up: %v", err)
	}
	c := hub.accept()
	c.join()
	c.sees("PONG\r\nLS+ a\r\n")
	waitUp(t, l)
	h, answers := handOver(t, l, "a")
	offer(t, h, "a")
	pingOf(t, l, h, answers)
	down := l.Down()
	c.Close()
	<-down
	c = hub.accept()
	c.join()
	c.sees("PONG\r\nPONG\r\nLS+ a\r\n")
	waitUp(t, l)
	if _, err := h.Offer(text("a")); err != ErrLinkDown {
		t.Errorf("offer to the session that ended: %v", err)
	}
	if err := h.Ping(func(err error) { answers <- err }); err != ErrLinkDown {
		t.Errorf("ping of the session that ended: %v", err)
	}
	if len(answers) != 0 {
		t.Error("the new session answered for the old one")
	}
}

// coreHandover is a gateway's Handover to a stock hub without JetStream, whose
// interest it knows.
func coreHandover(t testing.TB, h *testkit.Hub, filters ...string) (*Link, *Handover, chan error) {
	t.Helper()
	l, err := NewLink(LinkOptions{URLs: []string{h.LeafURL()}, ServerName: "edge", Logger: slog.New(slog.DiscardHandler)}, NewRouter())
	if err != nil {
		t.Fatal(err)
	}
	runLink(t, l)
	waitUp(t, l)
	over, answers := handOver(t, l, filters...)
	pingOf(t, l, over, answers)
	if err := answer(t, answers); err != nil {
		t.Fatal(err)
	}
	return l, over, answers
}

// A stock hub has delivered to its subscribers, and to one of each group, what it
// confirms.
func TestHubHandover(t *testing.T) {
	h := testkit.StartHub(t, testkit.HubOptions{})
	nc := clientOf(t, h.ClientURL())
	all, err := nc.SubscribeSync("a.>")
	if err != nil {
		t.Fatal(err)
	}
	group := make(chan *nats.Msg, 2000)
	for range 3 {
		if _, err := nc.ChanQueueSubscribe("a.*", "workers", group); err != nil {
			t.Fatal(err)
		}
	}
	flush(t, nc)
	l, over, answers := coreHandover(t, h, "a.>")
	for i := range 1000 {
		offer(t, over, fmt.Sprint("a.", i))
	}
	pingOf(t, l, over, answers)
	if err := answer(t, answers); err != nil {
		t.Fatal(err)
	}
	flush(t, nc) // what the hub routed before is here before its answer
	if n, _, _ := all.Pending(); n != 1000 || len(group) != 1000 {
		t.Errorf("of 1000 confirmed messages a subscriber has %d and a group %d", n, len(group))
	}
	if over.Wanted([]byte("b")) {
		t.Error("wanted by nobody")
	}
	nc.Close()
	testkit.Eventually(t, func() bool { return !over.Wanted([]byte("a.1")) }, "the hub wants it no more")
	if wanted, err := over.Offer(text("a.1")); wanted || err != nil {
		t.Errorf("%v %v", wanted, err)
	}
}

// A stock hub says what it wants before it answers the first PING.
func TestHubSaysWhatItWantsFirst(t *testing.T) {
	h := testkit.StartHub(t, testkit.HubOptions{})
	nc := clientOf(t, h.ClientURL())
	for i := range 2000 {
		if _, err := nc.SubscribeSync(fmt.Sprint("a.", i)); err != nil {
			t.Fatal(err)
		}
	}
	flush(t, nc)
	for range 10 {
		t.Run("", func(t *testing.T) { // a link of its own, one after the other
			l, over, _ := coreHandover(t, h, "a.>")
			for i := range 2000 {
				if subject := fmt.Sprint("a.", i); !over.Wanted([]byte(subject)) {
					t.Fatalf("%s is not wanted, of %d that are", subject, l.Status().HubInterest)
				}
			}
		})
	}
}
