package leaf

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/leafd/leafd/internal/msg"
)

// opKind is a protocol operation, whichever verb it came as.
type opKind uint8

const (
	opNone  opKind = iota
	opMsg          // PUB, HPUB from a client; LMSG, HMSG from a hub
	opSub          // SUB; LS+
	opUnsub        // UNSUB; LS-
	opPing
	opPong
	opConnect
	opInfo
	opErr      // -ERR
	opOK       // +OK
	opTooLarge // opMsg without header and data, which are passed over
)

// op is one parsed operation. Its bytes are borrowed until the next call of next.
type op struct {
	kind  opKind
	m     msg.Msg // opMsg
	sid   []byte  // opSub, opUnsub of a client
	subj  []byte  // opSub, opUnsub
	queue []byte  // opSub, opUnsub
	n     int     // UNSUB max; LS+ weight; 0 if absent
	arg   []byte  // opConnect, opInfo, opErr: the rest of the line
}

// verb is one row of a verb table: clients and hubs speak the same grammar with
// other verbs. args reads the rest of the line into p.op and, for a message, the
// sizes that follow it.
type verb struct {
	key  uint64
	kind opKind
	args func(p *parser, rest []byte) error

	needy bool // without arguments it is an unknown verb, as nats-server says
}

// The tables list the frequent verbs first.
var (
	clientVerbs = []verb{
		{verbKey("PUB"), opMsg, (*parser).argsPub, true},
		{verbKey("HPUB"), opMsg, (*parser).argsHpub, true},
		{verbKey("SUB"), opSub, (*parser).argsSub, true},
		{verbKey("UNSUB"), opUnsub, (*parser).argsUnsub, true},
		{verbKey("PING"), opPing, (*parser).argsNone, false},
		{verbKey("PONG"), opPong, (*parser).argsNone, false},
		{verbKey("CONNECT"), opConnect, (*parser).argsLine, false},
		{verbKey("INFO"), opInfo, (*parser).argsLine, false},
		{verbKey("+OK"), opOK, (*parser).argsNone, false},
		{verbKey("-ERR"), opErr, (*parser).argsLine, false},
	}
	// loginVerbs are what a client may say before it has said who it is.
	loginVerbs = []verb{
		{verbKey("CONNECT"), opConnect, (*parser).argsLine, false},
	}
	hubVerbs = []verb{
		{verbKey("LMSG"), opMsg, (*parser).argsLmsg, false},
		{verbKey("HMSG"), opMsg, (*parser).argsHmsg, false},
		{verbKey("LS+"), opSub, (*parser).argsLsub, false},
		{verbKey("LS-"), opUnsub, (*parser).argsLunsub, false},
		{verbKey("PING"), opPing, (*parser).argsNone, false},
		{verbKey("PONG"), opPong, (*parser).argsNone, false},
		{verbKey("INFO"), opInfo, (*parser).argsLine, false},
		{verbKey("-ERR"), opErr, (*parser).argsLine, false},
		{verbKey("+OK"), opOK, (*parser).argsNone, false},
	}
)

// verbKey packs a verb of at most eight bytes, letters in lower case.
func verbKey(s string) (key uint64) {
	for i := range len(s) {
		key = key<<8 | uint64(s[i]|0x20)
	}
	return key
}

var (
	errUnknownVerb = &ProtoError{Text: "Unknown Protocol Operation", Fatal: true}
	errControlLine = &ProtoError{Text: "maximum control line exceeded", Fatal: true, ended: "Maximum Control Line Exceeded"}
	errMaxPayload  = &ProtoError{Text: "Maximum Payload Violation", Fatal: true, ended: "Maximum Message Payload Exceeded"}
	errNoCRLF      = &ProtoError{Text: errUnknownVerb.Text, Detail: "payload does not end in CR LF", Fatal: true}
)

func badArgs(verb string, rest []byte) error {
	return &ProtoError{Text: "Parser Error", Detail: fmt.Sprintf("%s %.64q", verb, rest), Fatal: true}
}

// parser turns received bytes into operations without copying, but for the one
// operation that a read may have split, which is gathered in carry. It belongs
// to one reader. (Protocol: NATS client protocol, NATS leafnode protocol.)
type parser struct {
	verbs      []verb
	maxLine    int  // bytes of a control line, verb and end left out
	maxPayload int  // bytes of header and data
	tolerant   bool // a message with more is passed over, and no error

	op         op
	args       [][]byte
	queues     [][]byte
	head, size int    // of the message whose line was just parsed: header and total bytes
	carry      []byte // the beginning of a split operation
	need       int    // whole length of the operation in carry, 0 while its line is incomplete
	done       bool   // carry holds an operation that was returned
	skip       int    // bytes to come that are passed over

	budget *Budget // static; that carry counts for, nil: none
}

var parsers = sync.Pool{New: func() any { return new(parser) }}

// idle reports whether nothing of an operation is kept.
func (p *parser) idle() bool { return (p.done || len(p.carry) == 0) && p.skip == 0 }

// putParser gives up an idle parser.
func putParser(p *parser) {
	p.forget()
	clear(p.args[:cap(p.args)])
	*p = parser{args: p.args[:0], queues: p.queues}
	parsers.Put(p)
}

// next takes the first operation from b, or, together with earlier calls, the
// operation that b goes on with. It returns how many bytes it used and a nil op
// if the operation is not complete; then all of b is used.
func (p *parser) next(b []byte) (used int, o *op, err error) {
	if p.done {
		p.forget()
	}
	if p.skip > 0 {
		return p.passOver(b)
	}
	if len(p.carry) > 0 {
		return p.resume(b)
	}
	used, need, err := p.scan(b)
	if err != nil || used > 0 {
		return used, &p.op, err
	}
	p.need = need
	return len(b), nil, p.keep(b)
}

// scan parses the operation at the start of b. used is 0 if it is incomplete;
// need is its whole length once its line is known.
func (p *parser) scan(b []byte) (used, need int, err error) {
	end := bytes.IndexByte(b[:min(len(b), p.maxLine+lineRoom)], '\n')
	if end < 0 {
		switch v, n := p.verb(b); {
		case v == nil && n < len(b): // it has ended, and is none
			return 0, 0, errUnknownVerb
		case len(b) >= p.maxLine+lineRoom:
			return 0, 0, errControlLine
		}
		return 0, 0, nil
	}
	line := b[:end]
	if end > 0 && line[end-1] == '\r' {
		line = line[:end-1]
	}
	if err := p.line(line); err != nil {
		return 0, 0, err
	}
	end++
	if p.op.kind == opMsg && p.size > p.maxPayload {
		p.op.kind, p.skip = opTooLarge, p.size+2
	}
	if p.op.kind != opMsg {
		return end, end, nil
	}
	need = end + p.size + 2
	if len(b) < need {
		return 0, need, nil
	}
	if b[need-2] != '\r' || b[need-1] != '\n' {
		return 0, 0, errNoCRLF
	}
	p.op.m.Header = b[end : end+p.head : end+p.head]
	p.op.m.Data = b[end+p.head : need-2 : need-2]
	return need, need, nil
}

// line parses a control line without its end.
func (p *parser) line(line []byte) error {
	v, n := p.verb(line)
	if v == nil {
		return errUnknownVerb
	}
	switch rest := line[n:]; {
	case len(rest) == 0 && v.needy:
		return errUnknownVerb
	case len(rest) > p.maxLine+1:
		return errControlLine
	default:
		p.op.kind = v.kind
		return v.args(p, rest)
	}
}

// verb is the verb at the start of a line, or of what has come of it, and where it ends;
// nil if it is none.
func (p *parser) verb(line []byte) (v *verb, n int) {
	var key uint64
	for ; n < len(line) && line[n] > ' '; n++ {
		if n == 8 {
			return nil, n
		}
		key = key<<8 | uint64(line[n]|0x20)
	}
	for k := range p.verbs {
		if v = &p.verbs[k]; v.key == key {
			return v, n
		}
	}
	return nil, n
}

// lineRoom is what a line may have beside maxLine: a verb, a space, CR LF.
const lineRoom = 8 + 1 + 2

// maxArgs bounds the words of a line, which are queue groups if there are many.
const maxArgs = 4096

// split cuts a line at white space into p.args; nil if there are too many.
func (p *parser) split(rest []byte) [][]byte {
	p.args = p.args[:0]
	start := -1
	for i, c := range rest {
		switch {
		case c != ' ' && c != '\t' && c != '\r':
			if start < 0 {
				start = i
			}
		case start >= 0:
			p.args = append(p.args, rest[start:i:i])
			if start = -1; len(p.args) > maxArgs {
				return nil
			}
		}
	}
	if start >= 0 {
		p.args = append(p.args, rest[start:])
	}
	return p.args
}

// number reads a decimal size; -1 if it is none or more than nine digits.
func number(b []byte) int {
	if len(b) == 0 || len(b) > 9 {
		return -1
	}
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// sizes sets the payload of the message: [header] total.
func (p *parser) sizes(head, total []byte) bool {
	p.head, p.size = 0, number(total)
	if head != nil {
		p.head = number(head)
	}
	return p.size >= 0 && p.head >= 0 && p.head <= p.size
}

func (p *parser) checked(ok bool, verb string, rest []byte) error {
	switch {
	case !ok:
		return badArgs(verb, rest)
	case p.size > p.maxPayload && !p.tolerant:
		return errMaxPayload
	}
	return nil
}

func (p *parser) argsNone([]byte) error { return nil }

func (p *parser) argsLine(rest []byte) error {
	p.op.arg = bytes.TrimSpace(rest)
	return nil
}

// argsPub reads: subject [reply] size
func (p *parser) argsPub(rest []byte) error {
	a := p.split(rest)
	ok := len(a) == 2 || len(a) == 3
	if ok {
		p.message(a[0], a[1:len(a)-1])
		ok = p.sizes(nil, a[len(a)-1])
	}
	return p.checked(ok, "PUB", rest)
}

// argsHpub reads: subject [reply] header-size total-size
func (p *parser) argsHpub(rest []byte) error {
	a := p.split(rest)
	ok := len(a) == 3 || len(a) == 4
	if ok {
		p.message(a[0], a[1:len(a)-2])
		ok = p.sizes(a[len(a)-2], a[len(a)-1])
	}
	return p.checked(ok, "HPUB", rest)
}

func (p *parser) message(subject []byte, reply [][]byte) {
	p.op.m = msg.Msg{Subject: subject}
	if len(reply) > 0 {
		p.op.m.Reply = reply[0]
	}
}

// argsSub reads: subject [queue] sid
func (p *parser) argsSub(rest []byte) error {
	a := p.split(rest)
	if len(a) != 2 && len(a) != 3 {
		return badArgs("SUB", rest)
	}
	p.op.subj, p.op.queue, p.op.sid = a[0], nil, a[len(a)-1]
	if len(a) == 3 {
		p.op.queue = a[1]
	}
	return nil
}

// argsUnsub reads: sid [max]
func (p *parser) argsUnsub(rest []byte) error {
	a := p.split(rest)
	p.op.n = 0
	if len(a) == 2 {
		p.op.n = max(0, number(a[1])) // what is no number ends it at once, as in nats-server
	}
	if len(a) != 1 && len(a) != 2 {
		return badArgs("UNSUB", rest)
	}
	p.op.sid = a[0]
	return nil
}
