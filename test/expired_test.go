package test

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// TestExpiredAtTheHub has the hub store messages whose acknowledgements get lost, and drop them when their
// Nats-TTL ends, before it can be asked. They were in the stream: none is declared as expired.
func TestExpiredAtTheHub(t *testing.T) {
	r := startRemadeWith(t, jetstream.StreamConfig{Name: "R", Subjects: []string{"r.>"}, AllowMsgTTL: true})
	r.box(func(b remadeBox) bool { return b.State == "live" }, "live")
	r.publish()
	r.drained()
	r.cable.Blackhole(testkit.Down) // the acknowledgements
	local, err := jetstream.New(connect(t, r.leafd.NATSURL()))
	if err != nil {
		t.Fatal(err)
	}
	for n := range 50 {
		m := &nats.Msg{Subject: "r.mortal", Header: nats.Header{"Nats-TTL": {"1s"}}, Data: fmt.Append(nil, n)}
		if _, err := local.PublishMsgAsync(m); err != nil {
			t.Fatal(err)
		}
	}
	acknowledged(t, local)
	state := func() jetstream.StreamState {
		info, err := r.handle().Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return info.State
	}
	testkit.Eventually(t, func() bool { return state().LastSeq == 100 }, "they are in the stream")
	r.cable.Cut()
	testkit.Eventually(t, func() bool { return state().Msgs == 50 }, "their life is over there")
	r.publish()
	r.cable.Restore()
	r.drained()
	var boxes []struct{ Dropped map[string]uint64 }
	r.leafd.Get("/uplinkz", &struct{ Outboxes any }{&boxes})
	if len(boxes[0].Dropped) > 0 {
		t.Errorf("dropped: %v", boxes[0].Dropped)
	}
	r.has(0)
}
