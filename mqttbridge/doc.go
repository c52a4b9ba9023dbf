// Package mqttbridge serves MQTT 3.1.1 devices on the subject space of a
// [leaf.Router]: a topic is a subject in another notation, so NATS clients, the
// hub and devices hear one another.
//
// # What to call first
//
// [New] with a Router and, where logs are durable, a Barrier; then [Server.Serve]
// with a listener. Only packet knows bytes; only topic.go knows the notation.
//
// # What is promised
//
// A QoS 1 PUBLISH that a durable log took is acknowledged after the barrier that
// makes it safe, never before; one that no log wants, once it is routed.
// PUBACKs leave in the order of their PUBLISH packets. At QoS 2 the same holds for
// PUBREC; the packet id is remembered up to the PUBREL, and a PUBLISH that repeats
// it meanwhile is not routed again. If a log refuses a message,
// or a barrier fails, the connection ends after the acknowledgements due, for
// 3.1.1 has no other way to say no.
//
// Subscriptions are granted QoS 0. Where subscriptions of one client overlap, a
// message is delivered once for each that matches, as by nats-server and as
// [MQTT-3.3.5-1] allows. A retained message is passed on live and not yet kept.
//
// # What is refused
//
// Protocol levels other than 4 get the CONNACK that says so. A client that asks
// for a persistent session (clean session 0) is accepted and told that there is
// none: Session Present is 0 at every connect, and what it subscribed to ends with
// the connection. This departs from [MQTT-3.1.2-6]: as nothing above QoS 0 is
// granted, it loses its subscriptions and the ids of QoS 2 messages without a
// PUBREL. One that looks at Session Present subscribes again, and knows that what
// it sends anew is a new message. [Stats] counts them.
//
// # Concurrency
//
// A session has one goroutine, its read loop. It publishes, and nothing else
// publishes on its port. Deliver runs on the goroutines of publishers and touches
// only what the lock of the session's leaf.Outbound guards. Barriers call back
// on the store's goroutine and touch only acks, which has a lock of its own. All
// methods of [Server] are safe for all goroutines.
//
// # Reading order
//
// session.go (the life of a connection), handle_publish.go, acks.go and deliver.go
// (the hot path), topic.go, handle_connect.go, handle_subscribe.go,
// handle_unsubscribe.go, will.go, server.go, stats.go, conninfo.go.
//
// Numbers in brackets such as [MQTT-3.1.2-8] are statements of "MQTT Version
// 3.1.1", OASIS Standard, 29 October 2014.
package mqttbridge
