package storefwd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// Record is one message of a log. Its slices are never written again, whoever
// holds them may keep them.
type Record struct {
	Seq                   uint64    // place in the log; grows, may have gaps
	Epoch                 uint64    // run of the store that appended it
	Time                  time.Time // when it was appended; zero if that is not known
	QoS                   uint8
	Retain                bool
	Subject, Header, Data []byte

	Age           time.Duration // at least, when it was read; -1: nobody knows
	Early         bool          // the clock was not trusted then
	TimeUncertain bool          // … and it is not known by now
	TTL           time.Duration // what is left of its own life when it is handed out; 0: it has none

	stamp
	mortal  bool // has a life of its own
	ageless bool // … and nobody knows how much of it has gone
	gap     bool // is a marker
	again   bool // was handed out before
	size    int  // bytes it weighs in the log's accounts
}

// A record has one form everywhere: in RAM, as the payload of a journal frame
// and as a bbolt value. Little endian:
//
//	 0 crc32c of all that follows    4 log id
//	 8 epoch                        16 seq
//	24 time, ns                     32 kind · 33 flags · 34 subject length (u16)
//	36 header length (u32)          40 subject, header, data
//
// It names its own log and sequence, so that it can be recognised on a page whose
// surroundings are damaged.
const (
	recHeader  = 40
	kindMsg    = 1
	kindDevice = 2 // its header block is the usual one of an MQTT publish of its QoS, and left out

	// In the journal alone, and no messages: recHeader and nothing else.
	kindLost = 3 // a full log did not take the message of this sequence
	kindCut  = 4 // what is before the sequence in the place of time was dropped for newer ones, of which this is one

	flagQoS    = 0x03
	flagRetain = 0x04
	flagHeader = 0x08 // has a header block, perhaps an empty one
	flagBoot   = 0x10 // time is since boot, of the run that epoch names; without it, since 1970
	flagEarly  = 0x20 // the clock was not trusted then
	flagMortal = 0x40 // the header has a Nats-TTL
	flagGap    = 0x80 // a marker of what was lost

	maxRecord = 64 << 20 // larger than any payload a server accepts
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errRecord = errors.New("not a valid record")

// deviceHeaders are the header blocks that most messages have: what tells NATS clients
// that a device published at QoS 0, 1 or 2. They are never written to.
var deviceHeaders = [3][]byte{
	[]byte("NATS/1.0\r\nNmqtt-Pub:0\r\n\r\n"), []byte("NATS/1.0\r\nNmqtt-Pub:1\r\n\r\n"), []byte("NATS/1.0\r\nNmqtt-Pub:2\r\n\r\n"),
}

func fromDevice(m *msg.Msg) bool {
	return m.QoS <= 2 && bytes.Equal(m.Header, deviceHeaders[m.QoS])
}

// recordSize is what m weighs as a record.
func recordSize(m *msg.Msg) int {
	n := recHeader + len(m.Subject) + len(m.Data)
	if !fromDevice(m) {
		n += len(m.Header)
	}
	return n
}

// appendRecord appends m as a record without its checksum; seal adds it. how is of
// flagBoot and flagEarly, which say what at is.
func appendRecord(b []byte, log uint32, epoch, seq uint64, at int64, how uint8, m *msg.Msg) []byte {
	flags := m.QoS&flagQoS | how
	if m.Retain {
		flags |= flagRetain
	}
	kind, header := byte(kindMsg), m.Header
	switch {
	case fromDevice(m):
		kind, header = kindDevice, nil
	case header != nil:
		flags |= flagHeader
		if headerValue(m.Header, ttlName) != nil {
			flags |= flagMortal
		}
	}
	b = le.AppendUint32(b, 0)
	b = le.AppendUint32(b, log)
	b = le.AppendUint64(b, epoch)
	b = le.AppendUint64(b, seq)
	b = le.AppendUint64(b, uint64(at))
	b = append(b, kind, flags)
	b = le.AppendUint16(b, uint16(len(m.Subject)))
	b = le.AppendUint32(b, uint32(len(header)))
	b = append(b, m.Subject...)
	b = append(b, header...)
	return append(b, m.Data...)
}

// seal writes the checksum. Readers of a record in RAM never look at it.
func seal(b []byte) { binary.LittleEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli)) }

// parseRecord checks a record that comes from outside this process. The result
// borrows b.
func parseRecord(b []byte) (log uint32, r Record, err error) {
	if !wellFormed(b) || crc32.Checksum(b[4:], castagnoli) != le.Uint32(b) {
		return 0, Record{}, errRecord
	}
	return le.Uint32(b[4:]), viewRecord(b), nil
}

// wellFormed reports whether b can be viewed as a record.
func wellFormed(b []byte) bool {
	le := binary.LittleEndian
	if len(b) < recHeader || len(b) > maxRecord || uint64(le.Uint16(b[34:]))+uint64(le.Uint32(b[36:])) > uint64(len(b)-recHeader) {
		return false
	}
	header := b[33]&flagHeader != 0
	switch b[32] {
	case kindMsg:
		return header || le.Uint32(b[36:]) == 0
	case kindDevice:
		return !header && le.Uint32(b[36:]) == 0 && b[33]&flagQoS <= 2
	case kindLost, kindCut:
		return len(b) == recHeader
	}
	return false
}

// viewRecord reads a record that is known to be well formed.
func viewRecord(b []byte) Record {
	s := recHeader + int(le.Uint16(b[34:]))
	h := s + int(le.Uint32(b[36:]))
	r := Record{
		Epoch: le.Uint64(b[8:]), Seq: le.Uint64(b[16:]), stamp: recordStamp(b),
		QoS: b[33] & flagQoS, Retain: b[33]&flagRetain != 0, Early: b[33]&flagEarly != 0, mortal: b[33]&flagMortal != 0, gap: b[33]&flagGap != 0,
		Subject: b[recHeader:s:s], Data: b[h:len(b):len(b)], size: len(b),
	}
	switch {
	case b[32] == kindDevice:
		r.Header = deviceHeaders[r.QoS]
	case b[33]&flagHeader != 0:
		r.Header = b[s:h:h]
	}
	return r
}

func recordSubject(b []byte) []byte { return b[recHeader : recHeader+int(le.Uint16(b[34:]))] }

func recordEpoch(b []byte) uint64 { return binary.LittleEndian.Uint64(b[8:]) }

func recordStamp(b []byte) stamp {
	return stamp{epoch: recordEpoch(b), at: int64(binary.LittleEndian.Uint64(b[24:])), boot: b[33]&flagBoot != 0}
}

// fits reports whether m can be a record at all.
func fits(m *msg.Msg) bool {
	return len(m.Subject) <= math.MaxUint16 && m.Size() <= maxRecord-recHeader
}
