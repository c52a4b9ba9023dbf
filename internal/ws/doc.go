// Package ws takes WebSocket connections and gives them on as if they were sockets.
//
// [New] makes a [Server]; its Serve speaks HTTP on a listener. What a client of the NATS
// protocol opens comes out of [Server.NATS], what an MQTT client opens on the path /mqtt
// out of [Server.MQTT]: both are net.Listeners for the servers of those protocols. A
// [Conn] is a stream: frames have no meaning beyond their bytes, text is as good as
// binary, and what is written becomes one binary message per Write.
//
// Bounded are the request's headers, the time until the upgrade, how many connections
// of one address may be on their way to it, and the length of a message after
// decompression. A message is never held as a whole.
package ws
