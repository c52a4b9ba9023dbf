package leaf

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// modelPort is a port as the reference model knows it: a list of filters.
type modelPort struct {
	*Port
	name   string
	sink   *recorder
	echo   bool
	subs   []*msg.Sub
	answer msg.Drop
}

// recorder is a Sink that remembers what it took, queue groups included, and
// poisons nothing itself: the publisher does once Publish returns.
type recorder struct {
	answer msg.Drop
	got    []taken
}

type taken struct {
	text   string
	sub    *msg.Sub
	queues []string
}

func (r *recorder) Deliver(m *msg.Msg, sub *msg.Sub) msg.Drop {
	if r.answer <= msg.Kept {
		var queues []string
		for _, q := range m.Queues {
			queues = append(queues, string(q))
		}
		r.got = append(r.got, taken{fmt.Sprintf("%s %s %s %s", m.Subject, m.Reply, m.Header, m.Data), sub, queues})
	}
	return r.answer
}

// model is the router as one would write it without a trie, caches or counters.
type model struct {
	router   *Router
	ports    []*modelPort
	interest map[interestKey]int // as told by the callback
	calls    int                 // of the callback
}

func newModel() *model {
	m := &model{router: NewRouter(), interest: map[interestKey]int{}}
	for _, p := range []struct {
		name string
		mode Mode
	}{{"client1", EachSub}, {"client2", EachSub}, {"deaf", EachSub}, {"log", Once}, {"hub1", Uplink}, {"hub2", Uplink}, {"outbox", Outbox}} {
		sink := &recorder{}
		if p.mode == Outbox {
			sink.answer = msg.Kept
		}
		mp := &modelPort{name: p.name, sink: sink, echo: p.name != "deaf", answer: sink.answer}
		mp.Port = m.router.Attach(p.name, sink, p.mode)
		mp.Echo(mp.echo)
		m.ports = append(m.ports, mp)
	}
	m.router.Interest(func(subject, queue string, members int) {
		m.calls++
		if members == 0 {
			delete(m.interest, interestKey{subject, queue})
		} else {
			m.interest[interestKey{subject, queue}] = members
		}
	})
	return m
}

func (p *modelPort) matches(subject string, queue func(string) bool) (n int) {
	for _, s := range p.subs {
		if queue(s.Queue) && msg.Match(s.Subject, subject) {
			n++
		}
	}
	return n
}

func plain(q string) bool { return q == "" }

// hears reports whether q gets what p publishes.
func (p *modelPort) hears(q *modelPort) bool { return p != q || p.echo && p.mode != Uplink }

// check publishes from p and compares what everybody got with the rules that
// router.go states.
func (m *model) check(t *rapid.T, p *modelPort, subject string, queues []string) {
	for _, q := range m.ports {
		q.sink.got = nil
	}
	lent := &msg.Msg{Subject: []byte(subject), Reply: []byte("re"), Header: []byte("head"), Data: []byte("data")}
	if p.mode == Uplink {
		for _, q := range queues {
			lent.Queues = append(lent.Queues, []byte(q))
		}
	}
	groups := lent.Queues
	rc := p.Publish(lent)
	testkit.Poison(lent)
	for _, q := range groups {
		copy(q, bytes.Repeat([]byte{0xDB}, len(q)))
	}
	p.Flush()

	forwarded := slices.ContainsFunc(m.ports, func(q *modelPort) bool { return q.mode == Outbox && q.matches(subject, plain) > 0 })
	byGroup := map[string][]string{} // who got it for which group
	total := 0
	var kept bool
	var refusedBy msg.Drop
	for _, q := range m.ports {
		want := q.matches(subject, plain)
		if q.mode != EachSub {
			want = min(want, 1)
		}
		if q.mode == Outbox && want > 0 && p.mode != Uplink {
			kept = q.answer == msg.Kept
			if !kept {
				refusedBy = q.answer
			}
		}
		if !p.hears(q) || q.mode == Outbox && p.mode == Uplink || q.mode == Uplink && forwarded || q.answer > msg.Kept {
			want = 0
		}
		got := 0
		total += len(q.sink.got)
		for _, d := range q.sink.got {
			if d.text != subject+" re head data" {
				t.Fatalf("%s got %q", q.name, d.text)
			}
			if d.sub != nil && d.sub.Queue == "" {
				got++
			} else if d.sub != nil {
				byGroup[d.sub.Queue] = append(byGroup[d.sub.Queue], q.name)
			}
			if q.mode == EachSub {
				continue // d.sub says it all
			}
			if len(d.queues) > 0 && q.mode != Uplink {
				t.Fatalf("%s is told of groups %q", q.name, d.queues)
			}
			for _, g := range d.queues {
				byGroup[g] = append(byGroup[g], q.name)
			}
			if q.mode == Uplink && len(q.sink.got) > 1 || d.sub == nil && len(d.queues) == 0 {
				t.Fatalf("%s got %+v", q.name, q.sink.got)
			}
		}
		if got != want {
			t.Fatalf("%s publishes %q: %s got %d for itself, wants %d", p.name, subject, q.name, got, want)
		}
	}
	for _, g := range []string{"q1", "q2"} {
		who := m.takers(p, subject, g, forwarded)
		if p.mode == Uplink && !slices.Contains(queues, g) {
			who = nil
		}
		got := byGroup[g]
		if len(got) != min(1, len(who)) || len(got) == 1 && !slices.Contains(who, got[0]) {
			t.Fatalf("%s publishes %q: of group %s %q got it, should be one of %q", p.name, subject, g, got, who)
		}
	}
	if rc.Taken != total || rc.Kept != kept || rc.Refused != refusedBy {
		t.Fatalf("%s publishes %q: %+v, %d took it, kept %v, refused %v", p.name, subject, rc, total, kept, refusedBy)
	}
}

// takers are those who may take a message for a group: local members, or where
// none can, one of the hubs, if the message is not from a hub or for an outbox.
// A hub that refuses was chosen all the same, so where one may, none is certain.
func (m *model) takers(p *modelPort, subject, group string, forwarded bool) (who []string) {
	inGroup := func(q string) bool { return q == group }
	for _, q := range m.ports {
		if q.mode == EachSub && p.hears(q) && q.answer <= msg.Kept && q.matches(subject, inGroup) > 0 {
			who = append(who, q.name)
		}
	}
	if len(who) > 0 || p.mode == Uplink || forwarded {
		return who
	}
	for _, q := range m.ports {
		if q.mode == Uplink && q.matches(subject, inGroup) > 0 {
			who = append(who, q.name)
		}
	}
	return who
}

// publish checks a few subjects, each as often as it takes to be computed, to be
// cached, and to come from the cache.
func (m *model) publish(t *rapid.T, p *modelPort) {
	for range rapid.IntRange(1, 4).Draw(t, "subjects") {
		subject := drawSubject(t, "a", "b", "c")
		queues := rapid.SliceOfDistinct(rapid.SampledFrom([]string{"q1", "q2", "q3"}), rapid.ID[string]).Draw(t, "queues")
		for range rapid.IntRange(1, 3).Draw(t, "times") {
			m.check(t, p, subject, queues)
		}
	}
}

// checkInterest compares what the callback told with the lists.
func (m *model) checkInterest(t *rapid.T) {
	want, subs := map[interestKey]int{}, 0
	for _, p := range m.ports {
		subs += len(p.subs)
		for _, s := range p.subs {
			if k := (interestKey{s.Subject, s.Queue}); p.mode == EachSub || p.mode == Once {
				if want[k]++; s.Queue == "" {
					want[k] = 1
				}
			}
		}
	}
	if !maps.Equal(m.interest, want) {
		t.Fatalf("interest %v, want %v", m.interest, want)
	}
	if n := m.router.Subscriptions(); n != subs {
		t.Fatalf("%d subscriptions, want %d", n, subs)
	}
}

func drawSubject(t *rapid.T, tokens ...string) string {
	list := rapid.SliceOfN(rapid.SampledFrom(tokens), 1, 4).Draw(t, "tokens")
	if i := slices.Index(list, ">"); i >= 0 {
		list = list[:i+1]
	}
	return strings.Join(list, ".")
}

// Whatever is subscribed, unsubscribed and published by whom, the router does
// what a list of filters would.
func TestRouterAgainstListOfFilters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel()
		port := func(t *rapid.T) *modelPort { return rapid.SampledFrom(m.ports).Draw(t, "port") }
		subscribe := func(t *rapid.T) {
			p := port(t)
			sub := &msg.Sub{Subject: drawSubject(t, "a", "b", "*", ">"), Weight: rapid.Int32Range(0, 3).Draw(t, "weight")}
			if p.mode == EachSub || p.mode == Uplink {
				sub.Queue = rapid.SampledFrom([]string{"", "", "q1", "q2"}).Draw(t, "queue")
			}
			if err := p.Subscribe(sub); err != nil {
				t.Fatal(err)
			}
			p.subs = append(p.subs, sub)
		}
		t.Repeat(map[string]func(*rapid.T){
			"subscribe": subscribe,
			"unsubscribe": func(t *rapid.T) {
				p := port(t)
				if len(p.subs) == 0 {
					t.Skip("nothing to unsubscribe")
				}
				i := rapid.IntRange(0, len(p.subs)-1).Draw(t, "which")
				p.Unsubscribe(p.subs[i])
				p.Unsubscribe(p.subs[i]) // once more changes nothing
				p.subs = slices.Delete(p.subs, i, i+1)
			},
			"close": func(t *rapid.T) {
				p := port(t)
				p.Close()
				p.subs = nil
			},
			"refuse": func(t *rapid.T) {
				if p := port(t); p.mode == EachSub || p.mode == Outbox {
					p.answer = rapid.SampledFrom([]msg.Drop{p.answer, msg.Kept, msg.SlowConsumer}).Draw(t, "answer")
					if p.mode == EachSub && p.answer == msg.Kept {
						p.answer = msg.Taken
					}
					p.sink.answer = p.answer
				}
			},
			"publish":       func(t *rapid.T) { m.publish(t, port(t)) },
			"hear from hub": func(t *rapid.T) { m.publish(t, m.ports[4]) },
			"ask for more": func(t *rapid.T) { // so that there is something to go wrong
				for range 5 {
					subscribe(t)
				}
			},
			"": m.checkInterest,
		})
		for _, p := range m.ports {
			p.Close()
			p.subs = nil
		}
		m.checkInterest(t)
		if !m.router.trie.empty() {
			t.Fatal("nothing is subscribed, and the trie is not empty")
		}
	})
}

// What cannot be published to matches nothing, and what cannot be subscribed to
// is refused.
func TestRouterBadSubjects(t *testing.T) {
	r := NewRouter()
	sink := &testkit.Sink{}
	p := r.Attach("p", sink, EachSub)
	for _, s := range []string{">", "*.*", "a.>"} {
		if err := p.Subscribe(&msg.Sub{Subject: s}); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []string{"", ".", "a.", ".a", "a..b", "a b", "a\tb", "a\r\nb", strings.Repeat(".", 1<<20)} {
		for range 3 {
			if rc := p.Publish(text(s)); rc.Taken != 0 {
				t.Errorf("%.20q: %d took it", s, rc.Taken)
			}
		}
	}
	for _, s := range []*msg.Sub{{}, {Subject: "a..b"}, {Subject: "a.>.b"}, {Subject: "a b"}, {Subject: "a", Queue: "q q"}} {
		if err := p.Subscribe(s); !errors.Is(err, ErrBadSubject) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	long := strings.Repeat("x.", 1<<15) + "x"
	if err := p.Subscribe(&msg.Sub{Subject: long}); err != nil {
		t.Fatal(err)
	}
	if rc := p.Publish(text(long)); rc.Taken != 2 { // and ">"
		t.Errorf("%d took it", rc.Taken)
	}
}

// A plain subject is told of with its first and its last member, a queue group
// with each change; a late watcher is told of all there is, a stopped one of
// nothing.
func TestRouterInterest(t *testing.T) {
	r := NewRouter()
	var told []string
	watch := func() func() {
		return r.Interest(func(subject, queue string, members int) {
			told = append(told, fmt.Sprint(subject, "/", queue, "=", members))
		})
	}
	stop := watch()
	p := r.Attach("p", &testkit.Sink{}, EachSub)
	hub := r.Attach("hub", &testkit.Sink{}, Uplink)
	outbox := r.Attach("outbox", &testkit.Sink{}, Outbox)
	subs := []*msg.Sub{{Subject: "a"}, {Subject: "a"}, {Subject: "a", Queue: "q"}, {Subject: "a", Queue: "q"}}
	expect := func(what string, want ...string) {
		t.Helper()
		if !slices.Equal(told, want) {
			t.Errorf("%s: told %q, want %q", what, told, want)
		}
		told = nil
	}
	for _, s := range subs {
		if err := errors.Join(p.Subscribe(s), p.Subscribe(s), hub.Subscribe(&msg.Sub{Subject: "a"}), outbox.Subscribe(&msg.Sub{Subject: "a"})); err != nil {
			t.Fatal(err)
		}
	}
	expect("subscribed", "a/=1", "a/q=1", "a/q=2")
	second := watch()
	slices.Sort(told)
	expect("a late watcher", "a/=2", "a/q=2")
	second()
	for _, s := range subs {
		p.Unsubscribe(s)
		p.Unsubscribe(s)
	}
	expect("unsubscribed", "a/=0", "a/q=1", "a/q=0")
	stop()
	if err := p.Subscribe(subs[0]); err != nil {
		t.Fatal(err)
	}
	expect("stopped")
}

// Who asks a hub hears the hub alone, and the hub is told to where it asks from.
func TestRouterAnswers(t *testing.T) {
	r := NewRouter()
	sink := &testkit.Sink{}
	if err := r.Attach("asks", sink, Answers).Subscribe(&msg.Sub{Subject: "_INBOX.x.*"}); err != nil {
		t.Fatal(err)
	}
	told := 0
	defer r.Interest(func(subject, queue string, members int) { told += members })()
	if told != 1 {
		t.Errorf("the hub is told of %d, want 1", told)
	}
	spy := &testkit.Sink{}
	here, hub := r.Attach("here", spy, EachSub), r.Attach("hub", &testkit.Sink{}, Uplink)
	if err := here.Subscribe(&msg.Sub{Subject: ">"}); err != nil {
		t.Fatal(err)
	}
	if rc := here.Publish(text("_INBOX.x.1")); rc.Taken != 1 { // by itself
		t.Error("it takes an answer that is not the hub's")
	}
	if rc := hub.Publish(text("_INBOX.x.2")); rc.Taken != 1 {
		t.Error("it does not take the hub's answer")
	}
	if got := sink.Subjects(); !slices.Equal(got, []string{"_INBOX.x.2"}) {
		t.Errorf("it heard %q", got)
	}
	if got := spy.Subjects(); !slices.Equal(got, []string{"_INBOX.x.1"}) {
		t.Errorf("another heard %q", got)
	}
}

// Once Subscribe has returned, a publish reaches the subscription, and once
// Unsubscribe has returned none does, whatever the caches hold and whoever else
// changes and publishes at the same time.
func TestRouterCacheIsNeverStale(t *testing.T) {
	r := NewRouter()
	stop := make(chan struct{})
	var noise sync.WaitGroup
	for i := range 3 {
		noise.Go(func() {
			p := r.Attach("noise", atomicSink{new(atomic.Int64)}, EachSub)
			defer p.Close()
			sub := &msg.Sub{Subject: fmt.Sprintf("s.%d", i)}
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				for k := range 8 {
					p.Publish(text(fmt.Sprintf("s.%d", k)))
				}
				p.Flush()
				if n%4 == 0 {
					if err := p.Subscribe(sub); err != nil {
						t.Error(err)
					}
					p.Unsubscribe(sub)
				}
			}
		})
	}
	var got atomic.Int64
	listener := r.Attach("listener", atomicSink{&got}, EachSub)
	publisher := r.Attach("publisher", nil, EachSub)
	filters := []string{"s.5", "s.*", ">"}
	for i := range 2000 {
		sub := &msg.Sub{Subject: filters[i%len(filters)]}
		if err := listener.Subscribe(sub); err != nil {
			t.Fatal(err)
		}
		publisher.Publish(&msg.Msg{Subject: []byte("s.5"), Reply: []byte("mine")})
		listener.Unsubscribe(sub)
		if n := got.Swap(0); n != 1 {
			t.Fatalf("round %d: %d deliveries while subscribed", i, n)
		}
		publisher.Publish(&msg.Msg{Subject: []byte("s.5"), Reply: []byte("mine")})
		if n := got.Swap(0); n != 0 {
			t.Fatalf("round %d: %d deliveries after it", i, n)
		}
	}
	close(stop)
	noise.Wait()
}

// atomicSink counts what has the reply "mine".
type atomicSink struct{ n *atomic.Int64 }

func (s atomicSink) Deliver(m *msg.Msg, _ *msg.Sub) msg.Drop {
	if string(m.Reply) == "mine" {
		s.n.Add(1)
	}
	return msg.Taken
}

// The weights of two hubs share a queue group between them.
func TestRouterWeighsHubs(t *testing.T) {
	r := NewRouter()
	var a, b atomic.Int64
	for _, h := range []struct {
		n      *atomic.Int64
		weight int32
	}{{&a, 1}, {&b, 3}} {
		if err := r.Attach("hub", atomicSink{h.n}, Uplink).Subscribe(&msg.Sub{Subject: "jobs", Queue: "q", Weight: h.weight}); err != nil {
			t.Fatal(err)
		}
	}
	p := r.Attach("p", nil, EachSub)
	for range 4000 {
		if rc := p.Publish(&msg.Msg{Subject: []byte("jobs"), Reply: []byte("mine")}); rc.Taken != 1 {
			t.Fatalf("%+v", rc)
		}
	}
	if a.Load()+b.Load() != 4000 || a.Load() < 800 || a.Load() > 1200 {
		t.Errorf("%d and %d of 4000 at weights 1 and 3", a.Load(), b.Load())
	}
}

// slowSink is behind until its channel closes.
type slowSink struct {
	testkit.Sink
	behind  chan struct{}
	flushes int
}

func (s *slowSink) Flush() <-chan struct{} { s.flushes++; return s.behind }

// An outbox whose disk is behind refused what publishers sent 10 ms later, so that
// four fast devices on a sound disk were cut off while the journal was folded.
func TestRouterHoldsPublishersForAnOutbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRouter()
		sub, box := &slowSink{behind: make(chan struct{})}, &slowSink{behind: make(chan struct{})}
		for _, err := range []error{r.Attach("box", box, Outbox).Subscribe(&msg.Sub{Subject: "a"}), r.Attach("sub", sub, EachSub).Subscribe(&msg.Sub{Subject: "a"})} {
			if err != nil {
				t.Fatal(err)
			}
		}
		p := r.Attach("p", nil, EachSub)
		p.Publish(text("a"))
		start := time.Now()
		p.Flush()
		if took := time.Since(start); took != diskLimit {
			t.Errorf("held %v, want %v", took, diskLimit)
		}
		time.AfterFunc(diskLimit/2, func() { close(box.behind) })
		r.Attach("other", nil, EachSub).Publish(text("a")) // has not flushed yet
		p.Publish(text("a"))
		start = time.Now()
		p.Flush()
		if took := time.Since(start); took != diskLimit/2 {
			t.Errorf("held %v after the disk had caught up", took-diskLimit/2)
		}
	})
}

// A publisher waits a little for a recipient that is behind, flushes each once,
// and adds to the counters.
func TestRouterFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRouter()
		slow := &slowSink{behind: make(chan struct{})}
		if err := r.Attach("slow", slow, EachSub).Subscribe(&msg.Sub{Subject: "a"}); err != nil {
			t.Fatal(err)
		}
		p := r.Attach("p", nil, EachSub)
		for range 3 {
			p.Publish(text("a"))
		}
		start := time.Now()
		p.Flush()
		if took := time.Since(start); took != stallLimit || slow.flushes != 1 {
			t.Errorf("it waited %v, flushed %d times", took, slow.flushes)
		}
		p.Flush()
		if slow.flushes != 1 {
			t.Errorf("flushed %d times", slow.flushes)
		}
		p.Publish(text("a"))
		time.AfterFunc(stallLimit/2, func() { close(slow.behind) })
		start = time.Now()
		p.Flush()
		if took := time.Since(start); took != stallLimit/2 {
			t.Errorf("it waited %v", took)
		}
		slow.Answer(msg.NoQuota)
		p.Publish(text("a"))
		p.Flush()
		st := r.Stats()
		if st.InMsgs.Load() != 5 || st.InBytes.Load() != 10 || st.OutMsgs.Load() != 4 || st.OutBytes.Load() != 8 || st.Drops[msg.NoQuota].Load() != 1 {
			t.Errorf("counters %+v", st)
		}
	})
}
