package packet

import "encoding/binary"

// Ack is one of PUBACK, PUBREC, PUBREL and PUBCOMP, which differ in their type
// alone (3.4 to 3.7).
type Ack struct {
	Type   Type
	ID     uint16
	Reason Reason     // version 5
	Props  Properties // version 5
}

// Decode reads the body of a packet of type t.
func (a *Ack) Decode(v Version, t Type, body []byte) error {
	r := reader{b: body}
	*a = Ack{Type: t, ID: r.id()}
	if v == V5 && len(r.b) > 0 { // both may be left out (v5 3.4.2)
		a.Reason = Reason(r.u8())
		if len(r.b) > 0 {
			a.Props = r.props(v)
		}
	}
	return r.end()
}

// Append writes the packet; in version 5 it leaves out what may be left out.
func (a *Ack) Append(dst []byte, v Version) []byte {
	flags := byte(0)
	if a.Type == PUBREL {
		flags = 2 // [MQTT-3.6.1-1]
	}
	n := 2
	if v == V5 && (a.Reason != Success || len(a.Props) > 0) {
		n++
		if len(a.Props) > 0 {
			n += propsSize(v, a.Props)
		}
	}
	dst = AppendHeader(dst, a.Type, flags, n)
	dst = binary.BigEndian.AppendUint16(dst, a.ID)
	if n > 2 {
		dst = append(dst, byte(a.Reason))
	}
	if n > 3 {
		dst = appendProps(dst, v, a.Props)
	}
	return dst
}

// Disconnect is a DISCONNECT packet (3.14). In 3.1.1 it has no fields.
type Disconnect struct {
	Reason Reason
	Props  Properties
}

// Decode reads the body of a DISCONNECT.
func (d *Disconnect) Decode(v Version, body []byte) error {
	r := reader{b: body}
	*d = Disconnect{}
	if v == V5 && len(r.b) > 0 { // both may be left out (v5 3.14.2)
		d.Reason = Reason(r.u8())
		if len(r.b) > 0 {
			d.Props = r.props(v)
		}
	}
	return r.end()
}

// Append writes the packet.
func (d *Disconnect) Append(dst []byte, v Version) []byte {
	switch {
	case v != V5 || d.Reason == Success && len(d.Props) == 0:
		return AppendEmpty(dst, DISCONNECT)
	case len(d.Props) == 0:
		return append(dst, byte(DISCONNECT)<<4, 1, byte(d.Reason))
	}
	dst = AppendHeader(dst, DISCONNECT, 0, 1+propsSize(v, d.Props))
	return appendProps(append(dst, byte(d.Reason)), v, d.Props)
}
