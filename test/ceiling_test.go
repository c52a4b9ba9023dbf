package test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// TestAccountTakesLess has a hub whose account takes less than the hub says it takes: it cuts the
// link for one message that is larger. That message is given up and declared, once, and all
// others go on: those of the same outbox, and what is smaller and larger.
func TestAccountTakesLess(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true, Config: `
		accounts { A { jetstream: enabled, limits { max_payload: 2KB }, users: [ { user: a, password: a } ] } }
		no_auth_user: a`})
	js, err := jetstream.New(connect(t, hub.ClientURL()))
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "CABLE", Subjects: []string{"cable.>"}})
	if err != nil {
		t.Fatal(err)
	}
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: refusedConfig, Env: map[string]string{"LEAFD_HUB_URL": strings.Replace(hub.LeafURL(), "://", "://a:a@", 1)}})
	nc := connect(t, l.NATSURL())
	sizes := []int{100, 9000, 100, 4000, 9000, 1500, 100}
	for i, n := range sizes {
		m := append(fmt.Append(nil, i, " "), make([]byte, n)...)
		if _, err := nc.Request("cable.x", m, testkit.Patience); err != nil {
			t.Fatal(err)
		}
	}
	var u outboxState
	testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.Messages == 0 && u.State == "live" }, "nothing waits: %+v", &u)
	if n := u.Dropped["rejected_by_hub"]; n != 3 {
		t.Errorf("%d were given up, want 3: %+v", n, u)
	}
	if !strings.Contains(l.Log(), "raise the account's max_payload at the hub") {
		t.Errorf("the log does not say what to do:\n%s", l.Log())
	}
	at := uint64(0)
	for i, n := range sizes {
		if n > 2000 {
			continue
		}
		at++
		if m, err := s.GetMsg(t.Context(), at); err != nil || !strings.HasPrefix(string(m.Data), fmt.Sprint(i, " ")) {
			t.Errorf("message %d: %v, %v", i, m, err)
		}
	}
}
