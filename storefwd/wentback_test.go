package storefwd

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// setBack leaves the hub its first n messages, and adds those that came since.
func (h *fakeHub) setBack(n int, since ...fakeMsg) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stored = append(h.stored[:n:n], since...)
}

// What the outbox dropped was never at a hub that was set back, so the hub has not lost it. It
// was counted as lost a second time.
func TestLostByHubCountsOnce(t *testing.T) {
	dir := t.TempDir()
	h := &fakeHub{takes: []string{"a.>"}}
	run := func(n int) LogStats {
		t.Helper()
		s, err := Open(dir, Options{Node: "n"})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		l, err := s.Log("OUT/c", Retention{Keep: UntilAcked, MaxMsgs: 5})
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			put(t, l, "a.1")
		}
		f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c", RetryMin: 1, RetryMax: 1, AckTimeout: testkit.Patience})
		h.f = f
		drain(t, f, h)
		return l.Stats()
	}
	run(5)
	run(10) // 6 to 10 are dropped
	if n := len(h.subjects()); n != 10 {
		t.Fatalf("the hub has %d", n)
	}
	h.setBack(3) // a copy
	if st := run(1); st.Lost[LostByHub.String()] != 7 {
		t.Errorf("%v, 7 are lost by the hub", st.Lost)
	}
}

// What an earlier run had acknowledged is not here any more, and its epoch is forgotten. A hub that was set back to
// the middle of that run has lost the rest of it: none of that was declared.
func TestLostByHubOfAForgottenRun(t *testing.T) {
	for _, takes := range [][]string{{"a.>"}, {"a.>", "other"}} {
		dir, h := t.TempDir(), &fakeHub{takes: takes}
		run := func(subjects ...string) LogStats {
			t.Helper()
			s, l := openWith(t, dir, subjects...)
			defer s.Close()
			f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c", RetryMin: 1, RetryMax: 1, AckTimeout: testkit.Patience})
			h.f = f
			drain(t, f, h)
			return l.Stats()
		}
		run("a.1", "a.2", "a.3", "a.4", "a.5", "a.6")
		run("a.7", "a.8")
		h.setBack(3) // a copy
		if st := run("a.9"); st.Lost[LostByHub.String()] != 5 {
			t.Errorf("stream of %q: %v, 5 are lost by the hub", takes, st.Lost)
		}
		wantSubjects(t, h, "a.1", "a.2", "a.3", "a.9")
	}
}

// What a full outbox dropped was never at the hub, of which the stream says so by its places, whoever else may
// write there. Where nothing of ours was left in it all of that was declared a second time.
func TestLostByHubIsNotWhatWasDropped(t *testing.T) {
	for _, takes := range [][]string{{"a.>"}, {"a.>", "other"}} {
		h := &fakeHub{takes: takes}
		s, err := Open(t.TempDir(), Options{Node: "n"})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		l, err := s.Log("OUT/c", Retention{Keep: UntilAcked, Grace: time.Hour, GraceBytes: 1 << 20, MaxMsgs: 10})
		if err != nil {
			t.Fatal(err)
		}
		for range 60 {
			put(t, l, "a.1")
		}
		f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c", RetryMin: 1, RetryMax: 1, AckTimeout: testkit.Patience})
		h.f = f
		stop := start(t, f)
		testkit.Eventually(t, func() bool { return l.Stats().Msgs == 0 }, "drained")
		h.setBack(0) // deleted and made anew
		f.mu.Lock()
		resync := f.resync
		f.mu.Unlock()
		resync(errDown)
		testkit.Eventually(t, func() bool { return f.Stats().WentBack == 1 && l.Stats().Msgs == 0 }, "sent again")
		stop()
		if st := l.Stats(); len(h.subjects()) != 10 || st.Lost["oldest_dropped"] != 50 || st.Lost["lost_by_hub"] != 0 {
			t.Errorf("stream of %q: %d there again, of 60; lost %v", takes, len(h.subjects()), st.Lost)
		}
	}
}

// A hub loses a gap marker with what it lost, and nobody has that any more: what it declared is declared again.
func TestMarkerLostByHub(t *testing.T) {
	h := &fakeHub{takes: []string{"a.>"}}
	s, err := Open(t.TempDir(), Options{Node: "n"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := s.Log("OUT/c", Retention{Keep: UntilAcked, MaxMsgs: 10, GapSubject: "a.gap"})
	if err != nil {
		t.Fatal(err)
	}
	for range 25 {
		put(t, l, "a.1") // 15 are dropped
	}
	f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c", RetryMin: 1, RetryMax: 1, AckTimeout: testkit.Patience})
	h.f = f
	defer start(t, f)()
	there := func(n int) {
		t.Helper()
		testkit.Eventually(t, func() bool { return len(h.subjects()) == n && l.Stats().Msgs == 0 }, "%d are there", n)
	}
	there(11) // with a marker
	h.setBack(5)
	f.mu.Lock()
	resync := f.resync
	f.mu.Unlock()
	resync(errDown)
	there(7) // five, and two markers
	sum := map[string]uint64{}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.stored[5:] {
		var g gap
		_, body, _ := strings.Cut(m.header, "\r\n\r\n")
		if err := json.Unmarshal([]byte(body), &g); err != nil {
			t.Fatal(err)
		}
		sum[g.Reason] += g.Count
	}
	if sum["oldest_dropped"] != 15 || sum["lost_by_hub"] != 5 {
		t.Errorf("declared: %v, want the 15 that were dropped and the 5 that the hub lost", sum)
	}
}

// A stream that was made anew before anything was acknowledged in it is read from its beginning. It
// was read from where the one before it had ended, so that what it had was not found and sent again.
func TestRemadeBeforeTheFirst(t *testing.T) {
	h := &fakeHub{takes: []string{">"}, unacked: func(string) bool { return true }}
	for range 10 {
		h.stored = append(h.stored, fakeMsg{"other", "", ""})
	}
	bubbled(t, h, Retention{}, nil, func(l *Log, f *Forwarder) {
		later(time.Minute)
		if m := l.getMark(); m.Read != 10 {
			t.Fatalf("read up to %d", m.Read)
		}
		h.setBack(0)
		f.Retune(Tuning{}) // an interruption
		later(time.Minute)
		put(t, l, "a.1")
		later(time.Minute) // many interruptions, if it is not found
		wantSubjects(t, h, "a.1")
		if l.Stats().Msgs != 0 {
			t.Errorf("it was not found: mark %+v", l.getMark())
		}
	})
}

// A stream was read further than to the last acknowledgement, for others write to it, and is set back
// to a place in between. What is stored in the places that are given again is found there. It was
// read from where the stream had ended before, so that all of it was sent twice.
func TestSetBackBehindTheLast(t *testing.T) {
	for _, seen := range []bool{true, false} { // by a resume before anything was sent
		h := &fakeHub{takes: []string{">"}}
		bubbled(t, h, Retention{}, nil, func(l *Log, f *Forwarder) {
			put(t, l, "a.1", "a.2", "a.3")
			later(time.Minute)
			for range 7 {
				h.stored = append(h.stored, fakeMsg{"other", "", ""})
			}
			f.Retune(Tuning{}) // an interruption
			later(time.Minute)
			if m := l.getMark(); m.At != 3 || m.Read != 10 {
				t.Fatalf("mark %+v", m)
			}
			h.unacked = func(string) bool { return true }
			h.setBack(5)
			if seen {
				f.Retune(Tuning{})
				later(time.Minute)
			}
			put(t, l, "a.4", "a.5")
			later(time.Minute) // many interruptions, if they are not found
			wantSubjects(t, h, "a.1", "a.2", "a.3", "a.4", "a.5")
			if st := f.Stats(); l.Stats().Msgs != 0 || st.WentBack != 0 {
				t.Errorf("they were not found: mark %+v, %+v", l.getMark(), st)
			}
		})
	}
}

var graceOfAnHour = Retention{Grace: time.Hour, GraceBytes: 1 << 20}

// A stream that others write to, too, is set back while the link is up: the next acknowledgement
// shows it, and what is gone is sent again.
func TestSetBackWhileUp(t *testing.T) {
	h := &fakeHub{takes: []string{">"}}
	bubbled(t, h, graceOfAnHour, nil, func(l *Log, f *Forwarder) {
		put(t, l, "a.1", "a.2", "a.3")
		later(time.Minute)
		wantSubjects(t, h, "a.1", "a.2", "a.3")
		h.setBack(0)
		put(t, l, "a.4")
		later(time.Minute)
		wantSubjects(t, h, "a.4", "a.1", "a.2", "a.3")
		if st := f.Stats(); l.Stats().Msgs != 0 || st.WentBack != 1 {
			t.Errorf("%d wait, mark %+v, %+v", l.Stats().Msgs, l.getMark(), st)
		}
	})
}

// More was stored since a stream was set back than is gone: it is noticed all the same, and each
// message is there or declared lost.
func TestSetBackWhileUpIsNoticed(t *testing.T) {
	for _, r := range []Retention{{}, graceOfAnHour} {
		h := &fakeHub{takes: []string{">"}}
		bubbled(t, h, r, nil, func(l *Log, f *Forwarder) {
			put(t, l, "a.1", "a.2", "a.3")
			later(time.Minute)
			h.setBack(0)
			put(t, l, "a.4", "a.5", "a.6", "a.7", "a.8")
			later(time.Minute)
			f.Retune(Tuning{}) // an interruption
			later(time.Minute)
			there, lost := len(h.subjects()), l.Stats().Lost[LostByHub.String()]
			if st := f.Stats(); there+int(lost) != 8 || r.Grace > 0 && lost > 0 || l.Stats().Msgs != 0 || st.WentBack != 1 {
				t.Errorf("grace %v: of 8 messages %v are there and %d declared lost, %+v", r.Grace, h.subjects(), lost, st)
			}
		})
	}
}

// Others write to the same subjects, and the hub is set back by two messages: no more are said to be
// lost than there were. All that it had acknowledged were.
func TestLostByHubOnASharedSubject(t *testing.T) {
	h := &fakeHub{takes: []string{">"}}
	bubbled(t, h, Retention{}, nil, func(l *Log, f *Forwarder) {
		for range 10 {
			put(t, l, "a.1")
		}
		later(time.Minute)
		if n := len(h.subjects()); n != 10 || l.Stats().Msgs != 0 {
			t.Fatalf("%d are stored, %d wait", n, l.Stats().Msgs)
		}
		h.setBack(8, fakeMsg{"a.1", "other/c.1.1", ""}) // 9 and 10 are gone
		f.Retune(Tuning{})                              // an interruption
		later(time.Minute)
		if n, st := l.Stats().Lost[LostByHub.String()], f.Stats(); n != 2 || st.WentBack != 1 {
			t.Errorf("%d are said to be lost by the hub, 2 are; %+v", n, st)
		}
	})
}

// Others write to the stream, ten times as much, when it is set back. Of what is not here any more only
// that is lost which came behind the last of ours that is left: those before it are there. All of it
// was declared.
func TestLostByHubBehindTheLast(t *testing.T) {
	other, shared := fakeMsg{"other", "", ""}, fakeMsg{"a.1", "other/c.1.1", ""}
	for _, at := range []struct {
		kept  int // of ours, by the hub; here those from 31 on are
		since []fakeMsg
		up    int // ours that are stored before it is noticed
		lost  int
	}{
		{45, nil, 0, 0},
		{45, slices.Repeat([]fakeMsg{other}, 500), 0, 0}, // more than is gone
		{45, []fakeMsg{shared}, 0, 0},                    // ours is not the last of its subjects
		{45, nil, 1, 0},
		{20, nil, 0, 10},
		{20, []fakeMsg{shared}, 0, 10},
		{20, nil, 1, 10},
		{0, nil, 0, 30},
		{0, nil, 1, 30},
	} {
		h := &fakeHub{takes: []string{">"}}
		bubbled(t, h, graceOfAnHour, nil, func(l *Log, f *Forwarder) {
			cut := 0
			for i := 1; i <= 50; i++ {
				put(t, l, "a.1")
				if later(time.Second); i == 30 {
					later(3 * time.Hour) // what was acknowledged is let go
				}
				if i == at.kept {
					cut = len(h.stored)
				}
				h.stored = append(h.stored, slices.Repeat([]fakeMsg{other}, 10)...)
			}
			h.setBack(cut, at.since...)
			for range at.up {
				put(t, l, "a.1")
			}
			later(time.Second)
			f.Retune(Tuning{}) // an interruption
			later(time.Minute)
			lost, st := int(l.Stats().Lost[LostByHub.String()]), f.Stats()
			if lost != at.lost || st.WentBack != 1 || l.Stats().Msgs != 0 {
				t.Errorf("up to %d is left: %d are lost by the hub, want %d; %+v", at.kept, lost, at.lost, st)
			}
			there := 0
			for _, s := range h.stored {
				if s.subject == "a.1" && s.id != shared.id {
					there++
				}
			}
			if there != 50+at.up-at.lost {
				t.Errorf("up to %d is left: %d are there", at.kept, there)
			}
		})
	}
}

// In an order that is not the log's others' places count, too, but no more are lost than are not here.
func TestLostByHubInAnyOrder(t *testing.T) {
	s, l, c := tailLog(t, t.TempDir(), Retention{})
	defer s.Close()
	appendN(t, l, 50)
	if _, err := c.Next(t.Context(), make([]Record, 0, 50)); err != nil {
		t.Fatal(err)
	}
	for seq := range uint64(30) {
		c.Ack(seq + 1)
	}
	f, p := NewForwarder(ForwarderOptions{Log: l}), &place{own: true}
	for last, want := range map[uint64]uint64{900: 30, 980: 5, 990: 0} {
		p.info.State.LastSeq = last
		if lost, _ := f.countLess(p, mark{At: 1000}, 15); lost != want {
			t.Errorf("set back to %d: %d are lost, want %d", last, lost, want)
		}
	}
}

// Of a stream that cannot tell what it has nobody knows what it lost. That it was set back is
// the end of one session, and of no more.
func TestSetBackThatCannotTell(t *testing.T) {
	for _, h := range []*fakeHub{{retention: "workqueue"}, {deaf: "MSG.GET.S"}, {deaf: "INFO.S"}} {
		bubbled(t, h, graceOfAnHour, nil, func(l *Log, f *Forwarder) {
			later(time.Minute)
			put(t, l, "a.1", "a.2", "a.3")
			later(time.Minute)
			h.setBack(0)
			for range 20 {
				put(t, l, "a.4")
				later(time.Second)
			}
			later(time.Minute)
			if st := f.Stats(); l.Stats().Msgs != 0 || st.Resent+st.Resumed > 3 {
				t.Errorf("%s%s: %d wait, %+v", h.retention, h.deaf, l.Stats().Msgs, st)
			}
		})
	}
}

// The link moves to a hub in another JetStream domain, whose stream has the same name and less in it:
// nothing, or what was sent there before the link moved away from it. That is no stream that was set
// back, nor is it at the next interruption. A mark of an earlier version has no domain and counts in any.
func TestAnotherDomainIsNotSetBack(t *testing.T) {
	for _, at := range []struct {
		before string // the domain of the mark
		has    int    // messages, of those that went to the other domain
	}{{"hub", 0}, {"hub", 2}, {"", 0}} {
		for _, r := range []Retention{{}, graceOfAnHour} {
			h, before := &fakeHub{takes: []string{"a.>"}}, at.before
			bubbled(t, h, r, nil, func(l *Log, f *Forwarder) {
				put(t, l, "a.1", "a.2", "a.3")
				later(time.Minute)
				m := l.getMark()
				if m != (mark{Stream: "S", Domain: "hub", At: 3, Seq: 3, Read: 3}) {
					t.Fatalf("mark %+v", m)
				}
				m.Domain = before
				l.setMark(m)
				h.setBack(at.has)
				if before != "" {
					h.domain = "other"
				}
				for range 2 {
					f.Retune(Tuning{}) // an interruption
					later(time.Minute)
				}
				put(t, l, "a.4")
				later(time.Minute)
				st, lost := f.Stats(), l.Stats().Lost[LostByHub.String()]
				if there := len(h.subjects()); before == "" && (st.WentBack != 1 || there+int(lost) != 4) {
					t.Errorf("the stream of a mark without a domain was set back: %d are there, %d lost, %+v", there, lost, st)
				} else if before != "" && (st.WentBack != 0 || there != at.has+1 || lost != 0 || l.getMark().Domain != "other") {
					t.Errorf("another domain: %d are there, %d lost, mark %+v, %+v", there, lost, l.getMark(), st)
				}
			})
		}
	}
}

// busyStream stores what waits in its queue just after it has said where it stands.
type busyStream struct {
	*fakeHub
	holds bool
	queue []*msg.Msg
}

func (h *busyStream) Send(m *msg.Msg) error {
	subject := string(m.Subject)
	switch {
	case h.holds && strings.HasPrefix(subject, "a."):
		h.queue = append(h.queue, m.Clone())
		return nil
	case h.holds && strings.HasSuffix(subject, "INFO.S"):
		info := h.serve(subject, m)
		h.holds = false
		for _, m := range h.queue {
			h.fakeHub.Send(m)
		}
		h.f.Deliver(&msg.Msg{Subject: m.Reply, Data: []byte(info)}, nil)
		return nil
	}
	return h.fakeHub.Send(m)
}

// A session ends with messages in the queue of the stream, whose acknowledgements come after the next
// session has asked where the stream stands, and before it has compared. That looked as if the
// stream was set back behind them. What expired before it was found there was declared lost.
func TestNotSetBackByWhatComesMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := openWith(t, t.TempDir(), "a.1")
		defer s.Close()
		h := &busyStream{fakeHub: &fakeHub{takes: []string{"a.>", "other"}}}
		f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c", RetryMin: 1, RetryMax: 1})
		h.f = f
		stop := start(t, f)
		later(time.Second)
		h.holds = true
		put(t, l, "a.2", "a.3")
		later(time.Second)
		f.Retune(Tuning{}) // an interruption
		later(time.Second)
		stop()
		wantSubjects(t, h.fakeHub, "a.1", "a.2", "a.3")
		if st := f.Stats(); st.WentBack != 0 || l.Stats().Msgs != 0 || h.holds || len(h.queue) != 2 {
			t.Errorf("%+v, %d wait", st, l.Stats().Msgs)
		}
	})
}

// What an earlier run had in RAM alone lies behind what it had on the disk. A hub that has lost it has what is on the
// disk: that is not stored again, and the rest is declared, in whatever order messages go.
func TestLostByHubWithHoles(t *testing.T) {
	for name, c := range map[string]struct {
		takes []string
		o     ForwarderOptions
	}{
		"own":        {[]string{"a.>"}, ForwarderOptions{}},
		"shared":     {[]string{"a.>", "other"}, ForwarderOptions{}},
		"newest":     {[]string{"a.>"}, ForwarderOptions{Newest: true}},
		"live share": {[]string{"a.>"}, ForwarderOptions{LiveShare: 20}},
	} {
		t.Run(name, func(t *testing.T) {
			const written, online = 400, 10
			dir, h := t.TempDir(), &fakeHub{takes: c.takes}
			run := func(fn func(s *Store, l *Log, f *Forwarder)) {
				t.Helper()
				s, err := Open(dir, Options{Node: "n", CommitInterval: time.Hour, SpillAfter: time.Hour})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				l, err := s.Log("OUT/c", Retention{Keep: UntilAcked, Grace: time.Hour, GraceBytes: 1 << 20})
				if err != nil {
					t.Fatal(err)
				}
				o := c.o
				o.Log, o.Uplink, o.Filters, o.Class, o.RetryMin, o.RetryMax, o.AckTimeout = l, h, []string{"a.>"}, "c", 1, 1, testkit.Patience
				f := NewForwarder(o)
				h.f = f
				fn(s, l, f)
			}
			run(func(s *Store, l *Log, f *Forwarder) {
				for range written {
					put(t, l, "a.1")
				}
				waitSafe(t, s)
				drain(t, f, h)
			})
			run(func(s *Store, l *Log, f *Forwarder) {
				stop := start(t, f)
				testkit.Eventually(t, func() bool { return l.Stats().Live }, "live")
				for range online {
					put(t, l, "a.2")
				}
				testkit.Eventually(t, func() bool { return l.Stats().Msgs == 0 }, "acknowledged")
				stop()
				if st := s.Stats(); st.JournalBytes > 0 {
					t.Fatalf("%d bytes written online", st.JournalBytes)
				}
			})
			if n := len(h.subjects()); n != written+online {
				t.Fatalf("the hub has %d", n)
			}
			h.setBack(written)
			run(func(_ *Store, l *Log, f *Forwarder) {
				put(t, l, "a.3")
				drain(t, f, h)
				if st := l.Stats(); st.Lost[LostByHub.String()] != online {
					t.Errorf("%v, %d are lost by the hub", st.Lost, online)
				}
			})
			if n := len(h.subjects()); n != written+1 {
				t.Errorf("the hub has %d, sent again were %d", n, n-written-1)
			}
		})
	}
}
