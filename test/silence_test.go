package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

// TestHubBackAfterSilence swallows what goes to the hub and from it, without a reset, for longer
// than the kernel repeats often. Once that ends leafd does not wait for the kernel's next try:
// it connects anew, and all is in the stream, once and in order. The kernel's try may come first
// by chance, in one silence, not in three.
func TestHubBackAfterSilence(t *testing.T) {
	network, ok := testkit.StartNetwork(t)
	if !ok {
		t.Skip("no network of its own: that takes root and iproute2")
	}
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true, Network: network})
	js := stream(t, hub)
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: refusedConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	nc := connect(t, l.NATSURL())
	sent := 0
	publish := func() {
		if _, err := nc.Request("cable.x", fmt.Append(nil, sent), testkit.Patience); err != nil {
			t.Fatal(err)
		}
		sent++
	}
	publish()
	var u outboxState
	testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.Messages == 0 }, "the first is there: %+v", &u)
	anew := func() bool { return strings.Contains(l.Log(), "greets new connections again") }
	for range 3 {
		if anew() {
			break
		}
		network.Cut()
		testkit.Eventually(t, func() bool { publish(); u = uplinkBox(l); return u.State != "live" }, "silence: %+v", &u)
		testkit.Eventually(t, func() bool {
			publish()
			u = uplinkBox(l)
			return strings.Contains(u.Reason, "no answer from JetStream")
		}, "long silence: %+v", &u)
		network.Mend()
		mended := time.Now()
		testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.State == "live" && u.Messages == 0 }, "drained: %+v", &u)
		t.Logf("all %d are there %v after the silence", sent, time.Since(mended).Round(time.Millisecond))
	}
	if !anew() {
		t.Errorf("it waited for the old connection:\n%s", l.Log())
	}
	s, err := js.Stream(t.Context(), "CABLE")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.CachedInfo().State.Msgs; got != uint64(sent) {
		t.Errorf("%d in the stream, %d sent", got, sent)
	}
	for i := range sent {
		if m, err := s.GetMsg(t.Context(), uint64(i+1)); err != nil || string(m.Data) != fmt.Sprint(i) {
			t.Fatalf("message %d: %v, %v", i, m, err)
		}
	}
}
