package mqttbridge

import (
	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/mqttbridge/packet"
)

// subscription is one topic filter of a session.
type subscription struct {
	at    msg.Sub
	above *msg.Sub // the level above "#"; nil if there is none
}

// handleSubscribe grants each filter QoS 0 or refuses it. [MQTT-3.8.4-1]
// [MQTT-3.8.4-2] [MQTT-3.8.4-4] [MQTT-3.8.4-5] [MQTT-3.8.4-6]
func (s *session) handleSubscribe(body []byte) error {
	var p packet.Subscribe
	if err := p.Decode(s.version, body); err != nil {
		return err
	}
	ack := packet.Suback{Type: packet.SUBACK, ID: p.ID}
	for f := range p.Filters() {
		ack.Codes = append(ack.Codes, s.subscribe(string(f.Topic)))
	}
	s.send(func(b []byte) []byte { return ack.Append(b, s.version) })
	return nil
}

// subscribe returns the return code for one filter.
func (s *session) subscribe(filter string) (code byte) {
	const granted = 0 // QoS 0, whatever was asked for
	if _, ok := s.subs.Get(filter); ok {
		return granted // replaced by its equal [MQTT-3.8.4-3]
	}
	subject, above, err := filterSubjects(filter)
	if err != nil || s.subs.Len() >= s.srv.opts.MaxSubs {
		return packet.SubackFailure
	}
	sub := &subscription{at: msg.Sub{Subject: subject}}
	if s.port.Subscribe(&sub.at) != nil {
		return packet.SubackFailure
	}
	if above != "" {
		sub.above = &msg.Sub{Subject: above}
		if s.port.Subscribe(sub.above) != nil {
			s.port.Unsubscribe(&sub.at)
			return packet.SubackFailure
		}
	}
	s.subs.Put(filter, sub)
	s.numSubs.Store(int64(s.subs.Len()))
	return granted
}
