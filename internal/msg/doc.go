// Package msg is the vocabulary every other package of leafd speaks: a message,
// where it goes, why it did not get there, and the grammar of subjects. It
// imports only the standard library.
//
// Call nothing first; read the files in the order msg.go, subject.go.
//
// # Ownership of bytes
//
// A [Msg] is borrowed. Its slices point into the read buffer of whoever
// published it and are valid until the publish returns. A [Sink] that needs them
// for longer calls [Msg.Clone].
//
// # Concurrency
//
// Nothing here has state of its own. A Msg belongs to the goroutine that
// publishes it. The exported fields of a [Sub] are fixed once the router has it.
package msg
