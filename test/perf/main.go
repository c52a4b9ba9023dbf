package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sort"
	"strings"
	"syscall"
	"time"
)

type command struct {
	name, about string
	run         func(args []string) error
}

var commands = []command{
	{"nats-pub", "NATS publishers only, no subscriber", natsPubCmd},
	{"nats-pubsub", "NATS publish/subscribe topologies", natsPubSubCmd},
	{"nats-rtt", "NATS request-reply latency", natsRTTCmd},
	{"nats-slow", "memory, and what others feel, with NATS subscribers that do not read", natsSlowCmd},
	{"nats-idle", "memory and CPU of idle NATS connections", natsIdleCmd},
	{"leaf", "publish on a leaf node, subscribe on its hub", leafCmd},
	{"mqtt-pub", "MQTT publishers with a live subscriber", mqttPubCmd},
	{"mqtt-idle", "memory and CPU of idle MQTT connections", mqttIdleCmd},
	{"durable", "MQTT QoS 1 into an offline session's queue", durableCmd},
	{"outage", "publish while the hub is down, then time the catch-up", outageCmd},
	{"flash", "bytes that reach a block device for each QoS 1 message", flashCmd},
	{"backlog", "memory and restarts with a full store", backlogCmd},
	{"startup", "time to first handshake, idle memory and wakeups", startupCmd},
	{"relay", "trivial byte relay speaking just enough NATS (a floor)", relayCmd},
	{"limits", "sync-write rate of a disk", limitsCmd},
	{"ports", "free TCP ports of 127.0.0.1, one a line", portsCmd},
	{"stream", "create a stream on a JetStream server", streamCmd},
	{"summary", "median (min-max) tables from result files", summaryCmd},
}

func main() {
	if len(os.Args) > 1 {
		for _, c := range commands {
			if c.name == os.Args[1] {
				if err := c.run(os.Args[2:]); err != nil {
					fmt.Fprintf(os.Stderr, "perf %s: %v\n", c.name, err)
					os.Exit(1)
				}
				return
			}
		}
	}
	fmt.Fprintln(os.Stderr, "usage: perf COMMAND [flags]   (perf COMMAND -h lists flags)")
	for _, c := range commands {
		fmt.Fprintf(os.Stderr, "  %-12s %s\n", c.name, c.about)
	}
	os.Exit(2)
}

// common holds the flags every measuring subcommand shares.
type common struct {
	tag, caseName, jsonPath string
	serverPID, hubPID       int
	dur, quiet              time.Duration
}

func newFlags(cmd string, c *common, dur time.Duration) *flag.FlagSet {
	fs := flag.NewFlagSet("perf "+cmd, flag.ExitOnError)
	fs.StringVar(&c.tag, "tag", "server", "name of the server under test, copied to the result")
	fs.StringVar(&c.caseName, "case", "", "name of the case (default: made from the flags)")
	fs.StringVar(&c.jsonPath, "json", "", "append the result as one JSON line to this `file`")
	fs.IntVar(&c.serverPID, "server-pid", 0, "process whose CPU, memory and I/O are charged")
	fs.IntVar(&c.hubPID, "hub-pid", 0, "second process to meter (a hub)")
	fs.DurationVar(&c.quiet, "quiet", 0, "wait at most this long for the machine to be idle first")
	fs.DurationVar(&c.dur, "dur", dur, "how long to generate load")
	return fs
}

type result struct {
	Cmd  string             `json:"cmd"`
	Case string             `json:"case"`
	Tag  string             `json:"tag"`
	At   string             `json:"at"`
	M    map[string]float64 `json:"m"`
}

func (c *common) result(cmd, defaultCase string) *result {
	if c.caseName != "" {
		defaultCase = c.caseName
	}
	return &result{Cmd: cmd, Case: defaultCase, Tag: c.tag,
		At: time.Now().UTC().Format(time.RFC3339), M: map[string]float64{}}
}

func (c *common) emit(r *result) error {
	keys := make([]string, 0, len(r.M))
	for k := range r.M {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s [%s]", r.Cmd, r.Case, r.Tag)
	for _, k := range keys {
		fmt.Fprintf(&b, " %s=%s", k, num(r.M[k]))
	}
	fmt.Println(b.String())
	if c.jsonPath == "" {
		return nil
	}
	f, err := os.OpenFile(c.jsonPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	return json.NewEncoder(f).Encode(r)
}

// onInterrupt runs f once if the user stops the harness, so that servers it
// started do not outlive it.
func onInterrupt(f func()) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ch
		f()
		os.Exit(130)
	}()
}
