package test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/leafd/leafd/internal/testkit"
)

// TestOnlineWritesNothing counts what leafd writes to its store while 50,000 QoS 1
// messages go through to the hub's stream: the hub acknowledges before the card is
// needed.
func TestOnlineWritesNothing(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js := stream(t, hub)
	config := strings.Replace(cableConfig, "server_name: cable", "server_name: cable\nhttp: $LEAFD_HTTP_PORT", 1)
	if testkit.RaceEnabled { // all is slow then, and a hub that is late costs a write
		config = strings.Replace(config, "store { dir: $LEAFD_STORE }", `store { dir: $LEAFD_STORE, spill_after: "5s" }`, 1)
	}
	l := testkit.StartLeafd(t, testkit.LeafdOptions{TraceWrites: true, Config: config,
		Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	// Until the hub is known what comes is written, and marked in the journal a second later.
	testkit.Eventually(t, func() bool { return uplinkBox(l).State == "live" }, "the hub takes what comes")
	warm := &device{id: 9, total: 100, sent: make([]int, 100), progress: &atomic.Int64{}}
	warm.run(l.MQTTURL())
	before := l.Writes(l.StoreDir)
	devices := make([]*device, 5)
	var wg sync.WaitGroup
	for i := range devices {
		devices[i] = &device{id: i, total: 10000, sent: make([]int, 10000), progress: &atomic.Int64{}}
		wg.Go(func() { devices[i].run(l.MQTTURL()) })
	}
	wg.Wait()
	after := l.Writes(l.StoreDir)
	verify(t, hub, js, devices)
	t.Logf("50000 messages online: %d bytes in %d writes to the store", after.Bytes-before.Bytes, after.Calls-before.Calls)
	if after.Bytes != before.Bytes || after.Calls != before.Calls {
		t.Errorf("written to: %v", after.Files)
	}
}
