package storefwd

import (
	"bytes"
	"strconv"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// This file lets messages grow old: all of a log by MaxAge, each by its own header
// Nats-TTL, which the forwarded copy carries with what is left of it.

var ttlName = []byte("Nats-TTL")

// ttlOf is what a header block says of a message's life; 0 is for ever. A value that
// cannot be read is the hub's to refuse.
func ttlOf(header []byte) time.Duration {
	v := headerValue(header, ttlName)
	if n, ok := parseUint(v); ok && n <= 1<<32 {
		return time.Duration(n) * time.Second
	}
	d, err := time.ParseDuration(string(v))
	if err != nil || d <= 0 {
		return 0
	}
	return d
}

// headerValue is the value of the first line of that name, nil if there is none. A name is
// compared as nats-server does it, letter for letter.
func headerValue(header, name []byte) []byte {
	for len(header) > 0 {
		var line []byte
		line, header, _ = bytes.Cut(header, crlf)
		if len(line) > len(name) && line[len(name)] == ':' && bytes.Equal(line[:len(name)], name) {
			return bytes.TrimSpace(line[len(name)+1:])
		}
	}
	return nil
}

// withTTL is m with its expiry as a header, if it has one and its header says none.
// The result borrows m.
func withTTL(m *msg.Msg) *msg.Msg {
	if m.Expiry <= 0 || headerValue(m.Header, ttlName) != nil {
		return m
	}
	with := *m
	first, rest, _ := bytes.Cut(m.Header, crlf)
	if len(first) == 0 {
		first, rest = []byte("NATS/1.0"), crlf
	}
	with.Header = append(append([]byte(nil), first...), crlf...)
	with.Header = append(appendTTL(with.Header, m.Expiry), rest...)
	return &with
}

// Aged is a header block of a message that has been an age under way in some other place: what its
// Nats-TTL grants it is so much less, but a second at least, in which it can be counted as
// expired. Without one, or an age, it is header itself.
func Aged(header []byte, age time.Duration) []byte {
	ttl := ttlOf(header)
	if age <= 0 || ttl == 0 {
		return header
	}
	first, rest, _ := bytes.Cut(header, crlf)
	b := append(append([]byte(nil), first...), crlf...)
	b = appendTTL(b, max(ttl-age, time.Second))
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, crlf)
		if name, _, _ := bytes.Cut(line, []byte(":")); !bytes.Equal(name, ttlName) {
			b = append(append(b, line...), crlf...)
		}
	}
	return b
}

// appendTTL appends the header line, in whole seconds, as all hubs read it.
func appendTTL(b []byte, ttl time.Duration) []byte {
	b = append(append(b, ttlName...), ": "...)
	b = strconv.AppendInt(b, int64((ttl+time.Second-1)/time.Second), 10)
	return append(b, crlf...)
}

// dropMost is how many records are dropped at once, for their age or for narrower bounds: who
// appends waits for that, and a whole backlog may have grown old while the power was away.
const dropMost = 512

// expireOld drops what is older than the log keeps, as much as may be at once. It reports
// whether there may be more.
func (l *Log) expireOld() (more bool) {
	if l.ret.MaxAge == 0 {
		return false
	}
	for range dropMost {
		o, ok := l.head()
		if !ok {
			return false
		}
		if age, known := l.s.age(o.stamp); !known || age <= l.ret.MaxAge {
			return false
		}
		l.drop(o, LostExpired)
	}
	return true
}

// expireDead drops the oldest messages as long as their own life is over: a full log is not to
// lose others, or refuse them, for what nobody will get.
func (l *Log) expireDead() {
	for {
		o, ok := l.head()
		if !ok || o.life == 0 {
			return
		}
		if age, known := l.s.age(o.stamp); !known || age < o.life {
			return
		}
		l.drop(o, LostExpired)
	}
}

// recordLife is what a record that is well formed says of its own life; 0: nothing.
func recordLife(b []byte) time.Duration {
	if b[33]&flagMortal == 0 {
		return 0
	}
	r := viewRecord(b)
	return ttlOf(r.Header)
}

// atOnce is how young a message is whose time need not be told: the hub's own is right.
const atOnce = 10 * time.Second

// expired reports whether r is too old to be handed out. If not it notes what is left
// of r's own life, and its time.
func (l *Log) expired(r *Record) bool {
	var known bool
	r.Time, known = l.s.date(r.stamp)
	age, aged := l.s.age(r.stamp)
	if r.Age = age; !aged {
		r.Age = -1
	}
	if r.TimeUncertain = !known; aged && age < atOnce && r.Epoch == l.s.epoch {
		r.Early, r.TimeUncertain = false, false
	}
	if !r.mortal && l.ret.MaxAge == 0 {
		return false
	}
	if aged && l.ret.MaxAge > 0 && age > l.ret.MaxAge {
		return true
	}
	if r.mortal {
		ttl := ttlOf(r.Header)
		if ttl > 0 { // else it is for ever, or the hub's to refuse, and goes as it came
			r.TTL = max(ttl-age, 1) // age is 0 if it is not known
		}
		r.ageless = ttl > 0 && !aged
		return ttl > 0 && aged && age >= ttl
	}
	return false
}
