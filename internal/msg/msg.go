package msg

import (
	"strconv"
	"time"
)

// Msg is one message in flight. Its bytes belong to the publisher's read buffer:
// everyone else borrows them until Deliver returns, and must Clone to keep them.
type Msg struct {
	Subject, Reply []byte
	Header         []byte // the raw NATS/1.0 block with its closing blank line, parsed only if asked
	Data           []byte

	// Queues are the queue groups this copy is for. The router sets it for a sink
	// attached Once, which must tell its far side who was picked; a link sets it
	// on what it publishes, and then only these groups are considered.
	Queues [][]byte

	QoS    uint8 // MQTT level of the publish; 0 for core NATS
	Retain bool

	Expiry time.Duration // how long it is of use, as MQTT says it; 0: always, or as the header Nats-TTL says
}

// Size is what the message weighs in a buffer, in bytes, framing left out.
func (m *Msg) Size() int {
	return len(m.Subject) + len(m.Reply) + len(m.Header) + len(m.Data)
}

// Clone returns a copy that shares no bytes with m, in one allocation for the
// struct and one for its bytes. Queues are not copied: they are an instruction
// for one delivery, not a part of the message.
func (m *Msg) Clone() *Msg {
	buf := make([]byte, 0, m.Size())
	take := func(b []byte) []byte {
		if b == nil {
			return nil
		}
		at := len(buf)
		buf = append(buf, b...)
		return buf[at:len(buf):len(buf)]
	}
	return &Msg{
		Subject: take(m.Subject), Reply: take(m.Reply), Header: take(m.Header), Data: take(m.Data),
		QoS: m.QoS, Retain: m.Retain, Expiry: m.Expiry,
	}
}

// Sink receives what the router matched. Deliver runs on the publisher's goroutine with no router lock
// held. It must not block, must not publish, and must not keep m. It says why it refused, or Taken;
// the router counts the answer, so that no loss is silent.
type Sink interface {
	Deliver(m *Msg, sub *Sub) Drop
}

// Flusher is a Sink that gathers deliveries in a buffer. Port.Flush calls it once
// for all that one publisher gave it since the last flush.
type Flusher interface {
	// Flush hands pending bytes to the kernel without blocking. A non-nil
	// channel says that the recipient is behind: the publisher should pause
	// until it closes, or a short limit of its own has passed.
	Flush() (behind <-chan struct{})
}

// Sub is one subscription of one sink.
type Sub struct {
	Subject string
	Queue   string // empty for a plain subscription
	SID     []byte // the subscriber's own name for it; opaque to the router
	QoS     uint8  // granted MQTT level; 0 for all others
	Weight  int32  // members behind a queue subscription of a link; 0 counts as 1

	// Owned by the sink, which guards them with its own lock.
	Max, Delivered uint64 // deliveries until it ends (0: never), and those made
}

// Drop says what became of one delivery.
type Drop uint8

const (
	Taken        Drop = iota // delivered
	Kept                     // taken by a durable log; safe only after a barrier
	NoQuota                  // the recipient's in-flight window is full
	SlowConsumer             // the recipient's buffer is full
	Gone                     // the recipient is closing
	Expired                  // older than it may be delivered
	StoreFull                // a durable log refused it for lack of room
	Denied                   // the recipient may not have it
	Forbidden                // the publisher may not publish there
	NumDrops                 // how many values there are
)

var dropNames = [NumDrops]string{"taken", "kept", "no_quota", "slow_consumer", "gone", "expired", "store_full", "denied", "forbidden"}

func (d Drop) String() string {
	if d < NumDrops {
		return dropNames[d]
	}
	return "drop(" + strconv.Itoa(int(d)) + ")"
}

// Receipt says what became of one publish.
type Receipt struct {
	Taken   int  // sinks that took it, durable logs included
	Kept    bool // at least one durable log took it: acknowledge after a barrier only
	Refused Drop // why a durable log refused it, or Forbidden; Taken if nothing did
}
