package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
	"github.com/leafd/leafd/leaf"
	"github.com/leafd/leafd/storefwd"
)

// desk is an outbox "box" on "box.>" with a publisher, and a barrier that the test
// holds.
type desk struct {
	t        *testing.T
	log      *storefwd.Log
	acks     *pubacks
	pub      *leaf.Port
	got      testkit.Sink // what comes to "reply.*"
	barriers []func(error)
}

func newDesk(t *testing.T, r storefwd.Retention, window time.Duration) *desk {
	s, err := storefwd.Open(t.TempDir(), storefwd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	d := &desk{t: t}
	if d.log, err = s.Log("OUT/box", r); err != nil {
		t.Fatal(err)
	}
	router := leaf.NewRouter()
	d.acks = newPubacks("box", d.log, func(fn func(error)) { d.barriers = append(d.barriers, fn) }, window, router, slog.New(slog.NewTextHandler(io.Discard, nil)))
	for _, c := range []struct {
		sink   msg.Sink
		filter string
		mode   leaf.Mode
	}{{d.acks, "box.>", leaf.Outbox}, {&d.got, "reply.*", leaf.EachSub}} {
		if err := router.Attach(c.filter, c.sink, c.mode).Subscribe(&msg.Sub{Subject: c.filter}); err != nil {
			t.Fatal(err)
		}
	}
	d.pub = router.Attach("publisher", &testkit.Sink{}, leaf.EachSub)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		d.acks.run(stop)
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
	})
	return d
}

// publish sends a batch: messages with an id, if it is not empty, and replies to
// "reply.0" and so on.
func (d *desk) publish(ids ...string) {
	for i, id := range ids {
		var header []byte
		if id != "" {
			header = fmt.Appendf(nil, "NATS/1.0\r\nA: b\r\nNats-Msg-Id: %s\r\n\r\n", id)
		}
		testkit.Lend(&msg.Msg{Subject: []byte("box.a"), Reply: fmt.Appendf(nil, "reply.%d", i), Header: header, Data: []byte("x")},
			func(m *msg.Msg) { d.pub.Publish(m) })
	}
	d.pub.Flush()
}

// settle answers the oldest barrier.
func (d *desk) settle(err error) {
	d.t.Helper()
	if len(d.barriers) == 0 {
		d.t.Fatal("no barrier was asked for")
	}
	fn := d.barriers[0]
	d.barriers = d.barriers[1:]
	fn(err)
}

// expect waits for n answers in all, and compares the last ones, "subject body".
func (d *desk) expect(n int, want ...string) {
	d.t.Helper()
	testkit.Eventually(d.t, func() bool { return len(d.got.Got()) >= n }, "%d answers", n)
	all := d.got.Got()
	if len(all) != n {
		d.t.Fatalf("%d answers, not %d", len(all), n)
	}
	for i, w := range want {
		m := all[n-len(want)+i]
		if got := string(m.Subject) + " " + string(m.Data); got != w {
			d.t.Errorf("got %s, want %s", got, w)
		}
	}
}

// A PubAck is given by the barrier, one for a batch, and never before it.
func TestPubAckWaitsForBarrier(t *testing.T) {
	d := newDesk(t, storefwd.Retention{}, time.Minute)
	d.publish("", "")
	d.publish("")
	if len(d.barriers) != 2 || len(d.got.Got()) != 0 {
		t.Fatalf("%d barriers, %d answers", len(d.barriers), len(d.got.Got()))
	}
	d.settle(nil)
	d.expect(2, `reply.0 {"stream":"box","seq":1}`, `reply.1 {"stream":"box","seq":2}`)
	d.settle(nil)
	d.expect(3, `reply.0 {"stream":"box","seq":3}`)
}

// A message that comes again is not stored again, and its answer waits like that of
// the first.
func TestDuplicateIsStoredOnce(t *testing.T) {
	d := newDesk(t, storefwd.Retention{}, time.Minute)
	d.publish("a", "b", "a")
	d.publish("a")
	if n := d.log.Stats().Msgs; n != 2 {
		t.Errorf("%d messages stored", n)
	}
	d.settle(nil)
	d.expect(3, `reply.0 {"stream":"box","seq":1}`, `reply.1 {"stream":"box","seq":2}`, `reply.2 {"stream":"box","seq":1,"duplicate":true}`)
	d.settle(nil)
	d.expect(4, `reply.0 {"stream":"box","seq":1,"duplicate":true}`)
}

// What could not be made safe is answered with an error. It keeps its place and will
// be safe once the disk works, so sent again it is not stored again.
func TestFailedBarrierKeepsTheID(t *testing.T) {
	d := newDesk(t, storefwd.Retention{}, time.Minute)
	d.publish("a")
	d.settle(errors.New("input/output error"))
	d.publish("a")
	d.settle(nil)
	d.expect(2, `reply.0 {"error":{"code":503,"err_code":10077,"description":"outbox box: input/output error"},"stream":"box","seq":1}`,
		`reply.0 {"stream":"box","seq":1,"duplicate":true}`)
}

func TestRefusalIsAnError(t *testing.T) {
	d := newDesk(t, storefwd.Retention{MaxMsgs: 1, MaxBytes: 1000, Full: storefwd.Refuse}, time.Minute)
	large := func(m *msg.Msg) {
		if rc := d.pub.Publish(m); rc.Taken != 0 || rc.Refused != msg.StoreFull {
			t.Errorf("%+v", rc)
		}
	}
	testkit.Lend(&msg.Msg{Subject: []byte("box.a"), Reply: []byte("reply.a"), Data: make([]byte, 2000)}, large)
	d.pub.Flush()
	d.publish("a")
	d.publish("b")
	d.publish("a") // full or not, it is there
	d.expect(2, `reply.a {"error":{"code":400,"err_code":10077,"description":"outbox box: message is too large for the store"},"stream":"box","seq":0}`,
		`reply.0 {"error":{"code":503,"err_code":10077,"description":"outbox box: log is full"},"stream":"box","seq":0}`)
	d.settle(nil)
	d.settle(nil)
	d.expect(4, `reply.0 {"stream":"box","seq":1}`, `reply.0 {"stream":"box","seq":1,"duplicate":true}`)
}

// What only a stream can check is refused, with or without a reply subject: the hub
// would refuse it later, when nobody is there to be told.
func TestExpectationsAreRefused(t *testing.T) {
	d := newDesk(t, storefwd.Retention{}, time.Minute)
	for _, name := range []string{"Nats-Expected-Last-Sequence", "Nats-Expected-Stream", "Nats-Batch-Id"} {
		for _, reply := range []string{"reply.x", ""} {
			testkit.Lend(&msg.Msg{Subject: []byte("box.a"), Reply: []byte(reply), Header: []byte("NATS/1.0\r\n" + name + ": 1\r\n\r\n")}, func(m *msg.Msg) {
				if rc := d.pub.Publish(m); rc.Taken != 0 || rc.Refused != msg.Denied {
					t.Errorf("%s: %+v", name, rc)
				}
			})
		}
	}
	d.pub.Flush()
	d.expect(3)
	var ack struct{ Error struct{ Code int } }
	if err := json.Unmarshal(d.got.Got()[0].Data, &ack); err != nil || ack.Error.Code != 400 || d.log.Stats().Msgs != 0 {
		t.Errorf("%s, %d stored", d.got.Got()[0].Data, d.log.Stats().Msgs)
	}
	if n := d.log.Stats().Lost["header_refused"]; n != 6 {
		t.Errorf("%d counted", n)
	}
}

// Answers on their way are bounded: publishers are slowed down, and then refused, which they are
// told and the outbox counts. What it has already is not lost.
func TestAnswersAreBounded(t *testing.T) {
	d := newDesk(t, storefwd.Retention{}, time.Minute)
	deliver := func(header string) { // past the router, which would wait
		d.acks.Deliver(&msg.Msg{Subject: []byte("box.a"), Reply: []byte("reply.0"), Header: []byte(header)}, nil)
	}
	const known = "NATS/1.0\r\nNats-Msg-Id: 1\r\n\r\n"
	fill := func() {
		deliver(known)
		for range maxAnswers / 2 {
			deliver("")
		}
	}
	fill()
	if d.acks.Flush() == nil {
		t.Error("the publisher is not told to pause")
	}
	fill()
	deliver(known)
	const refused = `reply.0 {"error":{"code":503,"err_code":10077,"description":"outbox box: more than 16384 answers are on their way; wait for some"},"stream":"box","seq":0}`
	d.expect(3, refused, refused, refused)
	if st := d.log.Stats(); st.Msgs != maxAnswers-1 || st.Lost["disk_behind"] != 2 {
		t.Errorf("%d messages stored, lost %v", st.Msgs, st.Lost)
	}
	behind := d.acks.Flush()
	d.settle(nil)
	d.settle(nil)
	<-behind
	d.expect(maxAnswers + 3)
	d.publish("")
	d.settle(nil)
	d.expect(maxAnswers+4, fmt.Sprintf(`reply.0 {"stream":"box","seq":%d}`, maxAnswers))
}

// So are refusals that nobody takes: those beyond are counted alone.
func TestRefusalsAreBounded(t *testing.T) {
	a, _, _ := readable(t, storefwd.Retention{MaxMsgs: 1, Full: storefwd.Refuse})
	const n = 3 * maxAnswers
	for range n {
		a.Deliver(&msg.Msg{Subject: []byte("box.a"), Reply: []byte("reply.0")}, nil)
	}
	if lost := a.log.Stats().Lost; lost["log_full"] != n-1 || len(a.ready) != maxAnswers {
		t.Errorf("%v counted, %d to be told", lost, len(a.ready))
	}
}

// Many who wait for an outbox with an Interval are answered before that is over.
func TestManyAnswersHurryTheStore(t *testing.T) {
	a, _, _ := readable(t, storefwd.Retention{Interval: time.Hour})
	for range maxAnswers/8 + 1 {
		a.Deliver(&msg.Msg{Subject: []byte("box.a"), Reply: []byte("reply.0")}, nil)
	}
	a.Flush()
	testkit.Eventually(t, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.ready) == maxAnswers/8+1
	}, "the answers are there")
}

func TestIDWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := idWindow{span: time.Minute}
		known := func(id string) bool { _, ok := w.find(keyOf([]byte(id)), time.Now()); return ok }
		add := func(id string) { w.add(keyOf([]byte(id)), 1, time.Now()) }
		add("a")
		time.Sleep(30 * time.Second)
		add("b")
		if !known("a") || !known("b") || known("") || known("c") {
			t.Error("within the span")
		}
		time.Sleep(30 * time.Second)
		if known("a") || !known("b") {
			t.Error("after the span")
		}
		for i := range 3 * maxIDs {
			add(fmt.Sprint(i))
		}
		if known("b") || known(fmt.Sprint(2*maxIDs-1)) || !known(fmt.Sprint(2*maxIDs)) || len(w.seqs) != maxIDs || cap(w.ring) > 4*maxIDs {
			t.Errorf("bound: %d ids, %d places", len(w.seqs), cap(w.ring))
		}
	})
}

// After a restart the ids of what waits are known, the newest maxIDs, and none that is too old.
func TestIDWindowAfterARestart(t *testing.T) {
	dir := t.TempDir()
	clock := &lateClock{Clock: storefwd.SystemClock("never"), boot: "1"}
	open := func() (*storefwd.Store, *storefwd.Log) {
		s, err := storefwd.Open(dir, storefwd.Options{Clock: clock})
		if err != nil {
			t.Fatal(err)
		}
		l, err := s.Log("OUT/box", storefwd.Retention{})
		if err != nil {
			t.Fatal(err)
		}
		return s, l
	}
	s, l := open()
	const n = maxIDs + 100
	for i := range n {
		if _, err := l.Append(&msg.Msg{Subject: []byte("box.a"), Header: fmt.Appendf(nil, "NATS/1.0\r\nNats-Msg-Id: %d\r\n\r\n", i+1)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		span, later time.Duration
		boot        string
		first       uint64 // that is known
	}{{time.Hour, 0, "1", n - maxIDs + 1}, {time.Hour, 2 * time.Hour, "1", n + 1}, {0, 0, "1", n + 1}, {time.Hour, 0, "2", n + 1}} {
		clock.boot = c.boot
		s, l := open()
		w, now := idWindow{span: c.span}, time.Now()
		clock.late = c.later
		if err := w.restore(l, now); err != nil {
			t.Fatal(err)
		}
		for seq := uint64(1); seq <= n; seq++ {
			if got, ok := w.find(keyOf(fmt.Append(nil, seq)), now); ok != (seq >= c.first) || ok && got != seq {
				t.Fatalf("%+v: id %d is known: %v, as %d", c, seq, ok, got)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// lateClock is a clock whose machine has run for longer, or was started again.
type lateClock struct {
	storefwd.Clock
	late time.Duration
	boot string
}

func (c *lateClock) Boot() time.Duration { return c.Clock.Boot() + c.late }
func (c *lateClock) BootID() string      { return c.boot }

func TestScanHeader(t *testing.T) {
	for _, c := range []struct {
		header, id string
		why        error
	}{
		{"", "", nil}, {"NATS/1.0\r\n\r\n", "", nil}, {"NATS/1.0\r\nNats-Msg-Id:7\r\n\r\n", "7", nil},
		{"NATS/1.0\r\nX: Nats-Msg-Id: 3\r\nNats-Msg-Id:  a b \r\n\r\n", "a b", nil}, {"NATS/1.0 503\r\nNats-Msg-Id\r\n", "", nil},
		{"Nats-Msg-Id: 1", "1", nil}, {"NATS/1.0\r\nNats-Expected-Last-Msg-Id: 1\r\n", "", errExpectation},
		{"NATS/1.0\r\nNats-Trace-Only: True\r\n\r\n", "", errTraceOnly}, {"NATS/1.0\r\nNats-Trace-Only: false\r\n\r\n", "", nil},
		{"NATS/1.0\r\nNats-Trace-Dest: a\r\n\r\n", "", nil},
		{"NATS/1.0\r\nnats-msg-id: 1\r\nnats-expected-stream: s\r\n\r\n", "", nil}, // a name to the hub like any other
		{"NATS/1.0\r\nNats-Msg-Id: 1\r\nNats-Msg-Id: 2\r\n\r\n", "1", nil},
		{"NATS/1.0\r\nNats-Msg-Id: 1\r\nNats-TTL: abc\r\n\r\n", "1", errTTL}, {"NATS/1.0\r\nNats-TTL:  1m\r\nNats-TTL: abc\r\n\r\n", "", nil},
		{"NATS/1.0\r\nNats-TTL: 10 \r\n\r\n", "", nil}, // it goes on without the blanks
		{"NATS/1.0\r\nNats-TTL:\r\n\r\n", "", nil}, {"NATS/1.0\r\nNats-TTL: 9223372036854775807\r\n\r\n", "", nil}, {"NATS/1.0\r\nnats-ttl: abc\r\n\r\n", "", nil},
	} {
		if id, why := scanHeader([]byte(c.header)); string(id) != c.id || why != c.why {
			t.Errorf("%q: %q %v", c.header, id, why)
		}
	}
}

// A publish without a reply subject costs nothing but the append.
func TestPlainPublishDoesNotAllocate(t *testing.T) {
	s, err := storefwd.Open(t.TempDir(), storefwd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := s.Log("OUT/box", storefwd.Retention{Memory: true, MaxMsgs: 8})
	if err != nil {
		t.Fatal(err)
	}
	a := newPubacks("box", l, s.Barrier, time.Minute, leaf.NewRouter(), slog.New(slog.DiscardHandler))
	m := &msg.Msg{Subject: []byte("box.a"), Header: []byte("NATS/1.0\r\nNmqtt-Pub:1\r\n\r\n"), Data: []byte(strings.Repeat("x", 40))}
	deliver := func() { a.Deliver(m, nil) }
	if n := testing.AllocsPerRun(2000, deliver); n > 0 { // below one for each block of records
		t.Errorf("%v allocations a message", n)
	}
}

// readable is an outbox with a log that can be read.
func readable(t *testing.T, r storefwd.Retention) (a *pubacks, publish func(n int), logged func() string) {
	s, err := storefwd.Open(t.TempDir(), storefwd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	l, err := s.Log("OUT/box", r)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	a = newPubacks("box", l, s.Barrier, 0, leaf.NewRouter(), slog.New(newLogHandler(&out, slog.LevelInfo, true)))
	publish = func(n int) {
		for i := range n {
			a.Deliver(&msg.Msg{Subject: fmt.Appendf(nil, "box.%d", i)}, nil)
		}
	}
	return a, publish, func() string {
		defer out.Reset()
		return out.String()
	}
}

// The last refusals are told as well, though none comes after them: once their minute is
// over, or at the end.
func TestLastRefusalsAreTold(t *testing.T) {
	a, publish, logged := readable(t, storefwd.Retention{MaxMsgs: 1, Full: storefwd.Refuse})
	refused := func(subject string, n int) string {
		return fmt.Sprintf("<4>outbox refuses messages outbox=box subject=%s err=\"log is full\" count=%d\n", subject, n)
	}
	publish(6)
	if got := logged(); got != refused("box.1", 1) {
		t.Fatal(got)
	}
	a.report(time.Now(), false)
	if got := logged(); got != "" {
		t.Fatal(got)
	}
	later := time.Now().Add(refusalPeriod + time.Second)
	a.report(later, false)
	if got := logged(); got != refused("box.5", 4) {
		t.Fatal(got)
	}
	publish(3)
	a.report(later, false)
	if got := logged(); got != "" {
		t.Fatal(got)
	}
	over := make(chan struct{})
	close(over)
	a.run(over)
	if got := logged(); got != refused("box.2", 3) {
		t.Fatal(got)
	}
}

// What a full outbox drops, its senders being acknowledged, is told once a minute, and what
// an operator gives up is not taken for it.
func TestDropsAreTold(t *testing.T) {
	for _, c := range []struct {
		full storefwd.Full
		why  string
	}{{storefwd.DropOldest, "oldest_dropped"}, {storefwd.DropNewest, "newest_dropped"}} {
		a, publish, logged := readable(t, storefwd.Retention{MaxMsgs: 10, Full: c.full})
		publish(10)
		a.log.Drop(1)
		publish(41)
		a.report(time.Now(), false)
		if got := logged(); got != "<4>outbox is full and drops messages outbox=box reason="+c.why+" count=40\n" {
			t.Fatal(got)
		}
		a.report(time.Now(), false)
		if got := logged(); got != "" {
			t.Fatal(got)
		}
		publish(2)
		over := make(chan struct{})
		close(over)
		a.run(over)
		if got := logged(); !strings.HasSuffix(got, " count=2\n") {
			t.Fatal(got)
		}
	}
}
