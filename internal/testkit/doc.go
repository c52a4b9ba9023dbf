// Package testkit is what the tests of the other packages stand on: programs in
// subprocesses on ports that stay theirs, a cable to pull, connections in memory,
// a sink that catches kept borrows, and ways to wait that are not sleeps.
//
// Start with [StartHub] and [StartLeafd] for the whole gateway, with [Pipe] and
// [Sink] for one package. Everything takes a [T], which *testing.T is, and a
// program that is not a test can be as well; what was started ends with it.
//
// # Concurrency
//
// A [Hub], a [Leafd] and a [Process] belong to the goroutine of their test,
// except for Log. [Proxy], [Sink] and both ends of a [Pipe] may be used by any.
//
// # Reading order
//
// wait.go, process.go, port.go, build.go, hub.go, leafd.go, writes.go for
// programs; proxy.go, pipe.go, listener.go, sink.go for the wires; mosquitto.go for the stock
// MQTT client.
package testkit
