package mqttbridge

import (
	"bytes"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/mqttbridge/packet"
)

// delivery is what Deliver encodes with, kept so that a delivery allocates
// nothing.
type delivery struct {
	packet  packet.Publish
	subject []byte // of the previous message
	topic   []byte // what it became; empty if it is no topic
}

// Deliver implements [msg.Sink]: it appends a PUBLISH to what waits for the
// device. QoS is 0, as granted, and headers stay behind, for 3.1.1 has no place
// for them. A message whose subject is no topic, or that MQTT hides from the
// filter, is Denied.
func (s *session) Deliver(m *msg.Msg, sub *msg.Sub) msg.Drop {
	if hidden(sub.Subject, m.Subject) {
		return msg.Denied
	}
	// A topic is never longer than its subject.
	room := packet.MaxHeader + 2 + len(m.Subject) + len(m.Data)
	if room > packet.MaxRemaining {
		return msg.Denied
	}
	b, ok := s.out.Begin(room)
	if !ok {
		return msg.Gone
	}
	d := &s.delivery
	if !bytes.Equal(m.Subject, d.subject) {
		d.convert(m.Subject)
	}
	if len(d.topic) == 0 {
		s.out.End(b)
		return msg.Denied
	}
	d.packet.Topic, d.packet.Payload = d.topic, m.Data // DUP, RETAIN and QoS 0 [MQTT-3.3.1-2] [MQTT-3.3.1-9]
	b = d.packet.Append(b, s.version)
	d.packet.Payload = nil // borrowed
	sub.Delivered++
	s.traffic.outMsgs.Add(1)
	s.traffic.outBytes.Add(uint64(len(m.Data)))
	return s.out.End(b)
}

// convert brings topic up to date with a subject.
func (d *delivery) convert(subject []byte) {
	var ok bool
	d.subject = append(d.subject[:0], subject...)
	if d.topic, ok = appendTopic(d.topic[:0], subject); !ok {
		d.topic = d.topic[:0]
	}
}

// Flush implements [msg.Flusher].
func (s *session) Flush() (behind <-chan struct{}) { return s.out.Flush() }
