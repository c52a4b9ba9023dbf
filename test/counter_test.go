package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// TestOutboxCounts has an outbox for a stream of counters, which takes increments only and no
// expectation with them, loses the hub's acknowledgements for longer than its duplicate window, and
// kills the hub: each increment is counted once.
func TestOutboxCounts(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	cable := testkit.StartProxy(t, hub.LeafAddr())
	js, err := jetstream.New(connect(t, hub.ClientURL()))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "COUNT", Subjects: []string{"count.>"},
		AllowMsgCounter: true, AllowDirect: true, Duplicates: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Env: map[string]string{"LEAFD_HUB_URL": "nats-leaf://" + cable.Addr()}, Config: `
server_name: counts
host: "127.0.0.1", port: $LEAFD_NATS_PORT
http: $LEAFD_HTTP_PORT
leafnodes { reconnect: "250ms", remotes: [ { url: $LEAFD_HUB_URL } ] }
store { dir: $LEAFD_STORE }
outbox { count { subjects: ["count.>"] } }
`})
	local, err := jetstream.New(connect(t, l.NATSURL()))
	if err != nil {
		t.Fatal(err)
	}
	var want [2]int
	count := func(k int) {
		t.Helper()
		for i := range k {
			m := nats.NewMsg(fmt.Sprint("count.", i%2))
			m.Header.Set("Nats-Incr", "+1")
			if _, err := local.PublishMsgAsync(m); err != nil {
				t.Fatal(err)
			}
			want[i%2]++
		}
		acknowledged(t, local)
	}
	reached := func(n int) {
		t.Helper()
		testkit.Eventually(t, func() bool {
			info, err := stream.Info(t.Context())
			return err == nil && int(info.State.LastSeq) >= n
		}, "%d increments", n)
	}
	count(100)
	reached(100)
	cable.Blackhole(testkit.Down)
	count(50)
	reached(150)
	cable.Restore()
	count(50)
	reached(200)
	hub.Kill()
	count(100)
	hub.Restart()

	var boxes []struct {
		Messages int
		Resume   string
		Dropped  map[string]uint64
	}
	testkit.Eventually(t, func() bool {
		l.Get("/uplinkz", &struct{ Outboxes any }{&boxes})
		return boxes[0].Messages == 0
	}, "nothing waits: %+v", &boxes)
	if len(boxes[0].Dropped) != 0 {
		t.Errorf("%+v", boxes)
	}
	for i, n := range want {
		m, err := stream.GetLastMsgForSubject(t.Context(), fmt.Sprint("count.", i))
		if err != nil || string(m.Data) != fmt.Sprintf(`{"val":"%d"}`, n) {
			t.Errorf("count.%d: %s %v, want %d", i, m.Data, err, n)
		}
	}
}

// TestMarkerThatTheHubRefuses has losses to declare in a stream of counters, which takes no marker:
// each is tried once, and the refusal of a marker is not another loss to declare.
func TestMarkerThatTheHubRefuses(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js, err := jetstream.New(connect(t, hub.ClientURL()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "CABLE", Subjects: []string{"cable.>"}, AllowMsgCounter: true, AllowDirect: true}); err != nil {
		t.Fatal(err)
	}
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: refusedConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	nc := connect(t, l.NATSURL())
	if err := nc.Publish("cable.x", nil); err != nil { // no increment: a loss
		t.Fatal(err)
	}
	var u outboxState
	testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.Rejected == 2 && u.Messages == 0 }, "the message and its marker are refused: %+v", &u)
	if u.Dropped["rejected_by_hub"] != 1 {
		t.Errorf("%+v, want one that is lost", u)
	}
	if err := nc.Publish("cable.x", nil); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.Rejected == 4 && u.Messages == 0 }, "the next, and its marker 5 s later: %+v", &u)
	if u.Dropped["rejected_by_hub"] != 2 {
		t.Errorf("%+v, want two that are lost", u)
	}
}
