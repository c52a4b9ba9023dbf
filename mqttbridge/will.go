package mqttbridge

import (
	"slices"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/mqttbridge/packet"
)

// setWill stores the message of a CONNECT that has one. [MQTT-3.1.2-9]
//
// A will of QoS 2 is taken: the level says how it travels to subscribers, which
// are granted less, and nothing has to be agreed with the client that left it.
func (s *session) setWill(c *packet.Connect) error {
	if !c.HasWill {
		return nil
	}
	subject, err := appendSubject(nil, c.Will.Topic)
	if err != nil {
		return badTopic(c.Will.Topic)
	}
	s.will = &msg.Msg{
		Subject: subject, Header: pubHeader(c.Will.QoS), Data: slices.Clone(c.Will.Payload),
		QoS: c.Will.QoS, Retain: c.Will.Retain, // [MQTT-3.1.2-16] [MQTT-3.1.2-17]
	}
	return nil
}

// publishWill publishes the will of a session that ends without a DISCONNECT,
// whatever the reason [MQTT-3.1.2-8], also if its user was removed. One above QoS 0
// gets a barrier of its own: nobody waits for it, but it is as urgent as what the device
// said itself.
func (s *session) publishWill() {
	if s.will == nil {
		return
	}
	s.grant.LastWord()
	receipt := s.port.Publish(s.will)
	s.srv.counters.wills.Add(1)
	if receipt.Refused == msg.Forbidden {
		s.forbidden(s.will.Subject)
	}
	if s.srv.opts.Load().Barrier != nil && s.will.QoS > 0 && receipt.Kept {
		s.srv.opts.Load().Barrier(func(err error) { s.willKept(err) })
	}
	if s.will.QoS > 0 && receipt.Refused != msg.Taken && receipt.Refused != msg.Forbidden {
		s.willKept(errStoreRefused)
	}
	s.will = nil
}

// willKept tells the log of a will that was lost on its way to a durable log.
func (s *session) willKept(err error) {
	if err != nil {
		s.srv.log.Warn("MQTT will was published live and not kept", "conn", s.name(), "err", err)
	}
}
