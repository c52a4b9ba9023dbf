package storefwd

import "fmt"

// This file lets all publishes of a session share one reply subject. A hub looks up for
// each acknowledgement who wants its subject and whether he may have it, and remembers the
// answer: for ever new subjects that costs a tenth of what a drain costs the hub. On a
// stream that is ours alone an acknowledgement says by its sequence which publish it is
// for: a publish is stored right behind what it said must be last (publish.go), or not at
// all. An error does not say whose it is. Then the session ends, and for a while each
// publish has a reply subject of its own.

// flight is what is on its way to a stream that is ours alone. It is guarded by
// Forwarder.mu.
type flight struct {
	first uint64        // place in the stream of the first of seqs; the others follow
	seqs  deque[uint64] // ours
	names int           // so many publishes have a reply subject of their own
}

// namesAfterError is for how many publishes an error can be told whose it is: more than
// can be sent before the one that was refused is again.
const namesAfterError = 1024

// sent notes that seq will be at a place. One that was not sent after all leaves its
// place to the next.
func (w *flight) sent(at, seq uint64) {
	n := uint64(w.seqs.len())
	switch {
	case n > 0 && at == w.first+n-1:
		*w.seqs.at(int(n - 1)) = seq
		return
	case at != w.first+n:
		w.seqs.clear()
		w.first = at
	}
	w.seqs.push(seq)
}

// take is which of ours is at a place; what was sent before it is forgotten.
func (w *flight) take(at uint64) (seq uint64, ok bool) {
	if at < w.first || at-w.first >= uint64(w.seqs.len()) {
		return 0, false
	}
	for w.first <= at {
		seq = w.seqs.pop()
		w.first++
	}
	return seq, true
}

// nameless takes an acknowledgement whose reply subject names no record.
func (f *Forwarder) nameless(attempt uint64, ack *pubAck) {
	f.mu.Lock()
	if attempt != f.attempt { // what that session sent was looked for
		f.mu.Unlock()
		return
	}
	if ack.Error == nil && !ack.Duplicate {
		seq, ok := f.flight.take(ack.Seq)
		if !ok {
			f.st.Junk++
		}
		f.mu.Unlock()
		if ok {
			f.acked(attempt, seq, ack)
		}
		return
	}
	f.flight.names = namesAfterError
	if ack.Duplicate {
		f.st.Duplicates++
		f.repeats = true
	}
	resync := f.resync
	f.mu.Unlock()
	if ack.Error != nil {
		f.refused(attempt, 0, ack.Error)
		return
	}
	f.l.setLive(false, 0)
	resync(fmt.Errorf("%w: the hub had a message already", errResync))
}
