package packet

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// Properties is the property block of a version 5 packet without its length: raw,
// borrowed, empty in 3.1.1 (v5 2.2.2).
type Properties []byte

// reader takes fields off the front of a body. The first field that does not fit
// sets err, and all after it come back empty.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

func (r *reader) u8() byte {
	if len(r.b) < 1 {
		r.fail(ErrShort)
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) u16() uint16 {
	if len(r.b) < 2 {
		r.fail(ErrShort)
		return 0
	}
	v := binary.BigEndian.Uint16(r.b)
	r.b = r.b[2:]
	return v
}

func (r *reader) id() uint16 {
	id := r.u16()
	if id == 0 {
		r.fail(ErrPacketID) // [MQTT-2.3.1-1]
	}
	return id
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail(ErrShort)
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// bytes reads binary data behind a two-byte length.
func (r *reader) bytes() []byte { return r.take(int(r.u16())) }

// str reads a UTF-8 string.
func (r *reader) str() []byte {
	s := r.bytes()
	if !validString(s) {
		r.fail(ErrUTF8)
	}
	return s
}

func (r *reader) props(v Version) Properties {
	if v != V5 {
		return nil
	}
	n, size, err := uvarint(r.b)
	if err != nil || size == 0 {
		r.fail(ErrShort)
		return nil
	}
	r.b = r.b[size:]
	return Properties(r.take(n))
}

// end returns the first error; bytes left over are one too.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.err = ErrTrailing
	}
	return r.err
}

// validString holds a string to 1.5.3: well formed UTF-8 without surrogates, which
// utf8.Valid refuses as it does overlong forms [MQTT-1.5.3-1], and no U+0000
// [MQTT-1.5.3-2]. U+FEFF is left where it is [MQTT-1.5.3-3].
func validString(s []byte) bool {
	return utf8.Valid(s) && bytes.IndexByte(s, 0) < 0
}

func appendBytes(dst, s []byte) []byte {
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(s))), s...)
}

func appendProps(dst []byte, v Version, p Properties) []byte {
	if v != V5 {
		return dst
	}
	return append(appendUvarint(dst, len(p)), p...)
}

func propsSize(v Version, p Properties) int {
	if v != V5 {
		return 0
	}
	return uvarintSize(len(p)) + len(p)
}
