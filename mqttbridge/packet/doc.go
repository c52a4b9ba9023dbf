// Package packet turns MQTT control packets into bytes and back. It does no I/O,
// keeps no state and allocates nothing on the way of a PUBLISH.
//
// # What to call first
//
// [ParseHeader] on whatever bytes have arrived; once the whole packet is there,
// the Decode method of the type the header names, on the packet's body. The
// Append methods write a whole packet, header included, to the end of a slice.
//
// # Versions
//
// The version is a value, not a fork: every codec takes a [Version], and what
// version 5 added to a packet is a field of it ([Properties], [Reason]) that 3.1.1
// leaves empty. A property block is carried raw, bounds checked, and read by
// whoever needs one of its properties.
//
// # Ownership of bytes
//
// Decoded slices borrow the body they were decoded from. Append methods copy.
//
// # Concurrency
//
// Functions without state; a packet value belongs to one goroutine.
//
// # Reading order
//
// header.go, wire.go, publish.go, connect.go, subscribe.go, ack.go, reason.go.
//
// Numbers in brackets such as [MQTT-3.3.1-2] are statements of "MQTT Version
// 3.1.1", OASIS Standard, 29 October 2014; sections of "MQTT Version 5.0" are
// cited as "v5 3.14".
package packet
