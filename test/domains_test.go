package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// TestHubsInTurns has the link move from one hub to another in a domain of its own, and back. Each
// stream gets what was published while the link was on it, once: that the first one lacks
// what went to the second does not mean that it was set back.
func TestHubsInTurns(t *testing.T) {
	for name, end := range map[string]func(turn int, r *remade){
		"stopped": func(turn int, r *remade) {
			if turn == 3 {
				r.leafd.Stop()
				r.leafd.Restart()
			}
		},
		"killed": func(_ int, r *remade) { // and asks the hub that it is on what that has
			r.leafd.Kill()
			r.leafd.Restart()
			r.drained()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testHubsInTurns(t, end)
		})
	}
}

func testHubsInTurns(t *testing.T, end func(turn int, r *remade)) {
	var streams [2]jetstream.Stream
	var cables [2]*testkit.Proxy
	for i, domain := range []string{"one", "two"} {
		hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true, Domain: domain})
		js, err := jetstream.New(connect(t, hub.ClientURL()))
		if err != nil {
			t.Fatal(err)
		}
		if streams[i], err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "R", Subjects: []string{"r.>"}}); err != nil {
			t.Fatal(err)
		}
		cables[i] = testkit.StartProxy(t, hub.LeafAddr())
	}
	cables[1].Cut()
	leafd := testkit.StartLeafd(t, testkit.LeafdOptions{
		Env: map[string]string{"LEAFD_HUB_ONE": "nats-leaf://" + cables[0].Addr(), "LEAFD_HUB_TWO": "nats-leaf://" + cables[1].Addr()}, Config: `
server_name: turns
host: "127.0.0.1", port: $LEAFD_NATS_PORT
http: $LEAFD_HTTP_PORT
leafnodes { reconnect: "250ms", remotes: [ { urls: [ $LEAFD_HUB_ONE, $LEAFD_HUB_TWO ] } ] }
store { dir: $LEAFD_STORE }
outbox { r { subjects: ["r.>"], ack_timeout: "1s" } }
`})
	r := &remade{T: t, leafd: leafd}
	want := [2][]string{}
	for turn := range 6 {
		at := turn % 2
		cables[1-at].Cut()
		cables[at].Restore()
		for n := range 50 {
			want[at] = append(want[at], fmt.Sprint(50*turn+n))
		}
		r.publish()
		r.drained()
		end(turn, r)
	}
	for i, s := range streams {
		if got := contents(t, s); !slices.Equal(got, want[i]) {
			t.Errorf("stream %d has %d messages, want %d: %q", i+1, len(got), len(want[i]), got)
		}
	}
}

// TestHubBehindAnotherServer has a server between leafd and the one that has JetStream. Who is there
// cannot be asked without its domain, as nats-server itself has it; leafd keeps all and says what to set,
// and with that it goes on.
func TestHubBehindAnotherServer(t *testing.T) {
	for _, c := range []struct{ name, domain, set string }{
		{"its domain is set", "far", `domain: "far"`},
		{"it has none, the stream is set", "", `stream: "R"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true, Domain: c.domain})
			js, err := jetstream.New(connect(t, hub.ClientURL()))
			if err != nil {
				t.Fatal(err)
			}
			r := &remade{T: t, js: js}
			r.create("R")
			between := testkit.StartHub(t, testkit.HubOptions{Leafnodes: fmt.Sprintf("remotes [ { url: %q } ]", hub.LeafURL())})
			config := func(set string) string {
				return `
server_name: behind
host: "127.0.0.1", port: $LEAFD_NATS_PORT
http: $LEAFD_HTTP_PORT
leafnodes { remotes: [ { url: $LEAFD_HUB_URL } ] }
store { dir: $LEAFD_STORE }
outbox { r { subjects: ["r.>"], ack_timeout: "250ms", ` + set + ` } }
`
			}
			r.leafd = testkit.StartLeafd(t, testkit.LeafdOptions{Config: config(""), Env: map[string]string{"LEAFD_HUB_URL": between.LeafURL()}})
			r.publish()
			r.box(func(b remadeBox) bool { return strings.Contains(b.LastError, "set the outbox's domain") }, "leafd says what is missing")
			if n := len(contents(t, r.handle())); n != 0 {
				t.Errorf("%d messages are in the stream", n)
			}
			r.leafd.Configure(config(c.set))
			r.leafd.Stop()
			r.leafd.Restart()
			r.publish()
			r.drained()
			r.has(0)
		})
	}
}
