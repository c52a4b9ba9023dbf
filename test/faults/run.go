package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/leafd/leafd/internal/testkit"
)

// fault is one way a disk breaks.
type fault struct {
	name  string
	disk  func(testkit.T) disk
	lasts time.Duration

	answers bool // publishers go on being acknowledged, late perhaps
	hub     bool // the hub is there all the time
}

// outcome is what came of one fault.
type outcome struct {
	name                                string
	tried, checked                      int
	lost, duplicated, disordered, wrong int
	told, during                        int // errors given to publishers, and acknowledgements, while it lasted
	p50, p99, before99                  time.Duration
	recovery                            time.Duration
	rssMB                               float64
	problems                            []string
}

func (o *outcome) problem(format string, args ...any) {
	o.problems = append(o.problems, fmt.Sprintf(format, args...))
}

const (
	mqttDevices = 4
	natsClients = 2
	recoverIn   = 20 * time.Second // the longest time from mending the disk to an acknowledgement
	mostRSS     = 96.0             // MB
)

const config = `
server_name: faults
host: "127.0.0.1", port: $LEAFD_NATS_PORT
http: $LEAFD_HTTP_PORT
mqtt { host: "127.0.0.1", port: $LEAFD_MQTT_PORT }
leafnodes { remotes: [ { url: $LEAFD_HUB_URL } ] }
store { dir: $LEAFD_STORE, journal_size: 512KB }
outbox { data { subjects: ["data.>"], max_bytes: 1GB } }
`

// run tries one fault. The hub has its stream before it goes away; the ledger is
// checked against it after it came back.
func run(t testkit.T, f fault) (o outcome) {
	o.name = f.name
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	makeStream(t, hub)
	if !f.hub {
		hub.Kill()
	}
	d := f.disk(t)
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: config,
		Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL(), "LEAFD_STORE": d.Dir()}})
	if on, ok := d.(*loop); ok {
		on.leafd = l
	}
	led := newLedger(mqttDevices + natsClients)
	p := &pair{url: l.NATSURL()}
	stop := load(t, l, led, p)
	acksReach(t, led, led.acks()+500)
	_, o.before99, _ = p.quantiles()

	o.breakAndMend(t, f, d, led, p, l)
	acksReach(t, led, led.acks()+500)
	if err := stop(); err != nil {
		o.problem("the load ended: %v", err)
	}
	if n := p.missed(); n > 0 {
		o.problem("%d messages between NATS clients did not arrive", n)
	}
	o.rssMB = peakMB(l.PID())
	if o.rssMB > mostRSS {
		o.problem("leafd used %.0f MB, more than %.0f", o.rssMB, mostRSS)
	}
	if !f.hub {
		hub.Restart()
	}
	o.verify(t, hub, led)
	return o
}

// breakAndMend is the fault itself, and what is seen meanwhile.
func (o *outcome) breakAndMend(t testkit.T, f fault, d disk, led *ledger, p *pair, l *testkit.Leafd) {
	told, acked := led.told.Load(), led.acks()
	if err := d.Break(); err != nil {
		t.Fatalf("break the disk: %v", err)
	}
	<-time.After(f.lasts - time.Second)
	late := led.acks()
	<-time.After(time.Second)
	o.told, o.during, late = int(led.told.Load()-told), led.acks()-acked, led.acks()-late
	var n int
	if o.p50, o.p99, n = p.quantiles(); n == 0 {
		o.problem("NATS clients had no traffic during the fault")
	}
	if !f.answers && late > 0 {
		o.problem("%d messages were acknowledged in the last second of the fault", late)
	}
	if !f.answers && o.told == 0 {
		o.problem("no publisher was told of the fault")
	}
	if f.answers && o.during == 0 {
		o.problem("nothing was acknowledged during the fault")
	}
	mended := time.Now()
	var err error
	if o.tried, err = d.Mend(); err != nil {
		t.Fatalf("mend the disk: %v", err)
	}
	o.tried = max(o.tried, 1)
	led.lastAck.Store(0)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ; led.lastAck.Load() == 0; <-tick.C {
		if time.Since(mended) > recoverIn {
			o.problem("no acknowledgement %s after the disk was mended; started again; leafd said %s", recoverIn, lastLines(l))
			l.Kill()
			l.Restart()
			break
		}
	}
	o.recovery = time.Since(mended)
}

func lastLines(l *testkit.Leafd) string {
	log := l.Log()
	return log[max(0, len(log)-1500):]
}

// load starts everybody who publishes; stop waits for them.
func load(t testkit.T, l *testkit.Leafd, led *ledger, p *pair) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	var g errgroup.Group
	for i, s := range led.sources {
		if i < mqttDevices {
			d := &device{source: s, addr: testkit.Addr(l.MQTTPort)}
			g.Go(func() error { d.run(ctx); return nil })
		} else {
			c := &client{source: s, url: l.NATSURL()}
			g.Go(func() error { return c.run(ctx) })
		}
	}
	g.Go(func() error { return p.run(ctx) })
	return func() error {
		cancel()
		return g.Wait()
	}
}

func acksReach(t testkit.T, led *ledger, n int) {
	testkit.Eventually(t, func() bool { return led.acks() >= n }, "%d acknowledgements, not %d", n, led.acks())
}

func makeStream(t testkit.T, hub *testkit.Hub) {
	nc, err := nats.Connect(hub.ClientURL())
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err == nil {
		_, err = js.CreateStream(context.Background(), jetstream.StreamConfig{Name: "DATA", Subjects: []string{"data.>"}})
	}
	if err != nil {
		t.Fatalf("make the hub's stream: %v", err)
	}
}

// verify reads the hub's stream until all that was acknowledged is there and
// nothing more comes.
func (o *outcome) verify(t testkit.T, hub *testkit.Hub, led *ledger) {
	nc, err := nats.Connect(hub.ClientURL())
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer nc.Close()
	sub := make(chan *nats.Msg, 1<<16)
	js, err := nc.JetStream()
	if err == nil {
		_, err = js.ChanSubscribe("data.>", sub, nats.OrderedConsumer())
	}
	if err != nil {
		t.Fatalf("read the hub's stream: %v", err)
	}
	a := newArrivals(led)
	o.checked = led.acks()
	for patience := time.Duration(0); patience < 15*time.Second && (a.missing > 0 || patience < 2*time.Second); {
		select {
		case m := <-sub:
			a.add(m.Data)
			patience = 0
		case <-time.After(500 * time.Millisecond):
			patience += 500 * time.Millisecond
		}
	}
	o.lost, o.duplicated, o.disordered, o.wrong = a.missing, a.duplicated, a.disordered, a.wrong
	if o.lost > 0 {
		o.problem("acknowledged and lost:%s", a.lost())
	}
	for _, c := range []struct {
		n    int
		what string
	}{{o.duplicated, "duplicated"}, {o.disordered, "out of order"}, {o.wrong, "changed"}} {
		if c.n > 0 {
			o.problem("%d messages %s", c.n, c.what)
		}
	}
}

var highWater = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// peakMB is the most memory that a process had resident.
func peakMB(pid int) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if m := highWater.FindSubmatch(b); m != nil {
		kb, _ := strconv.ParseFloat(string(m[1]), 64)
		return kb / 1024
	}
	return 0
}
