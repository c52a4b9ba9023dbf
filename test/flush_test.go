package test

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

var flushConfig = strings.Replace(cableConfig, `["cable.>"]`, `["cable.>"], confirm: "flush"`, 1) + "http: $LEAFD_HTTP_PORT\n"

// outboxState is what /uplinkz says of the only outbox.
type outboxState struct {
	State     string            `json:"state"`
	Reason    string            `json:"reason"`
	Last      string            `json:"last_error"`
	Confirm   string            `json:"confirm"`
	Resume    string            `json:"resume"`
	Messages  int               `json:"messages"`
	Acked     int               `json:"acked"`
	InRAM     int               `json:"kept_in_ram"`
	Resent    int               `json:"resent"`
	Rejected  int               `json:"rejected"`
	Reordered int               `json:"reordered"`
	Dropped   map[string]uint64 `json:"dropped"`
}

func uplinkBox(l *testkit.Leafd) outboxState {
	var u struct {
		Outboxes []outboxState `json:"outboxes"`
	}
	l.Get("/uplinkz", &u)
	return u.Outboxes[0]
}

// TestCoreHub has a hub without JetStream. Publishers get their acknowledgements
// whether or not anybody there subscribes; messages wait for a subscriber, over a
// restart of the hub too, and come once and in order.
func TestCoreHub(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{})
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: flushConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	js, err := jetstream.New(connect(t, l.NATSURL()))
	if err != nil {
		t.Fatal(err)
	}
	published := 0
	publish := func(n int) {
		t.Helper()
		for range n {
			if _, err := js.Publish(t.Context(), "cable.a", fmt.Append(nil, published)); err != nil {
				t.Fatal(err)
			}
			published++
		}
	}
	waits := func(n int) {
		t.Helper()
		testkit.Eventually(t, func() bool { u := uplinkBox(l); return u.State == "no interest" && u.Messages == n }, "%d messages wait for a subscriber: %+v", n, uplinkBox(l))
		if u := uplinkBox(l); !strings.Contains(u.Reason, `nobody at the hub subscribes to "cable.a"`) || u.Confirm != "flush" || u.Resume != "none" || u.Resent != 0 {
			t.Errorf("%+v", u)
		}
	}
	came := func(sub *nats.Subscription, from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			m, err := sub.NextMsg(testkit.Patience)
			if err != nil || string(m.Data) != fmt.Sprint(i) || !strings.HasPrefix(m.Header.Get(nats.MsgIdHdr), "cable/cable.") || m.Reply != "" {
				t.Fatalf("message %d at the hub: %+v %v", i, m, err)
			}
		}
	}
	publish(10)
	waits(10)
	nc := connect(t, hub.ClientURL())
	sub, err := nc.SubscribeSync("cable.>")
	if err != nil {
		t.Fatal(err)
	}
	came(sub, 0, 10)
	publish(10) // live
	came(sub, 10, 20)
	testkit.Eventually(t, func() bool { return uplinkBox(l).Messages == 0 }, "all is confirmed")
	nc.Close()
	testkit.Eventually(t, func() bool { publish(1); return uplinkBox(l).State == "no interest" }, "the subscriber's leaving is known")
	left := uplinkBox(l).Messages // those before went to nobody, in the moment of its leaving
	hub.Kill()
	publish(10)
	hub.Restart()
	waits(left + 10)
	if sub, err = connect(t, hub.ClientURL()).SubscribeSync("cable.*"); err != nil {
		t.Fatal(err)
	}
	came(sub, published-left-10, published)
	testkit.Eventually(t, func() bool { u := uplinkBox(l); return u.Messages == 0 && u.State == "live" }, "it is live again: %+v", uplinkBox(l))
}

// TestOnlineWritesNothingWithoutAStream is TestOnlineWritesNothing for a hub without
// JetStream: the PONG comes before the card is needed.
func TestOnlineWritesNothingWithoutAStream(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{})
	nc := connect(t, hub.ClientURL())
	var arrived atomic.Int64
	last := map[string]int64{} // owned by the subscription
	if _, err := nc.Subscribe("cable.>", func(m *nats.Msg) {
		n := int64(binary.BigEndian.Uint32(m.Data))
		if before, ok := last[m.Subject]; ok && n != before+1 {
			t.Errorf("%s: %d came behind %d", m.Subject, n, before)
		}
		last[m.Subject] = n
		arrived.Add(1)
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	// On a machine with other work a hub that is late would cost a write.
	config := strings.Replace(flushConfig, "store { dir: $LEAFD_STORE }", `store { dir: $LEAFD_STORE, spill_after: "5s" }`, 1)
	l := testkit.StartLeafd(t, testkit.LeafdOptions{TraceWrites: true, Config: config, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	var wg sync.WaitGroup
	run := func(devices, from, total int) {
		for i := range devices {
			wg.Go(func() {
				(&device{id: from + i, total: total, sent: make([]int, total), progress: &atomic.Int64{}}).run(l.MQTTURL())
			})
		}
		wg.Wait()
	}
	// Until the hub is known what comes is written, and marked in the journal a second later.
	testkit.Eventually(t, func() bool { return uplinkBox(l).State == "live" }, "the hub takes what comes")
	run(1, 9, 100)
	testkit.Eventually(t, func() bool { u := uplinkBox(l); return u.State == "live" && u.Messages == 0 }, "it is live")
	before := l.Writes(l.StoreDir)
	run(5, 0, 4000)
	after := l.Writes(l.StoreDir)
	testkit.Eventually(t, func() bool { return arrived.Load() == 20100 }, "all arrive, and %d did", arrived.Load())
	t.Logf("20000 messages online: %d bytes in %d writes to the store", after.Bytes-before.Bytes, after.Calls-before.Calls)
	if after.Bytes != before.Bytes || after.Calls != before.Calls {
		t.Errorf("written to: %v", after.Files)
	}
}
