package test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

type streamKind struct {
	name, resume string
	config       jetstream.StreamConfig
}

// streamKinds are the kinds of stream that a hub can have for an outbox, and how an outbox
// goes on with each after an interruption.
var streamKinds = []streamKind{
	{"plain", "chain", jetstream.StreamConfig{}},
	{"compressed", "chain", jetstream.StreamConfig{Compression: jetstream.S2Compression}},
	{"per subject", "chain", jetstream.StreamConfig{MaxMsgsPerSubject: 1000, FirstSeq: 1 << 40}},
	{"republish", "chain", jetstream.StreamConfig{RePublish: &jetstream.RePublish{Source: ">", Destination: "again.>"}}},
	{"limits", "chain", jetstream.StreamConfig{MaxMsgSize: 1000, MaxAge: time.Hour, AllowMsgTTL: true, DenyDelete: true, DenyPurge: true}},
	{"short window", "chain", jetstream.StreamConfig{Duplicates: 100 * time.Millisecond}},
	{"other subjects", "chain", jetstream.StreamConfig{Duplicates: 100 * time.Millisecond, SubjectTransform: &jetstream.SubjectTransformConfig{Source: ">", Destination: "stored.>"}}},
	{"work queue", "window", jetstream.StreamConfig{Retention: jetstream.WorkQueuePolicy}},
	{"interest", "window", jetstream.StreamConfig{Retention: jetstream.InterestPolicy}},
	{"no acknowledgement", "chain", jetstream.StreamConfig{NoAck: true}},
	{"batches", "chain", jetstream.StreamConfig{AllowAtomicPublish: true, AllowBatchPublish: true}},
	{"schedules", "chain", jetstream.StreamConfig{AllowMsgSchedules: true}},
	{"written late", "chain", jetstream.StreamConfig{PersistMode: jetstream.AsyncPersistMode}},
	{"shared", "readback", jetstream.StreamConfig{Duplicates: 100 * time.Millisecond, Subjects: []string{"others.a"}}},
	{"shared, other subjects", "readback", jetstream.StreamConfig{Duplicates: 100 * time.Millisecond, Subjects: []string{"others.b"}, SubjectTransform: &jetstream.SubjectTransformConfig{Source: ">", Destination: "stored.>"}}},
	{mapped, "readback", jetstream.StreamConfig{Duplicates: 100 * time.Millisecond}},
	{"discards new", "chain", jetstream.StreamConfig{Discard: jetstream.DiscardNew, MaxMsgs: 10000, MaxMsgsPerSubject: 1000, DiscardNewPerSubject: true}},
}

// mapped is the kind whose subjects are others when they come to the stream.
const mapped = "mapped"

// allKinds names the streams, and has them take the subjects of their outboxes: mappings is of the
// hub's configuration, outboxes of leafd's.
func allKinds() (kinds []streamKind, mappings, outboxes string) {
	var hub, boxes strings.Builder
	kinds = slices.Clone(streamKinds)
	for i, k := range kinds {
		filter, more := fmt.Sprintf("k%02d.>", i), ""
		if k.name == mapped {
			fmt.Fprintf(&hub, "mappings: { %q: %q }\n", filter, "mapped."+filter)
			filter, more = "mapped."+filter, fmt.Sprintf(`stream: "K%d"`, i)
		}
		kinds[i].config.Name, kinds[i].config.Subjects = fmt.Sprint("K", i), append(k.config.Subjects, filter)
		fmt.Fprintf(&boxes, "k%02d { subjects: [\"k%02d.>\"], %s }\n", i, i, more)
	}
	return kinds, hub.String(), boxes.String()
}

// TestStreamKinds has an outbox for a stream of each kind, loses the hub's acknowledgements once,
// for longer than a short duplicate window, and kills the hub once: what comes out of each
// stream is everything, once and in order.
func TestStreamKinds(t *testing.T) {
	kinds, mappings, outboxes := allKinds()
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true, Config: mappings})
	cable := testkit.StartProxy(t, hub.LeafAddr())
	js, err := jetstream.New(connect(t, hub.ClientURL()))
	if err != nil {
		t.Fatal(err)
	}
	streams, consumers := make([]jetstream.Stream, len(kinds)), make([]jetstream.Consumer, len(kinds))
	for i, k := range kinds {
		if streams[i], err = js.CreateStream(t.Context(), k.config); err == nil {
			consumers[i], err = streams[i].CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy})
		}
		if err != nil {
			t.Fatalf("%s: %v", k.name, err)
		}
	}
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Env: map[string]string{"LEAFD_HUB_URL": "nats-leaf://" + cable.Addr()}, Config: `
server_name: kinds
host: "127.0.0.1", port: $LEAFD_NATS_PORT
http: $LEAFD_HTTP_PORT
leafnodes { reconnect: "250ms", remotes: [ { url: $LEAFD_HUB_URL } ] }
store { dir: $LEAFD_STORE }
outbox {
` + outboxes + "}\n"})
	local, err := jetstream.New(connect(t, l.NATSURL()))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	publish := func(k int) {
		t.Helper()
		for range k {
			for i := range kinds {
				if _, err := local.PublishAsync(fmt.Sprintf("k%02d.%d", i, n%7), fmt.Append(nil, n)); err != nil {
					t.Fatal(err)
				}
			}
			n++
		}
		acknowledged(t, local)
	}
	reached := func(want int) {
		t.Helper()
		for i, k := range kinds {
			var s jetstream.StreamState
			testkit.Eventually(t, func() bool {
				info, err := streams[i].Info(t.Context())
				if err == nil {
					s = info.State
				}
				return int(s.LastSeq-max(k.config.FirstSeq, 1)+1) >= want
			}, "%d messages in %s: %+v", want, k.name, &s)
		}
	}
	publish(100)
	reached(100)
	cable.Blackhole(testkit.Down)
	publish(50)
	reached(150)
	cable.Restore() // which ends the link; the next is up after more than a short window
	publish(50)
	reached(200)
	hub.Kill()
	publish(50)
	hub.Restart()
	publish(50)

	for i, k := range kinds {
		var boxes []struct {
			Class, Resume, Reason string
			Messages              int
			Dropped               map[string]uint64
		}
		testkit.Eventually(t, func() bool {
			l.Get("/uplinkz", &struct{ Outboxes any }{&boxes})
			return boxes[i].Messages == 0
		}, "%s: nothing waits: %+v", k.name, &boxes)
		if b := boxes[i]; b.Resume != k.resume || len(b.Dropped) != 0 {
			t.Errorf("%s: %+v, want to resume by %s", k.name, b, k.resume)
		}
		takeAll(t, k.name, consumers[i], n)
		if info, err := consumers[i].Info(t.Context()); err != nil || info.NumPending != 0 {
			t.Errorf("%s: more than was published: %+v %v", k.name, info, err)
		}
	}
}

// acknowledged waits until all that was published asynchronously is.
func acknowledged(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(testkit.Patience):
		t.Fatalf("%d not acknowledged", js.PublishAsyncPending())
	}
}

// takeAll takes n messages from a stream, which must be the numbers in their order.
func takeAll(t *testing.T, name string, c jetstream.Consumer, n int) {
	t.Helper()
	for next := 0; next < n; {
		got, err := c.Fetch(n-next, jetstream.FetchMaxWait(testkit.Patience))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		before := next
		for m := range got.Messages() {
			if string(m.Data()) != fmt.Sprint(next) {
				t.Fatalf("%s: got %s, want %d", name, m.Data(), next)
			}
			next++
			m.DoubleAck(context.Background())
		}
		if next == before {
			t.Fatalf("%s: %d of %d, %v", name, next, n, got.Error())
		}
	}
}
