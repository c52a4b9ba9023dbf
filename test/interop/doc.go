// Package interop runs tools made for nats-server against leafd, and against
// nats-server in the same way. It is a module of its own, so that what the tools
// depend on stays out of leafd's.
//
// Run it with "make interop", "make interop-go" and "make interop-c"; building the
// tools takes two minutes the first time.
package interop
