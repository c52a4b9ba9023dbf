package test

import (
	"strings"
	"testing"

	"github.com/leafd/leafd/internal/testkit"
)

// TestAcknowledgementsAreNotOverheard: who subscribes to everything does not see where the hub sends its
// acknowledgements to, or could have it send some more there.
func TestAcknowledgementsAreNotOverheard(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	stream(t, hub)
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: refusedConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	nc := connect(t, l.NATSURL())
	seen, err := nc.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Request("cable.x", []byte("0"), testkit.Patience); err != nil {
		t.Fatal(err)
	}
	var u outboxState
	testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.Messages == 0 && u.Acked == 1 }, "the hub has it: %+v", &u)
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for n, _, _ := seen.Pending(); n > 0; n-- {
		if m, err := seen.NextMsg(testkit.Patience); err != nil || strings.Contains(string(m.Data), `"CABLE"`) {
			t.Fatalf("%+v, %v", m, err)
		}
	}
}
