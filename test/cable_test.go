package test

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// device is one publisher that sends its numbers in order, in batches, and sends
// again what was not acknowledged: what a sensor with a small buffer does.
type device struct {
	id, total, acked int
	sent             []int         // how often each number was handed to the client
	progress         *atomic.Int64 // acknowledged by all devices
	slowest          time.Duration // a batch took, until all of it was acknowledged
}

const batch = 50

func (d *device) run(url string) {
	var c mqtt.Client
	for d.acked < d.total {
		if c == nil || !c.IsConnectionOpen() {
			o := mqtt.NewClientOptions().AddBroker(url).SetClientID(fmt.Sprintf("dev%d", d.id)).
				SetAutoReconnect(false).SetConnectTimeout(time.Second).SetOrderMatters(true)
			c = mqtt.NewClient(o)
			if tok := c.Connect(); !tok.WaitTimeout(5*time.Second) || tok.Error() != nil {
				c = nil
				continue
			}
		}
		var tokens []mqtt.Token
		began := time.Now()
		for n := d.acked; n < min(d.acked+batch, d.total); n++ {
			d.sent[n]++
			tokens = append(tokens, c.Publish(fmt.Sprintf("cable/d%d", d.id), 1, false, binary.BigEndian.AppendUint32(nil, uint32(n))))
		}
		for _, tok := range tokens {
			if !tok.WaitTimeout(20*time.Second) || tok.Error() != nil || !c.IsConnectionOpen() {
				break
			}
			d.acked++
			d.progress.Add(1)
		}
		d.slowest = max(d.slowest, time.Since(began))
	}
	c.Disconnect(100)
}

// TestCable kills the hub three times and the gateway twice under QoS 1 load. All
// that was acknowledged is in the hub's stream, in order, and nothing twice but what
// a device itself sent again.
func TestCable(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js := stream(t, hub)
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: cableConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	devices := make([]*device, 5)
	var wg sync.WaitGroup
	var progress atomic.Int64
	reached := func(n int64) {
		testkit.Eventually(t, func() bool { return progress.Load() >= n }, "%d acknowledgements", n)
	}
	for i := range devices {
		d := &device{id: i, total: 4000, sent: make([]int, 4000), progress: &progress}
		devices[i] = d
		wg.Go(func() { d.run(l.MQTTURL()) })
	}
	for _, at := range []int64{2000, 8000, 14000} {
		reached(at)
		hub.Kill()
		reached(at + 2000) // with the hub away
		if at < 14000 {
			l.Kill()
			l.Restart()
			reached(at + 3000)
		}
		hub.Restart()
	}
	wg.Wait()
	verify(t, hub, js, devices)
}

const cableConfig = `
server_name: cable
host: "127.0.0.1", port: $LEAFD_NATS_PORT
mqtt { host: "127.0.0.1", port: $LEAFD_MQTT_PORT }
leafnodes { remotes: [ { url: $LEAFD_HUB_URL } ] }
store { dir: $LEAFD_STORE }
outbox { cable { subjects: ["cable.>"] } }
`

func stream(t *testing.T, hub *testkit.Hub) jetstream.JetStream {
	nc, err := nats.Connect(hub.ClientURL(), nats.Timeout(testkit.Patience), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "CABLE", Subjects: []string{"cable.>"}}); err != nil {
		t.Fatal(err)
	}
	return js
}

func verify(t *testing.T, hub *testkit.Hub, js jetstream.JetStream, devices []*device) {
	var got map[string][]int
	missing := func() (n int) {
		for _, d := range devices {
			seen := map[int]bool{}
			for _, v := range got[fmt.Sprintf("cable.d%d", d.id)] {
				seen[v] = true
			}
			n += d.acked - len(seen)
		}
		return n
	}
	testkit.Eventually(t, func() bool { got = readAll(t, js); return missing() <= 0 }, "all acknowledged messages at the hub")
	acked, stored, dupUs, dupDev, disorder, again := 0, 0, 0, 0, 0, 0
	for _, d := range devices {
		acked += d.acked
		times, next := make([]int, d.total), 0
		for _, v := range got[fmt.Sprintf("cable.d%d", d.id)] {
			stored++
			if times[v]++; times[v] == 1 {
				if v != next {
					disorder++
				}
				next = v + 1
			}
		}
		for v, n := range times {
			again += d.sent[v] - 1
			dupUs += max(0, n-d.sent[v])
			dupDev += max(0, min(n, d.sent[v])-1)
		}
	}
	t.Logf("acked %d, stored %d, lost %d, duplicated by us %d, stored again since a device sent again %d of %d, out of order %d",
		acked, stored, missing(), dupUs, dupDev, again, disorder)
	if missing() > 0 || dupUs > 0 || disorder > 0 {
		t.Fail()
	}
}

func readAll(t *testing.T, js jetstream.JetStream) map[string][]int {
	got := map[string][]int{}
	c, err := js.OrderedConsumer(t.Context(), "CABLE", jetstream.OrderedConsumerConfig{})
	if err != nil {
		return got
	}
	for {
		b, err := c.FetchNoWait(5000)
		if err != nil {
			return got
		}
		n := 0
		for m := range b.Messages() {
			n++
			got[m.Subject()] = append(got[m.Subject()], int(binary.BigEndian.Uint32(m.Data())))
		}
		if n == 0 {
			return got
		}
	}
}
