// Package secure is the server's side of TLS, for every listener of the gateway.
//
// [Load] reads the files of one tls block. A [Source] holds what is in force;
// [Source.Swap] replaces it, for the connections that come after. [Source.Listener]
// wraps a listener: its connections are a [Conn] each, which shakes hands on the
// goroutine of whoever reads it first, never on the one that accepts. A NATS client is
// greeted in clear before that, see [Conn.Open].
//
// Before a peer has shaken hands it can make the server read at most [MaxHandshake]
// bytes, within the timeout of the block.
package secure
