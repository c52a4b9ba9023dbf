package packet

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// vectors are packets as they are on the wire, canonical in form: each must decode,
// and encode to the same bytes.
var vectors = []struct {
	name string
	v    Version
	wire []byte
}{
	{"CONNECT clean", V311, []byte{
		0x10, 0x0d, // CONNECT, 13 follow
		0x00, 0x04, 'M', 'Q', 'T', 'T', // protocol name
		0x04,       // level 4
		0x02,       // clean session
		0x00, 0x3c, // keep alive 60 s
		0x00, 0x01, 'a', // client id
	}},
	{"CONNECT everything", V311, []byte{
		0x10, 0x1c, // CONNECT, 28 follow
		0x00, 0x04, 'M', 'Q', 'T', 'T', // protocol name
		0x04,       // level 4
		0xee,       // user, password, will retain, will QoS 1, will, clean session
		0xff, 0xff, // keep alive 65,535 s
		0x00, 0x01, 'a', // client id
		0x00, 0x03, 'w', '/', 't', // will topic
		0x00, 0x01, 0x00, // will message
		0x00, 0x01, 'u', // user name
		0x00, 0x02, 0xff, 0xfe, // password: any bytes
	}},
	{"CONNECT version 5", V5, []byte{
		0x10, 0x13, // CONNECT, 19 follow
		0x00, 0x04, 'M', 'Q', 'T', 'T', // protocol name
		0x05,       // level 5
		0x06,       // will, clean start
		0x00, 0x00, // keep alive off
		0x00,       // no properties
		0x00, 0x00, // client id empty
		0x00,            // no will properties
		0x00, 0x01, 't', // will topic
		0x00, 0x00, // will message empty
	}},
	{"CONNACK accepted", V311, []byte{0x20, 0x02, 0x00, 0x00}},
	{"CONNACK session present", V311, []byte{0x20, 0x02, 0x01, 0x00}},
	{"CONNACK not authorized", V311, []byte{0x20, 0x02, 0x00, 0x05}},
	{"CONNACK unsupported version", V5, []byte{
		0x20, 0x03, // CONNACK, 3 follow
		0x00, // no session
		0x84, // unsupported protocol version
		0x00, // no properties
	}},
	{"PUBLISH QoS 0", V311, []byte{
		0x30, 0x07, // PUBLISH, 7 follow
		0x00, 0x03, 'a', '/', 'b', // topic
		'h', 'i', // payload
	}},
	{"PUBLISH QoS 1 dup retain", V311, []byte{
		0x3b, 0x05, // PUBLISH dup, QoS 1, retain; 5 follow
		0x00, 0x01, 'a', // topic
		0x12, 0x34, // packet id; payload empty
	}},
	{"PUBLISH QoS 2 of 130 bytes", V311, append([]byte{
		0x34, 0x82, 0x01, // PUBLISH QoS 2, 130 follow
		0x00, 0x01, 'a', // topic
		0x00, 0x01, // packet id
	}, bytes.Repeat([]byte{0xff}, 125)...)},
	{"PUBLISH version 5", V5, []byte{
		0x32, 0x09, // PUBLISH QoS 1, 9 follow
		0x00, 0x01, 'a', // topic
		0x00, 0x07, // packet id
		0x02, 0x01, 0x01, // payload format indicator: UTF-8
		'x', // payload
	}},
	{"PUBLISH version 5, alias for a topic", V5, []byte{
		0x30, 0x06, // PUBLISH QoS 0, 6 follow
		0x00, 0x00, // topic empty
		0x03, 0x23, 0x00, 0x01, // topic alias 1; payload empty
	}},
	{"PUBACK", V311, []byte{0x40, 0x02, 0x00, 0x01}},
	{"PUBREC", V311, []byte{0x50, 0x02, 0x00, 0x01}},
	{"PUBREL", V311, []byte{0x62, 0x02, 0x00, 0x01}},
	{"PUBCOMP", V311, []byte{0x70, 0x02, 0xff, 0xff}},
	{"PUBACK quota exceeded", V5, []byte{0x40, 0x03, 0x00, 0x01, 0x97}},
	{"PUBACK with a property", V5, []byte{
		0x40, 0x08, // PUBACK, 8 follow
		0x00, 0x01, 0x00, // packet id, success
		0x04, 0x1f, 0x00, 0x01, 'x', // reason string
	}},
	{"SUBSCRIBE", V311, []byte{
		0x82, 0x0c, // SUBSCRIBE, 12 follow
		0x00, 0x0a, // packet id
		0x00, 0x03, 'a', '/', '+', 0x01, // filter, QoS 1
		0x00, 0x01, '#', 0x00, // filter, QoS 0
	}},
	{"SUBSCRIBE version 5", V5, []byte{
		0x82, 0x09, // SUBSCRIBE, 9 follow
		0x00, 0x0a, // packet id
		0x02, 0x0b, 0x01, // subscription identifier 1
		0x00, 0x01, '#', 0x2e, // filter; no retained, retain as published, no local, QoS 2
	}},
	{"SUBACK", V311, []byte{0x90, 0x04, 0x00, 0x0a, 0x00, 0x80}},
	{"SUBACK version 5", V5, []byte{0x90, 0x04, 0x00, 0x0a, 0x00, 0x8f}},
	{"UNSUBSCRIBE", V311, []byte{
		0xa2, 0x08, // UNSUBSCRIBE, 8 follow
		0x00, 0x0b, // packet id
		0x00, 0x01, 'a', 0x00, 0x01, 'b', // two filters
	}},
	{"UNSUBACK", V311, []byte{0xb0, 0x02, 0x00, 0x0b}},
	{"UNSUBACK version 5", V5, []byte{0xb0, 0x05, 0x00, 0x0b, 0x00, 0x00, 0x11}},
	{"PINGREQ", V311, []byte{0xc0, 0x00}},
	{"PINGRESP", V311, []byte{0xd0, 0x00}},
	{"DISCONNECT", V311, []byte{0xe0, 0x00}},
	{"DISCONNECT taken over", V5, []byte{0xe0, 0x01, 0x8e}},
	{"DISCONNECT with a property", V5, []byte{0xe0, 0x07, 0x00, 0x05, 0x11, 0x00, 0x00, 0x00, 0x0a}},
}

// recode decodes the packet at the front of b and encodes what it understood. It
// returns nil while b is incomplete.
func recode(v Version, b []byte) (out []byte, size int, err error) {
	h, ok, err := ParseHeader(b)
	if err != nil || !ok || len(b) < h.Size+h.Len {
		return nil, 0, err
	}
	size = h.Size + h.Len
	body := b[h.Size:size]
	switch h.Type {
	case CONNECT:
		var p Connect
		err, out = p.Decode(body), p.Append(nil)
	case CONNACK:
		var p Connack
		err, out = p.Decode(v, body), p.Append(nil, v)
	case PUBLISH:
		var p Publish
		err, out = p.Decode(v, h.Flags, body), p.Append(nil, v)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		var p Ack
		err, out = p.Decode(v, h.Type, body), p.Append(nil, v)
	case SUBSCRIBE:
		var p, q Subscribe
		if err = p.Decode(v, body); err == nil {
			q.ID, q.Props = p.ID, p.Props
			for f := range p.Filters() {
				q.Add(f.Topic, f.Options)
			}
			out = q.Append(nil, v)
		}
	case SUBACK, UNSUBACK:
		var p Suback
		err, out = p.Decode(v, h.Type, body), p.Append(nil, v)
	case UNSUBSCRIBE:
		var p, q Unsubscribe
		if err = p.Decode(v, body); err == nil {
			q.ID, q.Props = p.ID, p.Props
			for f := range p.Filters() {
				q.Add(f)
			}
			out = q.Append(nil, v)
		}
	case DISCONNECT:
		var p Disconnect
		err, out = p.Decode(v, body), p.Append(nil, v)
	default: // PINGREQ, PINGRESP; AUTH has no codec
		if out = AppendEmpty(nil, h.Type); len(body) > 0 {
			err = ErrTrailing
		}
	}
	if err != nil {
		return nil, size, err
	}
	return out, size, nil
}

func TestRoundTrip(t *testing.T) {
	for _, c := range vectors {
		t.Run(c.name, func(t *testing.T) {
			got, size, err := recode(c.v, c.wire)
			if err != nil || size != len(c.wire) || !bytes.Equal(got, c.wire) {
				t.Fatalf("got % x (%d bytes read, %v), want % x", got, size, err, c.wire)
			}
			for i := range c.wire { // a cut packet is incomplete, never another one
				if got, _, err := recode(c.v, c.wire[:i]); got != nil || err != nil {
					t.Fatalf("first %d bytes: % x, %v", i, got, err)
				}
			}
		})
	}
}

// A body that ends early or goes on must be refused: with the length that says so,
// any cut or growth inside the packet is an error, except where the last field
// takes whatever is there, and where version 5 lets fields be left out.
func TestCutAndGrownBodies(t *testing.T) {
	for _, c := range vectors {
		h, _, err := ParseHeader(c.wire)
		if err != nil {
			t.Fatal(err)
		}
		body := c.wire[h.Size:]
		for n := range body {
			b := append(AppendHeader(nil, h.Type, h.Flags, n), body[:n]...)
			out, _, err := recode(c.v, b)
			if err == nil && !bytes.Equal(out, b) && (c.v != V5 || len(out) >= len(b)) {
				t.Errorf("%s cut to %d: read as % x", c.name, n, out)
			}
		}
		grown := append(AppendHeader(nil, h.Type, h.Flags, len(body)+1), append(slices.Clone(body), 0)...)
		out, _, err := recode(c.v, grown)
		if err == nil && !bytes.Equal(out, grown) && (c.v != V5 || len(out) >= len(grown)) {
			t.Errorf("%s grown by one: read as % x", c.name, out)
		}
	}
}

func TestConnectFields(t *testing.T) {
	var c Connect
	if err := c.Decode(vectors[1].wire[2:]); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("v%d clean=%v keep=%d id=%q will=%q=%q qos=%d retain=%v user=%v %q pass=%v %q", c.Version, c.CleanStart, c.KeepAlive,
		c.ClientID, c.Will.Topic, c.Will.Payload, c.Will.QoS, c.Will.Retain, c.HasUser, c.Username, c.HasPass, c.Password)
	want := `v4 clean=true keep=65535 id="a" will="w/t"="\x00" qos=1 retain=true user=true "u" pass=true "\xff\xfe"`
	if got != want || !c.HasWill {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
}

func TestPublishFields(t *testing.T) {
	var p Publish
	body := []byte{0, 3, 'a', '/', 'b', 0x12, 0x34, 'x', 'y'}
	if err := p.Decode(V311, 0x0b, body); err != nil {
		t.Fatal(err)
	}
	if string(p.Topic) != "a/b" || p.ID != 0x1234 || string(p.Payload) != "xy" || p.QoS != 1 || !p.Dup || !p.Retain {
		t.Fatalf("%+v", p)
	}
}

func TestSubscribeFields(t *testing.T) {
	var s Subscribe
	if err := s.Decode(V311, []byte{0, 10, 0, 3, 'a', '/', '+', 1, 0, 1, '#', 2}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for f := range s.Filters() {
		got = append(got, fmt.Sprintf("%s@%d", f.Topic, f.QoS()))
	}
	if s.ID != 10 || !slices.Equal(got, []string{"a/+@1", "#@2"}) {
		t.Fatalf("id %d, filters %v", s.ID, got)
	}
}

// Every packet type with every flag nibble: 256 first bytes, of which 2.2.2 allows
// these and no other.
func TestFirstByte(t *testing.T) {
	allowed := map[byte]bool{0x10: true, 0x20: true, 0x40: true, 0x50: true, 0x62: true, 0x70: true, 0x82: true, 0x90: true,
		0xa2: true, 0xb0: true, 0xc0: true, 0xd0: true, 0xe0: true, 0xf0: true,
		0x30: true, 0x31: true, 0x32: true, 0x33: true, 0x34: true, 0x35: true, // PUBLISH, QoS 0 to 2, retain
		0x3a: true, 0x3b: true, 0x3c: true, 0x3d: true} // and again with DUP, which QoS 0 may not have
	for b := range 256 {
		_, ok, err := ParseHeader([]byte{byte(b)})
		if ok {
			t.Fatalf("%#x: a header of one byte", b)
		}
		if (err == nil) != allowed[byte(b)] {
			t.Errorf("%#02x: %v", b, err)
		}
	}
}

func TestRemainingLength(t *testing.T) {
	for _, c := range []struct {
		wire []byte
		n    int
	}{
		{[]byte{0x00}, 0}, {[]byte{0x7f}, 127}, {[]byte{0x80, 0x01}, 128}, {[]byte{0xff, 0x7f}, 16383},
		{[]byte{0x80, 0x80, 0x01}, 16384}, {[]byte{0xff, 0xff, 0x7f}, 2097151},
		{[]byte{0x80, 0x80, 0x80, 0x01}, 2097152}, {[]byte{0xff, 0xff, 0xff, 0x7f}, MaxRemaining},
	} {
		h, ok, err := ParseHeader(append([]byte{0x30}, c.wire...))
		if err != nil || !ok || h.Len != c.n || h.Size != 1+len(c.wire) {
			t.Errorf("% x: %+v, %v, %v", c.wire, h, ok, err)
		}
		if got := AppendHeader(nil, PUBLISH, 0, c.n); !bytes.Equal(got[1:], c.wire) {
			t.Errorf("%d is written % x", c.n, got[1:])
		}
	}
	if h, ok, err := ParseHeader([]byte{0xc0, 0x80, 0x80, 0x00}); err != nil || !ok || h.Len != 0 || h.Size != 4 {
		t.Errorf("a zero written long: %+v, %v, %v", h, ok, err)
	}
	if _, ok, err := ParseHeader([]byte{0x30, 0x80, 0x80, 0x80}); ok || err != nil {
		t.Errorf("three of four: %v, %v", ok, err)
	}
	if _, _, err := ParseHeader([]byte{0x30, 0x80, 0x80, 0x80, 0x80}); !errors.Is(err, ErrLength) {
		t.Errorf("a fourth byte that continues: %v", err)
	}
}

func connectBody(change func(b []byte) []byte) []byte {
	return change(slices.Clone(vectors[0].wire[2:]))
}

func set(at int, v ...byte) func(b []byte) []byte {
	return func(b []byte) []byte { copy(b[at:], v); return b }
}

func TestBadConnect(t *testing.T) {
	will := func(flags byte, topic string, msg ...byte) func(b []byte) []byte {
		return func(b []byte) []byte {
			b[7] = flags
			return append(appendBytes(b, []byte(topic)), msg...)
		}
	}
	for _, c := range []struct {
		name string
		body []byte
		want error
	}{
		{"empty", nil, ErrShort},
		{"name MQIsdp", append([]byte{0, 6}, "MQIsdp\x03\x02\x00\x3c\x00\x01a"...), ErrName},
		{"name mqtt", connectBody(set(2, 'm', 'q', 't', 't')), ErrName},
		{"level 0", connectBody(set(6, 0)), ErrVersion},
		{"level 3", connectBody(set(6, 3)), ErrVersion},
		{"level 6", connectBody(set(6, 6)), ErrVersion},
		{"level 0x84, a bridge's", connectBody(set(6, 0x84)), ErrVersion},
		{"reserved flag", connectBody(set(7, 0x03)), ErrConnFlags},
		{"will QoS without will", connectBody(set(7, 0x0a)), ErrConnFlags},
		{"will retain without will", connectBody(set(7, 0x22)), ErrConnFlags},
		{"will QoS 3", connectBody(will(0x1e, "w", 0, 0)), ErrConnFlags},
		{"password without user name", connectBody(will(0x42, "p")), ErrConnFlags},
		{"will topic empty", connectBody(will(0x06, "", 0, 0)), ErrTopic},
		{"will topic with wildcard", connectBody(will(0x06, "a/#", 0, 0)), ErrTopic},
		{"will topic with U+0000", connectBody(will(0x06, "a\x00", 0, 0)), ErrUTF8},
		{"will message missing", connectBody(will(0x06, "a")), ErrShort},
		{"will message longer than the packet", connectBody(will(0x06, "a", 0xff, 0xff, 1)), ErrShort},
		{"user name missing", connectBody(set(7, 0x82)), ErrShort},
		{"user name not UTF-8", connectBody(will(0x82, "\xff")), ErrUTF8},
		{"client id longer than the packet", connectBody(set(10, 0xff, 0xff)), ErrShort},
		{"client id not UTF-8", connectBody(set(12, 0xc0)), ErrUTF8},
		{"bytes after the last field", append(connectBody(set(0)), 1), ErrTrailing},
	} {
		var p Connect
		if err := p.Decode(c.body); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

func TestBadPublish(t *testing.T) {
	for _, c := range []struct {
		name  string
		v     Version
		flags byte
		body  []byte
		want  error
	}{
		{"empty", V311, 0, nil, ErrShort},
		{"length of the topic cut", V311, 0, []byte{0}, ErrShort},
		{"topic longer than the packet", V311, 0, []byte{0, 5, 'a'}, ErrShort},
		{"topic of 65,535 in a packet of 2", V311, 0, []byte{0xff, 0xff}, ErrShort},
		{"topic empty", V311, 0, []byte{0, 0}, ErrTopic},
		{"wildcard +", V311, 0, []byte{0, 3, 'a', '/', '+'}, ErrTopic},
		{"wildcard #", V311, 0, []byte{0, 1, '#'}, ErrTopic},
		{"wildcard inside a level", V311, 0, []byte{0, 3, 'a', '+', 'b'}, ErrTopic},
		{"U+0000", V311, 0, []byte{0, 1, 0}, ErrUTF8},
		{"surrogate", V311, 0, []byte{0, 3, 0xed, 0xa0, 0x80}, ErrUTF8},
		{"overlong", V311, 0, []byte{0, 2, 0xc0, 0xaf}, ErrUTF8},
		{"sequence cut", V311, 0, []byte{0, 2, 'a', 0xc3}, ErrUTF8},
		{"packet id missing", V311, 2, []byte{0, 1, 'a'}, ErrShort},
		{"packet id cut", V311, 2, []byte{0, 1, 'a', 0}, ErrShort},
		{"packet id 0", V311, 2, []byte{0, 1, 'a', 0, 0}, ErrPacketID},
		{"properties missing", V5, 0, []byte{0, 1, 'a'}, ErrShort},
		{"properties longer than the packet", V5, 0, []byte{0, 1, 'a', 0x7f, 0}, ErrShort},
		{"property length without end", V5, 0, []byte{0, 1, 'a', 0x80, 0x80, 0x80, 0x80, 0}, ErrShort},
	} {
		var p Publish
		if err := p.Decode(c.v, c.flags, c.body); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

func TestBadOthers(t *testing.T) {
	for _, c := range []struct {
		name string
		v    Version
		wire []byte
		want error
	}{
		{"SUBSCRIBE without a filter", V311, []byte{0x82, 2, 0, 1}, ErrNoFilter},
		{"SUBSCRIBE id 0", V311, []byte{0x82, 6, 0, 0, 0, 1, 'a', 0}, ErrPacketID},
		{"SUBSCRIBE QoS 3", V311, []byte{0x82, 6, 0, 1, 0, 1, 'a', 3}, ErrOptions},
		{"SUBSCRIBE reserved bit", V311, []byte{0x82, 6, 0, 1, 0, 1, 'a', 4}, ErrOptions},
		{"SUBSCRIBE retain handling 3", V5, []byte{0x82, 7, 0, 1, 0, 0, 1, 'a', 0x30}, ErrOptions},
		{"SUBSCRIBE options missing", V311, []byte{0x82, 5, 0, 1, 0, 1, 'a'}, ErrShort},
		{"SUBSCRIBE second filter cut", V311, []byte{0x82, 8, 0, 1, 0, 1, 'a', 0, 0, 9}, ErrShort},
		{"SUBSCRIBE filter not UTF-8", V311, []byte{0x82, 6, 0, 1, 0, 1, 0xff, 0}, ErrUTF8},
		{"SUBSCRIBE properties longer than the packet", V5, []byte{0x82, 3, 0, 1, 9}, ErrShort},
		{"UNSUBSCRIBE without a filter", V311, []byte{0xa2, 2, 0, 1}, ErrNoFilter},
		{"UNSUBSCRIBE id 0", V311, []byte{0xa2, 5, 0, 0, 0, 1, 'a'}, ErrPacketID},
		{"UNSUBSCRIBE filter cut", V311, []byte{0xa2, 4, 0, 1, 0, 1}, ErrShort},
		{"PUBACK id 0", V311, []byte{0x40, 2, 0, 0}, ErrPacketID},
		{"PUBACK of one byte", V311, []byte{0x40, 1, 0}, ErrShort},
		{"PUBACK of three in 3.1.1", V311, []byte{0x40, 3, 0, 1, 0}, ErrTrailing},
		{"PINGREQ with a body", V311, []byte{0xc0, 1, 0}, ErrTrailing},
		{"DISCONNECT with a body in 3.1.1", V311, []byte{0xe0, 1, 0}, ErrTrailing},
		{"CONNACK code 6", V311, []byte{0x20, 2, 0, 6}, ErrCode},
		{"CONNACK refused with a session", V311, []byte{0x20, 2, 1, 1}, ErrCode},
		{"CONNACK reserved flags", V311, []byte{0x20, 2, 2, 0}, ErrCode},
		{"SUBACK without codes", V311, []byte{0x90, 2, 0, 1}, ErrShort},
		{"SUBACK code 3", V311, []byte{0x90, 3, 0, 1, 3}, ErrCode},
		{"type 0", V311, []byte{0x00, 0}, ErrType},
		{"PUBREL without its flag", V311, []byte{0x60, 2, 0, 1}, ErrFlags},
		{"PUBLISH QoS 3", V311, []byte{0x36, 0}, ErrQoS3},
		{"PUBLISH DUP at QoS 0", V311, []byte{0x38, 0}, ErrDupQoS0},
	} {
		if _, _, err := recode(c.v, c.wire); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

func TestNames(t *testing.T) {
	if got := PUBLISH.String() + AUTH.String() + Type(0).String(); got != "PUBLISHAUTHRESERVED" {
		t.Error(got)
	}
	seen := map[string]bool{}
	for r := range 256 {
		name := Reason(r).String()
		if seen[name] {
			t.Errorf("two reasons are called %s", name)
		}
		seen[name] = true
	}
	if got := Reason(0xa0).String(); got != "reason_0xa0" {
		t.Error(got)
	}
	if ErrQoS3.Error() != ErrQoS3.Text {
		t.Error("an error is not its text")
	}
}

func TestPublishDoesNotAllocate(t *testing.T) {
	wire := vectors[8].wire
	buf := make([]byte, 0, 64)
	var p Publish
	if n := testing.AllocsPerRun(100, func() {
		h, _, _ := ParseHeader(wire)
		if err := p.Decode(V311, h.Flags, wire[h.Size:]); err != nil {
			t.Fatal(err)
		}
		buf = p.Append(buf[:0], V311)
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

// FuzzPacket: whatever is accepted is encoded again, and what is encoded decodes to
// the same. If the encoding has the length of what came in, it is what came in:
// only lengths written longer than need be and version 5 fields that may be left
// out make it shorter.
func FuzzPacket(f *testing.F) {
	for _, c := range vectors {
		f.Add(c.v == V5, c.wire)
	}
	f.Add(false, []byte{0x82, 0x82, 0x00, 0, 1, 0, 1, 'a', 0})
	f.Add(true, []byte{0x40, 4, 0, 1, 0, 0})
	f.Fuzz(func(t *testing.T, v5 bool, b []byte) {
		v := V311
		if v5 {
			v = V5
		}
		out, size, err := recode(v, b)
		if err != nil || out == nil {
			return
		}
		again, _, err := recode(v, out)
		if err != nil || !bytes.Equal(again, out) {
			t.Fatalf("% x encodes to % x, then to % x (%v)", b[:size], out, again, err)
		}
		if len(out) > size || len(out) == size && !bytes.Equal(out, b[:size]) {
			t.Fatalf("% x encodes to % x", b[:size], out)
		}
	})
}

func BenchmarkPublishDecode(b *testing.B) {
	wire := (&Publish{Topic: []byte("plant/line4/press/temperature"), Payload: []byte(strings.Repeat("x", 128))}).Append(nil, V311)
	var p Publish
	for b.Loop() {
		h, _, _ := ParseHeader(wire)
		if err := p.Decode(V311, h.Flags, wire[h.Size:]); err != nil {
			b.Fatal(err)
		}
	}
}
