package main

import (
	"bytes"
	"encoding/binary"
	"regexp"
	"strconv"
	"strings"
)

// talk is what leafd said and heard on its sockets, as the trace has it: the oracle.
// Owned by one goroutine.
type talk struct {
	conns map[string]*conversation // by socket

	acked  map[number]int // line of the acknowledgement to the source
	hubSeq map[place]int  // line at which the hub's PubAck came in
	floors []hubFloor
	epochs []usedEpoch
	boot   usedEpoch // of this run; line 0: not used yet
}

// place is one message of the hub's: the class that its stream is for, and a sequence.
type place struct {
	class string
	seq   uint64
}

// hubFloor is the hub's answer to where a class stands: it has all up to seq.
type hubFloor struct {
	class string
	seq   uint64
	line  int
}

type usedEpoch struct {
	epoch uint64
	line  int
}

// conversation is one socket.
type conversation struct {
	kind    byte // 'm' MQTT client, 'n' NATS client, 'h' the hub, '-' somebody else, 0 not known yet
	in, out []byte
	ids     map[uint16]number // of MQTT publishes
}

func newTalk() *talk {
	return &talk{conns: map[string]*conversation{}, acked: map[number]int{}, hubSeq: map[place]int{}}
}

// step listens to one call.
func (t *talk) step(c *call) {
	path := c.fd(0)
	switch {
	case c.name != "read" && c.name != "write" && c.name != "writev":
		return
	case !strings.HasPrefix(path, "socket:"):
		if c.name == "write" && strings.Contains(path, "meta") {
			t.stepMeta(c.text(1))
		}
		return
	case c.ret == 0:
		return
	}
	v := t.conns[path]
	if v == nil {
		v = &conversation{ids: map[uint16]number{}}
		t.conns[path] = v
	}
	if c.name == "read" {
		v.in = append(v.in, c.text(1)[:c.ret]...)
		t.heard(v, c.to)
	} else {
		v.out = append(v.out, c.text(1)[:c.ret]...)
		t.said(v, c.from)
	}
}

func (t *talk) heard(v *conversation, line int) {
	if v.kind == 0 {
		v.kind = kindOf(v.in)
	}
	switch v.kind {
	case 'm':
		v.in = eachPacket(v.in, func(head byte, body []byte) {
			if head>>4 != 3 || head&6 == 0 || len(body) < 4 {
				return
			}
			at := 2 + int(binary.BigEndian.Uint16(body))
			if m, whole := readPayload(body[at+2:]); whole {
				v.ids[binary.BigEndian.Uint16(body[at:])] = m
			}
		})
	case 'h':
		t.heardHub(v, line)
	case 'n', '-':
		v.in = v.in[:0]
	}
}

func kindOf(in []byte) byte {
	switch {
	case in[0] == 0x10:
		return 'm'
	case bytes.HasPrefix(in, []byte("CONNECT")):
		return 'n'
	case bytes.HasPrefix(in, []byte("INFO")):
		return 'h'
	case len(in) < 7:
		return 0
	}
	return '-'
}

var (
	pubAck   = regexp.MustCompile(`\{"stream":\s*"CRASH-(\w+)"[^{}]*?"seq":\s*(\d+)`)
	lastMsg  = regexp.MustCompile(`"subject":\s*"crash\.(\w+)\.[^"]*",\s*"seq":\s*(\d+)`)
	metaText = regexp.MustCompile(`"base":(\d+),"boots":(\d+)`)
	msgID    = []byte("Nats-Msg-Id:")
)

const overlap = 512 // longer than any match of these

func (t *talk) heardHub(v *conversation, line int) {
	for _, m := range pubAck.FindAllSubmatch(v.in, -1) {
		seq, _ := strconv.ParseUint(string(m[2]), 10, 64) // it is digits
		if at := (place{string(m[1]), seq}); t.hubSeq[at] == 0 {
			t.hubSeq[at] = line
		}
	}
	for _, m := range lastMsg.FindAllSubmatch(v.in, -1) {
		seq, _ := strconv.ParseUint(string(m[2]), 10, 64)
		t.floors = append(t.floors, hubFloor{string(m[1]), seq, line})
	}
	if n := len(v.in) - overlap; n > 0 {
		v.in = append(v.in[:0], v.in[n:]...)
	}
}

func (t *talk) said(v *conversation, line int) {
	switch v.kind {
	case 'm':
		v.out = eachPacket(v.out, func(head byte, body []byte) {
			if head != 0x40 || len(body) < 2 {
				return
			}
			if m, ok := v.ids[binary.BigEndian.Uint16(body)]; ok {
				t.ack(m, line)
			}
		})
		return
	case 'n':
		v.out = t.saidNATS(v.out, line)
		return
	case 'h':
		if bytes.Contains(v.out, msgID) {
			t.use(line)
		}
	}
	if n := len(v.out) - overlap; n > 0 {
		v.out = append(v.out[:0], v.out[n:]...)
	}
}

// saidNATS reads the PubAcks to a NATS client and returns what is not whole yet.
func (t *talk) saidNATS(out []byte, line int) []byte {
	for {
		end := bytes.IndexByte(out, '\n')
		if end < 0 {
			return out
		}
		if m, size, ok := natsReply(out[:end]); ok {
			if len(out) < end+1+size+2 {
				return out
			}
			if isPubAck(out[end+1 : end+1+size]) {
				t.ack(m, line)
			}
			end += size + 2
		}
		out = out[end+1:]
	}
}

func (t *talk) ack(m number, line int) {
	if t.acked[m] == 0 {
		t.acked[m] = line
	}
	t.use(line)
}

// use notes that ids of this run's epoch are known outside.
func (t *talk) use(line int) {
	if t.boot.epoch != 0 && t.boot.line == 0 {
		t.boot.line = line
		t.epochs = append(t.epochs, t.boot)
	}
}

func (t *talk) stepMeta(text []byte) {
	if m := metaText.FindSubmatch(text); m != nil {
		base, _ := strconv.ParseUint(string(m[1]), 10, 32)
		boots, _ := strconv.ParseUint(string(m[2]), 10, 64)
		t.boot = usedEpoch{epoch: base<<24 + boots}
	}
}

// eachPacket calls fn with each whole MQTT packet and returns the rest.
func eachPacket(b []byte, fn func(head byte, body []byte)) (rest []byte) {
	for len(b) > 1 {
		size, n := binary.Uvarint(b[1:])
		if n <= 0 || uint64(len(b)-1-n) < size {
			break
		}
		fn(b[0], b[1+n:1+n+int(size)])
		b = b[1+n+int(size):]
	}
	return b
}

// hubLines is the line from which on the hub is known to have each message.
func (t *talk) hubLines(at []hubMsg) map[number]int {
	lines := map[number]int{}
	for _, m := range at {
		line := t.hubSeq[place{m.class, m.seq}]
		for _, f := range t.floors {
			if f.class == m.class && m.seq <= f.seq && (line == 0 || f.line < line) {
				line = f.line
			}
		}
		if line > 0 {
			lines[m.number] = line
		}
	}
	return lines
}
