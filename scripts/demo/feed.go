package main

import (
	"fmt"
	"strconv"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// The feed's numbers go out as MQTT messages and arrive as NATS ones.
const (
	feedTopic   = "barn/feed"
	feedSubject = "barn.feed"
)

// feed is an MQTT client that publishes 1, 2, 3, … at QoS 1 and remembers which
// were acknowledged.
type feed struct {
	client mqtt.Client
	stop   chan struct{}
	done   sync.WaitGroup

	mu        sync.Mutex
	published int
	acked     map[int]bool
}

func startFeed(broker string, every time.Duration) (*feed, error) {
	o := mqtt.NewClientOptions().AddBroker(broker).SetClientID("demo-feed").SetConnectTimeout(10 * time.Second)
	f := &feed{client: mqtt.NewClient(o), stop: make(chan struct{}), acked: map[int]bool{}}
	if t := f.client.Connect(); t.Wait() && t.Error() != nil {
		return nil, fmt.Errorf("connect to %s: %w", broker, t.Error())
	}
	f.done.Go(func() { f.run(every) })
	return f, nil
}

func (f *feed) run(every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-f.stop:
			return
		case <-tick.C:
		}
		token := f.client.Publish(feedTopic, 1, false, strconv.Itoa(n))
		f.mu.Lock()
		f.published = n
		f.mu.Unlock()
		f.done.Go(func() {
			if token.WaitTimeout(ackLimit) && token.Error() == nil {
				f.mu.Lock()
				f.acked[n] = true
				f.mu.Unlock()
			}
		})
	}
}

// ackLimit is how long the end of the demo waits for a PUBACK.
const ackLimit = 20 * time.Second

// counts are the messages published and acknowledged so far.
func (f *feed) counts() (published, acked int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.published, len(f.acked)
}

// finish stops publishing and waits for the acknowledgements still to come.
func (f *feed) finish() {
	close(f.stop)
	f.done.Wait()
	f.client.Disconnect(250)
}
