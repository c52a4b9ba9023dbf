// Package leaf is the broker: it parses the NATS protocol, routes messages by
// subject and delivers them, serves NATS clients, and keeps the leafnode link to
// the hub.
//
// Call [NewRouter] first: everything that publishes or subscribes attaches to a
// [Router] and gets a [Port]. [New] makes a [Server] that serves NATS clients on
// listeners it is given; [NewLink] makes the [Link] to the hub.
//
// # Reading order
//
// The hot path is four files: parse.go (bytes to operation), conn.go (the read
// loop of a client), router.go (subject to recipients), outbound.go (bytes to
// the recipient's socket). Then trie.go and cache.go behind the router,
// inbound.go and parking.go (reading without holding a buffer, or a goroutine, while
// idle), life.go (a connection from its first goroutine to its end), server.go
// (accept, limits, shutdown), connect.go (the client handshake), transport.go (TLS and
// WebSockets beneath it), conninfo.go and routerinfo.go (what monitoring shows), kick.go
// (what a system account may do to a connection), link.go and the files that start with
// link_.
// budget.go bounds what waits for all connections.
//
// # Concurrency
//
// A connection that says something has one goroutine, its reader; one that is silent
// for a while has none. The reader parses, routes, and appends the encoded message to
// each recipient's pending buffer; after each read it flushes those it touched
// without blocking. A recipient whose socket is full gets a
// writer goroutine that lives until nothing is pending. A [Router] is safe for
// use by all; Publish and Flush of one Port belong to one goroutine.
//
// # Ownership of bytes
//
// Everything between read and Deliver borrows the reader's buffer. Nothing on
// this path allocates.
package leaf
