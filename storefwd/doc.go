// Package storefwd keeps messages until the hub has them: durable logs on a
// journal and one bbolt file, and a forwarder that drains a log to a stream.
//
// Call [Open] first, then [Store.Log] for each log and [NewForwarder] for each that
// goes to the hub. A [Log] is a sink: attach it to the subjects it keeps. Ask
// [Store.Barrier] before acknowledging anything to a device.
//
// # Safe
//
// A record is safe when it was synced to the journal, or when the hub's stream
// acknowledged it. While the link is up a record waits in memory for the hub, and
// what the hub acknowledges in time is never written: a gateway that is online
// writes nothing to its flash.
//
// # Reading order
//
// record.go (the one form of a record), journal.go, frame.go, replay.go and direct.go (the
// first level on disk), missing.go (what damage of it lost), engine.go, bolt.go, table.go,
// walk.go and block.go (the second), meta.go (epochs), store.go, clock.go, retention.go (what is
// kept), log.go, share.go (beside others), oldest.go (how a record leaves), read.go, expire.go, gap.go, doubt.go (what was dropped and may be at the hub), told.go (what the journal is told of it), conflate.go
// (the newest of each subject), spans.go, cursor.go, order.go (which comes next), early.go
// and tail.go (what is kept after the acknowledgement), commit.go (from append to safe),
// siblings.go (who is waited for meanwhile), fold.go (from journal to bbolt), compact.go, forward.go, resume.go, readback.go, earlier.go, forgets.go,
// wentback.go (what the hub has), publish.go, acks.go, flight.go (whose an acknowledgement
// is), flow.go, pace.go, hub.go and puback.go (the hub's JetStream API), confirm.go (a hub
// without streams), inspect.go (what a person does with a store), wear.go (what it costs
// the flash).
//
// # Concurrency
//
// Everything exported is safe for all goroutines, but for Forwarder.Run, which is
// called once. One goroutine, the committer, writes to the files.
package storefwd
