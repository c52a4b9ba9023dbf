package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// flow bounds the messages between publishers and the slowest subscriber, so a
// server is kept full but is never forced to drop.
type flow struct {
	mu      sync.Mutex
	cond    *sync.Cond
	window  int64
	sent    atomic.Int64
	waiting atomic.Int64
	recv    []atomic.Int64
	fan     bool // every subscriber gets every message
	stop    atomic.Bool
}

func newFlow(subs int, fan bool, window int64) *flow {
	f := &flow{window: window, recv: make([]atomic.Int64, subs), fan: fan}
	f.cond = sync.NewCond(&f.mu)
	return f
}

// progress is how many published messages have fully arrived.
func (f *flow) progress() int64 {
	var sum int64
	low := int64(-1)
	for i := range f.recv {
		v := f.recv[i].Load()
		sum += v
		if low < 0 || v < low {
			low = v
		}
	}
	if f.fan {
		return low
	}
	return sum
}

func (f *flow) got(sub int, n int64) {
	f.recv[sub].Add(n)
	if f.waiting.Load() > 0 {
		f.wake()
	}
}

func (f *flow) wake() {
	f.mu.Lock()
	f.cond.Broadcast()
	f.mu.Unlock()
}

// admit waits until n more messages fit, false once stopped.
func (f *flow) admit(n int64) bool {
	if f.stop.Load() {
		return false
	}
	if len(f.recv) > 0 && f.sent.Load()+n-f.progress() > f.window {
		f.mu.Lock()
		f.waiting.Add(1)
		for !f.stop.Load() && f.sent.Load()+n-f.progress() > f.window {
			f.cond.Wait()
		}
		f.waiting.Add(-1)
		f.mu.Unlock()
	}
	f.sent.Add(n)
	return !f.stop.Load()
}

// settle waits until progress reaches want or stands still for limit, and
// returns for how long it stood still at the end.
func settle(progress func() int64, want int64, limit time.Duration) time.Duration {
	last, at := progress(), time.Now()
	for last < want {
		time.Sleep(200 * time.Microsecond)
		if p := progress(); p != last {
			last, at = p, time.Now()
		} else if idle := time.Since(at); idle > limit {
			return idle
		}
	}
	return 0
}

type pubSub struct {
	addr, subAddr       string
	pubs, subs, size    int
	topo                string
	subjects, wildcards int
	windowKB            int
	hdr, relay          bool
}

func (p *pubSub) flags(fs *flag.FlagSet) {
	fs.StringVar(&p.addr, "addr", "127.0.0.1:4222", "publishers' server")
	fs.StringVar(&p.subAddr, "sub-addr", "", "subscribers' server (default: addr)")
	fs.IntVar(&p.pubs, "pubs", 1, "publisher connections")
	fs.IntVar(&p.subs, "subs", 1, "subscriber connections")
	fs.IntVar(&p.size, "size", 128, "payload bytes")
	fs.StringVar(&p.topo, "topo", "pair", "pair | fan | queue | many")
	fs.IntVar(&p.subjects, "subjects", 10000, "distinct subjects (many)")
	fs.IntVar(&p.wildcards, "wildcards", 1000, "wildcard subscriptions over all connections (many)")
	fs.IntVar(&p.windowKB, "window-kb", 4096, "payload and framing in flight, per subscriber")
	fs.BoolVar(&p.hdr, "hdr", false, "publish with a header (HPUB)")
	fs.BoolVar(&p.relay, "relay", false, "the server is `perf relay`: send MSG lines to be copied unchanged")
}

func (p *pubSub) subjectsOf(pub int) []string {
	switch p.topo {
	case "pair":
		return []string{fmt.Sprintf("perf.p.%d", pub)}
	case "many":
		out := make([]string, p.subjects)
		per := p.subjects / p.wildcards
		for i := range out {
			out[i] = fmt.Sprintf("perf.m.%d.%d", i%p.wildcards, i/p.wildcards%per)
		}
		return out
	}
	return []string{"perf.f.0"}
}

func (p *pubSub) subLines(sub int) string {
	switch p.topo {
	case "pair":
		out := ""
		for i := sub; i < p.pubs; i += p.subs {
			out += fmt.Sprintf("SUB perf.p.%d %d\r\n", i, i+1)
		}
		return out
	case "many":
		out := ""
		for i := sub; i < p.wildcards; i += p.subs {
			out += fmt.Sprintf("SUB perf.m.%d.* %d\r\n", i, i+1)
		}
		return out
	case "queue":
		return "SUB perf.f.0 workers 1\r\n"
	}
	return "SUB perf.f.0 1\r\n"
}

func (p *pubSub) run(c *common, cmd string) error {
	if p.subAddr == "" {
		p.subAddr = p.addr
	}
	name := fmt.Sprintf("%s-%dx%d-%dB", p.topo, p.pubs, p.subs, p.size)
	if p.hdr {
		name += "-hdr"
	}
	f := newFlow(p.subs, p.topo == "fan", max(int64(p.windowKB)<<10/int64(p.size+24), 64))
	l := &pubSubLoad{pubSub: p, flow: f}
	defer l.close()
	if err := l.connect(); err != nil {
		return err
	}
	if p.subs > 0 {
		if err := p.probe(f, l.pubConns, l.work); err != nil {
			return err
		}
	}
	r := c.result(cmd, name)
	m := c.meter("")
	sent := l.publish(c.dur)
	done := sent
	if p.subs > 0 {
		m.idle = settle(f.progress, sent, 2*time.Second)
		done = f.progress()
	}
	wall := m.stop(r, float64(done))
	deliveries := float64(done)
	if f.fan {
		deliveries *= float64(p.subs)
	}
	r.M["msgs_s"] = float64(done) / wall.Seconds()
	r.M["deliv_s"] = deliveries / wall.Seconds()
	r.M["mb_s"] = deliveries * float64(p.size) / wall.Seconds() / 1e6
	r.M["sent"] = float64(sent)
	r.M["lost"] = float64(sent - done)
	if c.serverPID > 0 && deliveries > 0 {
		r.M["srv_us_deliv"] = r.M["srv_cpu_s"] * 1e6 / deliveries
	}
	if e := l.fail.Load(); e != nil {
		r.M["errors"] = 1
		fmt.Println("error during run:", *e)
	}
	return c.emit(r)
}

// pubSubLoad is one run of a topology: its connections and what they send.
type pubSubLoad struct {
	*pubSub
	flow     *flow
	pubConns []*natsConn
	subConns []*natsConn
	work     [][]batch // by publisher
	fail     atomic.Pointer[error]
}

// connect opens all connections; the subscribers count from then on.
func (l *pubSubLoad) connect() error {
	for i := range l.subs {
		n, err := natsDial(l.subAddr)
		if err != nil {
			return err
		}
		l.subConns = append(l.subConns, n)
		if _, err := io.WriteString(n, l.subLines(i)); err != nil {
			return err
		}
		if err := n.flush(); err != nil {
			return err
		}
		go func() {
			err := n.count(func(msgs, _ int64) { l.flow.got(i, msgs) })
			if !l.flow.stop.Swap(true) {
				l.fail.Store(&err)
				l.flow.wake()
			}
		}()
	}
	verb := "PUB"
	if l.relay {
		verb = "MSG"
	}
	for i := range l.pubs {
		subjects := l.subjectsOf(i)
		if l.relay {
			subjects = []string{subjects[0] + " 1"}
		}
		l.work = append(l.work, batches(verb, subjects, l.size, l.hdr))
		n, err := natsDial(l.addr)
		if err != nil {
			return err
		}
		l.pubConns = append(l.pubConns, n)
	}
	return nil
}

// publish keeps all publishers busy for a while and returns how many messages
// they sent.
func (l *pubSubLoad) publish(dur time.Duration) int64 {
	defer time.AfterFunc(dur, func() { l.flow.stop.Store(true); l.flow.wake() }).Stop()
	var sent atomic.Int64
	var wg sync.WaitGroup
	for i, n := range l.pubConns {
		wg.Go(func() {
			mine, err := l.publishOn(n, l.work[i])
			sent.Add(mine)
			if err != nil {
				l.fail.Store(&err)
			}
		})
	}
	wg.Wait()
	l.flow.stop.Store(true)
	return sent.Load()
}

func (l *pubSubLoad) publishOn(n *natsConn, work []batch) (sent int64, err error) {
	for k := 0; ; k++ {
		b := work[k%len(work)]
		if !l.flow.admit(b.n) {
			l.flow.sent.Add(-b.n)
			break
		}
		if _, err := n.Write(b.b); err != nil {
			return sent, err
		}
		sent += b.n
	}
	if l.relay {
		return sent, nil
	}
	return sent, n.flush()
}

func (l *pubSubLoad) close() {
	l.flow.stop.Store(true)
	for _, n := range append(l.pubConns, l.subConns...) {
		n.Close()
	}
}

// probe publishes every subject once until all of it arrives, which waits for
// interest to spread (over a leaf link) and warms the server, then clears counts.
func (p *pubSub) probe(f *flow, conns []*natsConn, work [][]batch) error {
	for try := 0; try < 50; try++ {
		for i := range f.recv {
			f.recv[i].Store(0)
		}
		f.sent.Store(0)
		for i, n := range conns {
			for _, b := range work[i] {
				if _, err := n.Write(b.b); err != nil {
					return err
				}
				f.sent.Add(b.n)
			}
		}
		settle(f.progress, f.sent.Load(), 300*time.Millisecond)
		if f.progress() == f.sent.Load() {
			for i := range f.recv {
				f.recv[i].Store(0)
			}
			f.sent.Store(0)
			return nil
		}
		time.Sleep(200 * time.Millisecond)
	}
	return errors.New("messages of the warm-up never all arrived")
}

func natsPubCmd(args []string) error    { return pubSubCmd("nats-pub", args) }
func natsPubSubCmd(args []string) error { return pubSubCmd("nats-pubsub", args) }
func leafCmd(args []string) error       { return pubSubCmd("leaf", args) }

func pubSubCmd(cmd string, args []string) error {
	var c common
	var p pubSub
	fs := newFlags(cmd, &c, 3*time.Second)
	p.flags(fs)
	fs.Parse(args)
	if cmd == "nats-pub" {
		p.subs = 0
	}
	if cmd == "leaf" && p.subAddr == "" {
		return errors.New("-sub-addr must name the hub")
	}
	return p.run(&c, cmd)
}
