package test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

const gapConfig = `
host: "127.0.0.1", port: $LEAFD_NATS_PORT
leafnodes { remotes: [ { url: $LEAFD_HUB_URL } ] }
store { dir: $LEAFD_STORE }
outbox { cable { subjects: ["cable.>"], max_msgs: 100 } }
`

// publishNumbers has them acknowledged by the outbox, one by one.
func publishNumbers(t *testing.T, l *testkit.Leafd, from, to int) {
	t.Helper()
	nc, err := nats.Connect(l.NATSURL(), nats.Timeout(testkit.Patience))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for n := from; n < to; n++ {
		if _, err := nc.Request("cable.x", fmt.Append(nil, n), testkit.Patience); err != nil {
			t.Fatalf("%d: %v", n, err)
		}
	}
}

// TestGapMarker fills an outbox beyond its budget while the hub is away, over a restart
// of leafd. The stream then has what the budget keeps, and a marker that says exactly
// what it did not.
func TestGapMarker(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js := stream(t, hub)
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: gapConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	hub.Kill()
	publish := func(from, to int) { publishNumbers(t, l, from, to) }
	publish(0, 250)
	l.Stop()
	l.Restart()
	publish(250, 320)
	hub.Restart()
	s, err := js.Stream(t.Context(), "CABLE")
	if err != nil {
		t.Fatal(err)
	}
	var data []string
	var declared uint64
	next := uint64(1)
	testkit.Eventually(t, func() bool {
		for {
			m, err := s.GetMsg(t.Context(), next)
			if err != nil {
				return len(data) >= 100 && declared > 0
			}
			next++
			if m.Subject != "cable.gap" {
				data = append(data, string(m.Data))
				continue
			}
			var g struct {
				From, To, Count uint64
				Reason          string
			}
			if err := json.Unmarshal(m.Data, &g); err != nil || g.Reason != "oldest_dropped" || m.Header.Get("Leafd-Gap") != g.Reason || g.From != 1 || g.To < g.Count {
				t.Fatalf("%s %v", m.Data, err)
			}
			declared += g.Count
		}
	}, "a marker and 100 messages in the stream")
	if declared != 220 || len(data) != 100 || data[0] != "220" || data[99] != "319" {
		t.Errorf("%d declared, %d there, %s to %s; of 320 a hundred are kept", declared, len(data), data[0], data[len(data)-1])
	}
}

// TestGapIsDeclaredOnce kills leafd when it has declared what an outage cost: what comes then is not
// behind another marker about the same.
func TestGapIsDeclaredOnce(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js := stream(t, hub)
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: gapConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	hub.Kill()
	publishNumbers(t, l, 0, 250)
	hub.Restart()
	last := func(n uint64) (subject string) {
		t.Helper()
		testkit.Eventually(t, func() bool {
			s, err := js.Stream(t.Context(), "CABLE")
			if err != nil || s.CachedInfo().State.LastSeq < n {
				return false
			}
			m, err := s.GetMsg(t.Context(), s.CachedInfo().State.LastSeq)
			subject = m.Subject
			return err == nil
		}, "%d messages in the stream", n)
		return subject
	}
	if last(101) != "cable.gap" {
		t.Error("no marker behind the hundred that are kept")
	}
	for n := uint64(102); n < 104; n++ {
		l.Kill()
		l.Restart()
		publishNumbers(t, l, 250, 251)
		if subject := last(n); subject != "cable.x" {
			t.Errorf("message %d is %s: declared again", n, subject)
		}
	}
}

// TestGapThatTheStreamLeftOut has a hub's stream that does not take gap_subject when an outage is over.
// It is changed then, with nothing else to send, and has the marker.
func TestGapThatTheStreamLeftOut(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js, err := jetstream.New(connect(t, hub.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond)))
	if err != nil {
		t.Fatal(err)
	}
	c := jetstream.StreamConfig{Name: "CABLE", Subjects: []string{"cable.x"}}
	if _, err := js.CreateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: "http: $LEAFD_HTTP_PORT" + gapConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	hub.Kill()
	publishNumbers(t, l, 0, 120)
	hub.Restart()
	var u outboxState
	testkit.Eventually(t, func() bool {
		u = uplinkBox(l)
		return u.Acked >= 100 && strings.Contains(u.Last, "gap marker") && u.Messages == 0
	}, "100 are there and the marker was tried: %+v", &u)
	c.Subjects = []string{"cable.>"}
	var s jetstream.Stream
	testkit.Eventually(t, func() bool { s, err = js.UpdateStream(t.Context(), c); return err == nil }, "the stream is changed: %v", err)
	var m *jetstream.RawStreamMsg
	testkit.Eventually(t, func() bool { m, err = s.GetLastMsgForSubject(t.Context(), "cable.gap"); return err == nil }, "a marker in the stream")
	var g struct{ Count uint64 }
	if err := json.Unmarshal(m.Data, &g); err != nil || g.Count != 20 || s.CachedInfo().State.Msgs != 100 {
		t.Errorf("%s %v, and %d messages before it; want 20 declared of 120", m.Data, err, s.CachedInfo().State.Msgs)
	}
}
