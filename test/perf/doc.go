// Command perf is a load harness for NATS-protocol and MQTT 3.1.1 servers. It
// knows only the wire protocols: every subcommand takes plain addresses and
// process ids, so any server can be measured. See README.md.
//
// Start reading at main.go; natscmd.go, mqttcmd.go, idle.go and outage.go hold
// the subcommands, proc.go the meter that charges CPU and memory to a process,
// nats.go and mqtt.go the two protocols as a client writes them, summary.go the
// tables. Publishers, subscribers and acknowledgements are a goroutine each and
// meet in atomic counters (flow, mqttPub, seqCheck).
package main
