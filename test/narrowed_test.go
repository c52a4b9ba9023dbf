package test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// narrowed is an outbox on two streams of the hub, Q and R, that is to have a part of its subjects.
type narrowed struct {
	*remade
	q, r jetstream.Stream
}

func startNarrowed(t *testing.T, box string) *narrowed {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js, err := jetstream.New(connect(t, hub.ClientURL()))
	if err != nil {
		t.Fatal(err)
	}
	n := &narrowed{remade: &remade{T: t, js: js, cable: testkit.StartProxy(t, hub.LeafAddr())}}
	n.make(jetstream.StreamConfig{Name: "Q", Subjects: []string{"q.>"}, Duplicates: 100 * time.Millisecond})
	n.q = n.handle()
	n.make(jetstream.StreamConfig{Name: "R", Subjects: []string{"r.>"}, Duplicates: 100 * time.Millisecond})
	n.r = n.handle()
	n.leafd = testkit.StartLeafd(t, testkit.LeafdOptions{Env: map[string]string{"LEAFD_HUB_URL": "nats-leaf://" + n.cable.Addr()}, Config: narrowedConfig(box)})
	return n
}

func narrowedConfig(box string) string {
	return fmt.Sprintf(`
server_name: narrowed
host: "127.0.0.1", port: $LEAFD_NATS_PORT
http: $LEAFD_HTTP_PORT
leafnodes { reconnect: "250ms", remotes: [ { url: $LEAFD_HUB_URL } ] }
store { dir: $LEAFD_STORE }
outbox { y { ack_timeout: "1s", %s } }
`, box)
}

// again restarts leafd with another outbox.
func (n *narrowed) again(box string) {
	n.Helper()
	n.leafd.Stop()
	n.leafd.Configure(narrowedConfig(box))
	n.leafd.Restart()
}

// publish has a message of each subject acknowledged by the outbox, count times.
func (n *narrowed) publish(count int, subjects ...string) (sent []string) {
	n.Helper()
	local, err := jetstream.New(connect(n.T, n.leafd.NATSURL()))
	if err != nil {
		n.Fatal(err)
	}
	for range count {
		for _, subject := range subjects {
			sent = append(sent, fmt.Sprint(n.n))
			if _, err := local.PublishAsync(subject, []byte(sent[len(sent)-1])); err != nil {
				n.Fatal(err)
			}
			n.n++
		}
	}
	acknowledged(n.T, local)
	return sent
}

// wants looks at a stream.
func (n *narrowed) wants(s jetstream.Stream, want []string) {
	n.Helper()
	if got := contents(n.T, s); !slices.Equal(got, want) {
		n.Errorf("stream %s has %d messages, want %d: %q", s.CachedInfo().Config.Name, len(got), len(want), got)
	}
}

// An outbox on two streams is left with one of them. That this has less than was acknowledged, the rest being
// in the other, was taken for a hub that was set back: all of the other's in the acknowledged tail was sent again,
// and stored again where its readers had taken it.
func TestOutboxLeavesAStream(t *testing.T) {
	n := startNarrowed(t, `subjects: ["q.>", "r.>"], grace_on_disk: true`)
	want := n.publish(50, "q.1")
	n.publish(200, "r.1")
	n.drained()
	n.purge() // of R: its readers took them
	n.again(`subjects: ["q.>"], grace_on_disk: true`)
	want = append(want, n.publish(1, "q.1")...)
	n.drained()
	n.wants(n.q, want)
	n.wants(n.r, nil)
	n.box(func(b remadeBox) bool { return b.WentBack == 0 && b.Resent == 0 }, "not taken for set back")
}
