package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// TestHubPermissions has hubs that do not let a gateway do what an outbox needs. Nothing is
// given up, the reason says what to change, and once that is done, all goes on in order.
func TestHubPermissions(t *testing.T) {
	for _, c := range []struct{ name, permissions, state, says string }{
		{"one subject", `publish: { deny: ["cable.secret"] }`, "refused", `send "cable.secret": not permitted toward the hub: its permissions`},
		{"no answers", `subscribe: { allow: ["cable.>"] }`, "resuming", `leave out "_INBOX.>"`},
		{"no questions", `publish: { allow: ["cable.>"] }`, "resuming", `send "$JS.API.STREAM.NAMES": not permitted toward the hub: its permissions`},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "permissions.conf")
			permit := func(what string) {
				if err := os.WriteFile(file, []byte("permissions { "+what+" }"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			permit(c.permissions)
			hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true, Config: fmt.Sprintf(`
				accounts { A { jetstream: enabled, users: [ { user: a, password: a }, { user: leaf, password: leaf, include %q } ] } }
				no_auth_user: a`, strings.Repeat("../", 20)+file)}) // nats-server takes it for relative
			js, err := jetstream.New(connect(t, hub.ClientURL()))
			if err != nil {
				t.Fatal(err)
			}
			s, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "CABLE", Subjects: []string{"cable.>"}})
			if err != nil {
				t.Fatal(err)
			}
			l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: refusedConfig, Env: map[string]string{"LEAFD_HUB_URL": strings.Replace(hub.LeafURL(), "://", "://leaf:leaf@", 1)}})
			nc := connect(t, l.NATSURL())
			subjects := []string{"cable.a", "cable.b", "cable.secret", "cable.c"}
			for _, subject := range subjects {
				if _, err := nc.Request(subject, nil, testkit.Patience); err != nil {
					t.Fatal(err)
				}
			}
			var u outboxState
			testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.State == c.state && strings.Contains(u.Reason, c.says) }, "%s: %+v", c.says, &u)
			permit("")
			hub.Kill() // a reload tells new links only
			hub.Restart()
			testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.Messages == 0 && u.State == "live" }, "nothing waits: %+v", &u)
			for i, subject := range subjects {
				if m, err := s.GetMsg(t.Context(), uint64(i+1)); err != nil || m.Subject != subject {
					t.Errorf("message %d: %+v, %v, want %s", i+1, m, err, subject)
				}
			}
		})
	}
}
