package leaf

import (
	"bytes"

	"github.com/leafd/leafd/internal/msg"
)

// Deliver implements [msg.Sink]: it appends m as LMSG or HMSG to what waits for
// the hub. Messages are dropped, and counted as such, before a slow hub makes
// them so many that the link would be cut off.
func (s *session) Deliver(m *msg.Msg, sub *msg.Sub) msg.Drop {
	if !s.perms.Load().mayForward(m.Subject) {
		return msg.Denied
	}
	switch s.put(m, s.out.max/4*3) {
	case nil:
		return msg.Taken
	case ErrLinkBusy:
		return msg.SlowConsumer
	case ErrLinkDown:
		return msg.Gone
	}
	return msg.Denied
}

// Flush implements [msg.Flusher].
func (s *session) Flush() (behind <-chan struct{}) { return s.out.Flush() }

// send is Link.Send: it may fill the buffer further than live messages do, and
// reaches the hub's JetStream without a domain.
func (s *session) send(m *msg.Msg) error {
	if err := s.maySend(m.Subject); err != nil {
		if err == ErrDenied {
			s.missed.Store(true)
		}
		return err
	}
	return s.put(m, s.out.max/8*7)
}

func (s *session) maySend(subject []byte) error {
	switch {
	case !literal(subject):
		return ErrBadSubject
	case !s.perms.Load().maySend(subject):
		return ErrDenied
	}
	return nil
}

// put appends m if not more than limit bytes wait then; a message that is alone
// may be larger.
func (s *session) put(m *msg.Msg, limit int) error {
	size := len(m.Data)
	if !s.plain {
		size += len(m.Header)
	}
	line := len(m.Subject) + len(m.Reply) + 64
	for _, q := range m.Queues {
		line += len(q) + 1
	}
	if most := s.maxPayload.Load(); most > 0 && int64(size) > most || line > maxHubLine || line+size > s.out.max {
		return ErrTooLarge
	}
	if !oneWord(m.Reply) {
		return ErrBadSubject
	}
	if pending := s.out.Pending(); pending > 0 && pending+line+size > limit {
		return ErrLinkBusy
	}
	b, ok := s.out.Begin(line + size)
	if !ok {
		return ErrLinkDown
	}
	s.largest.Store(max(s.largest.Load(), int64(size))) // by one at a time, between Begin and End
	if s.out.End(appendLmsg(b, m, !s.plain)) != msg.Taken {
		return ErrLinkBusy
	}
	c := &s.link.counters
	c.outMsgs.Add(1)
	c.outBytes.Add(uint64(size))
	return nil
}

// oneWord reports whether b stays one word on a control line.
func oneWord(b []byte) bool {
	for _, c := range b {
		if c <= ' ' {
			return false
		}
	}
	return true
}

// appendLmsg encodes m for a hub: LMSG, or HMSG if there is a header and the hub
// understands it, with the queue groups that are to have it. (NATS leafnode
// protocol, LMSG and HMSG.)
func appendLmsg(b []byte, m *msg.Msg, headers bool) []byte {
	if len(m.Header) > 0 && headers {
		b = append(b, "HMSG "...)
	} else {
		b = append(b, "LMSG "...)
	}
	b = append(b, m.Subject...)
	b = append(b, ' ')
	switch {
	case len(m.Queues) == 0 && len(m.Reply) > 0:
		b = append(b, m.Reply...)
		b = append(b, ' ')
	case len(m.Queues) > 0 && len(m.Reply) > 0:
		b = append(b, "+ "...)
		b = append(b, m.Reply...)
		b = append(b, ' ')
	case len(m.Queues) > 0:
		b = append(b, "| "...)
	}
	for _, q := range m.Queues {
		b = append(b, q...)
		b = append(b, ' ')
	}
	b = appendPayload(b, m, headers)
	if m.QoS > 0 && headers {
		head := b[:len(b)-len(m.Data)-len("\r\n")]
		lower(head[len(head)-len(m.Header):])
	}
	return b
}

// levelHeader is before the QoS at which a device published.
var levelHeader = []byte("\r\nNmqtt-Pub:") // never written to

// lower makes the QoS in a device's header 0, at which it crosses the link. A stock hub gives
// what says more to no MQTT subscriber of QoS 1 or 2: those get it from a stream of the hub's
// own, and ours is not in that.
func lower(header []byte) {
	if i := bytes.Index(header, levelHeader) + len(levelHeader); i >= len(levelHeader) && i < len(header) {
		header[i] = '0'
	}
}

var _ interface {
	msg.Sink
	msg.Flusher
} = (*session)(nil)
