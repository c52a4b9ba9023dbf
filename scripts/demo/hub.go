package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// hubStream is where the outbox's messages end.
const hubStream = "DEMO"

// watcher is a client of the hub that creates the stream and sees what arrives.
type watcher struct {
	nc      *nats.Conn
	stream  jetstream.Stream
	consume jetstream.ConsumeContext

	mu      sync.Mutex
	arrived []arrival    // since take
	numbers map[int]bool // of the feed, that arrived at all
}

type arrival struct{ subject, data string }

func watchHub(ctx context.Context, url string) (*watcher, error) {
	nc, err := nats.Connect(url, nats.Name("demo"))
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	w := &watcher{nc: nc, numbers: map[int]bool{}}
	if err := w.start(ctx); err != nil {
		nc.Close()
		return nil, fmt.Errorf("hub: %w", err)
	}
	return w, nil
}

func (w *watcher) start(ctx context.Context) error {
	js, err := jetstream.New(w.nc)
	if err != nil {
		return err
	}
	w.stream, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: hubStream, Subjects: []string{"barn.>"}})
	if err != nil {
		return err
	}
	consumer, err := w.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return err
	}
	w.consume, err = consumer.Consume(func(m jetstream.Msg) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.arrived = append(w.arrived, arrival{m.Subject(), string(m.Data())})
		if n, err := strconv.Atoi(string(m.Data())); err == nil && m.Subject() == feedSubject {
			w.numbers[n] = true
		}
	})
	return err
}

// take returns what arrived since it was last called, and how many of the feed's
// numbers did in all.
func (w *watcher) take() (arrived []arrival, numbers int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	arrived, w.arrived = w.arrived, nil
	return arrived, len(w.numbers)
}

// scan reads the whole stream and counts how often each number of the feed is in it.
func (w *watcher) scan(ctx context.Context) (map[int]int, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	times := map[int]int{}
	consumer, err := w.stream.CreateConsumer(ctx, jetstream.ConsumerConfig{FilterSubject: feedSubject, AckPolicy: jetstream.AckNonePolicy})
	if err != nil {
		return nil, fmt.Errorf("scan the hub's stream: %w", err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return nil, fmt.Errorf("scan the hub's stream: %w", err)
	}
	defer messages.Stop()
	for range consumer.CachedInfo().NumPending {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("scan the hub's stream: %w", err)
		}
		n, err := strconv.Atoi(string(m.Data()))
		if err != nil {
			return nil, fmt.Errorf("scan the hub's stream: %q is not one of the feed's numbers", m.Data())
		}
		times[n]++
	}
	return times, nil
}

func (w *watcher) close() {
	if w.consume != nil {
		w.consume.Stop()
	}
	w.nc.Close()
}
