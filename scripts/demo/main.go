package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/leafd/leafd/internal/monitor"
	"github.com/leafd/leafd/internal/testkit"
)

const confPath = "scripts/demo/leafd.conf"

func main() {
	script := flag.String("script", "", "`steps` to take by itself, such as cut@5s,plug@15s,quit@20s")
	limit := flag.Duration("for", 0, "quit after this long")
	rate := flag.Int("rate", 20, "numbered messages per second")
	flag.Parse()
	steps, err := parseScript(*script)
	if err != nil || *rate < 1 || *rate > 1000 || flag.NArg() > 0 {
		if err == nil {
			err = errors.New("-rate is 1 to 1000, and there are no arguments but flags")
		}
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(2)
	}
	if *limit > 0 {
		steps = append(steps, step{quit, *limit})
	}
	s := &stage{}
	d := &demo{stage: s, steps: steps, every: time.Second / time.Duration(*rate)}
	os.Exit(s.play(d.run))
}

// demo is one play. All of it belongs to the goroutine of run.
type demo struct {
	*stage
	steps []step
	every time.Duration // between two numbers of the feed

	hub   *testkit.Hub
	cable *testkit.Proxy
	leafd *testkit.Leafd
	watch *watcher
	feed  *feed

	begin time.Time
	out   bool // the cable
}

// run is the whole play; it returns the exit code.
func (d *demo) run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	d.setUp(ctx)
	keys := make(chan key, 16)
	restore, terminal := keyboard(keys)
	d.Cleanup(restore)
	d.explain(terminal)

	feed, err := startFeed(d.leafd.MQTTURL(), d.every)
	if err != nil {
		d.Fatalf("%v", err)
	}
	d.feed, d.begin = feed, time.Now()
	follow(d.steps, keys)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return d.finish()
		case <-d.leafd.Done():
			d.Fatalf("leafd has ended")
		case <-d.hub.Done():
			d.Fatalf("the hub has ended")
		case k := <-keys:
			if k == quit {
				return d.finish()
			}
			d.pull(k == cut)
		case <-tick.C:
			d.show()
		}
	}
}

// setUp builds and starts the hub, the cable and the gateway.
func (d *demo) setUp(ctx context.Context) {
	conf, err := os.ReadFile(confPath)
	if err != nil {
		d.Fatalf("%v; run the demo from the root of the module, as make demo does", err)
	}
	fmt.Println("building nats-server and leafd (the first time takes a minute)")
	d.hub = testkit.StartHub(d, testkit.HubOptions{JetStream: true, Domain: "hub"})
	d.cable = testkit.StartProxy(d, d.hub.LeafAddr())
	if d.watch, err = watchHub(ctx, d.hub.ClientURL()); err != nil {
		d.Fatalf("%v", err)
	}
	d.Cleanup(d.watch.close)
	d.leafd = testkit.StartLeafd(d, testkit.LeafdOptions{
		Config:   string(conf),
		NATSPort: 4222, MQTTPort: 1883, HTTPPort: 8222,
		Env: map[string]string{"LEAFD_HUB_URL": "nats-leaf://" + d.cable.Addr()},
	})
}

func (d *demo) explain(terminal bool) {
	fmt.Printf(`
leafd runs, with %s:
    MQTT    %s       a sensor publishes below barn/
    NATS    %s
    status  %s
The hub is a stock nats-server at %s; its stream %s keeps barn.>

In another terminal, be a sensor:
    mosquitto_pub -p %d -q 1 -t barn/t1 -m 21.5
`, confPath, testkit.Addr(d.leafd.MQTTPort), testkit.Addr(d.leafd.NATSPort), d.leafd.HTTPURL(), d.hub.ClientURL(), hubStream, d.leafd.MQTTPort)
	if enter := " and Enter"; len(d.steps) == 0 || terminal {
		if terminal {
			enter = ""
		}
		fmt.Printf("\nPress c%s to cut the cable to the hub, p to plug it in, q to quit and count.\n", enter)
	}
	fmt.Println()
}

// pull cuts the cable or plugs it in.
func (d *demo) pull(out bool) {
	if out == d.out {
		return
	}
	d.out = out
	if out {
		d.cable.Cut()
		d.say("the cable is cut")
		return
	}
	d.cable.Restore()
	d.say("the cable is plugged in")
}

func (d *demo) say(what string) { fmt.Printf("%5.1fs  *** %s\n", time.Since(d.begin).Seconds(), what) }

// perTick is how many arriving messages are printed in full each second.
const perTick = 4

// show prints what arrived at the hub in the last second, and where all stands.
func (d *demo) show() {
	arrived, numbers := d.watch.take()
	// A person's own messages first: the feed and the counter are many.
	slices.SortStableFunc(arrived, func(a, b arrival) int { return rank(a) - rank(b) })
	for _, a := range arrived[:min(perTick, len(arrived))] {
		fmt.Printf("        at the hub: %s %s\n", a.subject, printable(a.data))
	}
	if more := len(arrived) - perTick; more > 0 {
		fmt.Printf("        at the hub: and %d more\n", more)
	}
	cable := "cable in "
	if d.out {
		cable = "cable OUT"
	}
	published, acked := d.feed.counts()
	fmt.Printf("%5.1fs  %s  published %d  acknowledged %d  at the hub %d  in the outbox %s\n",
		time.Since(d.begin).Seconds(), cable, published, acked, numbers, d.outbox())
}

func rank(a arrival) int {
	switch a.subject {
	case feedSubject:
		return 2
	case "barn.counter", "barn.greenhouse":
		return 1
	}
	return 0
}

// printable is a payload as it may be shown on a terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '·'
		}
		return r
	}, s)
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}

// outbox is how much leafd says it still keeps for the hub.
func (d *demo) outbox() string {
	var v monitor.Uplinkz
	client := http.Client{Timeout: time.Second}
	res, err := client.Get(d.leafd.HTTPURL() + "/uplinkz")
	if err != nil {
		return "unknown"
	}
	defer res.Body.Close()
	if json.NewDecoder(res.Body).Decode(&v) != nil || len(v.Outboxes) == 0 {
		return "unknown"
	}
	return fmt.Sprintf("%d (%.1f KB)", v.Outboxes[0].Messages, float64(v.Outboxes[0].Bytes)/1e3)
}

// finish stops the feed, waits until the hub has all that was acknowledged, counts,
// and returns the exit code.
func (d *demo) finish() int {
	d.say("the end: waiting for the last acknowledgements and for the outbox to empty")
	d.feed.finish()
	if d.out {
		d.pull(false)
	}
	published, acked := d.feed.counts()
	d.drain(acked)
	at, err := d.watch.scan(context.Background())
	if err != nil {
		d.Fatalf("%v", err)
	}
	var lost, duplicated int
	for n := range d.feed.acked {
		if at[n] == 0 {
			lost++
		}
	}
	for _, times := range at {
		duplicated += times - 1
	}
	fmt.Printf("\npublished %d, acknowledged %d, at the hub %d, lost %d, duplicated %d\n", published, acked, len(at), lost, duplicated)
	if lost > 0 || duplicated > 0 {
		d.failed = true // for leafd's log
		return 1
	}
	return 0
}

// drain waits until want numbers of the feed are at the hub, or for half a minute
// nothing new was.
func (d *demo) drain(want int) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	have, at := -1, time.Now()
	for time.Since(at) < 30*time.Second {
		_, numbers := d.watch.take()
		if numbers >= want {
			return
		}
		if numbers > have {
			have, at = numbers, time.Now()
		}
		<-tick.C
	}
}
