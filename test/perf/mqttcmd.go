package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// stamp is the head of every MQTT payload: who sent it, its number, and when.
const stampLen = 20

// newNoise gives a publisher what follows the stamps. It cannot be compressed, so a
// store that compresses shows what it costs at worst.
func newNoise(publisher int) *rand.ChaCha8 {
	return rand.NewChaCha8([32]byte(binary.LittleEndian.AppendUint32(make([]byte, 28), uint32(publisher))))
}

// mqttPub is one publishing client with a window of unacknowledged messages:
// PUBACK for QoS 1, PUBCOMP for QoS 2, arrival at the subscriber for QoS 0.
type mqttPub struct {
	*mqttConn
	idx    int
	topic  string
	qos    byte
	size   int
	window int64
	rate   float64 // messages per second, 0 for as fast as the window allows
	limit  int64   // messages to send, 0 for until stop
	start  time.Time
	sent   atomic.Int64
	acked  atomic.Int64
	wake   chan struct{}
	at     [4096]int64 // send time by packet id
	lat    *hist
	err    atomic.Pointer[error]
	noAck  bool // QoS 0 without a subscriber: TCP is the only brake
}

func (p *mqttPub) fail(err error) {
	p.err.CompareAndSwap(nil, &err)
	p.signal()
}

func (p *mqttPub) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *mqttPub) ack(n int64) {
	p.acked.Add(n)
	p.signal()
}

// publish sends until stop is set, then waits for the window to empty.
func (p *mqttPub) publish(stop *atomic.Bool) {
	var buf []byte
	noise := newNoise(p.idx)
	seq := int64(0)
	begin := time.Now()
	for !stop.Load() && p.err.Load() == nil && (p.limit == 0 || seq < p.limit) {
		room := p.window - (seq - p.acked.Load())
		if p.noAck {
			room = p.window
		}
		if p.limit > 0 {
			room = min(room, p.limit-seq)
		}
		if p.rate > 0 {
			due := begin.Add(time.Duration(float64(seq) / p.rate * 1e9))
			if d := time.Until(due); d > 0 {
				time.Sleep(d)
			}
			room = min(room, 1)
		}
		if room <= 0 {
			select {
			case <-p.wake:
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		buf = buf[:0]
		now := int64(time.Since(p.start))
		for ; room > 0 && len(buf) < 64<<10; room-- {
			id := uint16(seq%int64(len(p.at)-1)) + 1
			p.at[id] = now
			var at int
			buf, at = appendPublish(buf, p.topic, p.qos, id, p.size)
			binary.BigEndian.PutUint32(buf[at:], uint32(p.idx))
			binary.BigEndian.PutUint64(buf[at+4:], uint64(seq))
			binary.BigEndian.PutUint64(buf[at+12:], uint64(now))
			noise.Read(buf[at+stampLen:])
			seq++
		}
		if _, err := p.Write(buf); err != nil {
			p.fail(err)
			break
		}
		p.sent.Store(seq)
	}
	if p.noAck {
		p.Write([]byte{12 << 4, 0})
	}
	for t := time.Now(); p.acked.Load() < seq && p.err.Load() == nil && time.Since(t) < 10*time.Second; {
		select {
		case <-p.wake:
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// acks reads the server's answers and records PUBACK or PUBCOMP latency.
func (p *mqttPub) acks() {
	var out []byte
	for {
		if len(out) > 0 && !p.ready() {
			if _, err := p.Write(out); err != nil {
				p.fail(err)
				return
			}
			out = out[:0]
		}
		k, err := p.next()
		if err != nil {
			p.fail(err)
			return
		}
		switch k.kind {
		case mqPuback, mqPubcomp:
			id := binary.BigEndian.Uint16(k.body)
			p.lat.add(time.Since(p.start) - time.Duration(p.at[int(id)%len(p.at)]))
			p.ack(1)
		case mqPubrec:
			out = appendAck(out, mqPubrel, binary.BigEndian.Uint16(k.body))
		case mqPingresp:
			p.ack(p.sent.Load())
		}
	}
}

type mqttLoad struct {
	addr, natsAddr string
	clients        int
	qos            int
	size           int
	window         int
	rate           int
	sub            string
}

func (l *mqttLoad) connect(start time.Time, lat *hist, prefix string) ([]*mqttPub, error) {
	if l.size < stampLen {
		return nil, fmt.Errorf("size must be at least %d", stampLen)
	}
	var pubs []*mqttPub
	for i := range l.clients {
		c, err := mqttDial(l.addr, fmt.Sprintf("perf-pub-%d", i), true)
		if err != nil {
			return nil, err
		}
		p := &mqttPub{mqttConn: c, idx: i, topic: fmt.Sprintf("%s/%d", prefix, i), qos: byte(l.qos), size: l.size,
			window: int64(min(l.window, 4000)), rate: float64(l.rate) / float64(l.clients), start: start,
			wake: make(chan struct{}, 1), lat: lat}
		go p.acks()
		pubs = append(pubs, p)
	}
	return pubs, nil
}

// drive runs all publishers for a while and returns how many messages they
// sent and how many were acknowledged.
func drive(pubs []*mqttPub, dur time.Duration) (sent, acked int64, err error) {
	var stop atomic.Bool
	if dur > 0 {
		defer time.AfterFunc(dur, func() { stop.Store(true) }).Stop()
	}
	var wg sync.WaitGroup
	for _, p := range pubs {
		wg.Go(func() { p.publish(&stop) })
	}
	wg.Wait()
	for _, p := range pubs {
		sent += p.sent.Load()
		acked += p.acked.Load()
		if e := p.err.Load(); e != nil {
			err = *e
		}
	}
	return sent, acked, err
}

func mqttPubCmd(args []string) error {
	var c common
	l := mqttLoad{}
	fs := newFlags("mqtt-pub", &c, 3*time.Second)
	fs.StringVar(&l.addr, "addr", "127.0.0.1:1883", "MQTT server")
	fs.StringVar(&l.natsAddr, "nats-addr", "127.0.0.1:4222", "NATS address, for -sub nats")
	fs.IntVar(&l.clients, "clients", 10, "publishing clients")
	fs.IntVar(&l.qos, "qos", 0, "0, 1 or 2")
	fs.IntVar(&l.size, "size", 128, "payload bytes")
	fs.IntVar(&l.window, "window", 100, "unacknowledged messages per client")
	fs.IntVar(&l.rate, "rate", 0, "messages per second over all clients, 0 for no limit")
	fs.StringVar(&l.sub, "sub", "mqtt", "subscriber: mqtt (at the same QoS) | nats | none")
	fs.Parse(args)
	start := time.Now()
	var lat, e2e hist
	pubs, err := l.connect(start, &lat, "perf/t")
	if err != nil {
		return err
	}
	check := newSeqCheck(l.clients)
	sub, err := l.subscribe(func(_, payload []byte) {
		if idx := check.add(payload); idx >= 0 {
			e2e.add(time.Since(start) - time.Duration(binary.BigEndian.Uint64(payload[12:])))
			if l.qos == 0 {
				pubs[idx].ack(1)
			}
		}
	})
	if err != nil {
		return err
	}
	defer sub.Close()
	for _, p := range pubs {
		p.noAck = l.sub == "none" && l.qos == 0
	}
	time.Sleep(100 * time.Millisecond)
	name := fmt.Sprintf("qos%d-%dc-w%d-%dB-%s", l.qos, l.clients, l.window, l.size, l.sub)
	if l.rate > 0 {
		name += fmt.Sprintf("-%d/s", l.rate)
	}
	r := c.result("mqtt-pub", name)
	m := c.meter("")
	sent, acked, err := drive(pubs, c.dur)
	done := acked
	if l.sub != "none" {
		m.idle = settle(check.unique.Load, sent, 2*time.Second)
		done = check.unique.Load()
		r.M["lost"], r.M["dups"], r.M["ooo"] = float64(sent-done), float64(check.dups.Load()), float64(check.ooo.Load())
	}
	wall := m.stop(r, float64(done))
	if err != nil {
		r.M["errors"] = 1
		fmt.Println("error during run:", err)
	}
	r.M["msgs_s"] = float64(done) / wall.Seconds()
	r.M["sent"], r.M["acked"] = float64(sent), float64(acked)
	lat.report(r, "ack")
	e2e.report(r, "e2e")
	for _, p := range pubs {
		p.Close()
	}
	return c.emit(r)
}

// subscribe starts the subscriber that -sub asks for.
func (l *mqttLoad) subscribe(got func(topic, payload []byte)) (io.Closer, error) {
	switch l.sub {
	case "mqtt":
		s, err := mqttDial(l.addr, "perf-sub", true)
		if err != nil {
			return nil, err
		}
		s.buf = append(s.buf, make([]byte, 252<<10)...)
		if err := s.subscribe("perf/t/#", byte(l.qos)); err != nil {
			return nil, errors.Join(err, s.Close())
		}
		go s.receive(got)
		return s, nil
	case "nats":
		n, err := natsDial(l.natsAddr)
		if err != nil {
			return nil, err
		}
		io.WriteString(n, "SUB perf.t.> 1\r\n")
		if err := n.flush(); err != nil {
			return nil, errors.Join(err, n.Close())
		}
		go func() {
			for {
				op, line, payload, err := n.next()
				if err != nil {
					return
				}
				if op == 'M' {
					got(line, payload)
				}
			}
		}()
		return n, nil
	case "none":
		return io.NopCloser(nil), nil
	}
	return nil, fmt.Errorf("-sub %s: it is mqtt, nats or none", l.sub)
}

// durableCmd publishes QoS 1 messages that the server must queue for an
// offline persistent session, so nothing can be acknowledged and forgotten.
func durableCmd(args []string) error {
	var c common
	l := mqttLoad{qos: 1}
	fs := newFlags("durable", &c, 4*time.Second)
	fs.StringVar(&l.addr, "addr", "127.0.0.1:1883", "MQTT server")
	fs.IntVar(&l.clients, "clients", 10, "publishing clients")
	fs.IntVar(&l.size, "size", 128, "payload bytes")
	fs.IntVar(&l.window, "window", 1, "unacknowledged messages per client")
	dev := fs.String("dev", "", "block device under the server's store, such as sda, for flush counts")
	drain := fs.Bool("drain", true, "afterwards reconnect the session and count what it gets")
	session := fs.Bool("session", true, "queue for an offline session (off: the server keeps messages by itself)")
	fs.Parse(args)
	const id, filter = "perf-offline", "perf/d/#"
	if *session {
		old, err := mqttDial(l.addr, id, true) // discard any earlier session
		if err != nil {
			return err
		}
		old.disconnect()
		s, err := mqttDial(l.addr, id, false)
		if err != nil {
			return err
		}
		if err := s.subscribe(filter, 1); err != nil {
			return err
		}
		s.disconnect()
	}
	start := time.Now()
	var lat hist
	pubs, err := l.connect(start, &lat, "perf/d")
	if err != nil {
		return err
	}
	time.Sleep(100 * time.Millisecond)
	r := c.result("durable", fmt.Sprintf("%dc-w%d-%dB", l.clients, l.window, l.size))
	m := c.meter(*dev)
	sent, acked, err := drive(pubs, c.dur)
	wall := m.stop(r, float64(acked))
	if err != nil {
		r.M["errors"] = 1
		fmt.Println("error during run:", err)
	}
	for _, p := range pubs {
		p.Close()
	}
	r.M["msgs_s"] = float64(acked) / wall.Seconds()
	r.M["sent"], r.M["acked"] = float64(sent), float64(acked)
	lat.report(r, "ack")
	if *session && *drain {
		check, took, err := drainSession(l.addr, id, l.clients, acked)
		if err != nil {
			return err
		}
		r.M["drained"], r.M["drain_dups"] = float64(check.unique.Load()), float64(check.dups.Load())
		r.M["drain_s"] = r.M["drained"] / took.Seconds()
	}
	return c.emit(r)
}

// drainSession takes a persistent session's queue until want distinct messages
// came or none did for 3 s, then discards the session.
func drainSession(addr, id string, clients int, want int64) (*seqCheck, time.Duration, error) {
	s, err := mqttDial(addr, id, false)
	if err != nil {
		return nil, 0, err
	}
	s.buf = append(s.buf, make([]byte, 252<<10)...) // keeps what came with the CONNACK
	check := newSeqCheck(clients)
	begin := time.Now()
	done := make(chan error)
	go func() { done <- s.receive(func(_, payload []byte) { check.add(payload) }) }()
	idle := settle(check.unique.Load, want, 3*time.Second)
	took := time.Since(begin) - idle
	time.Sleep(20 * time.Millisecond)
	s.Close()
	<-done
	if s, err = mqttDial(addr, id, true); err == nil {
		s.disconnect()
	}
	return check, took, err
}
