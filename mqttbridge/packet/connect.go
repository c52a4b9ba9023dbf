package packet

import (
	"encoding/binary"
	"slices"
)

// Connect is a CONNECT packet (3.1).
type Connect struct {
	Version    Version
	CleanStart bool // clean session in 3.1.1
	KeepAlive  uint16
	Props      Properties
	ClientID   []byte

	HasWill bool
	Will    Will

	HasUser, HasPass bool
	Username         []byte
	Password         []byte
}

// Will is the message that a connection leaves behind if it ends without a
// DISCONNECT.
type Will struct {
	Topic, Payload []byte
	QoS            uint8
	Retain         bool
	Props          Properties
}

// Bits of the connect flags (3.1.2.3).
const (
	flagReserved   = 0x01
	flagClean      = 0x02
	flagWill       = 0x04
	flagWillQoS    = 0x18
	flagWillRetain = 0x20
	flagPass       = 0x40
	flagUser       = 0x80
)

// Level reads no more of a CONNECT than the version it is written in, for a
// server must answer a version it does not speak and cannot parse the rest of it.
// A level of the protocol named "MQTT" comes back as it is, with [ErrVersion] if
// no codec here knows it; [ErrName] says that the protocol is another one.
func Level(body []byte) (Version, error) {
	r := reader{b: body}
	name, level := r.bytes(), Version(r.u8())
	switch {
	case r.err != nil:
		return 0, r.err
	case string(name) != "MQTT":
		return level, ErrName // [MQTT-3.1.2-1]
	case level != V311 && level != V5:
		return level, ErrVersion // [MQTT-3.1.2-2]
	}
	return level, nil
}

// Decode reads the body of a CONNECT. Slices of c borrow body.
func (c *Connect) Decode(body []byte) (err error) {
	*c = Connect{}
	if c.Version, err = Level(body); err != nil {
		return err
	}
	r := reader{b: body[7:]} // name and level, as Level found them
	flags := r.u8()
	if err := c.decodeFlags(flags); r.err == nil && err != nil {
		return err
	}
	c.KeepAlive = r.u16()
	c.Props = r.props(c.Version)
	c.ClientID = r.str() // [MQTT-3.1.3-3] [MQTT-3.1.3-4]
	if c.HasWill {
		c.Will.Props = r.props(c.Version)
		c.Will.Topic = r.str() // [MQTT-3.1.3-10]
		c.Will.Payload = r.bytes()
		if r.err == nil && !ValidTopic(c.Will.Topic) {
			return ErrTopic
		}
	}
	if c.HasUser {
		c.Username = r.str() // [MQTT-3.1.3-11]
	}
	if c.HasPass {
		c.Password = r.bytes()
	}
	return r.end()
}

func (c *Connect) decodeFlags(flags byte) error {
	c.CleanStart = flags&flagClean != 0
	c.HasWill = flags&flagWill != 0
	c.Will.QoS = flags & flagWillQoS >> 3
	c.Will.Retain = flags&flagWillRetain != 0
	c.HasUser, c.HasPass = flags&flagUser != 0, flags&flagPass != 0
	switch {
	case flags&flagReserved != 0: // [MQTT-3.1.2-3]
	case !c.HasWill && flags&(flagWillQoS|flagWillRetain) != 0: // [MQTT-3.1.2-11] [MQTT-3.1.2-13] [MQTT-3.1.2-15]
	case c.Will.QoS == 3: // [MQTT-3.1.2-14]
	case c.Version != V5 && c.HasPass && !c.HasUser: // [MQTT-3.1.2-22]
	default:
		return nil
	}
	return ErrConnFlags
}

// Append writes the packet.
func (c *Connect) Append(dst []byte) []byte {
	flags := byte(0)
	for _, f := range []struct {
		on  bool
		bit byte
	}{
		{c.CleanStart, flagClean}, {c.HasWill, flagWill | c.Will.QoS<<3},
		{c.HasWill && c.Will.Retain, flagWillRetain}, {c.HasPass, flagPass}, {c.HasUser, flagUser},
	} {
		if f.on {
			flags |= f.bit
		}
	}
	body := appendBytes(nil, []byte("MQTT"))
	body = append(body, byte(c.Version), flags)
	body = binary.BigEndian.AppendUint16(body, c.KeepAlive)
	body = appendProps(body, c.Version, c.Props)
	body = appendBytes(body, c.ClientID)
	if c.HasWill {
		body = appendProps(body, c.Version, c.Will.Props)
		body = appendBytes(body, c.Will.Topic)
		body = appendBytes(body, c.Will.Payload)
	}
	if c.HasUser {
		body = appendBytes(body, c.Username)
	}
	if c.HasPass {
		body = appendBytes(body, c.Password)
	}
	return append(AppendHeader(dst, CONNECT, 0, len(body)), body...)
}

// Connack is a CONNACK packet (3.2).
type Connack struct {
	SessionPresent bool
	Reason         Reason // written as a return code in 3.1.1
	Props          Properties
}

// Decode reads the body of a CONNACK.
func (c *Connack) Decode(v Version, body []byte) error {
	r := reader{b: body}
	flags, code := r.u8(), r.u8()
	*c = Connack{SessionPresent: flags == 1, Reason: Reason(code), Props: r.props(v)}
	if err := r.end(); err != nil {
		return err
	}
	if v != V5 {
		reason, ok := reasonOf(code)
		if !ok {
			return ErrCode
		}
		c.Reason = reason
	}
	if flags > 1 || c.SessionPresent && c.Reason != Success { // [MQTT-3.2.2-4]
		return ErrCode
	}
	return nil
}

// Append writes the packet. A reason that 3.1.1 has no return code for must not
// be written in that version: the connection is closed without a CONNACK.
func (c *Connack) Append(dst []byte, v Version) []byte {
	dst = slices.Grow(dst, 4)
	dst = AppendHeader(dst, CONNACK, 0, 2+propsSize(v, c.Props))
	code, present := byte(c.Reason), byte(0)
	if v != V5 {
		code = c.Reason.returnCode()
	}
	if c.SessionPresent {
		present = 1
	}
	return appendProps(append(dst, present, code), v, c.Props)
}
