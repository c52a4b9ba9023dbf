package test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

const pubackConfig = `
server_name: edge
host: "127.0.0.1", port: $LEAFD_NATS_PORT
http: $LEAFD_HTTP_PORT
mqtt { host: "127.0.0.1", port: $LEAFD_MQTT_PORT }
leafnodes { remotes: [ { url: $LEAFD_HUB_URL } ] }
store { dir: $LEAFD_STORE }
outbox {
  box   { subjects: ["box.>"], duplicate_window: "1m" }
  small { subjects: ["small.>"], max_msgs: 1, full: refuse }
}
`

// TestJetStreamPublish lets both of nats.go's JetStream clients publish into an
// outbox, with the hub away and with the hub there, as they would to a stream.
func TestJetStreamPublish(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	hub.Kill()
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: pubackConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	nc := connect(t, l.NATSURL())
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	old, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	local, err := nc.SubscribeSync("box.>")
	if err != nil {
		t.Fatal(err)
	}
	check := func(ack *jetstream.PubAck, err error, seq uint64, duplicate bool) {
		t.Helper()
		if err != nil || ack.Stream != "box" || ack.Sequence != seq || ack.Duplicate != duplicate {
			t.Fatalf("%+v, %v; want seq %d, duplicate %v", ack, err, seq, duplicate)
		}
	}
	ack, err := js.Publish(t.Context(), "box.a", []byte("one"), jetstream.WithMsgID("1"))
	check(ack, err, 1, false)
	ack, err = js.Publish(t.Context(), "box.a", []byte("one"), jetstream.WithMsgID("1"))
	check(ack, err, 1, true)
	if ack, err := old.Publish("box.b", []byte("two"), nats.MsgId("2")); err != nil || ack.Stream != "box" || ack.Sequence != 2 {
		t.Fatalf("%+v, %v", ack, err)
	}
	for range 100 {
		if _, err := js.PublishAsync("box.c", []byte("more")); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(testkit.Patience):
		t.Fatalf("%d answers are missing", js.PublishAsyncPending())
	}
	for i := range 103 { // the repeated one was published, too, and is live
		if _, err := local.NextMsg(testkit.Patience); err != nil {
			t.Fatalf("local subscriber, message %d: %v", i, err)
		}
	}
	refusals(t, js, nc)

	hub.Restart()
	atHub, err := jetstream.New(connect(t, hub.ClientURL()))
	if err != nil {
		t.Fatal(err)
	}
	s, err := atHub.CreateStream(t.Context(), jetstream.StreamConfig{Name: "BOX", Subjects: []string{"box.>"}})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, func() bool { i, err := s.Info(t.Context()); return err == nil && i.State.Msgs == 102 }, "102 messages at the hub")
	ack, err = js.Publish(t.Context(), "box.a", []byte("online"))
	check(ack, err, 103, false)
}

// refusals are what a publisher is told when an outbox does not take its message:
// the reason, and not that nobody is there.
func refusals(t *testing.T, js jetstream.JetStream, nc *nats.Conn) {
	t.Helper()
	if _, err := js.Publish(t.Context(), "small.a", nil); err != nil {
		t.Fatal(err)
	}
	var api *jetstream.APIError
	if _, err := js.Publish(t.Context(), "small.a", nil); !errors.As(err, &api) || api.Code != 503 || api.ErrorCode != 10077 || api.Description != "outbox small: log is full" {
		t.Errorf("full: %v", err)
	}
	if _, err := js.Publish(t.Context(), "box.a", nil, jetstream.WithExpectLastSequence(7)); !errors.As(err, &api) || api.Code != 400 {
		t.Errorf("an expectation: %v", err)
	}
	if m, err := nc.Request("small.a", nil, testkit.Patience); err != nil || len(m.Data) == 0 {
		t.Errorf("a request: %v %v", m, err)
	}
	if _, err := nc.Request("other.a", nil, testkit.Patience); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("where nobody is: %v", err)
	}
	if err := nc.Publish("small.a", nil); err != nil { // no reply subject, no answer
		t.Error(err)
	}
	if err := nc.FlushTimeout(testkit.Patience); err != nil || nc.LastError() != nil {
		t.Errorf("%v, %v", err, nc.LastError())
	}
}

// TestRefusedDevice: a full outbox ends the connection of a QoS 1 publisher, says so
// in the log once and counts each, and everybody else goes on.
func TestRefusedDevice(t *testing.T) {
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: pubackConfig, Env: map[string]string{"LEAFD_HUB_URL": "nats-leaf://127.0.0.1:1"}})
	nc := connect(t, l.NATSURL())
	sub, err := nc.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	nc.Flush()
	publish := func(qos byte, topic, data string) error {
		o := mqtt.NewClientOptions().AddBroker(l.MQTTURL()).SetClientID("dev").SetAutoReconnect(false)
		lost := make(chan error, 1)
		c := mqtt.NewClient(o.SetConnectionLostHandler(func(_ mqtt.Client, err error) { lost <- err }))
		if tok := c.Connect(); !tok.WaitTimeout(testkit.Patience) || tok.Error() != nil {
			return tok.Error()
		}
		defer c.Disconnect(100)
		tok := c.Publish(topic, qos, false, data)
		select {
		case <-tok.Done():
			return tok.Error()
		case err := <-lost:
			return err
		}
	}
	if err := publish(1, "small/a", "kept"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := publish(1, "small/a", "refused"); err == nil {
			t.Error("a refused publish was acknowledged")
		}
	}
	if err := errors.Join(publish(0, "small/a", "live"), publish(1, "core/a", "live")); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"kept", "refused", "refused", "refused", "live", "live"} {
		if m, err := sub.NextMsg(testkit.Patience); err != nil || string(m.Data) != want {
			t.Fatalf("%v %v, want %s", m, err, want)
		}
	}
	var v struct {
		Leafd struct {
			Drops map[string]uint64
			MQTT  struct{ Faults map[string]uint64 }
		}
	}
	l.Get("/varz", &v)
	if v.Leafd.MQTT.Faults["quota_exceeded"] != 3 || v.Leafd.Drops["store_full"] != 4 {
		t.Errorf("%+v", v)
	}
}

// A publisher that did not hear of what it sent sends it again, under the same ids, to a leafd
// that was killed: what waits there is known by its ids.
func TestPublisherRepeatsAfterAKill(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js := stream(t, hub)
	hub.Kill()
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: refusedConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	const n, runs = 1000, 3
	for range runs {
		edge, err := jetstream.New(connect(t, l.NATSURL()))
		if err != nil {
			t.Fatal(err)
		}
		var last jetstream.PubAckFuture
		for i := range n {
			if last, err = edge.PublishAsync("cable.a", fmt.Append(nil, i), jetstream.WithMsgID(fmt.Sprint("id ", i))); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-last.Ok():
		case err := <-last.Err():
			t.Fatal(err)
		case <-time.After(testkit.Patience):
			t.Fatal("no answer")
		}
		l.Kill()
		l.Restart()
	}
	hub.Restart()
	var u outboxState
	testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.Messages == 0 && u.State == "live" }, "drained: %+v", &u)
	s, err := js.Stream(t.Context(), "CABLE")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.CachedInfo().State.Msgs; got != n {
		t.Errorf("%d messages in the stream, %d were published, %d times each", got, n, runs)
	}
}
