// Command demo shows leafd at work: a stock nats-server as the hub, a gateway with
// simulated sensors and an MQTT listener, and a cable between them to pull out and
// plug in again. At the end it counts what was published, acknowledged, and is at
// the hub; it exits with 1 if an acknowledged message is lost or one is there twice.
//
// Run it with `make demo`, or unattended:
//
//	make demo DEMO_FLAGS="-script cut@5s,plug@15s,quit@20s"
//
// Start reading at main.go, where demo.run is the whole play; feed.go publishes the
// numbers that are counted, hub.go watches and counts them, keys.go is the person's
// side, stage.go lets a program that is not a test use internal/testkit. One
// goroutine runs the play; the others only send to its channels or count.
package main
