package storefwd

import (
	"context"
	"encoding/base64"
	"strings"
	"sync"
	"testing"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// fakeHub is an Uplink with a stream behind it, which answers at once.
type fakeHub struct {
	f *Forwarder // set before Run

	mu     sync.Mutex
	last   string   // id of the last message, as STREAM.MSG.GET would tell
	stored []string // subject and id
	answer func(subject string) string
	never  string // a subject that the link will not carry
}

type never struct{}

func (never) Error() string   { return "too large for this link" }
func (never) Permanent() bool { return true }

func (h *fakeHub) Send(m *msg.Msg) error {
	subject := string(m.Subject)
	var body string
	switch {
	case subject == h.never:
		return never{}
	case strings.HasPrefix(subject, "$JS.hub.API.STREAM.NAMES"):
		body = `{"streams":["S"]}`
	case strings.HasPrefix(subject, "$JS.hub.API.STREAM.MSG.GET.S"):
		body = h.lastMessage()
	default:
		body = h.store(m)
	}
	h.f.Deliver(&msg.Msg{Subject: m.Reply, Data: []byte(body)}, nil)
	return nil
}

func (h *fakeHub) lastMessage() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last == "" {
		return `{"error":{"code":404,"err_code":10037}}`
	}
	return `{"message":{"hdrs":"` + base64.StdEncoding.EncodeToString([]byte("NATS/1.0\r\nNats-Msg-Id: "+h.last+"\r\n\r\n")) + `"}}`
}

func (h *fakeHub) store(m *msg.Msg) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.answer != nil {
		if a := h.answer(string(m.Subject)); a != "" {
			return a
		}
	}
	h.stored = append(h.stored, string(m.Subject)+" "+string(headerID(m.Header)))
	return `{"stream":"S","seq":1}`
}

func (h *fakeHub) subjects() (out []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.stored {
		subject, _, _ := strings.Cut(s, " ")
		out = append(out, subject)
	}
	return out
}

func (h *fakeHub) Flush()                {}
func (h *fakeHub) Up() <-chan struct{}   { c := make(chan struct{}); close(c); return c }
func (h *fakeHub) Down() <-chan struct{} { return make(chan struct{}) }
func (h *fakeHub) Hub() (string, int)    { return "hub", 1 << 20 }

// forward appends the subjects, runs a forwarder until all are acknowledged or given
// up, and returns what it counted.
func forward(t *testing.T, h *fakeHub, subjects ...string) (ForwarderStats, LogStats) {
	t.Helper()
	s, err := Open(t.TempDir(), Options{Node: "n"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := s.Log("OUT/c", Retention{Keep: UntilAcked})
	if err != nil {
		t.Fatal(err)
	}
	for _, sub := range subjects {
		if _, err := l.Append(&msg.Msg{Subject: []byte(sub)}); err != nil {
			t.Fatal(err)
		}
	}
	if h.last == "resume" { // the hub has the first one already
		h.last = string(appendID(nil, []byte("n/c"), s.Epoch(), 1))
	}
	f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c", RetryMin: 1, RetryMax: 1})
	h.f = f
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	testkit.Eventually(t, func() bool { return l.Stats().Msgs == 0 }, "the log drained")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	return f.Stats(), l.Stats()
}

func wantSubjects(t *testing.T, h *fakeHub, want ...string) {
	t.Helper()
	if got := strings.Join(h.subjects(), " "); got != strings.Join(want, " ") {
		t.Errorf("the hub stored %q, want %q", got, want)
	}
}

func TestForwarderSendsInOrder(t *testing.T) {
	h := &fakeHub{}
	st, _ := forward(t, h, "a.1", "a.2", "a.3")
	wantSubjects(t, h, "a.1", "a.2", "a.3")
	if st.Sent != 3 || st.Acked != 3 || st.Stream != "S" {
		t.Errorf("%+v", st)
	}
}

// What the hub has is not sent again, whatever its duplicate window is.
func TestForwarderGoesOnBehindWhatTheHubHas(t *testing.T) {
	h := &fakeHub{last: "resume"}
	st, _ := forward(t, h, "a.1", "a.2", "a.3")
	wantSubjects(t, h, "a.2", "a.3")
	if st.Resumed != 1 || st.Sent != 2 {
		t.Errorf("%+v", st)
	}
}

// An outbox whose last message on the hub is another's must send everything.
func TestForwarderOnASharedSubject(t *testing.T) {
	h := &fakeHub{last: "other/c.1.1"}
	st, _ := forward(t, h, "a.1", "a.2")
	wantSubjects(t, h, "a.1", "a.2")
	if !st.Shared {
		t.Error("not said to be shared")
	}
}

// A message that can never pass is given up, counted, and holds up nobody.
func TestForwarderGivesUpWhatWillNeverPass(t *testing.T) {
	h := &fakeHub{never: "a.bad"}
	st, ls := forward(t, h, "a.1", "a.bad", "a.2")
	wantSubjects(t, h, "a.1", "a.2")
	if st.Rejected != 1 || ls.Lost[LostRejected.String()] != 1 {
		t.Errorf("%+v %+v", st, ls)
	}
	h = &fakeHub{answer: func(subject string) string {
		if subject == "a.bad" {
			return `{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum allowed"}}`
		}
		return ""
	}}
	if st, _ := forward(t, h, "a.1", "a.bad", "a.2"); st.Rejected != 1 {
		t.Errorf("%+v", st)
	}
	wantSubjects(t, h, "a.1", "a.2")
}

// After a refusal that may pass it goes back to the first that is missing: nothing
// overtakes it.
func TestForwarderGoesBackAfterARefusal(t *testing.T) {
	refusals := 2
	h := &fakeHub{answer: func(subject string) string {
		if subject == "a.2" && refusals > 0 {
			refusals--
			return `{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}`
		}
		return ""
	}}
	st, _ := forward(t, h, "a.1", "a.2", "a.3")
	wantSubjects(t, h, "a.1", "a.2", "a.3")
	if st.Rejected != 0 {
		t.Errorf("%+v", st)
	}
}
