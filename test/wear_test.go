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
