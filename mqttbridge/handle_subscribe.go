package mqttbridge

import (
	"errors"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/leaf"
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
	const granted = 0                      // QoS 0, whatever was asked for
	if old, ok := s.subs.Get(filter); ok { // replaced by its equal [MQTT-3.8.4-3]
		if !s.place(old) { // permissions took it away
			return packet.SubackFailure
		}
		return granted
	}
	subject, above, err := filterSubjects(filter)
	if err != nil || s.subs.Len() >= s.srv.opts.Load().MaxSubs {
		return packet.SubackFailure
	}
	sub := &subscription{at: msg.Sub{Subject: subject}}
	if above != "" {
		sub.above = &msg.Sub{Subject: above}
	}
	if !s.place(sub) {
		return packet.SubackFailure
	}
	s.subs.Put(filter, sub)
	s.numSubs.Store(int64(s.subs.Len()))
	return granted
}

// place subscribes to what is not subscribed yet. The level above is left out where
// only that is forbidden: permission for a.> is enough for a/#.
func (s *session) place(sub *subscription) bool {
	if s.port.Subscribe(&sub.at) != nil {
		return false
	}
	if sub.above == nil {
		return true
	}
	if err := s.port.Subscribe(sub.above); err != nil && !errors.Is(err, leaf.ErrForbidden) {
		s.port.Unsubscribe(&sub.at)
		return false
	}
	return true
}
