package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// narrowed is an outbox on two streams of the hub, Q and R, that is to have a part of its subjects.
type narrowed struct {
	*remade
	q, r jetstream.Stream
	want map[bool][]string // what is to be in Q and, true, in R
}

func startNarrowed(t *testing.T, box string) *narrowed {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js, err := jetstream.New(connect(t, hub.ClientURL()))
	if err != nil {
		t.Fatal(err)
	}
	n := &narrowed{remade: &remade{T: t, js: js, cable: testkit.StartProxy(t, hub.LeafAddr())}, want: map[bool][]string{}}
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

// publish has a message of each subject acknowledged by the outbox, count times, for the streams to have.
func (n *narrowed) publish(count int, subjects ...string) {
	n.Helper()
	local, err := jetstream.New(connect(n.T, n.leafd.NATSURL()))
	if err != nil {
		n.Fatal(err)
	}
	for range count {
		for _, subject := range subjects {
			text := fmt.Sprint(subject, " ", n.n)
			if _, err := local.PublishAsync(subject, []byte(text)); err != nil {
				n.Fatal(err)
			}
			n.want[subject[0] == 'r'] = append(n.want[subject[0] == 'r'], text)
			n.n++
		}
	}
	acknowledged(n.T, local)
}

// takes changes what a stream takes.
func (n *narrowed) takes(s jetstream.Stream, subject ...string) {
	n.Helper()
	c := s.CachedInfo().Config
	c.Subjects = subject
	if _, err := n.js.UpdateStream(n.Context(), c); err != nil {
		n.Fatal(err)
	}
}

// check looks at both streams.
func (n *narrowed) check() {
	n.Helper()
	for r, s := range map[bool]jetstream.Stream{false: n.q, true: n.r} {
		if got := contents(n.T, s); !slices.Equal(got, n.want[r]) {
			n.Errorf("stream %s has %d messages, want %d: %q", s.CachedInfo().Config.Name, len(got), len(n.want[r]), got)
		}
	}
}

// An outbox on two streams is left with one of them. That this has less than was acknowledged, the rest being
// in the other, was taken for a hub that was set back: all of the other's in the acknowledged tail was sent again,
// and stored again where its readers had taken it.
func TestOutboxLeavesAStream(t *testing.T) {
	n := startNarrowed(t, `subjects: ["q.>", "r.>"], grace_on_disk: true`)
	n.publish(50, "q.1")
	n.publish(200, "r.1")
	n.drained()
	n.purge() // of R: its readers took them
	n.want[true] = nil
	n.again(`subjects: ["q.>"], grace_on_disk: true`)
	n.publish(1, "q.1")
	n.drained()
	n.check()
	n.box(func(b remadeBox) bool { return b.WentBack == 0 && b.Resent == 0 }, "not taken for set back")
}

// An outbox gets a stream while messages for another one wait in it. These go to the one that takes them: the
// first of them was stored there again and again, for the acknowledgement was not that of the stream that is set.
func TestStreamIsSetWhileOthersWait(t *testing.T) {
	n := startNarrowed(t, `subjects: ["q.>", "r.>"]`)
	n.publish(50, "q.1", "r.1")
	n.drained()
	n.cable.Cut()
	n.publish(50, "q.1", "r.1", "r.2")
	n.again(`subjects: ["q.>"], stream: Q`)
	n.cable.Restore()
	n.drained()
	n.check()
}

// The stream that is set does not take what the outbox does. It waits and says so, and the one that would have
// taken it stores nothing, until the configuration or the hub is changed.
func TestStreamThatIsSetDoesNotTakeIt(t *testing.T) {
	for name, mend := range map[string]func(n *narrowed){
		"configuration": func(n *narrowed) { n.again(`subjects: ["q.>", "r.>"]`) },
		"hub": func(n *narrowed) {
			n.takes(n.r, "other")
			n.takes(n.q, "q.>", "r.>")
			q, r := n.want[false], n.want[true]
			n.want = map[bool][]string{}
			for i := range q { // they were published by turns
				n.want[false] = append(n.want[false], q[i], r[i])
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := startNarrowed(t, `subjects: ["q.>", "r.>"]`)
			n.cable.Cut()
			n.publish(5, "q.1", "r.1")
			n.again(`subjects: ["q.>", "r.>"], stream: Q`)
			n.cable.Restore()
			n.box(func(b remadeBox) bool { return strings.Contains(b.LastError, `stream "R" on the hub takes "r.1"`) }, "says what waits")
			if got := contents(t, n.r); len(got) > 0 {
				t.Errorf("stream R has %q", got)
			}
			mend(n)
			n.drained()
			n.check()
		})
	}
}

// An outbox takes a subject over of which another still has messages: the log names the two.
func TestSubjectMovesToAnotherOutbox(t *testing.T) {
	n := startNarrowed(t, `subjects: ["q.>", "r.>"]`)
	n.cable.Cut()
	n.publish(5, "q.1")
	n.publish(5, "r.1")
	n.again(`subjects: ["q.>"] }, z { subjects: ["r.>"]`)
	if log := n.leafd.Log(); strings.Count(log, "another outbox takes now") != 1 || !strings.Contains(log, "outbox=y subject=r.1 now=z") {
		t.Error(log)
	}
	n.cable.Restore()
	n.drained()
	n.check()
}
