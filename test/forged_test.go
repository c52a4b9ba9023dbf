package test

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/leafd/leafd/internal/testkit"
)

// TestAcknowledgementIsTheHubs: who subscribes to everything sees where the hub is to send its
// acknowledgements to. What is said there by anyone else says nothing.
func TestAcknowledgementIsTheHubs(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js := stream(t, hub)
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: refusedConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	nc := connect(t, l.NATSURL())
	seen, err := nc.SubscribeSync("_INBOX.*.*")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Request("cable.x", []byte("0"), testkit.Patience); err != nil {
		t.Fatal(err)
	}
	var m *nats.Msg
	for m == nil || len(m.Data) == 0 || string(m.Data[:9]) != `{"stream"` || m.Sub != seen || string(m.Data[10:17]) == `"cable"` {
		if m, err = seen.NextMsg(testkit.Patience); err != nil {
			t.Fatal(err)
		}
	}
	to := m.Subject
	hub.Stop()
	const n = 20
	for i := range n {
		if _, err := nc.Request("cable.x", fmt.Append(nil, i+1), testkit.Patience); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		if err := nc.Publish(to, fmt.Appendf(nil, `{"stream":"CABLE","seq":%d}`, i+2)); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if u := uplinkBox(l); u.Messages != n {
		t.Errorf("%d wait, want %d", u.Messages, n)
	}
	hub.Restart()
	var u outboxState
	testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.Messages == 0 }, "drained: %+v", &u)
	s, err := js.Stream(t.Context(), "CABLE")
	if err != nil {
		t.Fatal(err)
	}
	for i := range n + 1 {
		if m, err := s.GetMsg(t.Context(), uint64(i+1)); err != nil || string(m.Data) != fmt.Sprint(i) {
			t.Fatalf("message %d: %v, %v", i, m, err)
		}
	}
}
