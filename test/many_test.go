package test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// TestManyOutboxesDrain has more outboxes with a backlog than the link has room for the full
// windows of. They share it: nothing is sent twice for want of room.
func TestManyOutboxesDrain(t *testing.T) {
	const boxes, each, size = 30, 150, 16000
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js, err := jetstream.New(connect(t, hub.ClientURL()))
	if err != nil {
		t.Fatal(err)
	}
	var config strings.Builder
	for i := range boxes {
		fmt.Fprintf(&config, "o%d { subjects: [\"o%d.>\"] }\n", i, i)
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: fmt.Sprint("O", i), Subjects: []string{fmt.Sprintf("o%d.>", i)}}); err != nil {
			t.Fatal(err)
		}
	}
	hub.Kill()
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: strings.Replace(refusedConfig, `cable { subjects: ["cable.>"] }`, config.String(), 1),
		Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	edge, err := jetstream.New(connect(t, l.NATSURL()))
	if err != nil {
		t.Fatal(err)
	}
	for n := range each {
		for i := range boxes {
			if _, err := edge.PublishAsync(fmt.Sprintf("o%d.x", i), fmt.Appendf(nil, "%-*d", size, n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	<-edge.PublishAsyncComplete()
	hub.Restart()
	var u struct {
		Outboxes []outboxState `json:"outboxes"`
	}
	left, resent := 0, 0
	testkit.Eventually(t, func() bool {
		left, resent = 0, 0
		l.Get("/uplinkz", &u)
		for _, o := range u.Outboxes {
			left, resent = left+o.Messages, resent+o.Resent
		}
		return left == 0
	}, "%d messages left", &left)
	if resent > 0 || strings.Contains(l.Log(), "too much is waiting") {
		t.Errorf("%d were sent again:\n%s", resent, l.Log())
	}
	for i := range boxes {
		s, err := js.Stream(t.Context(), fmt.Sprint("O", i))
		if err != nil {
			t.Fatal(err)
		}
		last, err := s.GetMsg(t.Context(), each)
		if err != nil || s.CachedInfo().State.Msgs != each || strings.TrimSpace(string(last.Data)) != fmt.Sprint(each-1) {
			t.Errorf("outbox %d: %d messages in the stream, %v", i, s.CachedInfo().State.Msgs, err)
		}
	}
}
