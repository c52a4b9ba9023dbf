// Command outage takes the hub away from under a leafd that is loaded by MQTT and
// NATS publishers, again and again, and then counts in the hub's stream what they
// were promised.
//
// One line is printed for each scenario, and at the end a table for
// docs/RELIABILITY.md. It exits with 1 if a message was lost, duplicated by leafd, out
// of order or changed, where the scenario promises that it is not.
//
// Reading order: main.go, scenarios.go (what happens), rig.go (hubs, leafd and the
// stream), load.go (publishers), verify.go.
package main
