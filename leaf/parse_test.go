package leaf

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// String tells all that an operation says, for comparison.
func (o *op) String() string {
	switch o.kind {
	case opMsg:
		s := fmt.Sprintf("MSG %q", o.m.Subject)
		if o.m.Reply != nil {
			s += fmt.Sprintf(" reply %q", o.m.Reply)
		}
		if len(o.m.Queues) > 0 {
			s += fmt.Sprintf(" queues %q", o.m.Queues)
		}
		if len(o.m.Header) > 0 {
			s += fmt.Sprintf(" header %q", o.m.Header)
		}
		return s + fmt.Sprintf(" data %q", o.m.Data)
	case opSub:
		return fmt.Sprintf("SUB %q %q %q %d", o.subj, o.queue, o.sid, o.n)
	case opUnsub:
		if o.sid != nil { // of a client, which names nothing else
			return fmt.Sprintf("UNSUB %q %d", o.sid, o.n)
		}
		return fmt.Sprintf("UNSUB %q %q", o.subj, o.queue)
	case opTooLarge:
		return fmt.Sprintf("too large %q", o.m.Subject)
	case opPing:
		return "PING"
	case opPong:
		return "PONG"
	case opOK:
		return "OK"
	}
	return fmt.Sprintf("%d %q", o.kind, o.arg)
}

const (
	testMaxLine    = 4096
	testMaxPayload = 1000
)

func newTestParser(verbs []verb) *parser {
	return &parser{verbs: verbs, maxLine: testMaxLine, maxPayload: testMaxPayload, tolerant: &verbs[0] == &hubVerbs[0]}
}

// parseAll gives reads to a parser, each in memory that is overwritten before the
// next, and returns the operations, and the text of the error as the last of them.
func parseAll(t testing.TB, verbs []verb, reads ...[]byte) (ops []string) {
	t.Helper()
	p := newTestParser(verbs)
	defer p.forget()
	for _, r := range reads {
		b := bytes.Clone(r)
		for rest := b; len(rest) > 0; {
			n, o, err := p.next(rest)
			if err != nil {
				var pe *ProtoError
				if !errors.As(err, &pe) || !pe.Fatal {
					t.Fatalf("error %v is not the peer's", err)
				}
				return append(ops, "error "+pe.Text)
			}
			if n <= 0 || n > len(rest) || o == nil && n != len(rest) {
				t.Fatalf("used %d of %d bytes, operation %v", n, len(rest), o)
			}
			if rest = rest[n:]; o != nil {
				ops = append(ops, o.String())
			}
		}
		for i := range b {
			b[i] = 0xDB
		}
	}
	return ops
}

const (
	unknown  = "error Unknown Protocol Operation"
	badParse = "error Parser Error"
	tooLong  = "error maximum control line exceeded"
	tooBig   = "error Maximum Payload Violation"
	anyHead  = "NATS/1.0\r\nA: b\r\n\r\n" // 18 bytes
)

type parseCase struct {
	bytes string
	want  []string
}

func one(bytes string, want ...string) parseCase { return parseCase{bytes, want} }

var clientCases = []parseCase{
	one("PUB a 0\r\n\r\n", `MSG "a" data ""`),
	one("PUB a 2\r\nhi\r\n", `MSG "a" data "hi"`),
	one("PUB a r 2\r\nhi\r\n", `MSG "a" reply "r" data "hi"`),
	one("pub\ta \t r  2 \r\nhi\r\n", `MSG "a" reply "r" data "hi"`),
	one("PUB a 2\nhi\r\n", `MSG "a" data "hi"`),
	one("PUB a 007\r\n1234567\r\n", `MSG "a" data "1234567"`),
	one("PUB a 4\r\n\r\n\r\n\r\n", `MSG "a" data "\r\n\r\n"`),
	one("PUB a\rr 1\r\nx\r\n", `MSG "a" reply "r" data "x"`),
	one("PUB a.* 1\r\nx\r\nPUB a..b 0\r\n\r\n", `MSG "a.*" data "x"`, `MSG "a..b" data ""`), // the grammar of subjects is not the parser's
	one("PUB \x00\x80\xff 1\r\n\x00\r\n", `MSG "\x00\x80\xff" data "\x00"`),
	one("HPUB a 18 20\r\n"+anyHead+"hi\r\n", `MSG "a" header "NATS/1.0\r\nA: b\r\n\r\n" data "hi"`),
	one("HPUB a r 18 18\r\n"+anyHead+"\r\n", `MSG "a" reply "r" header "NATS/1.0\r\nA: b\r\n\r\n" data ""`),
	one("SUB a 1\r\nSUB a q 2\r\n", `SUB "a" "" "1" 0`, `SUB "a" "q" "2" 0`),
	one("UNSUB 1\r\nUNSUB 1 5\r\n", `UNSUB "1" 0`, `UNSUB "1" 5`),
	one("PING\r\nping\nPiNg  \r\nPONG\r\n", "PING", "PING", "PING", "PONG"),
	one("CONNECT {\"a\": 1}\r\nCONNECT\r\n", `6 "{\"a\": 1}"`, `6 ""`),
	one("PUB a 1000\r\n"+strings.Repeat("x", 1000)+"\r\n", `MSG "a" data "`+strings.Repeat("x", 1000)+`"`),
	one("PING\r\nPUB a 1001\r\n", "PING", tooBig),
	one("HPUB a 18 1001\r\n", tooBig),
	one("\r\n", unknown), one("\n", unknown), one(" PING\r\n", unknown), one("PINGX\r\n", unknown), one("PIN\r\n", unknown),
	one("MSG a 1 0\r\n\r\n", unknown), one("LMSG a 0\r\n\r\n", unknown), one("LS+ a\r\n", unknown), one("INFO {}\r\n", `7 "{}"`), one("-ERR x\r\n", `8 "x"`),
	one("PUBLISHED a 0\r\n", unknown), one("\x00\x00\x00\r\n", unknown), one("\xff\xd8\xff\xe0\r\n", unknown), one("GET / HTTP/1.1\r\n", unknown),
	one("PUB\r\n", unknown), one("PUB 0\r\n", badParse), one("PUB a\r\n", badParse), one("PUB a b c 0\r\n", badParse),
	one("PUB a -1\r\n", badParse), one("PUB a +5\r\n", badParse), one("PUB a 0x10\r\n", badParse), one("PUB a 1e3\r\n", badParse), one("PUB a 1.0\r\n", badParse),
	one("PUB a 99999999999999999999\r\n", badParse), one("PUB a 4294967297\r\n", badParse), one("PUB a 0000000001\r\nx\r\n", badParse),
	one("PUB a 1\r\nxy\r\n", unknown), one("PUB a 2\r\nx\r\nPING\r\n", unknown), one("PUB a 1\r\nx\n\n", unknown), one("PUB a 1\r\nxPUB a 1\r\n", unknown),
	one("HPUB a 18\r\n", badParse), one("HPUB a 0 0\r\n\r\n", `MSG "a" data ""`), one("HPUB a 3 2\r\n", badParse), one("HPUB a -1 2\r\n", badParse), one("HPUB a b c 1 2\r\n", badParse),
	one("SUB\r\n", unknown), one("SUB a\r\n", badParse), one("SUB a b c d\r\n", badParse),
	one("UNSUB\r\n", unknown), one("UNSUB 1 x\r\n", `UNSUB "1" 0`), one("UNSUB 1 -1\r\n", `UNSUB "1" 0`), one("UNSUB 1 2 3\r\n", badParse),
}

var hubCases = []parseCase{
	one("LMSG a 0\r\n\r\n", `MSG "a" data ""`),
	one("LMSG a 2\r\nhi\r\n", `MSG "a" data "hi"`),
	one("LMSG a r 2\r\nhi\r\n", `MSG "a" reply "r" data "hi"`),
	one("LMSG a + 2\r\nhi\r\nLMSG a | 2\r\nhi\r\n", `MSG "a" reply "+" data "hi"`, `MSG "a" reply "|" data "hi"`),
	one("LMSG a | q 2\r\nhi\r\n", `MSG "a" queues ["q"] data "hi"`),
	one("LMSG a | q1 q2 q3 2\r\nhi\r\n", `MSG "a" queues ["q1" "q2" "q3"] data "hi"`),
	one("LMSG a + r q 2\r\nhi\r\n", `MSG "a" reply "r" queues ["q"] data "hi"`),
	one("LMSG a + r q1 q2 2\r\nhi\r\n", `MSG "a" reply "r" queues ["q1" "q2"] data "hi"`),
	one("LMSG a + r 2\r\nhi\r\n", `MSG "a" reply "r" data "hi"`),
	one("LMSG a + | + 2\r\nhi\r\n", `MSG "a" reply "|" queues ["+"] data "hi"`),
	one("LMSG a | q 2\r\nhi\r\nLMSG b 2\r\nhi\r\n", `MSG "a" queues ["q"] data "hi"`, `MSG "b" data "hi"`),
	one("HMSG a 18 20\r\n"+anyHead+"hi\r\n", `MSG "a" header "NATS/1.0\r\nA: b\r\n\r\n" data "hi"`),
	one("HMSG a r 18 20\r\n"+anyHead+"hi\r\n", `MSG "a" reply "r" header "NATS/1.0\r\nA: b\r\n\r\n" data "hi"`),
	one("HMSG a | q 18 20\r\n"+anyHead+"hi\r\n", `MSG "a" queues ["q"] header "NATS/1.0\r\nA: b\r\n\r\n" data "hi"`),
	one("HMSG a + r q1 q2 18 20\r\n"+anyHead+"hi\r\n", `MSG "a" reply "r" queues ["q1" "q2"] header "NATS/1.0\r\nA: b\r\n\r\n" data "hi"`),
	one("LS+ a\r\nLS+ a q 3\r\nLS+ a q 0\r\n", `SUB "a" "" "" 0`, `SUB "a" "q" "" 3`, `SUB "a" "q" "" 0`),
	one("LS- a\r\nLS- a q\r\n", `UNSUB "a" ""`, `UNSUB "a" "q"`),
	one("LS+ a q 3\r\nLS- a\r\nls+ b\n", `SUB "a" "q" "" 3`, `UNSUB "a" ""`, `SUB "b" "" "" 0`),
	one("PING\r\nPONG\r\n+OK\r\n", "PING", "PONG", "OK"),
	one("INFO {\"a\": 1} \r\n-ERR 'x y'\r\n-ERR\r\n", `7 "{\"a\": 1}"`, `8 "'x y'"`, `8 ""`),
	one("PUB a 0\r\n\r\n", unknown), one("SUB a 1\r\n", unknown), one("CONNECT {}\r\n", unknown), one("HLMSG a 0\r\n", unknown), one("RMSG $G a 0\r\n\r\n", unknown), one("RS+ $G a\r\n", unknown), one("LS a\r\n", unknown),
	one("LMSG\r\n", badParse), one("LMSG 0\r\n", badParse), one("LMSG a\r\n", badParse), one("LMSG a -1\r\n", badParse), one("LMSG a 99999999999\r\n", badParse),
	one("LMSG a x y 0\r\n", badParse), one("LMSG a ++ r q 0\r\n", badParse), one("LMSG a q | 0\r\n", badParse),
	one("HMSG a 18\r\n", badParse), one("HMSG a 20 18\r\n", badParse), one("HMSG a 0 5\r\n", badParse), one("HMSG a x y 1 2\r\n", badParse), one("HMSG a - 5\r\n", badParse),
	one("LMSG a 1001\r\n"+strings.Repeat("x", 1001)+"\r\nPING\r\n", `too large "a"`, "PING"),
	one("LMSG a 1001\r\n"+strings.Repeat("x", 1003)+"LMSG b 1002\r\n"+strings.Repeat("y", 1004)+"PONG\r\n", `too large "a"`, `too large "b"`, "PONG"),
	one("HMSG a | q 18 999999999\r\nPING\r\n", `too large "a"`),
	one("LS+\r\n", badParse), one("LS+ a q\r\n", badParse), one("LS+ a q -1\r\n", badParse), one("LS+ a q x\r\n", badParse), one("LS+ a q 1 2 3\r\n", badParse),
	one("LS-\r\n", badParse), one("LS- a q 1\r\n", badParse),
	one("LMSG a | "+strings.Repeat("q ", 2000)+"0\r\n\r\n", `MSG "a" queues ["q"`+strings.Repeat(` "q"`, 1999)+`] data ""`),
}

func TestParse(t *testing.T) {
	for name, set := range map[string]struct {
		verbs []verb
		cases []parseCase
	}{"client": {clientVerbs, clientCases}, "hub": {hubVerbs, hubCases}} {
		for _, tc := range set.cases {
			if got := parseAll(t, set.verbs, []byte(tc.bytes)); !slices.Equal(got, tc.want) {
				t.Errorf("%s %.80q\n got %.200q\nwant %.200q", name, tc.bytes, got, tc.want)
			}
		}
	}
}

// However the kernel cuts the stream, the operations are the same.
func TestParseSplit(t *testing.T) {
	check := func(verbs []verb, b []byte) {
		t.Helper()
		whole := parseAll(t, verbs, b)
		for i := range len(b) + 1 {
			if got := parseAll(t, verbs, b[:i], b[i:]); !slices.Equal(got, whole) {
				t.Fatalf("%.200q cut at %d\n got %.200q\nwant %.200q", b, i, got, whole)
			}
		}
		if got := parseAll(t, verbs, slices.Collect(slices.Chunk(b, 1))...); !slices.Equal(got, whole) {
			t.Fatalf("%.200q byte by byte\n got %.200q\nwant %.200q", b, got, whole)
		}
	}
	for _, set := range []struct {
		verbs []verb
		cases []parseCase
	}{{clientVerbs, clientCases}, {hubVerbs, hubCases}} {
		var all []byte
		for _, tc := range set.cases {
			check(set.verbs, []byte(tc.bytes))
			if !strings.HasPrefix(tc.want[len(tc.want)-1], "error") && len(tc.bytes) < 200 {
				all = append(all, tc.bytes...)
			}
		}
		check(set.verbs, all)
		check(set.verbs, append(all, "garbage"+strings.Repeat("\x00", 100)...))
	}
}

func TestParseControlLineLimit(t *testing.T) {
	line := func(n int, end string) []byte { return []byte("SUB " + strings.Repeat("x", n-6) + " 1" + end) }
	for _, tc := range []struct {
		n       int
		end     string
		refused bool
	}{
		// "SUB " is not counted.
		{4099, "\r\n", false}, {4100, "\r\n", false}, {4101, "\r\n", true},
		{4099, "\n", false}, {4100, "\n", false}, {4102, "\n", true},
		{4099, "", false}, {4107, "", true}, {100000, "", true},
	} {
		for _, cut := range []int{0, 1, 5, 4000, 4095, 4096, 4097} {
			b := line(tc.n, tc.end)
			cut = min(cut, len(b))
			got := parseAll(t, clientVerbs, b[:cut], b[cut:])
			want := tc.end != "" && !tc.refused
			if tc.refused != slices.Equal(got, []string{tooLong}) || want != (len(got) == 1 && strings.HasPrefix(got[0], "SUB")) {
				t.Errorf("%d bytes and %q, cut at %d: %.60q", tc.n, tc.end, cut, got)
			}
		}
	}
}

// What is announced is not allocated: a split operation holds what has come.
func TestParseHoldsWhatHasCome(t *testing.T) {
	p := &parser{verbs: clientVerbs, maxLine: testMaxLine, maxPayload: 100 << 20}
	for _, s := range []string{"PUB a 99999999\r\n", "x", "y"} {
		if _, o, err := p.next([]byte(s)); o != nil || err != nil {
			t.Fatal(o, err)
		}
	}
	if cap(p.carry) > smallChunk {
		t.Errorf("%d bytes for an operation of which %d have come", cap(p.carry), len(p.carry))
	}
}

// A table of verbs may change between two operations, as after CONNECT.
func TestParseVerbsChange(t *testing.T) {
	p := newTestParser(greetVerbs)
	b := []byte("INFO {}\r\nLS+ a\r\n")
	n, o, err := p.next(b)
	if err != nil || o.kind != opInfo {
		t.Fatal(o, err)
	}
	if _, _, err := p.next(b[n:]); !errors.Is(err, errUnknownVerb) {
		t.Errorf("LS+ before the link is up: %v", err)
	}
	p.verbs = hubVerbs
	if _, o, err := p.next(b[n:]); err != nil || o.kind != opSub {
		t.Error(o, err)
	}
}

// fuzzSplit is what both fuzz targets check: no panic, and the same operations
// whole, cut in two, and cut in small pieces.
func fuzzSplit(t *testing.T, verbs []verb, b []byte, cut uint16) {
	whole := parseAll(t, verbs, b)
	at := 0
	if len(b) > 0 {
		at = int(cut) % len(b)
	}
	if got := parseAll(t, verbs, b[:at], b[at:]); !slices.Equal(got, whole) {
		t.Errorf("cut at %d\n got %q\nwant %q", at, got, whole)
	}
	if got := parseAll(t, verbs, slices.Collect(slices.Chunk(b, 1+int(cut)%7))...); !slices.Equal(got, whole) {
		t.Errorf("in pieces\n got %q\nwant %q", got, whole)
	}
}

func FuzzParser(f *testing.F) {
	for i, tc := range clientCases {
		f.Add([]byte(tc.bytes), uint16(i))
	}
	f.Add(append([]byte("SUB "), bytes.Repeat([]byte("x"), 4100)...), uint16(4096))
	f.Fuzz(func(t *testing.T, b []byte, cut uint16) { fuzzSplit(t, clientVerbs, b, cut) })
}

func FuzzLeafParser(f *testing.F) {
	for i, tc := range hubCases {
		f.Add([]byte(tc.bytes), uint16(i))
	}
	f.Fuzz(func(t *testing.T, b []byte, cut uint16) { fuzzSplit(t, hubVerbs, b, cut) })
}
