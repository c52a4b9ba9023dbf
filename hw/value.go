package hw

import (
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// Value is a state or a number. Its zero value is the number 0.
type Value struct {
	num   float64 // 0 or 1 if state
	state bool
}

// Bool is the state on (true) or off (false).
func Bool(on bool) Value {
	if on {
		return Value{num: 1, state: true}
	}
	return Value{state: true}
}

// Number is a measured or wanted quantity.
func Number(f float64) Value { return Value{num: f} }

// Bool tells the state; ok is false for a number other than 0 and 1.
func (v Value) Bool() (on, ok bool) { return v.num == 1, v.num == 0 || v.num == 1 }

// Number tells the quantity; a state is 0 or 1.
func (v Value) Number() float64 { return v.num }

// Finite reports whether v can be said in JSON: not NaN, not infinite, and not so
// big that rounding could make it so.
func (v Value) Finite() bool { return math.Abs(v.num) <= 1e300 }

func (v Value) String() string { return string(v.append(nil)) }

// append appends v as JSON. Numbers carry 15 significant digits, so that 0.1+0.2
// reads 0.3 and every integer a sensor counts to is exact.
func (v Value) append(b []byte) []byte {
	if v.state {
		return strconv.AppendBool(b, v.num == 1)
	}
	return strconv.AppendFloat(b, v.num, 'g', 15, 64)
}

// appendReading appends r as the JSON object that is published; source is empty but
// for a device that does not exist. An error means that the value cannot be said; b
// is then returned as it was.
func appendReading(b []byte, r Reading, source string) ([]byte, error) {
	if !r.Value.Finite() {
		return b, fmt.Errorf("read %v, which is not a number one can publish", r.Value)
	}
	b = append(b, `{"value":`...)
	b = r.Value.append(b)
	b = append(b, `,"unit":`...)
	b = appendString(b, r.Unit)
	return appendTail(b, r.Time, source), nil
}

// appendAnswer appends what a command is answered with: the state it brought
// about, or why it did not.
func appendAnswer(b []byte, state Value, at time.Time, source string, err error) []byte {
	if err != nil {
		b = append(b, `{"error":`...)
		b = appendString(b, err.Error())
		return append(b, '}')
	}
	b = append(b, `{"value":`...)
	b = state.append(b)
	return appendTail(b, at, source)
}

func appendTail(b []byte, at time.Time, source string) []byte {
	b = append(b, `,"time":"`...)
	b = at.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, '"')
	if source != "" {
		b = append(b, `,"source":`...)
		b = appendString(b, source)
	}
	return append(b, '}')
}

// appendString appends s as a JSON string (RFC 8259, section 7). Bytes that are
// not UTF-8 become U+FFFD.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for _, r := range s { // an invalid byte is ranged over as utf8.RuneError
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ':
			b = append(b, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}
