package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// forgetful are streams that do not keep what they took: after an interruption it cannot be
// seen there.
var forgetful = []struct {
	name   string
	config jetstream.StreamConfig // with one more subject it is not the outbox's alone
}{
	{"last value", jetstream.StreamConfig{MaxMsgsPerSubject: 1}},
	{"two values", jetstream.StreamConfig{MaxMsgsPerSubject: 2}},
	{"few messages", jetstream.StreamConfig{MaxMsgs: 10}},
	{"few bytes", jetstream.StreamConfig{MaxBytes: 2000}},
	{"rollups", jetstream.StreamConfig{AllowRollup: true}},
	{"shared, last value", jetstream.StreamConfig{MaxMsgsPerSubject: 1, Subjects: []string{"others.a"}}},
	{"shared, few messages", jetstream.StreamConfig{MaxMsgs: 10, Subjects: []string{"others.b"}}},
}

// forgetting is a hub with such streams, and a leafd with an outbox for each.
type forgetting struct {
	*testing.T
	js      jetstream.JetStream
	streams []jetstream.Stream
	leafd   *testkit.Leafd
	n       int   // messages that were published to each outbox
	others  []int // and by somebody else to the stream
}

// publish has k messages more acknowledged by each outbox, and one of somebody else stored before
// them where the stream takes it.
func (f *forgetting) publish(k int) {
	f.Helper()
	local, err := jetstream.New(connect(f.T, f.leafd.NATSURL()))
	if err != nil {
		f.Fatal(err)
	}
	for i, kind := range forgetful {
		if len(kind.config.Subjects) > 0 {
			if _, err := f.js.Publish(f.Context(), kind.config.Subjects[0], nil); err != nil {
				f.Fatal(err)
			}
			f.others[i]++
		}
	}
	for range k {
		for i, kind := range forgetful {
			m := nats.NewMsg(fmt.Sprintf("f%d.%d", i, f.n%3))
			m.Data = fmt.Append(nil, f.n)
			if kind.config.AllowRollup {
				m.Header.Set("Nats-Rollup", "sub")
			}
			if _, err := local.PublishMsgAsync(m); err != nil {
				f.Fatal(err)
			}
		}
		f.n++
	}
	acknowledged(f.T, local)
}

// reached waits until the streams have had all.
func (f *forgetting) reached() {
	f.Helper()
	for i, kind := range forgetful {
		var s jetstream.StreamState
		testkit.Eventually(f, func() bool {
			info, err := f.streams[i].Info(f.Context())
			if err == nil {
				s = info.State
			}
			return int(s.LastSeq) >= f.n+f.others[i]
		}, "%d messages in %s: %+v", f.n, kind.name, &s)
	}
}

// exact waits until nothing waits in leafd: then each message was stored once, and the last is the
// last that was published.
func (f *forgetting) exact(when string) {
	f.Helper()
	var boxes []struct {
		Messages int
		Resume   string
		Dropped  map[string]uint64
	}
	testkit.Eventually(f, func() bool {
		f.leafd.Get("/uplinkz", &struct{ Outboxes any }{&boxes})
		for _, b := range boxes {
			if b.Messages > 0 {
				return false
			}
		}
		return true
	}, "%s: nothing waits: %+v", when, &boxes)
	for i, kind := range forgetful {
		info, err := f.streams[i].Info(f.Context())
		if err != nil || info.State.LastSeq != uint64(f.n+f.others[i]) || len(boxes[i].Dropped) > 0 {
			f.Fatalf("%s, %s: %d messages were stored, want %d: %+v %v", when, kind.name, info.State.LastSeq, f.n+f.others[i], boxes[i], err)
		}
		if m, err := f.streams[i].GetMsg(f.Context(), info.State.LastSeq); err != nil || string(m.Data) != fmt.Sprint(f.n-1) {
			f.Errorf("%s, %s: the last is %+v, want %d: %v", when, kind.name, m, f.n-1, err)
		}
	}
}

// TestStreamsThatForget loses the acknowledgements of such streams for longer than their
// duplicate window, and kills the gateway meanwhile: nothing is stored again, which would come
// behind what is newer, and nothing new is taken for what was stored before.
func TestStreamsThatForget(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	cable := testkit.StartProxy(t, hub.LeafAddr())
	js, err := jetstream.New(connect(t, hub.ClientURL()))
	if err != nil {
		t.Fatal(err)
	}
	f := &forgetting{T: t, js: js, streams: make([]jetstream.Stream, len(forgetful)), others: make([]int, len(forgetful))}
	var outboxes strings.Builder
	for i, k := range forgetful {
		k.config.Name, k.config.Duplicates = fmt.Sprint("F", i), 100*time.Millisecond
		k.config.Subjects = append(k.config.Subjects, fmt.Sprintf("f%d.>", i))
		if f.streams[i], err = js.CreateStream(t.Context(), k.config); err != nil {
			t.Fatalf("%s: %v", k.name, err)
		}
		fmt.Fprintf(&outboxes, "f%d { subjects: [\"f%d.>\"] }\n", i, i)
	}
	f.leafd = testkit.StartLeafd(t, testkit.LeafdOptions{Env: map[string]string{"LEAFD_HUB_URL": "nats-leaf://" + cable.Addr()}, Config: `
server_name: forgets
host: "127.0.0.1", port: $LEAFD_NATS_PORT
http: $LEAFD_HTTP_PORT
leafnodes { reconnect: "250ms", remotes: [ { url: $LEAFD_HUB_URL } ] }
store { dir: $LEAFD_STORE }
outbox {
` + outboxes.String() + "}\n"})
	f.publish(50)
	f.reached()
	cable.Blackhole(testkit.Down)
	f.publish(50)
	f.reached()
	cable.Restore()
	f.publish(50)
	f.exact("acknowledgements lost")

	cable.Blackhole(testkit.Down)
	f.publish(50)
	f.reached()
	f.leafd.Kill()
	cable.Restore()
	f.leafd.Restart()
	f.publish(50)
	f.exact("and the gateway killed")

	f.publish(100) // which the hub acknowledges before they are written: a kill forgets them
	f.exact("online")
	f.leafd.Kill()
	f.leafd.Restart()
	testkit.Eventually(t, func() bool {
		var boxes []struct{ State string }
		f.leafd.Get("/uplinkz", &struct{ Outboxes any }{&boxes})
		return !slices.ContainsFunc(boxes, func(b struct{ State string }) bool { return b.State != "live" })
	}, "the hub was asked what it has")
	f.publish(50)
	f.exact("and the gateway killed when it had written nothing of that")
}

// TestLastValueIsTheNewest drains a backlog to streams of last values, with the orders that an outbox
// can have: what they hold in the end is the newest, also where it came while the backlog drained.
func TestLastValueIsTheNewest(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js, err := jetstream.New(connect(t, hub.ClientURL()))
	if err != nil {
		t.Fatal(err)
	}
	boxes := []string{`order: "newest"`, `live_share: "50%"`, `order: "oldest"`}
	streams := make([]jetstream.Stream, len(boxes))
	var outboxes strings.Builder
	for i, more := range boxes {
		if streams[i], err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: fmt.Sprint("L", i), Subjects: []string{fmt.Sprintf("l%d.>", i)}, MaxMsgsPerSubject: 1}); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&outboxes, "l%d { subjects: [\"l%d.>\"], %s, drain_rate: 100KB }\n", i, i, more)
	}
	hub.Kill()
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}, Config: `
server_name: last
host: "127.0.0.1", port: $LEAFD_NATS_PORT
http: $LEAFD_HTTP_PORT
leafnodes { reconnect: "250ms", remotes: [ { url: $LEAFD_HUB_URL } ] }
store { dir: $LEAFD_STORE }
outbox {
` + outboxes.String() + "}\n"})
	local, err := jetstream.New(connect(t, l.NATSURL()))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	publish := func(k int) {
		t.Helper()
		for range k {
			for i := range boxes {
				if _, err := local.PublishAsync(fmt.Sprintf("l%d.%d", i, n%3), fmt.Append(nil, n)); err != nil {
					t.Fatal(err)
				}
			}
			n++
		}
		acknowledged(t, local)
	}
	publish(699)
	hub.Restart()
	var state []struct{ Acked, Messages int }
	uplink := func() { l.Get("/uplinkz", &struct{ Outboxes any }{&state}) }
	testkit.Eventually(t, func() bool { uplink(); return state[0].Acked > 0 && state[1].Acked > 0 }, "draining: %+v", &state)
	publish(3)
	testkit.Eventually(t, func() bool {
		uplink()
		return state[0].Messages+state[1].Messages+state[2].Messages == 0
	}, "nothing waits: %+v", &state)
	for i, more := range boxes {
		for k := range 3 {
			m, err := streams[i].GetLastMsgForSubject(t.Context(), fmt.Sprintf("l%d.%d", i, k))
			if want := fmt.Sprint(n - 3 + k); err != nil || string(m.Data) != want {
				t.Errorf("%s, subject %d: %s, want %s: %v", more, k, m.Data, want, err)
			}
		}
	}
}
