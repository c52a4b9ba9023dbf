package storefwd

import (
	"bytes"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

func sampleRecord(subject, header, data string) []byte {
	m := &msg.Msg{Subject: []byte(subject), Data: []byte(data), QoS: 1, Retain: true}
	if header != "" {
		m.Header = []byte(header)
	}
	b := appendRecord(nil, 7, 1<<30, 42, time.Unix(1, 2).UnixNano(), flagBoot, m)
	seal(b)
	return b
}

func TestRecordRoundTrip(t *testing.T) {
	id, r, err := parseRecord(sampleRecord("a.b", "NATS/1.0\r\n\r\n", "hello"))
	if err != nil || id != 7 || r.Seq != 42 || r.Epoch != 1<<30 || r.stamp != (stamp{1 << 30, time.Unix(1, 2).UnixNano(), true}) || r.QoS != 1 || !r.Retain ||
		string(r.Subject) != "a.b" || string(r.Header) != "NATS/1.0\r\n\r\n" || string(r.Data) != "hello" {
		t.Fatalf("%d %+v %v", id, r, err)
	}
}

// The header block that all devices' messages have is not stored.
func TestRecordOfDevice(t *testing.T) {
	for qos, header := range deviceHeaders {
		m := &msg.Msg{Subject: []byte("a.b"), Header: header, Data: []byte("21.5"), QoS: uint8(qos)}
		b := appendRecord(nil, 7, 1, 42, 0, flagBoot, m)
		seal(b)
		_, r, err := parseRecord(b)
		if err != nil || len(b) != recHeader+len("a.b21.5") || len(b) != recordSize(m) || !bytes.Equal(r.Header, header) || string(r.Data) != "21.5" {
			t.Fatalf("QoS %d: %d bytes, %q, %v", qos, len(b), r.Header, err)
		}
		m.QoS = (m.QoS + 1) % 3
		if b = appendRecord(nil, 7, 1, 42, 0, flagBoot, m); len(b) != recordSize(m) || !bytes.Equal(viewRecord(b).Header, header) {
			t.Fatalf("a header of another QoS: %q", viewRecord(b).Header)
		}
	}
}

// Every flipped bit and every truncation is found.
func TestRecordDamage(t *testing.T) {
	everyFlip(t, sampleRecord("a.b", "NATS/1.0\r\n\r\n", "hello"))
	everyFlip(t, sampleRecord("a.b", string(deviceHeaders[1]), "hello"))
}

func everyFlip(t *testing.T, good []byte) {
	t.Helper()
	for i := range len(good) * 8 {
		b := bytes.Clone(good)
		b[i/8] ^= 1 << (i % 8)
		if _, _, err := parseRecord(b); err == nil {
			t.Fatalf("bit %d flipped and not noticed", i)
		}
	}
	for n := range good {
		if _, _, err := parseRecord(good[:n]); err == nil {
			t.Fatalf("%d of %d bytes taken for a record", n, len(good))
		}
	}
}

// Whatever parses is what was written: it encodes to the same bytes.
func FuzzRecord(f *testing.F) {
	f.Add(sampleRecord("a.b", "NATS/1.0\r\n\r\n", "hello"))
	f.Add(sampleRecord("a.b", string(deviceHeaders[1]), "hello"))
	f.Add(sampleRecord("a", "", ""))
	f.Add([]byte{})
	f.Add(make([]byte, recHeader))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= recHeader { // let the fuzzer past the checksum
			b = bytes.Clone(b)
			seal(b)
		}
		id, r, err := parseRecord(b)
		gapOf(b)
		if err != nil {
			return
		}
		ttlOf(r.Header)
		m := &msg.Msg{Subject: r.Subject, Header: r.Header, Data: r.Data, QoS: r.QoS, Retain: r.Retain}
		if stored := len(b) - recHeader - len(r.Subject) - len(r.Data); stored != len(r.Header) && (stored != 0 || !bytes.Equal(r.Header, deviceHeaders[r.QoS])) {
			t.Fatal("parts do not make the whole")
		}
		again := appendRecord(nil, id, r.Epoch, r.Seq, r.at, 0, m)
		if _, r2, err := parseRecord(func() []byte { seal(again); return again }()); err != nil ||
			!bytes.Equal(r2.Data, r.Data) || !bytes.Equal(r2.Header, r.Header) || !bytes.Equal(r2.Subject, r.Subject) {
			t.Fatalf("does not survive a round trip: %v", err)
		}
	})
}
