package test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// TestFleet has several gateways publish the same subjects into one stream, whose hub is killed
// twice meanwhile. None knows of the others; each one's messages are there once and in order, but for the first
// moment, in which a message of another takes the place of one that is on its way with more behind it: then
// that one comes behind these, and is counted.
func TestFleet(t *testing.T) {
	const gateways, each, rounds = 5, 80, 3
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js := stream(t, hub)
	var fleet []*testkit.Leafd
	var clients []jetstream.JetStream
	for i := range gateways {
		l := testkit.StartLeafd(t, testkit.LeafdOptions{
			Config: strings.Replace(refusedConfig, "server_name: cable", fmt.Sprint("server_name: barn", i), 1),
			Env:    map[string]string{"LEAFD_HUB_URL": hub.LeafURL()},
		})
		c, err := jetstream.New(connect(t, l.NATSURL()))
		if err != nil {
			t.Fatal(err)
		}
		fleet, clients = append(fleet, l), append(clients, c)
	}
	for r := range rounds {
		var all sync.WaitGroup
		for i, c := range clients {
			all.Go(func() {
				for n := range each {
					if _, err := c.Publish(t.Context(), "cable.x", fmt.Appendf(nil, "%d %d", i, r*each+n)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		if r > 0 {
			hub.Kill()
			hub.Restart()
		}
		all.Wait()
	}
	var reordered [gateways]int
	for i, l := range fleet {
		var u outboxState
		testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.Messages == 0 }, "nothing waits at gateway %d: %+v", i, &u)
		if u.Rejected != 0 || len(u.Dropped) != 0 {
			t.Errorf("gateway %d: %+v", i, u)
		}
		reordered[i] = u.Reordered
	}
	s, err := js.Stream(t.Context(), "CABLE")
	if err != nil {
		t.Fatal(err)
	}
	var next [gateways]int
	var there [gateways][each * rounds]bool
	for at := range gateways * each * rounds {
		m, err := s.GetMsg(t.Context(), uint64(at+1))
		if err != nil {
			t.Fatalf("message %d: %v; there are %v", at+1, err, next)
		}
		var i, n int
		if fmt.Sscan(string(m.Data), &i, &n); n < next[i] {
			reordered[i]--
		}
		if there[i][n] || reordered[i] < 0 {
			t.Fatalf("message %d: gateway %d sent %d, behind %d", at+1, i, n, next[i]-1)
		}
		next[i], there[i][n] = max(next[i], n+1), true
	}
	if info, err := s.Info(t.Context()); err != nil || info.State.Msgs != gateways*each*rounds {
		t.Errorf("%+v %v", info, err)
	}
}
