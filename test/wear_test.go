package test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// TestOnlineWritesNothing counts what leafd writes to its store while 50,000 QoS 1
// messages go through to the hub's stream: the hub acknowledges before the card is
// needed. On a machine with other work the hub may take longer than it is given, which
// costs a write, as it should: then a device has waited for so long. More time must do.
func TestOnlineWritesNothing(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js := stream(t, hub)
	for i, spill := range []string{"", "", `, spill_after: "20s"`} {
		before, after, slowest := writtenOnline(t, hub, js, 10*i, spill)
		t.Logf("50000 messages online: %d bytes in %d writes to the store", after.Bytes-before.Bytes, after.Calls-before.Calls)
		if after.Bytes == before.Bytes && after.Calls == before.Calls {
			return
		}
		t.Logf("the slowest 50 took %v; written to: %v", slowest, after.Files)
		if slowest < hubHas {
			t.Fatal("something is written though the hub was in time")
		}
	}
	t.Error("something is written though the hub has all the time to answer")
}

// hubHas is what a hub that is usually quick is given at least: half the default of
// store.spill_after.
const hubHas = 250 * time.Millisecond / 2

// writtenOnline runs a leafd and six devices, numbered from first on, and returns what was
// written before and after 50,000 messages of five of them, and the longest that a batch took.
func writtenOnline(t *testing.T, hub *testkit.Hub, js jetstream.JetStream, first int, spill string) (before, after testkit.Writes, slowest time.Duration) {
	t.Helper()
	config := strings.NewReplacer("server_name: cable", fmt.Sprintf("server_name: cable%d\nhttp: $LEAFD_HTTP_PORT", first),
		"dir: $LEAFD_STORE", "dir: $LEAFD_STORE"+spill).Replace(cableConfig)
	l := testkit.StartLeafd(t, testkit.LeafdOptions{TraceWrites: true, Config: config,
		Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	// Until the hub is known what comes is written, and marked in the journal a second later.
	testkit.Eventually(t, func() bool { return uplinkBox(l).State == "live" }, "the hub takes what comes")
	warm := &device{id: first + 9, total: 100, sent: make([]int, 100), progress: &atomic.Int64{}}
	warm.run(l.MQTTURL())
	testkit.Eventually(t, func() bool { u := uplinkBox(l); return u.State == "live" && u.Messages == 0 }, "it is live")
	before = l.Writes(l.StoreDir)
	devices := make([]*device, 5)
	var wg sync.WaitGroup
	for i := range devices {
		devices[i] = &device{id: first + i, total: 10000, sent: make([]int, 10000), progress: &atomic.Int64{}}
		wg.Go(func() { devices[i].run(l.MQTTURL()) })
	}
	wg.Wait()
	after = l.Writes(l.StoreDir)
	verify(t, hub, js, devices)
	l.Stop()
	for _, d := range devices {
		slowest = max(slowest, d.slowest)
	}
	return before, after, slowest
}

// TestOnlineBurstsWriteNothing publishes a thousand messages at once, and some large ones: the hub
// takes them long before a device has waited for too long, so nothing need be written.
func TestOnlineBurstsWriteNothing(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js := stream(t, hub)
	config := strings.NewReplacer("server_name: cable", "server_name: cable\nhttp: $LEAFD_HTTP_PORT",
		"dir: $LEAFD_STORE", `dir: $LEAFD_STORE, spill_after: "20s"`).Replace(cableConfig)
	l := testkit.StartLeafd(t, testkit.LeafdOptions{TraceWrites: true, Config: config, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	testkit.Eventually(t, func() bool { return uplinkBox(l).State == "live" }, "the hub takes what comes")
	local, err := jetstream.New(connect(t, l.NATSURL()), jetstream.WithPublishAsyncMaxPending(10000))
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	burst := func(n, size int) {
		for range n {
			if _, err := local.PublishAsync("cable.a", make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			total++
		}
		acknowledged(t, local)
	}
	burst(100, 100)
	testkit.Eventually(t, func() bool { u := uplinkBox(l); return u.State == "live" && u.Messages == 0 }, "it is live")
	before := l.Writes(l.StoreDir)
	for range 10 {
		burst(1000, 100)
		burst(5, 250_000)
	}
	if after := l.Writes(l.StoreDir); after.Bytes != before.Bytes || after.Calls != before.Calls {
		t.Errorf("%d bytes in %d writes to the store, to %v", after.Bytes-before.Bytes, after.Calls-before.Calls, after.Files)
	}
	cable, err := js.Stream(t.Context(), "CABLE")
	if err != nil {
		t.Fatal(err)
	}
	if n := cable.CachedInfo().State.Msgs; n != uint64(total) {
		t.Errorf("%d messages are in the stream of %d that are acknowledged", n, total)
	}
}
