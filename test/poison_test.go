package test

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// A message that can never reach the hub must not hold up those behind it: the
// outbox declares it lost, or does not acknowledge it, and goes on.
func TestOutboxGoesOnPastWhatTheHubWillNeverTake(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true, Config: "max_payload: 1000"})
	js := stream(t, hub)
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: cableConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	nc := connect(t, l.NATSURL())
	nc.Publish("cable.*.literal", []byte("a wildcard is no subject for a stream"))
	nc.Publish("cable.big", make([]byte, 2000))
	nc.Publish("cable.good", []byte("good"))
	nc.Flush()
	s, err := js.Stream(t.Context(), "CABLE")
	if err != nil {
		t.Fatal(err)
	}
	var last *jetstream.RawStreamMsg
	testkit.Eventually(t, func() bool {
		last, err = s.GetLastMsgForSubject(t.Context(), "cable.good")
		return err == nil
	}, "the message behind")
	if string(last.Data) != "good" {
		t.Errorf("got %q", last.Data)
	}
}
