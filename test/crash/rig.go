package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/monitor"
	"github.com/leafd/leafd/internal/testkit"
)

// journalBytes is the smallest journal there is, so that it is turned and folded often.
const journalBytes = 256 << 10

const config = `
server_name: crash
host: "127.0.0.1", port: $LEAFD_NATS_PORT
http: $LEAFD_HTTP_PORT
mqtt { host: "127.0.0.1", port: $LEAFD_MQTT_PORT }
leafnodes { reconnect: "200ms", remotes: [ { url: $LEAFD_HUB_URL } ] }
store { dir: $LEAFD_STORE, journal_size: 256KB, spill_after: "5ms", reserve: 64KB }
outbox {
  a { subjects: ["crash.a.>"], max_bytes: 4GB }
  b { subjects: ["crash.b.>"], max_bytes: 4GB }
}
`

// slowB is config with an outbox that drains slowly.
var slowB = strings.Replace(config, `["crash.b.>"], max_bytes: 4GB`, `["crash.b.>"], max_bytes: 4GB, drain_rate: 16KB`, 1)

// scene is a testkit.T for a program that is not a test. Owned by one goroutine.
type scene struct {
	dir      string // its directories are below
	cleanups []func()
	failed   bool
}

type failure string // what Fatalf panics with

func (s *scene) Helper()                         {}
func (s *scene) Failed() bool                    { return s.failed }
func (s *scene) Cleanup(f func())                { s.cleanups = append(s.cleanups, f) }
func (s *scene) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func (s *scene) Fatalf(format string, args ...any) {
	s.failed = true
	panic(failure(fmt.Sprintf(format, args...)))
}

func (s *scene) TempDir() string {
	dir, err := os.MkdirTemp(s.dir, "leafd-crash-")
	if err != nil {
		s.Fatalf("make a directory: %v", err)
	}
	s.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// play runs f, and then everything that was to be cleaned up, the last first.
func play(dir string, f func(t testkit.T) error) (err error) {
	s := &scene{dir: dir}
	defer func() {
		for _, clean := range slices.Backward(s.cleanups) {
			clean()
		}
	}()
	defer func() {
		switch why := recover().(type) {
		case nil:
		case failure:
			err = errors.New(string(why))
		default:
			panic(why)
		}
	}()
	return f(s)
}

// hub is a stock hub behind a cable, with a stream for each outbox: on one of its own
// order is promised.
type hub struct {
	*testkit.Hub
	cable   *testkit.Proxy
	streams []jetstream.Stream // in the order of logs
}

func startHub(t testkit.T) *hub {
	h := &hub{Hub: testkit.StartHub(t, testkit.HubOptions{JetStream: true})}
	h.cable = testkit.StartProxy(t, h.LeafAddr())
	h.cable.Cut()
	nc, err := nats.Connect(h.ClientURL())
	if err != nil {
		t.Fatalf("hub: %v", err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	for _, class := range logs {
		var s jetstream.Stream
		if err == nil {
			s, err = js.CreateStream(context.Background(), jetstream.StreamConfig{Name: "CRASH-" + class, Subjects: []string{"crash." + class + ".>"}})
		}
		h.streams = append(h.streams, s)
	}
	if err != nil {
		t.Fatalf("hub: %v", err)
	}
	return h
}

func (h *hub) url() string { return "nats-leaf://" + h.cable.Addr() }

// hubMsg is a message as the hub's stream has it.
type hubMsg struct {
	number
	seq   uint64
	class string
	whole bool
}

// messages reads the streams, all but probes.
func (h *hub) messages(t testkit.T) (all []hubMsg) {
	for i, class := range logs {
		got, err := readStream(h.streams[i], class)
		if err != nil {
			t.Fatalf("hub: %v", err)
		}
		all = append(all, got...)
	}
	return all
}

func readStream(stream jetstream.Stream, class string) (all []hubMsg, err error) {
	ctx := context.Background()
	info, err := stream.Info(ctx)
	if err != nil {
		return nil, err
	}
	c, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return nil, err
	}
	for last := uint64(0); last < info.State.LastSeq; {
		b, err := c.Fetch(1000, jetstream.FetchMaxWait(2*time.Second))
		if err != nil {
			return nil, err
		}
		for m := range b.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				return nil, err
			}
			last = meta.Sequence.Stream
			if string(m.Data()) == probe {
				continue
			}
			n, whole := readPayload(m.Data())
			whole = whole && m.Subject() == fmt.Sprintf("crash.%s.s%d", class, n.Src)
			all = append(all, hubMsg{n, last, class, whole})
		}
	}
	return all, nil
}

// drained waits until the leafd with that monitoring endpoint has nothing left for the hub.
func drained(t testkit.T, url string) { awaitDrain(t, url, "") }

// awaitDrain waits until an outbox, or all of them, is empty, as long as it makes progress.
func awaitDrain(t testkit.T, url, outbox string) {
	left := int64(-1)
	for begin, last := time.Now(), int64(-1); left != 0; {
		if res, err := http.Get(url + "/uplinkz"); err == nil {
			var up monitor.Uplinkz
			if json.NewDecoder(res.Body).Decode(&up) == nil {
				left = 0
				for _, o := range up.Outboxes {
					if outbox == "" || o.Class == outbox {
						left += int64(o.Messages)
					}
				}
			}
			res.Body.Close()
		}
		if left != last {
			begin, last = time.Now(), left
		} else if time.Since(begin) > testkit.Patience {
			t.Fatalf("for %v the outboxes hold %d messages", testkit.Patience, left)
		}
		pause(context.Background(), 5*time.Millisecond)
	}
}

// newSources are the sources of a scene: MQTT and NATS, one message at a time and many.
func newSources(mqttPort, natsPort int, first uint32) (all []*source) {
	mq, nc := dialMQTT(testkit.Addr(mqttPort)), dialNATS(testkit.Addr(natsPort))
	add := func(class string, window int, dial func(context.Context, *source) (client, error)) {
		id := first + uint32(len(all))
		all = append(all, &source{base: id, class: class, window: window, size: sizes(uint64(id)), dial: dial})
	}
	add("a", 1, mq)
	add("a", 8, mq)
	add("b", 3, mq)
	add("a", 4, nc)
	add("b", 1, nc)
	return all
}

// publish has each source send n messages and waits for them.
func publish(ctx context.Context, sources []*source, n int) {
	var wg sync.WaitGroup
	for _, s := range sources {
		wg.Go(func() { s.run(ctx, n) })
	}
	wg.Wait()
}
