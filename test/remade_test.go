package test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// remade is a stream on the hub that somebody clears away while an outbox fills it.
type remade struct {
	*testing.T
	js     jetstream.JetStream
	cable  *testkit.Proxy
	leafd  *testkit.Leafd
	stream string
	n      int // messages that were published
}

func startRemade(t *testing.T) *remade {
	return startRemadeWith(t, jetstream.StreamConfig{Name: "R", Subjects: []string{"r.>"}})
}

func startRemadeWith(t *testing.T, c jetstream.StreamConfig) *remade {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js, err := jetstream.New(connect(t, hub.ClientURL()))
	if err != nil {
		t.Fatal(err)
	}
	r := &remade{T: t, js: js, cable: testkit.StartProxy(t, hub.LeafAddr())}
	r.make(c)
	r.leafd = testkit.StartLeafd(t, testkit.LeafdOptions{Env: map[string]string{"LEAFD_HUB_URL": "nats-leaf://" + r.cable.Addr()}, Config: `
server_name: remade
host: "127.0.0.1", port: $LEAFD_NATS_PORT
http: $LEAFD_HTTP_PORT
leafnodes { reconnect: "250ms", remotes: [ { url: $LEAFD_HUB_URL } ] }
store { dir: $LEAFD_STORE }
outbox { r { subjects: ["r.>"], ack_timeout: "1s" } }
`})
	return r
}

func (r *remade) create(name string) {
	r.Helper()
	r.createFrom(name, 1)
}

// createFrom makes a stream whose first message gets a sequence.
func (r *remade) createFrom(name string, first uint64) {
	r.Helper()
	r.make(jetstream.StreamConfig{Name: name, Subjects: []string{"r.>"}, FirstSeq: first})
}

func (r *remade) make(c jetstream.StreamConfig) {
	r.Helper()
	if _, err := r.js.CreateStream(r.Context(), c); err != nil {
		r.Fatal(err)
	}
	r.stream = c.Name
}

func (r *remade) delete() {
	r.Helper()
	if err := r.js.DeleteStream(r.Context(), r.stream); err != nil {
		r.Fatal(err)
	}
}

func (r *remade) handle() jetstream.Stream {
	r.Helper()
	s, err := r.js.Stream(r.Context(), r.stream)
	if err != nil {
		r.Fatal(err)
	}
	return s
}

func (r *remade) purge() {
	r.Helper()
	if err := r.handle().Purge(r.Context()); err != nil {
		r.Fatal(err)
	}
}

// publish has 50 more acknowledged by the outbox.
func (r *remade) publish() {
	r.Helper()
	local, err := jetstream.New(connect(r.T, r.leafd.NATSURL()))
	if err != nil {
		r.Fatal(err)
	}
	for range 50 {
		if _, err := local.PublishAsync("r.a", fmt.Append(nil, r.n)); err != nil {
			r.Fatal(err)
		}
		r.n++
	}
	acknowledged(r.T, local)
}

// waits until the outbox is in a state; drained until it is empty.
func (r *remade) waits(state string) {
	r.Helper()
	r.box(func(b remadeBox) bool { return b.State == state }, state)
}

func (r *remade) drained() {
	r.Helper()
	r.box(func(b remadeBox) bool { return b.Messages == 0 }, "drained")
}

type remadeBox struct {
	Messages  int
	State     string
	LastError string `json:"last_error"`
	WentBack  int    `json:"hub_went_back"`
	Resent    int    `json:"resent"`
}

func (r *remade) box(is func(remadeBox) bool, what string) {
	r.Helper()
	var boxes []remadeBox
	testkit.Eventually(r, func() bool {
		r.leafd.Get("/uplinkz", &struct{ Outboxes any }{&boxes})
		return is(boxes[0])
	}, "%s: %+v", what, &boxes)
}

// TestStreamIsRemade deletes the hub's stream, purges and seals it, in an outage or not: what is
// acknowledged is in the stream there is in the end, once and in order, but for what was purged.
func TestStreamIsRemade(t *testing.T) {
	for _, c := range []struct {
		name  string
		first int // of those that are to be there
		do    func(*remade)
	}{
		{"deleted, made anew", 0, func(r *remade) { r.delete(); r.publish(); r.waits("no stream"); r.create("R") }},
		{"deleted, made anew under another name", 0, func(r *remade) { r.delete(); r.publish(); r.waits("no stream"); r.create("S") }},
		{"deleted and made anew in an outage", 0, func(r *remade) { r.cable.Cut(); r.publish(); r.delete(); r.create("R"); r.cable.Restore() }},
		{"deleted, made anew to count from further on", 0, func(r *remade) { r.delete(); r.createFrom("R", 1000) }},
		{"deleted and made anew in an outage to count from further on", 0, func(r *remade) { r.cable.Cut(); r.publish(); r.delete(); r.createFrom("R", 1000); r.cable.Restore() }},
		{"another takes its subjects", 50, func(r *remade) {
			if _, err := r.js.UpdateStream(r.Context(), jetstream.StreamConfig{Name: "R", Subjects: []string{"was.r"}}); err != nil {
				r.Fatal(err)
			}
			r.publish()
			r.waits("no stream")
			r.create("S")
		}},
		{"another takes its subjects while in doubt", 100, func(r *remade) {
			r.cable.Blackhole(testkit.Down) // the acknowledgements
			r.publish()
			testkit.Eventually(r, func() bool { return r.handle().CachedInfo().State.Msgs == 100 }, "they are in the stream")
			r.cable.Cut()
			if _, err := r.js.UpdateStream(r.Context(), jetstream.StreamConfig{Name: "R", Subjects: []string{"was.r"}}); err != nil {
				r.Fatal(err)
			}
			r.create("S")
			r.cable.Restore()
		}},
		{"purged", 50, func(r *remade) { r.purge() }},
		{"purged in an outage", 50, func(r *remade) { r.cable.Cut(); r.publish(); r.purge(); r.cable.Restore() }},
		{"purged in an outage, leafd killed", 50, func(r *remade) {
			r.cable.Cut()
			r.publish()
			r.purge()
			r.leafd.Kill()
			r.cable.Restore()
			r.leafd.Restart()
		}},
		{"sealed, deleted, made anew", 0, func(r *remade) {
			if _, err := r.js.UpdateStream(r.Context(), jetstream.StreamConfig{Name: "R", Subjects: []string{"r.>"}, Sealed: true}); err != nil {
				r.Fatal(err)
			}
			r.publish()
			r.waits("refused")
			r.delete()
			r.create("R")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := startRemade(t)
			r.publish()
			r.drained()
			c.do(r)
			r.publish()
			r.drained()
			r.has(c.first)
		})
	}
}

// has compares the stream with what was published from first on.
func (r *remade) has(first int) {
	r.Helper()
	var want []string
	for n := first; n < r.n; n++ {
		want = append(want, fmt.Sprint(n))
	}
	if got := contents(r.T, r.handle()); !slices.Equal(got, want) {
		r.Fatalf("%d messages are in the stream, want %d: %q", len(got), len(want), got)
	}
}

// contents is the data of all messages of a stream, in order.
func contents(t *testing.T, s jetstream.Stream) (all []string) {
	t.Helper()
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := s.OrderedConsumer(t.Context(), jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for range info.State.Msgs {
		m, err := consumer.Next(jetstream.FetchMaxWait(10 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(m.Data()))
	}
	return all
}
