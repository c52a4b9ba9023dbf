package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

const streamName = "OUT"

// rig is a hub or a cluster of them, the cable to it, and a leafd.
type rig struct {
	hubs  []*testkit.Hub
	proxy []*testkit.Proxy // the cable to each hub
	leafd *testkit.Leafd
	nc    *nats.Conn // of the hubs
	js    jetstream.JetStream

	mu    sync.Mutex
	core  bool     // the hub has no JetStream
	heard [][]byte // guarded by mu; what a subscriber at a core hub got
}

const config = `
server_name: outage
host: "127.0.0.1", port: $LEAFD_NATS_PORT
http: $LEAFD_HTTP_PORT
mqtt { host: "127.0.0.1", port: $LEAFD_MQTT_PORT }
leafnodes { remotes: [ { urls: [ %s ] } ] }
store { dir: $LEAFD_STORE }
outbox { %s }
`

// boxes is the configuration of the outboxes: of one, or if second is not empty of two, one
// for each half of the publishers. They are more of it.
func boxes(first, second string) string {
	const box = `%s { subjects: [%s], gap_subject: "%s", max_bytes: 1GB, ack_timeout: "2s", %s }
`
	if second == "" {
		return fmt.Sprintf(box, "out", `"out.>"`, "out.gap", first)
	}
	subjects := [2]string{`"out.gap0"`, `"out.gap1"`}
	for i := range mqttSources + natsSources {
		subjects[i%2] += fmt.Sprintf(`, "out.s%d"`, i)
	}
	return fmt.Sprintf(box, "out", subjects[0], "out.gap0", first) + fmt.Sprintf(box, "second", subjects[1], "out.gap1", second)
}

// newRig starts n hubs, a stream on them that takes out.> and more, or with core a
// subscriber, and a leafd with o and these outboxes, whose links go through cables that can be
// cut.
func newRig(t testkit.T, n int, core bool, stream jetstream.StreamConfig, boxes string, o testkit.LeafdOptions) *rig {
	r := &rig{core: core}
	if n == 1 {
		r.hubs = []*testkit.Hub{testkit.StartHub(t, testkit.HubOptions{JetStream: !core})}
	} else {
		r.hubs = testkit.StartCluster(t, n)
	}
	var clients, links []string
	for _, h := range r.hubs {
		p := testkit.StartProxy(t, h.LeafAddr())
		r.proxy = append(r.proxy, p)
		clients = append(clients, h.ClientURL())
		links = append(links, fmt.Sprintf("%q", "nats-leaf://"+p.Addr()))
	}
	var err error
	r.nc, err = nats.Connect(strings.Join(clients, ","), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(r.nc.Close)
	if core {
		r.listen(t)
	} else {
		r.createStream(t, n, stream)
	}
	o.Config = fmt.Sprintf(config, strings.Join(links, ", "), boxes)
	r.leafd = testkit.StartLeafd(t, o)
	return r
}

// listen collects what a hub without streams delivers.
func (r *rig) listen(t testkit.T) {
	sub, err := r.nc.Subscribe("out.>", func(m *nats.Msg) {
		r.mu.Lock()
		r.heard = append(r.heard, m.Data)
		r.mu.Unlock()
	})
	if err == nil {
		err = errors.Join(sub.SetPendingLimits(-1, -1), r.nc.Flush())
	}
	if err != nil {
		t.Fatalf("subscribe at the hub: %v", err)
	}
}

func (r *rig) createStream(t testkit.T, n int, c jetstream.StreamConfig) {
	var err error
	if r.js, err = jetstream.New(r.nc); err != nil {
		t.Fatalf("%v", err)
	}
	c.Name, c.Subjects, c.Replicas, c.AllowMsgTTL = streamName, append(c.Subjects, "out.>"), n, true
	if _, err = r.js.CreateStream(context.Background(), c); err != nil {
		t.Fatalf("create the stream: %v", err)
	}
}

// uplink is what leafd says of its outboxes together.
type uplink struct {
	State      string `json:"state"`
	Messages   int64  `json:"messages"`
	Acked      uint64 `json:"acked"`
	Resume     string `json:"resume"`
	Reordered  uint64 `json:"reordered"`
	Duplicates uint64 `json:"duplicates"`
	WentBack   uint64 `json:"hub_went_back"`
	InRAM      int    `json:"kept_in_ram"`
}

func (r *rig) uplink() uplink {
	var u struct {
		Outboxes []uplink `json:"outboxes"`
	}
	r.leafd.Get("/uplinkz", &u)
	all := u.Outboxes[0]
	for _, o := range u.Outboxes[1:] {
		all.Messages += o.Messages
		all.Acked += o.Acked
		all.Reordered += o.Reordered
		all.Duplicates += o.Duplicates
		all.WentBack += o.WentBack
		all.InRAM += o.InRAM
	}
	return all
}

func (r *rig) cut() {
	for _, p := range r.proxy {
		p.Cut()
	}
}

func (r *rig) restore() {
	for _, p := range r.proxy {
		p.Restore()
	}
}

// linked is the hub that leafd's link is on.
func (r *rig) linked(t testkit.T) (at int) {
	testkit.Eventually(t, func() bool {
		for i, p := range r.proxy {
			if p.Conns() > 0 {
				at = i
				return true
			}
		}
		return false
	}, "a link to a hub")
	return at
}

// leader is the hub that leads the stream.
func (r *rig) leader(t testkit.T) (at int) {
	testkit.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		s, err := r.js.Stream(ctx, streamName)
		if err != nil || s.CachedInfo().Cluster == nil {
			return false
		}
		n, err := fmt.Sscanf(s.CachedInfo().Cluster.Leader, "hub%d", &at)
		return n == 1 && err == nil
	}, "a leader of the stream")
	return at
}

// whole waits until all replicas have all.
func (r *rig) whole(t testkit.T) {
	for _, h := range r.hubs {
		testkit.Eventually(t, h.Well, "all hubs are well")
	}
	if r.core {
		return
	}
	testkit.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		s, err := r.js.Stream(ctx, streamName)
		if err != nil || s.CachedInfo().Cluster == nil {
			return err == nil
		}
		for _, p := range s.CachedInfo().Cluster.Replicas {
			if !p.Current || p.Offline {
				return false
			}
		}
		return true
	}, "all replicas are up to date")
}

// drained waits until leafd has nothing left that the hub did not acknowledge.
func (r *rig) drained(t testkit.T) {
	var last uplink
	for moved := time.Now(); ; {
		u := r.uplink()
		switch {
		case u.Messages == 0:
			return
		case u != last:
			last, moved = u, time.Now()
		case time.Since(moved) > testkit.Patience:
			t.Fatalf("leafd does not get rid of %d messages: %+v", u.Messages, u)
		}
		<-time.After(50 * time.Millisecond)
	}
}
