// Package tester is the service that nats.go's own tests ask for servers: each test
// says on the tester.> subjects what it needs, and works with what it is given. The
// one that comes with nats.go runs a nats-server inside itself; this one starts a
// program, so that the same tests run against leafd and against nats-server, and
// takes what nats-server takes: flags, a configuration file, a ports file, SIGHUP.
//
// Start with [Start]. The requests and answers are those of
// github.com/synadia-io/orbit.go/ntf-client/api. Clusters, JetStream and captures of
// the traffic are refused: no leaf has them.
//
// # Concurrency
//
// A [Tester] answers one request at a time, in the order of their arrival, but for
// requests of different kinds.
//
// # Reading order
//
// program.go, config.go, tester.go, tls.go.
package tester
