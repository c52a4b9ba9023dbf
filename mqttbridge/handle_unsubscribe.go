package mqttbridge

import "github.com/leafd/leafd/mqttbridge/packet"

// handleUnsubscribe removes the filters that are there and acknowledges in any
// case. [MQTT-3.10.4-1] [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.10.4-6]
func (s *session) handleUnsubscribe(body []byte) error {
	var p packet.Unsubscribe
	if err := p.Decode(s.version, body); err != nil {
		return err
	}
	for filter := range p.Filters() {
		sub, ok := s.subs.Get(string(filter))
		if !ok {
			continue
		}
		s.port.Unsubscribe(&sub.at)
		if sub.above != nil {
			s.port.Unsubscribe(sub.above)
		}
		s.subs.Remove(string(filter))
	}
	s.numSubs.Store(int64(s.subs.Len()))
	ack := packet.Suback{Type: packet.UNSUBACK, ID: p.ID}
	s.send(func(b []byte) []byte { return ack.Append(b, s.version) })
	return nil
}
