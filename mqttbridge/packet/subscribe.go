package packet

import (
	"encoding/binary"
	"iter"
)

// Filter is one topic filter of a SUBSCRIBE.
type Filter struct {
	Topic   []byte
	Options byte // QoS in the low two bits; the rest is version 5 (v5 3.8.3.1)
}

// QoS is the level asked for.
func (f Filter) QoS() uint8 { return f.Options & 3 }

// Subscribe is a SUBSCRIBE packet (3.8). Its filters stay in the bytes they came
// in: a hostile packet may hold a quarter of a million of them.
type Subscribe struct {
	ID    uint16
	Props Properties
	list  []byte
}

// Decode reads the body of a SUBSCRIBE and checks every filter's form.
func (s *Subscribe) Decode(v Version, body []byte) error {
	r := reader{b: body}
	*s = Subscribe{ID: r.id(), Props: r.props(v)}
	s.list = r.b
	if r.err == nil && len(r.b) == 0 {
		return ErrNoFilter // [MQTT-3.8.3-3]
	}
	reserved := byte(0xfc) // [MQTT-3-8.3-4]
	if v == V5 {
		reserved = 0xc0
	}
	for len(r.b) > 0 {
		r.str() // [MQTT-3.8.3-1]
		o := r.u8()
		if o&reserved != 0 || o&3 == 3 || o&0x30 == 0x30 {
			r.fail(ErrOptions)
		}
	}
	return r.end()
}

// Filters yields the filters in their order. What it yields borrows the packet.
func (s *Subscribe) Filters() iter.Seq[Filter] {
	return func(yield func(Filter) bool) {
		for r := (reader{b: s.list}); len(r.b) > 0; {
			if f := (Filter{r.bytes(), r.u8()}); r.err != nil || !yield(f) {
				return
			}
		}
	}
}

// Add appends a filter.
func (s *Subscribe) Add(topic []byte, options byte) {
	s.list = append(appendBytes(s.list, topic), options)
}

// Append writes the packet.
func (s *Subscribe) Append(dst []byte, v Version) []byte {
	return appendList(dst, v, SUBSCRIBE, 2, s.ID, s.Props, s.list)
}

// Unsubscribe is an UNSUBSCRIBE packet (3.10).
type Unsubscribe struct {
	ID    uint16
	Props Properties
	list  []byte
}

// Decode reads the body of an UNSUBSCRIBE and checks every filter's form.
func (u *Unsubscribe) Decode(v Version, body []byte) error {
	r := reader{b: body}
	*u = Unsubscribe{ID: r.id(), Props: r.props(v)}
	u.list = r.b
	if r.err == nil && len(r.b) == 0 {
		return ErrNoFilter // [MQTT-3.10.3-2]
	}
	for len(r.b) > 0 {
		r.str() // [MQTT-3.10.3-1]
	}
	return r.end()
}

// Filters yields the filters in their order. What it yields borrows the packet.
func (u *Unsubscribe) Filters() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for r := (reader{b: u.list}); len(r.b) > 0; {
			if f := r.bytes(); r.err != nil || !yield(f) {
				return
			}
		}
	}
}

// Add appends a filter.
func (u *Unsubscribe) Add(topic []byte) { u.list = appendBytes(u.list, topic) }

// Append writes the packet.
func (u *Unsubscribe) Append(dst []byte, v Version) []byte {
	return appendList(dst, v, UNSUBSCRIBE, 2, u.ID, u.Props, u.list)
}

// SubackFailure is the return code of a filter that was not subscribed to (3.9.3);
// version 5 has a [Reason] for it.
const SubackFailure = 0x80

// Suback is a SUBACK packet (3.9), or an UNSUBACK (3.11), which has codes in
// version 5 only.
type Suback struct {
	Type  Type
	ID    uint16
	Props Properties
	Codes []byte // one for each filter, in their order [MQTT-3.8.4-5]
}

// Decode reads the body of a packet of type t.
func (s *Suback) Decode(v Version, t Type, body []byte) error {
	r := reader{b: body}
	*s = Suback{Type: t, ID: r.id(), Props: r.props(v)}
	if t == UNSUBACK && v != V5 {
		return r.end()
	}
	if r.err == nil && len(r.b) == 0 {
		return ErrShort
	}
	s.Codes = r.b
	for _, c := range s.Codes {
		if v != V5 && c > 2 && c != SubackFailure {
			return ErrCode // [MQTT-3.9.3-2]
		}
	}
	return r.err
}

// Append writes the packet.
func (s *Suback) Append(dst []byte, v Version) []byte {
	return appendList(dst, v, s.Type, 0, s.ID, s.Props, s.Codes)
}

func appendList(dst []byte, v Version, t Type, flags byte, id uint16, p Properties, list []byte) []byte {
	dst = AppendHeader(dst, t, flags, 2+propsSize(v, p)+len(list))
	dst = binary.BigEndian.AppendUint16(dst, id)
	return append(appendProps(dst, v, p), list...)
}
