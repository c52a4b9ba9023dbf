package main

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/nats-io/nats.go"

	"github.com/leafd/leafd/internal/testkit"
)

// A payload is the publisher's number, the message's number, filling, and a checksum
// of all that: 128 bytes.
const payloadSize = 128

func payload(source, n int) []byte {
	b := make([]byte, 0, payloadSize)
	b = binary.BigEndian.AppendUint32(b, uint32(source))
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	for len(b) < payloadSize-4 {
		b = append(b, byte(n+len(b)))
	}
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func unpack(b []byte) (source, n int, ok bool) {
	if len(b) != payloadSize || crc32.ChecksumIEEE(b[:payloadSize-4]) != binary.BigEndian.Uint32(b[payloadSize-4:]) {
		return 0, 0, false
	}
	return int(binary.BigEndian.Uint32(b)), int(binary.BigEndian.Uint32(b[4:])), true
}

// source is one publisher. It sends its numbers in order, a batch at a time, and
// sends again from the first that was not acknowledged.
type source struct {
	id, total, acked int
	sent             []int // how often each number was handed to the client
	all              *load
}

// load is all publishers together.
type load struct {
	sources []*source
	acked   atomic.Int64
	gate    chan struct{} // a token lets one batch through; closed: it is over
	done    sync.WaitGroup
	sending sync.RWMutex // held for reading while a batch is on its way: hold waits for all of them
}

const (
	mqttSources = 4
	natsSources = 4
	batch       = 50
)

// startLoad publishes msgs messages at up to rate a second in total.
func startLoad(t testkit.T, l *testkit.Leafd, msgs, rate int) *load {
	all := &load{gate: make(chan struct{})}
	count := mqttSources + natsSources
	for i := range count {
		s := &source{id: i, total: msgs / count, sent: make([]int, msgs/count), all: all}
		all.sources = append(all.sources, s)
		send := s.overMQTT(l.MQTTURL())
		if i >= mqttSources {
			send = s.overNATS(t, l.NATSURL())
		}
		all.done.Go(func() { s.run(send) })
	}
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	go func() {
		tick := time.NewTicker(time.Second * batch / time.Duration(rate))
		defer tick.Stop()
		defer close(all.gate)
		for {
			select {
			case <-tick.C:
			case <-stop:
				return
			}
			select {
			case all.gate <- struct{}{}:
			case <-stop:
				return
			}
		}
	}()
	return all
}

func (a *load) total() (n int) {
	for _, s := range a.sources {
		n += s.total
	}
	return n
}

// reach waits until n messages are acknowledged.
func (a *load) reach(t testkit.T, n int) {
	t.Helper()
	n = min(n, a.total())
	testkit.Eventually(t, func() bool { return a.acked.Load() >= int64(n) }, "%d acknowledgements to publishers", n)
}

// quiet calls fn while nothing of a publisher's is on its way to leafd.
func (a *load) quiet(fn func()) {
	a.sending.Lock()
	defer a.sending.Unlock()
	fn()
}

func (a *load) finished() bool { return int(a.acked.Load()) >= a.total() }

// run gives numbers to send until all are acknowledged. send returns how many, from
// the first on, were.
func (s *source) run(send func(from, to int) int) {
	for s.acked < s.total {
		if _, ok := <-s.all.gate; !ok {
			return
		}
		to := min(s.acked+batch, s.total)
		for n := s.acked; n < to; n++ {
			s.sent[n]++
		}
		s.all.sending.RLock()
		n := send(s.acked, to)
		s.all.sending.RUnlock()
		s.acked += n
		s.all.acked.Add(int64(n))
	}
}

func (s *source) overMQTT(url string) func(from, to int) int {
	var c mqtt.Client
	return func(from, to int) (acked int) {
		if c == nil || !c.IsConnectionOpen() {
			o := mqtt.NewClientOptions().AddBroker(url).SetClientID(fmt.Sprintf("dev%d", s.id)).
				SetAutoReconnect(false).SetConnectTimeout(time.Second).SetOrderMatters(true).
				SetWriteTimeout(time.Second) // else Publish waits 30 s where the connection has ended
			c = mqtt.NewClient(o)
			if tok := c.Connect(); !tok.WaitTimeout(5*time.Second) || tok.Error() != nil {
				c = nil
				return 0
			}
		}
		var tokens []mqtt.Token
		for n := from; n < to; n++ {
			tokens = append(tokens, c.Publish(fmt.Sprintf("out/s%d", s.id), 1, false, payload(s.id, n)))
		}
		for _, tok := range tokens {
			if !tok.WaitTimeout(20*time.Second) || tok.Error() != nil || !c.IsConnectionOpen() {
				break
			}
			acked++
		}
		return acked
	}
}

func (s *source) overNATS(t testkit.T, url string) func(from, to int) int {
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(nc.Close)
	js, err := nc.JetStream(nats.PublishAsyncMaxPending(2*batch), nats.PublishAsyncTimeout(20*time.Second))
	if err != nil {
		t.Fatalf("%v", err)
	}
	subject := fmt.Sprintf("out.s%d", s.id)
	return func(from, to int) (acked int) {
		var answers []nats.PubAckFuture
		for n := from; n < to; n++ {
			a, err := js.PublishAsync(subject, payload(s.id, n))
			if err != nil {
				break
			}
			answers = append(answers, a)
		}
		for _, a := range answers {
			select {
			case <-a.Ok():
				acked++
			case <-a.Err():
				return acked
			}
		}
		return acked
	}
}
