package storefwd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
)

// pubAck is a stream's answer to a publish.
type pubAck struct {
	Stream    string    `json:"stream"`
	Domain    string    `json:"domain"`
	Seq       uint64    `json:"seq"`
	Duplicate bool      `json:"duplicate"`
	Error     *apiError `json:"error"`

	stream, domain []byte // Stream and Domain, which scanPubAck does not set; borrowed
}

// apiError is the error of any JetStream answer.
type apiError struct {
	Code        int    `json:"code"` // as in HTTP
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) String() string { return fmt.Sprintf("%s (%d)", e.Description, e.ErrCode) }
func (e *apiError) Error() string  { return e.String() }

// permanent reports whether the same message will be refused for ever: it is too large, or has a
// header that the stream has no use for (errors.json of nats-server).
func (e *apiError) permanent() bool {
	switch e.ErrCode {
	case 10054, // message size exceeds maximum allowed
		10097,                      // header size exceeds maximum allowed
		10111,                      // rollup not permitted
		10165,                      // invalid per-message TTL
		10168, 10169, 10170, 10171, // message counters
		10188, 10189, 10190, 10191, 10192, 10203, 10212, 10223, // message schedules
		10227: // message stream source header is not allowed
		return true
	}
	return false
}

// mayPass reports whether it is the stream or its account that has to change. What else is
// refused as a bad request is taken for the message's fault.
func (e *apiError) mayPass() bool {
	switch e.ErrCode {
	case 10002, // resource limits exceeded for account
		10060, // expected stream does not match
		10109, // invalid operation on sealed stream
		10120, // no JetStream default or applicable tiered limit present
		10172: // message counter is broken
		return true
	}
	return e.Code != 400
}

// outOfTurn reports whether an expectation about the stream was wrong.
func (e *apiError) outOfTurn() bool {
	switch e.ErrCode {
	case 10070, // wrong last msg ID
		10071, // wrong last sequence: N
		10164: // wrong last sequence
		return true
	}
	return false
}

// parsePubAck reads an acknowledgement. ok is false if it is none: anybody on the
// hub may answer to a reply subject.
func parsePubAck(b []byte) (a pubAck, ok bool) {
	if a, ok = scanPubAck(b); ok {
		return a, true
	}
	a = pubAck{}
	if json.Unmarshal(b, &a) != nil {
		return pubAck{}, false
	}
	a.stream, a.domain = []byte(a.Stream), []byte(a.Domain)
	return a, a.Error != nil || a.Stream != "" && a.Seq > 0
}

// scanPubAck reads the form that nats-server sends for a success, without
// allocating: {"stream":"T","domain":"hub","seq":1,"duplicate":true}.
func scanPubAck(b []byte) (a pubAck, ok bool) {
	b, ok = bytes.CutPrefix(b, []byte(`{"stream":"`))
	if !ok || len(b) > 1024 {
		return a, false
	}
	if a.stream, b, ok = cutString(b); !ok {
		return a, false
	}
	for {
		switch {
		case bytes.HasPrefix(b, []byte(`,"domain":"`)):
			if a.domain, b, ok = cutString(b[len(`,"domain":"`):]); !ok {
				return a, false
			}
		case bytes.HasPrefix(b, []byte(`,"seq":`)):
			b = b[len(`,"seq":`):]
			n := 0
			for n < len(b) && b[n] >= '0' && b[n] <= '9' {
				n++
			}
			if a.Seq, ok = parseUint(b[:n]); !ok {
				return a, false
			}
			b = b[n:]
		case bytes.HasPrefix(b, []byte(`,"duplicate":true`)):
			a.Duplicate = true
			b = b[len(`,"duplicate":true`):]
		default:
			return a, string(b) == "}" && a.Seq > 0
		}
	}
}

// cutString reads the rest of a plain JSON string, not empty and without escapes.
func cutString(b []byte) (s, rest []byte, ok bool) {
	i := bytes.IndexByte(b, '"')
	if i < 1 || bytes.IndexByte(b[:i], '\\') >= 0 {
		return nil, nil, false
	}
	return b[:i], b[i+1:], true
}

// parseUint reads a decimal number.
func parseUint(b []byte) (n uint64, ok bool) {
	if len(b) == 0 {
		return 0, false
	}
	for _, c := range b {
		d := uint64(c - '0')
		if c < '0' || c > '9' || n > (math.MaxUint64-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}
