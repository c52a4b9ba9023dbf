package storefwd

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// fakeHub is an Uplink with one stream behind it, S, which answers at once.
type fakeHub struct {
	f   *Forwarder   // set before Run
	all []*Forwarder // or these

	mu        sync.Mutex
	stored    []fakeMsg
	retention string
	domain    string                      // "": hub
	takes     []string                    // subjects of the stream; nil: it does not say
	ttl       bool                        // it says that it takes Nats-TTL
	deaf      string                      // an API call that is not answered
	answer    func(subject string) string // instead of storing, unless it is ""
	lost      func(subject string) bool   // on the way to the stream
	unacked   func(subject string) bool   // stored, and the acknowledgement is lost
	never     string                      // a subject that the link will not carry
	replies   map[string]int              // publishes with each reply subject
	guarded   bool                        // the message that is being stored says what it is to come behind
	late      chan func()                 // takes what delivers the answers to publishes; nil: they come at once
	dated     bool                        // it says when its last message came
	newest    time.Time                   // … if so

	line  func(subject string) // waits for as long as the answer to that is on its line; nil: all comes at once
	down  chan func()          // what is on its line, see lay
	named string               // nats-server: the first of these headers counts
}

type fakeMsg struct{ subject, id, header string } // header with what follows it

type never struct{}

func (never) Error() string   { return "too large for this link" }
func (never) Permanent() bool { return true }

func (h *fakeHub) Send(m *msg.Msg) error {
	subject := string(m.Subject)
	if subject == h.never {
		return never{}
	}
	body, reply := h.serve(subject, m), bytes.Clone(m.Reply)
	deliver := func() {
		for _, f := range append(h.all, h.f) {
			if f != nil && bytes.HasPrefix(reply, f.inbox) {
				f.Deliver(&msg.Msg{Subject: reply, Data: []byte(body)}, nil)
			}
		}
	}
	switch {
	case body == "":
	case h.down != nil:
		h.down <- func() {
			h.line(subject)
			deliver()
		}
	case h.late != nil && !strings.HasPrefix(subject, "$JS."):
		h.late <- deliver
	default:
		deliver()
	}
	return nil
}

func (h *fakeHub) serve(subject string, m *msg.Msg) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	call, api := strings.CutPrefix(subject, "$JS."+cmp.Or(h.domain, "hub")+".API.STREAM.")
	switch {
	case api && call == h.deaf:
		return ""
	case call == "NAMES":
		return `{"streams":["S"]}`
	case call == "INFO.S":
		takes, err := json.Marshal(h.takes)
		if err != nil {
			panic(err)
		}
		return fmt.Sprintf(`{"config":{"retention":%q,"duplicate_window":1,"subjects":%s,"allow_msg_ttl":%t},"state":{"messages":%d,"first_seq":1,"last_seq":%d,"last_ts":%q}}`,
			h.retention, takes, h.ttl, len(h.stored), len(h.stored), h.newest.Format(time.RFC3339Nano))
	case call == "MSG.GET.S":
		return h.get(m.Data)
	}
	return h.store(subject, m)
}

func (h *fakeHub) get(body []byte) string {
	var req getMsg
	if err := json.Unmarshal(body, &req); err != nil {
		panic(err)
	}
	at := -1
	for i, s := range h.stored {
		if filter := cmp.Or(req.LastOf, req.NextOf); (filter == "" && i+1 == int(req.Seq)) || msg.Match(filter, s.subject) && i+1 >= int(req.Seq) {
			if at = i; req.NextOf != "" {
				break
			}
		}
	}
	if at < 0 {
		return `{"error":{"code":404,"err_code":10037}}`
	}
	return fmt.Sprintf(`{"message":{"subject":%q,"seq":%d,"hdrs":%q}}`, h.stored[at].subject, at+1,
		base64.StdEncoding.EncodeToString([]byte("NATS/1.0\r\nNats-Msg-Id: "+h.stored[at].id+"\r\n\r\n")))
}

func (h *fakeHub) store(subject string, m *msg.Msg) string {
	_, want, guarded := strings.Cut(string(m.Header), "Nats-Expected-Last-Sequence: ")
	if h.guarded = guarded; h.answer != nil {
		if a := h.answer(subject); a != "" {
			return a
		}
	}
	if h.lost != nil && h.lost(subject) {
		return ""
	}
	if v := headerValue(m.Header, []byte("Nats-Expected-Stream")); v != nil && string(v) != h.named {
		return `{"stream":"S","error":{"code":400,"err_code":10060,"description":"expected stream does not match"}}`
	}
	if want, _, _ = strings.Cut(want, "\r\n"); guarded && want != strconv.Itoa(len(h.stored)) {
		return `{"error":{"code":400,"err_code":10071,"description":"wrong last sequence"}}`
	}
	if h.replies == nil {
		h.replies = map[string]int{}
	}
	h.replies[string(m.Reply)]++
	h.stored = append(h.stored, fakeMsg{subject, string(headerValue(m.Header, msgID)), string(m.Header) + string(m.Data)})
	if h.dated {
		h.newest = time.Now()
	}
	if h.unacked != nil && h.unacked(subject) {
		return ""
	}
	return fmt.Sprintf(`{"stream":"S","seq":%d}`, len(h.stored))
}

func (h *fakeHub) subjects() (out []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.stored {
		if !strings.HasPrefix(s.subject, "other") {
			out = append(out, s.subject)
		}
	}
	return out
}

func (h *fakeHub) Flush()                {}
func (h *fakeHub) Up() <-chan struct{}   { c := make(chan struct{}); close(c); return c }
func (h *fakeHub) Down() <-chan struct{} { return make(chan struct{}) }
func (h *fakeHub) Hub() (string, int)    { return cmp.Or(h.domain, "hub"), 1 << 20 }
func (h *fakeHub) Hears(string) bool     { return true }
func (h *fakeHub) Delay() time.Duration  { return 0 }
func (h *fakeHub) Quiet() time.Duration  { return 0 }

func (h *fakeHub) Ping(answered func(error)) error {
	if h.down != nil {
		h.down <- func() { answered(nil) }
		return nil
	}
	answered(nil)
	return nil
}

// lay makes what the hub answers come over a line, one after the other or together, until it is called off.
func (h *fakeHub) lay(together bool) (off func()) {
	down := make(chan func(), 1<<12)
	var all sync.WaitGroup
	all.Go(func() {
		for come := range down {
			if together {
				all.Go(come)
			} else {
				come()
			}
		}
	})
	h.down = down
	return func() {
		close(down)
		all.Wait()
	}
}

// That others write to a stream is remembered over a restart, though the last message in it
// is ours: each start tried a chain again, and the next foreign message put one of ours behind
// hundreds that came later.
func TestForeignIsRemembered(t *testing.T) {
	dir, h := t.TempDir(), &fakeHub{takes: []string{"a.>"}}
	for run := range 2 {
		s, l := openWith(t, dir, "a.1")
		if run == 0 {
			h.stored = append(h.stored, fakeMsg{"a.other", "", ""})
		}
		f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c", RetryMin: 1, RetryMax: 1})
		h.f = f
		drain(t, f, h)
		if got := f.Stats().Resume; got != ByReads {
			t.Errorf("run %d resumed by %s", run, got)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Others write to the stream, under subjects of their own, just while nobody had and ours was
// the last message. A chain would have refused the message whose place theirs took, and
// let the one behind it pass, for it came behind theirs: up to 450 of 200,000 out of order
// when the hub was killed.
func TestForwarderDoesNotChainOnASharedStream(t *testing.T) {
	for _, takes := range [][]string{{"a.>", "other"}, {">"}} {
		h, once := &fakeHub{takes: takes}, true
		h.answer = func(subject string) string {
			if subject == "a.3" && once {
				once = false
				h.stored = append(h.stored, fakeMsg{"other", "", ""})
			}
			return ""
		}
		st, _ := forward(t, h, "a.1", "a.2", "a.3", "a.4", "a.5")
		wantSubjects(t, h, "a.1", "a.2", "a.3", "a.4", "a.5")
		if st.Resume != ByReads || st.Reordered > 0 {
			t.Errorf("stream of %q: %+v", takes, st)
		}
	}
	if st, _ := forward(t, &fakeHub{takes: []string{"a.*", "a.b.>"}}, "a.1", "a.2"); st.Resume != ByChain {
		t.Errorf("a stream of its own: %+v", st)
	}
}

// A hub that was set back is sent what it acknowledged and no longer has, be it
// alone on its stream or others have written there meanwhile.
func TestForwarderSendsAgainWhatTheHubLost(t *testing.T) {
	for _, since := range [][]fakeMsg{nil, {{"other", "", ""}, {"other", "", ""}, {"other", "", ""}, {"other", "", ""}}} {
		h, once := &fakeHub{}, true
		h.answer = func(subject string) string {
			if subject != "a.4" || !once {
				return ""
			}
			once = false
			h.stored = append(h.stored[:1:1], since...) // restored from a copy with the first only
			return `{"error":{"code":503,"err_code":10008,"description":"back in a moment"}}`
		}
		st, ls := forward(t, h, "a.1", "a.2", "a.3", "a.4")
		wantSubjects(t, h, "a.1", "a.2", "a.3", "a.4")
		if st.WentBack != 1 || len(ls.Lost) != 0 {
			t.Errorf("%+v %+v", st, ls)
		}
	}
}

// A crash made the log forget messages that the hub has, and the next run gave their sequences
// again. A hub that is set back to just these has nothing of that run: all of it is sent again.
func TestForwarderSendsAgainWhatAForgottenRunHides(t *testing.T) {
	dir := t.TempDir()
	h := &fakeHub{}
	s, _ := openWith(t, dir, "a.1")
	waitSafe(t, s)
	first := s.Epoch()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= 3; seq++ { // of which the log has one
		h.stored = append(h.stored, fakeMsg{subject: fmt.Sprint("a.", seq), id: string(appendID(nil, []byte("n/c"), first, seq))})
	}
	once := true
	h.answer = func(subject string) string {
		if subject != "a.6" || !once {
			return ""
		}
		once = false
		h.stored = h.stored[:3:3]
		return `{"error":{"code":503,"err_code":10008,"description":"back in a moment"}}`
	}
	s, l := openWith(t, dir, "a.4", "a.5", "a.6")
	defer s.Close()
	waitSafe(t, s)
	f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c", RetryMin: 1, RetryMax: 1, AckTimeout: 100 * time.Millisecond})
	h.f = f
	drain(t, f, h)
	wantSubjects(t, h, "a.1", "a.2", "a.3", "a.4", "a.5", "a.6")
	if st := f.Stats(); st.WentBack != 1 || st.Reordered != 0 {
		t.Errorf("%+v", st)
	}
}

// TestMarkFollowsTheFloor: acknowledgements of an earlier session, and what was read
// back, moved the ack floor and not the mark. A hub that lost just these was not
// noticed: of 200,000 messages 118 were gone after a restore.
func TestMarkFollowsTheFloor(t *testing.T) {
	s, l, c := tailLog(t, t.TempDir(), Retention{Keep: UntilAcked})
	defer s.Close()
	appendN(t, l, 3)
	f := NewForwarder(ForwarderOptions{Log: l})
	f.c, f.only, f.attempt = c, "S", 2
	l.setMark(mark{Stream: "S"})
	if _, err := c.Next(t.Context(), make([]Record, 0, 1)); err != nil {
		t.Fatal(err)
	}
	f.acked(1, 1, &pubAck{Seq: 10}) // of session 1
	if m := l.getMark(); m != (mark{Stream: "S", At: 10, Seq: 1, Read: 10}) {
		t.Errorf("%+v", m)
	}
	f.ackStored(&place{name: "S"}, []stored{{at: 11, ours: true, epoch: s.Epoch(), seq: 2}})
	if m := l.getMark(); m != (mark{Stream: "S", At: 11, Seq: 2, Read: 11}) {
		t.Errorf("%+v", m)
	}
}

// openWith opens an outbox and appends messages of these subjects.
func openWith(t *testing.T, dir string, subjects ...string) (*Store, *Log) {
	t.Helper()
	s, err := Open(dir, Options{Node: "n"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Log("OUT/c", Retention{Keep: UntilAcked, Grace: time.Hour, GraceBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	put(t, l, subjects...)
	return s, l
}

// put appends messages of these subjects.
func put(t *testing.T, l *Log, subjects ...string) {
	t.Helper()
	for _, sub := range subjects {
		if _, err := l.Append(&msg.Msg{Subject: []byte(sub)}); err != nil {
			t.Fatal(err)
		}
	}
}

// forward appends the subjects, runs a forwarder until all are acknowledged or given
// up, and returns what it counted.
func forward(t *testing.T, h *fakeHub, subjects ...string) (ForwarderStats, LogStats) {
	t.Helper()
	s, l := openWith(t, t.TempDir(), subjects...)
	defer s.Close()
	f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c", RetryMin: 1, RetryMax: 1,
		AckTimeout: 100 * time.Millisecond})
	h.f = f
	for i := range h.stored { // "2" is the id of the second one
		if seq, err := strconv.Atoi(h.stored[i].id); err == nil {
			h.stored[i].id = string(appendID(nil, []byte("n/c"), s.Epoch(), uint64(seq)))
			l.cursor("hub").sent.add(uint64(seq), uint64(seq))
		}
	}
	drain(t, f, h)
	return f.Stats(), l.Stats()
}

// drain runs a forwarder until its log is empty.
func drain(t *testing.T, f *Forwarder, h *fakeHub) {
	t.Helper()
	defer start(t, f)()
	defer func() {
		if t.Failed() {
			t.Logf("%+v %+v %v", f.Stats(), f.l.Stats(), h.subjects())
		}
	}()
	testkit.Eventually(t, func() bool { return f.l.Stats().Msgs == 0 }, "the log drained")
}

// start runs a forwarder until stop is called, once.
func start(t *testing.T, f *Forwarder) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
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

// Publishes to a stream of its own share a reply subject: which one an acknowledgement is
// for its sequence says. On a stream with others on it each has one of its own.
func TestForwarderSharesAReplySubject(t *testing.T) {
	for takes, want := range map[string]int{"a.>": 1, ">": 4} {
		h := &fakeHub{takes: []string{takes}}
		st, _ := forward(t, h, "a.1", "a.2", "a.3", "a.4")
		wantSubjects(t, h, "a.1", "a.2", "a.3", "a.4")
		if len(h.replies) != want || st.Acked != 4 || st.Junk != 0 {
			t.Errorf("stream of %s: %v %+v", takes, h.replies, st)
		}
	}
}

// Another stream, of another name or in another domain, takes the message that the hub's has
// lost, and says so: that is no acknowledgement.
func TestForwarderKnowsWhoAcknowledges(t *testing.T) {
	for _, takes := range []string{"a.>", ">"} {
		for _, ack := range []string{`{"stream":"T","seq":2}`, `{"stream":"S","domain":"leaf","seq":2}`, `{"stream":"S","domain":"leaf","seq":3}`} {
			once := true
			h := &fakeHub{takes: []string{takes}, answer: func(subject string) string {
				if subject != "a.2" || !once {
					return ""
				}
				once = false
				return ack
			}}
			st, _ := forward(t, h, "a.1", "a.2", "a.3")
			if st.Junk != 1 || st.Acked != 3 || len(h.stored) != 3 {
				t.Errorf("stream of %s, %s: stored %v, %+v", takes, ack, h.stored, st)
			}
		}
	}
}

// A stream that is not the configured one has the subjects: people are told which.
func TestForwarderNamesTheWrongStream(t *testing.T) {
	s, l, _ := tailLog(t, t.TempDir(), Retention{Keep: UntilAcked})
	defer s.Close()
	f := NewForwarder(ForwarderOptions{Log: l})
	f.only, f.domain = "S", "hub"
	f.Deliver(&msg.Msg{Subject: append(f.inbox, '0'), Data: []byte(`{"stream":"T","domain":"hub","seq":2}`)}, nil)
	if err := f.unheard(); !strings.Contains(err.Error(), `stream "T" of domain "hub" answers in place of "S" of "hub"`) || f.st.Junk != 1 {
		t.Error(err, f.st)
	}
}

// Several on their way are refused for their TTL, and none of the errors says whose it is:
// nothing is given up.
func TestForwarderGivesUpNothingNameless(t *testing.T) {
	s, l, c := tailLog(t, t.TempDir(), Retention{Keep: UntilAcked})
	defer s.Close()
	f := NewForwarder(ForwarderOptions{Log: l})
	f.c, f.attempt, f.resync = c, 1, func(error) {}
	for range 2 * maxRefusals {
		f.nameless(1, &pubAck{Error: &apiError{Code: 400, ErrCode: noTTLHere}})
		f.nameless(1, &pubAck{Error: &apiError{Code: 400, ErrCode: 10054}})
	}
	if f.st.Rejected > 0 || f.flight.names != namesAfterError || !f.noTTL.Load() {
		t.Errorf("%+v", f.st)
	}
}

// The hub had one already, and says so of a publish that shares its reply subject.
func TestForwarderHearsOfADuplicate(t *testing.T) {
	once := true
	h := &fakeHub{takes: []string{"a.>"}}
	h.answer = func(subject string) string {
		if subject != "a.2" || !once {
			return ""
		}
		once = false
		h.stored = append(h.stored, fakeMsg{"a.2", string(appendID(nil, []byte("n/c"), h.f.s.Epoch(), 2)), ""})
		return `{"stream":"S","seq":2,"duplicate":true}`
	}
	st, _ := forward(t, h, "a.1", "a.2", "a.3")
	wantSubjects(t, h, "a.1", "a.2", "a.3")
	if st.Duplicates != 1 || st.Resumed != 1 {
		t.Errorf("%+v", st)
	}
}

// What the hub has is not sent again, whatever its duplicate window is.
func TestForwarderGoesOnBehindWhatTheHubHas(t *testing.T) {
	h := &fakeHub{stored: []fakeMsg{{"a.1", "1", ""}}}
	st, _ := forward(t, h, "a.1", "a.2", "a.3")
	wantSubjects(t, h, "a.1", "a.2", "a.3")
	if st.Resumed != 1 || st.Sent != 2 || st.Resume != ByChain {
		t.Errorf("%+v", st)
	}
}

// A stream that has a later message may lack an earlier one: a cluster whose leader
// changed took the third and lost the second.
func TestForwarderFillsAHoleThatTheHubHas(t *testing.T) {
	h := &fakeHub{stored: []fakeMsg{{"a.1", "1", ""}, {"a.3", "3", ""}}}
	st, _ := forward(t, h, "a.1", "a.2", "a.3", "a.4")
	wantSubjects(t, h, "a.1", "a.3", "a.2", "a.4")
	if st.Resumed != 2 || st.Sent != 2 || st.Reordered != 1 {
		t.Errorf("%+v", st)
	}
}

// One that is lost on the way to a stream of our own takes none with it, and the
// order holds: the stream refuses what was to come behind it.
func TestForwarderChainsOnItsOwnStream(t *testing.T) {
	drops := 1
	h := &fakeHub{}
	h.lost = func(subject string) bool {
		if subject == "a.2" && drops > 0 {
			drops--
			return true
		}
		return false
	}
	st, _ := forward(t, h, "a.1", "a.2", "a.3", "a.4")
	wantSubjects(t, h, "a.1", "a.2", "a.3", "a.4")
	if st.Reordered != 0 || st.Duplicates != 0 || st.Resume != ByChain {
		t.Errorf("%+v", st)
	}
}

// On a stream with others on it nothing can refuse what follows a hole: it is found
// by the order of the acknowledgements, filled and counted.
func TestForwarderFindsAHoleInASharedStream(t *testing.T) {
	drops := 1
	h := &fakeHub{stored: []fakeMsg{{"a.0", "0", ""}, {"other", "", ""}}}
	h.lost = func(subject string) bool {
		if subject == "a.2" && drops > 0 {
			drops--
			return true
		}
		return false
	}
	st, _ := forward(t, h, "a.1", "a.2", "a.3", "a.4")
	wantSubjects(t, h, "a.0", "a.1", "a.3", "a.2", "a.4")
	if st.Reordered != 1 || st.Duplicates != 0 || st.Shared {
		t.Errorf("%+v", st)
	}
}

// One that is lost again, where it is to come behind later ones, has not come behind them yet.
func TestForwarderCountsWhatIsStoredBehindLaterOnes(t *testing.T) {
	drops := 2
	h := &fakeHub{stored: []fakeMsg{{"a.0", "0", ""}, {"other", "", ""}}}
	h.lost = func(subject string) bool {
		if subject == "a.2" && drops > 0 {
			drops--
			return true
		}
		return false
	}
	st, _ := forward(t, h, "a.1", "a.2", "a.3", "a.4")
	wantSubjects(t, h, "a.0", "a.1", "a.3", "a.2", "a.4")
	if st.Reordered != 1 {
		t.Errorf("%+v", st)
	}
}

// What was stored while its acknowledgement was lost is found by reading.
func TestForwarderReadsBackOnASharedStream(t *testing.T) {
	quiet := true
	h := &fakeHub{stored: []fakeMsg{{"other", "", ""}}}
	h.unacked = func(subject string) bool { q := quiet; quiet = quiet && subject != "a.3"; return q && subject != "a.1" }
	st, _ := forward(t, h, "a.1", "a.2", "a.3", "a.4")
	wantSubjects(t, h, "a.1", "a.2", "a.3", "a.4")
	if st.Resumed != 2 || st.Reordered != 0 {
		t.Errorf("%+v", st)
	}
}

// An outbox whose last message on the hub is another's must send everything.
func TestForwarderOnASharedSubject(t *testing.T) {
	h := &fakeHub{stored: []fakeMsg{{"a.9", "other/c.1.1", ""}}}
	st, _ := forward(t, h, "a.1", "a.2")
	wantSubjects(t, h, "a.9", "a.1", "a.2")
	if !st.Shared {
		t.Error("not said to be shared")
	}
}

// A stream that forgets what was consumed, or may not be read, is not believed to
// lack what it does not show; nor to have it.
func TestForwarderFallsBackToTheWindow(t *testing.T) {
	for _, h := range []*fakeHub{{retention: "workqueue"}, {deaf: "MSG.GET.S"}, {deaf: "INFO.S"}} {
		st, _ := forward(t, h, "a.1", "a.2")
		wantSubjects(t, h, "a.1", "a.2")
		if st.Resume != ByWindow || st.ResumeWhy == "" {
			t.Errorf("%+v", st)
		}
	}
}

// A guard that a device set is left out: one that does not match stops a replicated
// stream of nats-server 2.15.2 for everybody.
func TestForwarderLeavesOutForeignGuards(t *testing.T) {
	f := &Forwarder{origin: []byte("n")}
	h := string(f.appendHeader(nil, &Record{Seq: 1, Epoch: 2,
		Header: []byte("NATS/1.0\r\nNats-Expected-Last-Msg-Id: x\r\nA: b\r\nNats-Expected-Stream: y\r\nNats-Msg-Id: z\r\n" +
			"Nats-Batch-Id: q\r\nNats-Trace-Only: true\r\nNats-Msg-Ids: c\r\nnats-msg-id: e\r\nNats-Trace-Dest: d\r\n\r\n")}))
	if h != "NATS/1.0\r\nNats-Msg-Id: n.2.1\r\nA: b\r\nNats-Msg-Ids: c\r\nnats-msg-id: e\r\nNats-Trace-Dest: d\r\n\r\n" {
		t.Errorf("%q", h)
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

// A refusal that may pass is tried again as long as it takes: how often is not counted. It was, for
// each message, and with an outbox that drops its oldest that took ever more memory.
func TestRefusalsAreForgotten(t *testing.T) {
	s, l, c := tailLog(t, t.TempDir(), Retention{MaxMsgs: 1})
	defer s.Close()
	f := NewForwarder(ForwarderOptions{Log: l})
	f.c, f.resync = c, func(error) {}
	for i := range uint64(1000) {
		appendN(t, l, 1)
		f.attempt++
		f.refused(f.attempt, i+1, &apiError{Code: 503, ErrCode: 10077})
	}
	if n := len(f.refusals); n > 10 {
		t.Errorf("%d refusals are remembered of messages that were dropped", n)
	}
}

// What the stream or its account has to change for is tried for as long as it takes.
func TestForwarderWaitsForTheStream(t *testing.T) {
	for _, code := range []int{10002, 10109, 10120, 10172} {
		refusals := 3 * maxRefusals
		h := &fakeHub{answer: func(subject string) string {
			if subject == "a.2" && refusals > 0 {
				refusals--
				return fmt.Sprintf(`{"error":{"code":400,"err_code":%d,"description":"not now"}}`, code)
			}
			return ""
		}}
		st, _ := forward(t, h, "a.1", "a.2", "a.3")
		wantSubjects(t, h, "a.1", "a.2", "a.3")
		if st.Rejected != 0 || refusals != 0 {
			t.Errorf("%d: %+v, %d refusals left", code, st, refusals)
		}
	}
}

// A message expired, was passed over, and the gateway was killed before that was on its disk;
// or the hub stored it and let it expire. In the next boot nobody knew the time, so that
// it was sent again, behind later ones. Within one boot its age is known, and it is
// a hole to be filled.
func TestExpiredDoesNotComeBack(t *testing.T) {
	for _, c := range []struct {
		boot string
		want string
		lost uint64
	}{{"two", "a.1 a.3", 1}, {"one", "a.1 a.3 a.2", 0}} {
		dir := t.TempDir()
		open := func(boot string) (*Store, *Log) {
			s, err := Open(dir, Options{Node: "n", Clock: &fakeClock{id: boot, wall: time.Unix(50, 0), boot: time.Minute}})
			if err != nil {
				t.Fatal(err)
			}
			l, err := s.Log("OUT/c", Retention{Keep: UntilAcked})
			if err != nil {
				t.Fatal(err)
			}
			return s, l
		}
		s, l := open("one")
		for _, m := range []msg.Msg{{Subject: []byte("a.1")}, {Subject: []byte("a.2"), Expiry: time.Hour}, {Subject: []byte("a.3")}} {
			if _, err := l.Append(&m); err != nil {
				t.Fatal(err)
			}
		}
		h := &fakeHub{}
		for _, n := range []uint64{1, 3} {
			h.stored = append(h.stored, fakeMsg{fmt.Sprint("a.", n), string(appendID(nil, []byte("n/c"), s.Epoch(), n)), ""})
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s, l = open(c.boot)
		f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c", RetryMin: 1, RetryMax: 1, AckTimeout: 100 * time.Millisecond})
		h.f = f
		drain(t, f, h)
		wantSubjects(t, h, strings.Fields(c.want)...)
		if lost := l.Stats().Lost[LostExpired.String()]; lost != c.lost {
			t.Errorf("in boot %q %d have expired, want %d", c.boot, lost, c.lost)
		}
		s.Close()
	}
}

// A stream that does not answer is asked again and again until it acknowledges a message: only then
// a permission is missing. One without a leader was taken for blind after four questions.
func TestSilentStreamIsProbedUntilItAcknowledges(t *testing.T) {
	f := &Forwarder{}
	for i := 1; i <= 8; i++ {
		p := &place{name: "S"}
		err := f.mute(p, errNoAnswer)
		if i < unansweredMost {
			if err == nil || p.probe {
				t.Errorf("question %d: %v, probe %v", i, err, p.probe)
			}
			continue
		}
		if wantProbe := i < 7; err != nil || p.blind == "" || p.probe != wantProbe {
			t.Errorf("question %d: %v, probe %v", i, err, p.probe)
		}
		f.probed = i >= 6
	}
}

// A stream without a leader takes messages, and acknowledges none; then it answers to nothing. What it
// has is not sent again when it comes back, and neither is what it was probed with.
func TestProbeIsNotStored(t *testing.T) {
	h, probed := &fakeHub{takes: []string{"a.>"}}, false
	h.unacked = func(subject string) bool {
		if subject == "a.1" || probed {
			return false
		}
		h.deaf = "INFO.S"
		return true
	}
	h.answer = func(string) string { // called with the lock held
		if h.deaf != "" && !h.guarded {
			h.deaf, probed = "", true
		}
		return ""
	}
	forward(t, h, "a.1", "a.2", "a.3", "a.4")
	if wantSubjects(t, h, "a.1", "a.2", "a.3", "a.4"); !probed {
		t.Error("it was not probed")
	}
}

// Nor where the configuration names the stream and that does not list all of the outbox: of two headers
// that name one a hub looks at the first.
func TestProbeOfAStreamThatIsSet(t *testing.T) {
	h, probed := &fakeHub{takes: []string{"a.>"}, named: "S"}, false
	h.unacked = func(subject string) bool {
		if subject == "a.1" || probed {
			return false
		}
		h.deaf = "MSG.GET.S"
		return true
	}
	h.answer = func(string) string { // called with the lock held
		if h.deaf != "" && !h.guarded {
			h.deaf, probed = "", true
		}
		return ""
	}
	s, l := openWith(t, t.TempDir(), "a.1", "a.2", "a.3", "a.4")
	defer s.Close()
	h.f = NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>", "b.>"}, Stream: "S", Class: "c", RetryMin: 1, RetryMax: 1,
		AckTimeout: 100 * time.Millisecond})
	drain(t, h.f, h)
	if wantSubjects(t, h, "a.1", "a.2", "a.3", "a.4"); !probed {
		t.Error("it was not probed")
	}
}

// A stream that took no Nats-TTL gets them once it says that it does.
func TestTTLIsAllowedLater(t *testing.T) {
	h := &fakeHub{}
	h.answer = func(string) string { // called with the lock held
		if h.ttl {
			return ""
		}
		h.ttl = true // nats stream edit --allow-msg-ttl
		return `{"error":{"code":400,"err_code":10166,"description":"per-message TTL is disabled"}}`
	}
	s, l := openWith(t, t.TempDir())
	defer s.Close()
	if _, err := l.Append(&msg.Msg{Subject: []byte("a.1"), Header: []byte("NATS/1.0\r\nNats-TTL: 3600\r\n\r\n")}); err != nil {
		t.Fatal(err)
	}
	f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c", RetryMin: 1, RetryMax: 1, AckTimeout: 100 * time.Millisecond})
	h.f = f
	drain(t, f, h)
	if wantSubjects(t, h, "a.1"); !strings.Contains(h.stored[0].header, "Nats-TTL") {
		t.Errorf("stored without its TTL: %q", h.stored[0].header)
	}
}

// The hub is not asked while it is not known what the log holds: what it has could not be
// acknowledged then, and was sent again.
func TestHubIsNotAskedForWhatCannotBeRead(t *testing.T) {
	s, l := openBacklog(t, backlog(t, 600, 0), Options{})
	defer s.Close()
	s.mu.Lock()
	folded := l.folded
	s.setReadable(false)
	s.mu.Unlock()
	if folded == 0 || l.known() {
		t.Errorf("folded to %d, and known", folded)
	}
	f := &Forwarder{l: l, s: s}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.awaitLog(ctx) }()
	testkit.Eventually(t, func() bool { return f.Stats().Detail != "" }, "people are told")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	s.mu.Lock()
	s.setReadable(true)
	s.mu.Unlock()
	if err := f.awaitLog(t.Context()); err != nil {
		t.Error(err)
	}
}

// A hub counts what it refuses, until it is started again (nats-server 2.10 in a full account): where it
// says that it stands and what it wants a message to come behind are not the same. Once there is room all
// is stored, in order and once.
func TestHubThatCountsWhatItRefuses(t *testing.T) {
	h, full, counted := &fakeHub{takes: []string{"a.>"}}, true, false
	h.answer = func(string) string {
		switch {
		case counted && h.guarded:
			return `{"error":{"code":400,"err_code":10071,"description":"wrong last sequence"}}`
		case full:
			counted = true
			return `{"error":{"code":500,"err_code":10002,"description":"resource limits exceeded for account"}}`
		}
		return ""
	}
	bubbled(t, h, Retention{}, []string{"a.1", "a.2", "a.3"}, func(l *Log, f *Forwarder) {
		later(10 * time.Minute)
		h.mu.Lock()
		full = false
		h.mu.Unlock()
		later(10 * time.Minute)
		put(t, l, "a.4")
		later(time.Second)
		if got, st := strings.Join(h.subjects(), " "), f.Stats(); got != "a.1 a.2 a.3 a.4" || l.Stats().Msgs != 0 || st.Resume != ByReads || st.State != Live {
			t.Errorf("the stream has %q, %d wait, %+v", got, l.Stats().Msgs, st)
		}
	})
}
