package test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/leafd/leafd/internal/testkit"
)

// TestConflate publishes 10,000 messages on 10 subjects, and one on a quiet one before
// them, while the hub is away, over a kill of leafd. The stream then has the last of
// each, and nothing twice or out of order.
func TestConflate(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js := stream(t, hub)
	config := strings.Replace(gapConfig, "max_msgs: 100", "max_msgs: 100, conflate: true", 1)
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: config, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	hub.Kill()
	publish := func(from, to int) {
		nc, err := nats.Connect(l.NATSURL(), nats.Timeout(testkit.Patience))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if from == 0 {
			nc.Publish("cable.quiet", []byte("0"))
		}
		for n := from; n < to; n++ {
			if err := nc.Publish(fmt.Sprint("cable.", n%10), fmt.Append(nil, n)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := nc.Request(fmt.Sprint("cable.", to%10), fmt.Append(nil, to), testkit.Patience); err != nil {
			t.Fatal(err)
		}
	}
	publish(0, 5000)
	l.Kill()
	l.Restart()
	publish(5001, 10000)
	hub.Restart()
	s, err := js.Stream(t.Context(), "CABLE")
	if err != nil {
		t.Fatal(err)
	}
	got, last, next := 0, map[string]int{}, uint64(1)
	testkit.Eventually(t, func() bool {
		for {
			m, err := s.GetMsg(t.Context(), next)
			if err != nil {
				return len(last) == 11 && last["cable.0"] == 10000
			}
			next++
			n := 0
			fmt.Sscan(string(m.Data), &n)
			if had, ok := last[m.Subject]; ok && n <= had || m.Subject == "cable.gap" {
				t.Fatalf("%s: %d after %d", m.Subject, n, had)
			}
			last[m.Subject] = n
			got++
		}
	}, "the last of each subject in the stream")
	for n := 9991; n <= 10000; n++ {
		if subject := fmt.Sprint("cable.", n%10); last[subject] != n {
			t.Errorf("the last of %s is %d, want %d", subject, last[subject], n)
		}
	}
	if got > 21 { // 11, and of what an earlier run may have sent
		t.Errorf("%d messages of 10 busy subjects and a quiet one came", got)
	}
}
