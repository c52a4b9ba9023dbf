package test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// TestSlowLine drains messages that are on a slow line for longer than the hub is waited for:
// none is sent again, and the link that does what it can is not ended.
func TestSlowLine(t *testing.T) {
	network, ok := testkit.StartNetwork(t)
	if !ok {
		t.Skip("no network of its own: that takes root and iproute2")
	}
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true, Network: network})
	js := stream(t, hub)
	hub.Kill()
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()},
		Config: strings.Replace(refusedConfig, `["cable.>"]`, `["cable.>"], ack_timeout: "1s"`, 1)})
	local, err := jetstream.New(connect(t, l.NATSURL()))
	if err != nil {
		t.Fatal(err)
	}
	sizes := []int{10, 200_000, 10, 64_000, 64_000, 10}
	for i, size := range sizes {
		if _, err := local.Publish(t.Context(), "cable.x", fmt.Appendf(nil, "%d %s", i, strings.Repeat("x", size))); err != nil {
			t.Fatal(err)
		}
	}
	if !network.Slow("400kbit") {
		t.Skip("no slow line: the kernel has no token bucket filter")
	}
	hub.Restart()
	var u outboxState
	testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.State == "live" && u.Messages == 0 }, "all are there: %+v", &u)
	if u.Resent != 0 || strings.Contains(l.Log(), "interrupted") || strings.Contains(l.Log(), "deadline") {
		t.Errorf("%+v", u)
	}
	s, err := js.Stream(t.Context(), "CABLE")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.CachedInfo().State.Msgs; got != uint64(len(sizes)) {
		t.Errorf("%d in the stream, want %d", got, len(sizes))
	}
	for i, size := range sizes {
		if m, err := s.GetMsg(t.Context(), uint64(i+1)); err != nil || len(m.Data) != size+2 || m.Data[0] != byte('0'+i) {
			t.Errorf("message %d: %v", i, err)
		}
	}
}
