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
	// A hub that is late costs a write, and among other tests it may be late.
	config := strings.Replace(cableConfig, "store { dir: $LEAFD_STORE }", `store { dir: $LEAFD_STORE, spill_after: "5s" }`, 1)
	l := testkit.StartLeafd(t, testkit.LeafdOptions{TraceWrites: true, Config: config,
		Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
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
	// What the first messages wrote, before the hub was known, is marked in the journal a second
	// after: one unit, once.
	if n := after.Bytes - before.Bytes; n > 4096 || after.Calls > before.Calls+1 {
		t.Errorf("written to: %v", after.Files)
	}
}
