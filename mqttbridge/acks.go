package mqttbridge

import (
	"slices"
	"sync"

	"github.com/leafd/leafd/leaf"
	"github.com/leafd/leafd/mqttbridge/packet"
)

// acks gives each PUBLISH of one session its PUBACK or PUBREC, and each PUBREL its
// PUBCOMP, all in the order of what they answer [MQTT-4.6.0-2] [MQTT-4.6.0-3], as
// soon as the message is safe and not before.
//
// The read loop gathers what one read brought in a batch, and commits it with one
// barrier if a durable log took any of it. A batch whose barrier has come, or that
// needs none, waits for its elders only. Batches are used again, so that a steady
// stream of messages allocates nothing.
type acks struct {
	// Static after newAcks.
	out  *leaf.Outbound
	v    packet.Version
	fail func(error) // ends the session

	batch *ackBatch // owned by the read loop; what this read brought, or nil

	mu      sync.Mutex
	queue   []*ackBatch   // guarded by mu; committed and not acknowledged, oldest first
	free    []*ackBatch   // guarded by mu; to be used again
	waiting int           // guarded by mu; acknowledgements in queue
	room    chan struct{} // guarded by mu; closed once at most limit wait; nil if nobody wants to know
	limit   int           // guarded by mu
}

// ack is one acknowledgement: PUBACK, PUBREC or PUBCOMP.
type ack struct {
	id uint16
	as packet.Type
}

type ackBatch struct {
	acks    []ack
	kept    bool        // a durable log took a message of it
	first   int         // index of the first such; those before it need no barrier
	settled bool        // no barrier is awaited any more
	err     error       // what the barrier said
	settle  func(error) // what the barrier calls; made once
}

// Batches kept for use again, and the most acknowledgements one of them may hold
// room for.
const (
	freeBatches = 2
	freeAcks    = 1024
)

func newAcks(out *leaf.Outbound, v packet.Version, fail func(error)) *acks {
	return &acks{out: out, v: v, fail: fail}
}

// add notes what is to be acknowledged. kept says that a durable log took it.
func (a *acks) add(id uint16, as packet.Type, kept bool) {
	b := a.batch
	if b == nil {
		b = a.get()
		a.batch = b
	}
	if kept && !b.kept {
		b.kept, b.first = true, len(b.acks)
	}
	b.acks = append(b.acks, ack{id, as})
}

func (a *acks) get() *ackBatch {
	a.mu.Lock()
	defer a.mu.Unlock()
	if k := len(a.free) - 1; k >= 0 {
		b := a.free[k]
		a.free = a.free[:k]
		return b
	}
	b := new(ackBatch)
	b.settle = func(err error) { a.settled(b, err) }
	return b
}

// put needs mu.
func (a *acks) put(b *ackBatch) {
	if len(a.free) < freeBatches && cap(b.acks) <= freeAcks {
		*b = ackBatch{acks: b.acks[:0], settle: b.settle}
		a.free = append(a.free, b)
	}
}

// commit ends the batch: it acknowledges what may be acknowledged now and asks
// for a barrier for the rest. It reports whether it wrote to out, which the
// caller flushes.
func (a *acks) commit(barrier func(func(error))) (wrote bool) {
	b := a.batch
	if b == nil {
		return false
	}
	a.batch = nil
	if barrier == nil {
		b.kept = false
	}
	kept := b.kept // once it is enqueued, one that keeps nothing is its elders' to settle
	if wrote = a.enqueue(b); kept {
		barrier(b.settle)
	}
	return wrote
}

// enqueue puts a batch behind its elders. If there are none, what needs no
// barrier is acknowledged.
func (a *acks) enqueue(b *ackBatch) (wrote bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) == 0 && b.first > 0 {
		a.write(b.acks[:b.first])
		b.acks = slices.Delete(b.acks, 0, b.first)
		wrote = true
	}
	b.settled = !b.kept
	a.waiting += len(b.acks)
	a.queue = append(a.queue, b)
	return a.release() || wrote
}

// settled is what a barrier calls, on the store's goroutine.
func (a *acks) settled(b *ackBatch, err error) {
	a.mu.Lock()
	b.settled, b.err = true, err
	wrote := a.release()
	a.mu.Unlock()
	if wrote {
		a.out.Flush()
	}
	if err != nil {
		a.fail(errBarrier)
	}
}

// release acknowledges the settled batches at the head of the queue. It stops for
// good at one that failed: to acknowledge a later message would say that the
// failed one was received. It needs mu and reports whether it wrote.
func (a *acks) release() (wrote bool) {
	n := 0
	for _, b := range a.queue {
		if !b.settled || b.err != nil {
			break
		}
		a.write(b.acks)
		a.waiting -= len(b.acks)
		a.put(b)
		n++
	}
	a.queue = slices.Delete(a.queue, 0, n)
	if a.room != nil && a.waiting <= a.limit {
		close(a.room)
		a.room = nil
	}
	return n > 0
}

func (a *acks) write(acks []ack) {
	buf, ok := a.out.Begin(4 * len(acks))
	if !ok {
		return
	}
	for _, k := range acks {
		p := packet.Ack{Type: k.as, ID: k.id} // [MQTT-4.3.2-2] [MQTT-4.3.3-2]
		buf = p.Append(buf, a.v)
	}
	a.out.End(buf)
}

// full reports whether more than n acknowledgements wait for their barrier.
func (a *acks) full(n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.waiting > n
}

// wait returns once at most n acknowledgements wait for their barrier, or stop closes.
// It reports whether it had to wait. One goroutine may wait at a time.
func (a *acks) wait(n int, stop <-chan struct{}) (waited bool) {
	a.mu.Lock()
	if a.waiting <= n {
		a.mu.Unlock()
		return false
	}
	room := make(chan struct{})
	a.room, a.limit = room, n/2 // half, so that reading goes on with a long stride
	a.mu.Unlock()
	select {
	case <-room:
	case <-stop:
	}
	return true
}
