package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// seqCheck tracks the numbered messages of several publishers. One goroutine
// adds, others may read the counts.
type seqCheck struct {
	seen              [][]uint64
	last              []int64
	unique, dups, ooo atomic.Int64
}

func newSeqCheck(pubs int) *seqCheck {
	return &seqCheck{seen: make([][]uint64, pubs), last: make([]int64, pubs)}
}

// add notes one payload and returns its publisher, or -1 if it is none of
// ours. Order violations are first arrivals with a number below one already
// seen from the same publisher.
func (s *seqCheck) add(payload []byte) int {
	if len(payload) < stampLen {
		return -1
	}
	p, seq := int(binary.BigEndian.Uint32(payload)), int64(binary.BigEndian.Uint64(payload[4:]))
	if p >= len(s.seen) || seq < 0 || seq > 1<<30 {
		return -1
	}
	for int64(len(s.seen[p])) <= seq/64 {
		s.seen[p] = append(s.seen[p], 0)
	}
	w, bit := &s.seen[p][seq/64], uint64(1)<<(seq%64)
	switch {
	case *w&bit != 0:
		s.dups.Add(1)
		return p
	case seq < s.last[p]:
		s.ooo.Add(1)
	default:
		s.last[p] = seq
	}
	*w |= bit
	s.unique.Add(1)
	return p
}

// linkProxy carries the leaf link so that it can be cut while the hub lives.
type linkProxy struct {
	listen, target string
	mu             sync.Mutex
	open           []io.Closer
}

func (p *linkProxy) up() error {
	l, err := net.Listen("tcp", p.listen)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.open = []io.Closer{l}
	p.mu.Unlock()
	go func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", p.target)
			if err != nil {
				a.Close()
				continue
			}
			p.mu.Lock()
			p.open = append(p.open, a, b)
			p.mu.Unlock()
			for _, d := range [][2]net.Conn{{a, b}, {b, a}} {
				go func() {
					io.Copy(d[0], d[1])
					d[0].Close()
				}()
			}
		}
	}()
	return nil
}

func (p *linkProxy) down() {
	p.mu.Lock()
	for _, c := range p.open {
		c.Close()
	}
	p.mu.Unlock()
}

const (
	outageSubject = "perf.out.>"
	leafStream    = "PERF_OUT"
	hubStream     = "PERF_HUB"
)

func streamConfig(name string, more obj) obj {
	cfg := obj{"name": name, "retention": "limits", "storage": "file", "num_replicas": 1, "max_msgs": -1,
		"max_bytes": -1, "discard": "old"}
	for k, v := range more {
		cfg[k] = v
	}
	return cfg
}

type streamInfo struct {
	State struct {
		Messages int64 `json:"messages"`
	} `json:"state"`
}

// publishNATS sends n numbered messages as requests, window outstanding, and
// counts the acknowledgements. With once each has an id, and says what it must come behind: the
// stream is empty and nobody else writes to it.
func publishNATS(addr string, pub int, n int64, size int, window int64, once bool, acked *atomic.Int64) error {
	c, err := natsDial(addr)
	if err != nil {
		return err
	}
	defer c.Close()
	inbox := fmt.Sprintf("_INBOX.perfout%d", pub)
	fmt.Fprintf(c, "SUB %s 1\r\n", inbox)
	var mine atomic.Int64
	fail := make(chan error, 1)
	wake := make(chan struct{}, 1)
	go func() {
		for {
			op, line, payload, err := c.next()
			if err == nil && op == 'M' {
				if len(payload) == 0 || string(payload[:min(9, len(payload))]) == `{"error":` {
					err = fmt.Errorf("not accepted: %q %q", line, payload)
				} else {
					mine.Add(1)
					acked.Add(1)
				}
			}
			if err != nil {
				fail <- err
				return
			}
			select {
			case wake <- struct{}{}:
			default:
			}
		}
	}()
	head := fmt.Appendf(nil, "PUB perf.out.%d %s %d\r\n", pub, inbox, size)
	before, id := fmt.Appendf(nil, "HPUB perf.out.%d %s ", pub, inbox), fmt.Appendf(nil, "NATS/1.0\r\nNats-Msg-Id: perf/publisher.%d.", pub)
	var header []byte
	withHeader := func(seq int64) { // allocates nothing: it shares a core with the hub that is measured
		header = strconv.AppendInt(append(header[:0], id...), seq+1, 10)
		header = strconv.AppendInt(append(header, "\r\nNats-Expected-Last-Sequence: "...), seq, 10)
		header = append(header, "\r\n\r\n"...)
		head = strconv.AppendInt(append(head[:0], before...), int64(len(header)), 10)
		head = strconv.AppendInt(append(head, ' '), int64(len(header)+size), 10)
		head = append(append(head, "\r\n"...), header...)
	}
	payload := make([]byte, size)
	binary.BigEndian.PutUint32(payload, uint32(pub))
	noise := newNoise(pub)
	var buf []byte
	for seq := int64(0); mine.Load() < n; {
		buf = buf[:0]
		for seq < n && seq-mine.Load() < window && len(buf) < 64<<10 {
			binary.BigEndian.PutUint64(payload[4:], uint64(seq))
			noise.Read(payload[stampLen:])
			if once {
				withHeader(seq)
			}
			buf = append(append(append(buf, head...), payload...), "\r\n"...)
			seq++
		}
		if len(buf) > 0 {
			if _, err := c.Write(buf); err != nil {
				return err
			}
			continue
		}
		select {
		case <-wake:
		case err := <-fail:
			return err
		case <-time.After(10 * time.Second):
			return errors.New("no acknowledgement for 10 s")
		}
	}
	return nil
}

// outage is one run: a leaf under load while its hub is away, then the catch-up.
type outage struct {
	common
	hubCmd, leafCmd, hubAddr, leafAddr, mqttAddr string
	setup, domain, persist, pub, sig, proxy, dev string
	pubs, size                                   int
	n, window                                    int64
	hold, limit                                  time.Duration
	ceiling                                      bool

	kids  []*child // the hub first
	link  *linkProxy
	total int64 // messages that all publishers send together
}

func (o *outage) flags(args []string) {
	fs := newFlags("outage", &o.common, 0)
	fs.StringVar(&o.hubCmd, "hub-cmd", "", "hub server command, split at spaces (started, stopped and restarted)")
	fs.StringVar(&o.leafCmd, "leaf-cmd", "", "leaf server command (default: it runs already, see -server-pid)")
	fs.StringVar(&o.hubAddr, "hub", "127.0.0.1:4222", "hub's client address")
	fs.StringVar(&o.leafAddr, "addr", "127.0.0.1:4223", "leaf's NATS address")
	fs.StringVar(&o.mqttAddr, "mqtt-addr", "127.0.0.1:1883", "leaf's MQTT address, for -pub mqtt")
	fs.StringVar(&o.setup, "setup", "source", "source: stream on leaf, sourced by hub stream | hub: hub stream only, the leaf forwards by itself | none")
	fs.StringVar(&o.domain, "domain", "leaf", "JetStream domain of the leaf, for -setup source")
	fs.StringVar(&o.persist, "persist", "default", "persist_mode of the hub's stream, for -setup hub: default | async, which acknowledges first and writes then")
	fs.StringVar(&o.pub, "pub", "nats", "nats (acknowledged publish) | mqtt (QoS 1)")
	fs.IntVar(&o.pubs, "pubs", 1, "publishers")
	fs.Int64Var(&o.n, "n", 200000, "messages")
	fs.IntVar(&o.size, "size", 128, "payload bytes")
	fs.Int64Var(&o.window, "window", 256, "unacknowledged messages per publisher")
	fs.StringVar(&o.sig, "signal", "term", "how the hub goes: term | kill")
	fs.StringVar(&o.proxy, "proxy", "", "LISTEN,TARGET: carry the leaf link through here and cut it, instead of stopping the hub")
	fs.DurationVar(&o.hold, "hold", 0, "keep the outage up at least this long")
	fs.DurationVar(&o.limit, "limit", 2*time.Minute, "longest wait for the catch-up")
	fs.StringVar(&o.dev, "dev", "", "block device of the leaf's store")
	fs.BoolVar(&o.ceiling, "ceiling", false, "afterwards publish as many messages to the hub itself, 4000 on their way, for what the hub can take")
	fs.Parse(args)
	o.total = o.n / int64(o.pubs) * int64(o.pubs)
}

func outageCmd(args []string) error {
	var o outage
	o.flags(args)
	onInterrupt(func() {
		for _, k := range o.kids {
			k.stop(syscall.SIGKILL)
		}
	})
	defer func() {
		for _, k := range o.kids {
			k.stop(syscall.SIGTERM)
		}
	}()
	if err := o.start(); err != nil {
		return err
	}
	if err := o.streams(); err != nil {
		return err
	}
	time.Sleep(time.Second)
	gone := time.Now()
	how := o.takeAway()
	time.Sleep(500 * time.Millisecond)

	r := o.result("outage", fmt.Sprintf("%s-%s-%d-%dB-%dp", how, o.pub, o.n, o.size, o.pubs))
	if err := o.publish(r); err != nil {
		return err
	}
	time.Sleep(time.Until(gone.Add(o.hold)))
	r.M["outage_s"] = time.Since(gone).Seconds()

	hc, err := o.catchUp(r)
	if err != nil {
		return err
	}
	defer hc.Close()
	time.Sleep(time.Second) // late duplicates
	if err := o.verify(r, hc); err != nil {
		return err
	}
	if o.ceiling {
		if err := o.direct(r, hc); err != nil {
			return err
		}
	}
	return o.emit(r)
}

// start brings up the hub, the cable and the leaf.
func (o *outage) start() error {
	hub, err := startChild(o.hubCmd)
	if err != nil {
		return err
	}
	o.kids = append(o.kids, hub)
	if err := awaitHandshake("nats", o.hubAddr, 10*time.Second); err != nil {
		return fmt.Errorf("hub: %v\n%s", err, hub.log.Bytes())
	}
	if listen, target, ok := strings.Cut(o.proxy, ","); ok {
		o.link = &linkProxy{listen: listen, target: target}
		if err := o.link.up(); err != nil {
			return err
		}
	}
	if o.leafCmd != "" {
		leaf, err := startChild(o.leafCmd)
		if err != nil {
			return err
		}
		o.kids = append(o.kids, leaf)
		o.serverPID = leaf.pid()
	}
	if err := awaitHandshake("nats", o.leafAddr, 10*time.Second); err != nil {
		return err
	}
	time.Sleep(2 * time.Second) // leaf link and JetStream come up
	return nil
}

// streams creates, empty, the streams that -setup asks for.
func (o *outage) streams() error {
	hc, err := natsDial(o.hubAddr)
	if err != nil {
		return err
	}
	defer hc.Close()
	switch o.setup {
	case "source":
		lc, err := natsDial(o.leafAddr)
		if err != nil {
			return err
		}
		defer lc.Close()
		lc.js("STREAM.DELETE."+leafStream, nil, nil)
		hc.js("STREAM.DELETE."+hubStream, nil, nil)
		if err := lc.js("STREAM.CREATE."+leafStream, streamConfig(leafStream, obj{"subjects": []string{outageSubject}}), nil); err != nil {
			return err
		}
		src := obj{"name": leafStream, "external": obj{"api": "$JS." + o.domain + ".API"}}
		return hc.js("STREAM.CREATE."+hubStream, streamConfig(hubStream, obj{"sources": []obj{src}}), nil)
	case "hub":
		hc.js("STREAM.DELETE."+hubStream, nil, nil)
		return o.createHubStream(hc)
	}
	return nil
}

// createHubStream makes the stream that takes what is published at the hub.
func (o *outage) createHubStream(hc *natsConn) error {
	return hc.js("STREAM.CREATE."+hubStream, streamConfig(hubStream, obj{"subjects": []string{outageSubject}, "persist_mode": o.persist}), nil)
}

// takeAway cuts the link or stops the hub and says which.
func (o *outage) takeAway() (how string) {
	switch {
	case o.link != nil:
		o.link.down()
		return "cut"
	case o.sig == "kill":
		o.kids[0].stop(syscall.SIGKILL)
	default:
		o.kids[0].stop(syscall.SIGTERM)
	}
	return o.sig
}

// publish loads the leaf while the hub is away.
func (o *outage) publish(r *result) error {
	m := o.meter(o.dev)
	acked, err := o.load()
	if err != nil {
		return err
	}
	wall := m.stop(r, float64(o.total))
	r.M["store_s"] = float64(acked) / wall.Seconds()
	r.M["store_us_msg"] = r.M["srv_us_msg"]
	r.M["published"], r.M["acked"] = float64(o.total), float64(acked)
	fmt.Fprintf(os.Stderr, "stored %d in %.1fs\n", acked, wall.Seconds())
	return nil
}

func (o *outage) load() (acked int64, err error) {
	per := o.total / int64(o.pubs)
	if o.pub == "mqtt" {
		l := mqttLoad{addr: o.mqttAddr, clients: o.pubs, qos: 1, size: o.size, window: int(o.window)}
		var lat hist
		ps, err := l.connect(time.Now(), &lat, "perf/out")
		if err != nil {
			return 0, err
		}
		for _, p := range ps {
			p.limit = per
			defer p.Close()
		}
		_, acked, err = drive(ps, 0)
		return acked, err
	}
	var count atomic.Int64
	errs := make(chan error, o.pubs)
	for i := range o.pubs {
		go func() { errs <- publishNATS(o.leafAddr, i, per, o.size, o.window, false, &count) }()
	}
	for range o.pubs {
		err = errors.Join(err, <-errs)
	}
	return count.Load(), err
}

// catchUp brings the hub or the link back, times how the hub's stream fills, and
// returns a connection to the hub.
func (o *outage) catchUp(r *result) (*natsConn, error) {
	m := o.meter("")
	t0 := time.Now()
	var err error
	if o.link != nil {
		err = o.link.up()
	} else {
		o.kids[0], err = startChild(o.hubCmd)
	}
	if err != nil {
		return nil, err
	}
	if err := awaitHandshake("nats", o.hubAddr, 30*time.Second); err != nil {
		return nil, err
	}
	r.M["hub_ready_s"] = time.Since(t0).Seconds()
	hc, err := natsDial(o.hubAddr)
	if err != nil {
		return nil, err
	}
	var first, lastAt time.Duration
	var have int64
	for time.Since(t0) < o.limit && have < o.total {
		var si streamInfo
		if err := hc.js("STREAM.INFO."+hubStream, nil, &si); err == nil {
			at := time.Since(t0)
			if si.State.Messages > 0 && first == 0 {
				first = at
			}
			if si.State.Messages != have {
				have, lastAt = si.State.Messages, at
			}
		} else if errors.Is(err, io.EOF) {
			return nil, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	m.stop(r, float64(o.total))
	r.M["drain_us_msg"] = r.M["srv_us_msg"]
	r.M["first_s"], r.M["all_s"] = first.Seconds(), lastAt.Seconds()
	if lastAt > first {
		r.M["drain_s"] = float64(have) / (lastAt - first).Seconds()
	}
	delete(r.M, "srv_us_msg")
	return hc, nil
}

// direct times a pipelined publisher at the hub, into an empty stream: a plain one, and one
// whose messages the hub stores once, in order, as those of leafd.
func (o *outage) direct(r *result, hc *natsConn) error {
	for _, once := range []bool{false, true} {
		if once && o.setup != "hub" { // the leaf's stream takes what the hub's does, and other places there
			continue
		}
		hc.js("STREAM.DELETE."+hubStream, nil, nil)
		if err := o.createHubStream(hc); err != nil {
			return err
		}
		var acked atomic.Int64
		begin := time.Now()
		if err := publishNATS(o.hubAddr, 0, o.n, o.size, 4000, once, &acked); err != nil {
			return err
		}
		limit, share := "hub_limit_s", "drain_of_limit"
		if once {
			limit, share = "once_limit_s", "drain_of_once_limit"
		}
		r.M[limit] = float64(acked.Load()) / time.Since(begin).Seconds()
		if d := r.M["drain_s"]; d > 0 {
			r.M[share] = d / r.M[limit]
		}
	}
	return nil
}

// verify reads the hub's stream back and checks every message.
func (o *outage) verify(r *result, hc *natsConn) error {
	var si streamInfo
	if err := hc.js("STREAM.INFO."+hubStream, nil, &si); err != nil {
		return err
	}
	vc, err := natsDial(o.hubAddr)
	if err != nil {
		return err
	}
	defer vc.Close()
	io.WriteString(vc, "SUB perf.verify 1\r\n")
	if err := vc.flush(); err != nil {
		return err
	}
	cons := obj{"stream_name": hubStream, "config": obj{"deliver_subject": "perf.verify", "deliver_policy": "all", "ack_policy": "none", "max_deliver": -1, "replay_policy": "instant"}}
	if err := hc.js("CONSUMER.CREATE."+hubStream, cons, nil); err != nil {
		return err
	}
	check := newSeqCheck(o.pubs)
	vc.SetReadDeadline(time.Now().Add(60 * time.Second))
	for got := int64(0); got < si.State.Messages; {
		op, _, payload, err := vc.next()
		if err != nil {
			return fmt.Errorf("verify after %d: %v", got, err)
		}
		if op == 'M' {
			got++
			check.add(payload)
		}
	}
	r.M["lost"] = float64(o.total - check.unique.Load())
	r.M["dups"], r.M["ooo"] = float64(check.dups.Load()), float64(check.ooo.Load())
	return nil
}
