package packet

// Version is the protocol level of a CONNECT.
type Version byte

// The levels that the codecs know.
const (
	V311 Version = 4
	V5   Version = 5
)

// Type is the control packet type, the high nibble of a packet's first byte.
type Type byte

// Control packet types (2.2.1). AUTH exists from version 5 on.
const (
	CONNECT Type = iota + 1
	CONNACK
	PUBLISH
	PUBACK
	PUBREC
	PUBREL
	PUBCOMP
	SUBSCRIBE
	SUBACK
	UNSUBSCRIBE
	UNSUBACK
	PINGREQ
	PINGRESP
	DISCONNECT
	AUTH
)

var typeNames = [16]string{"RESERVED", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP",
	"SUBSCRIBE", "SUBACK", "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH"}

func (t Type) String() string { return typeNames[t&15] }

// MaxRemaining is the largest remaining length that four bytes can say (2.2.3).
const MaxRemaining = 1<<28 - 1

// MaxHeader is the most bytes a fixed header takes.
const MaxHeader = 5

// Header is the fixed header of a control packet.
type Header struct {
	Type  Type
	Flags byte // low nibble of the first byte
	Size  int  // bytes of the header itself, 2 to 5
	Len   int  // bytes that follow it: the remaining length
}

// ParseHeader reads the fixed header that b starts with. It returns false while
// bytes of it are missing; what can be refused is refused as soon as it is seen,
// so a wrong first byte needs no second.
//
// A remaining length may be written longer than it has to be: 3.1.1 does not
// forbid it, and nothing is gained by refusing.
func ParseHeader(b []byte) (h Header, ok bool, err error) {
	if len(b) == 0 {
		return h, false, nil
	}
	h.Type, h.Flags = Type(b[0]>>4), b[0]&15
	if err := checkFlags(h.Type, h.Flags); err != nil {
		return h, false, err
	}
	n, size, err := uvarint(b[1:])
	if err != nil || size == 0 {
		return h, false, err
	}
	h.Len, h.Size = n, 1+size
	return h, true, nil
}

// checkFlags holds the reserved bits of the first byte to their values.
// [MQTT-2.2.2-1] [MQTT-2.2.2-2]
func checkFlags(t Type, flags byte) error {
	want := byte(0)
	switch t {
	case 0:
		return ErrType
	case PUBLISH:
		switch {
		case flags&0x06 == 0x06:
			return ErrQoS3 // [MQTT-3.3.1-4]
		case flags&0x0e == 0x08:
			return ErrDupQoS0 // [MQTT-3.3.1-2]
		}
		return nil
	case PUBREL, SUBSCRIBE, UNSUBSCRIBE: // [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1]
		want = 0x02
	}
	if flags != want {
		return ErrFlags
	}
	return nil
}

// uvarint reads a variable byte integer. A size of 0 without an error says that
// bytes of it are missing.
func uvarint(b []byte) (n, size int, err error) {
	for i := range 4 {
		if i == len(b) {
			return 0, 0, nil
		}
		n |= int(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			return n, i + 1, nil
		}
	}
	return 0, 0, ErrLength // four bytes at most (2.2.3)
}

func appendUvarint(dst []byte, n int) []byte {
	for n >= 0x80 {
		dst = append(dst, byte(n)|0x80)
		n >>= 7
	}
	return append(dst, byte(n))
}

func uvarintSize(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}

// AppendHeader writes a fixed header for n bytes that follow it.
func AppendHeader(dst []byte, t Type, flags byte, n int) []byte {
	return appendUvarint(append(dst, byte(t)<<4|flags), n)
}

// AppendEmpty writes a packet that is its header alone: PINGREQ, PINGRESP, and
// DISCONNECT in 3.1.1.
func AppendEmpty(dst []byte, t Type) []byte { return append(dst, byte(t)<<4, 0) }
