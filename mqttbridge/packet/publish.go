package packet

import (
	"bytes"
	"encoding/binary"
)

// Publish is a PUBLISH packet (3.3).
type Publish struct {
	Dup, Retain bool
	QoS         uint8
	ID          uint16 // 0 at QoS 0 [MQTT-2.3.1-5]
	Topic       []byte
	Props       Properties
	Payload     []byte
}

// Decode reads the body of a PUBLISH whose first byte had these flags. Slices of
// p borrow body. A topic that is well formed but may not be published to is told
// as [ErrTopic]. In version 5 the topic may be empty, for an alias stands in its
// place.
func (p *Publish) Decode(v Version, flags byte, body []byte) error {
	p.Dup, p.QoS, p.Retain = flags&8 != 0, flags>>1&3, flags&1 != 0
	if len(body) < 2 {
		return ErrShort
	}
	n := 2 + int(binary.BigEndian.Uint16(body))
	if n > len(body) {
		return ErrShort
	}
	p.Topic, body = body[2:n:n], body[n:]
	if !validString(p.Topic) {
		return ErrUTF8 // [MQTT-3.3.2-1]
	}
	if !ValidTopic(p.Topic) && (v != V5 || len(p.Topic) > 0) {
		return ErrTopic
	}
	p.ID = 0
	if p.QoS > 0 {
		if len(body) < 2 {
			return ErrShort
		}
		if p.ID = binary.BigEndian.Uint16(body); p.ID == 0 {
			return ErrPacketID // [MQTT-2.3.1-1]
		}
		body = body[2:]
	}
	p.Props = nil
	if v == V5 {
		r := reader{b: body}
		if p.Props = r.props(v); r.err != nil {
			return r.err
		}
		body = r.b
	}
	p.Payload = body
	return nil
}

// ValidTopic reports whether a well formed string may be the topic of a message:
// not empty [MQTT-4.7.3-1] and without wildcards [MQTT-3.3.2-2].
func ValidTopic(topic []byte) bool {
	return len(topic) > 0 && bytes.IndexByte(topic, '+') < 0 && bytes.IndexByte(topic, '#') < 0
}

// Append writes the packet. The topic must fit 65,535 bytes.
func (p *Publish) Append(dst []byte, v Version) []byte {
	flags := p.QoS << 1
	if p.Dup {
		flags |= 8
	}
	if p.Retain {
		flags |= 1
	}
	n := 2 + len(p.Topic) + propsSize(v, p.Props) + len(p.Payload)
	if p.QoS > 0 {
		n += 2
	}
	dst = AppendHeader(dst, PUBLISH, flags, n)
	dst = appendBytes(dst, p.Topic)
	if p.QoS > 0 {
		dst = binary.BigEndian.AppendUint16(dst, p.ID)
	}
	dst = appendProps(dst, v, p.Props)
	return append(dst, p.Payload...)
}
