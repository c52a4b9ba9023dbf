package leaf

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
)

// LevelTrace is the level of lines that show what clients and server say.
const LevelTrace = slog.LevelDebug - 4

// A trace reads along with the bytes of a connection, beside the parser and the
// encoder: while it is off, it costs them a nil check a read and a nil check a
// write. Lines look as nats-server's do. Secrets of a CONNECT are left out.

// tracer shows the operations in a stream of bytes, in one direction. It belongs to
// the connection's reader, or to whoever writes.
type tracer struct {
	log      *slog.Logger
	who, dir string // "127.0.0.1:5555 - cid:3", "<<-"
	max      int    // bytes of a message shown; 0: all
	heads    bool   // of messages only their header

	buf  []byte // the beginning of an operation that is not whole
	need int    // bytes of the operation in buf, 0 while its line is not whole
}

// maxTracedLine bounds what a tracer keeps of a line without an end.
const maxTracedLine = 64 << 10

func (c *conn) newTracer(o *Options, dir string) *tracer {
	return &tracer{log: c.srv.log, who: fmt.Sprintf("%s - cid:%d", c.nc.RemoteAddr(), c.id), dir: dir, max: o.TraceMax, heads: o.TraceHeaders}
}

// inTap is what reads along from the client, nil while o says so. It begins with an
// operation: until then adopt is tried again.
func (c *conn) inTap(o *Options) *tracer {
	if !o.Trace {
		return nil
	}
	if !c.parser.idle() {
		c.news.Store(true)
		return nil
	}
	return c.newTracer(o, "<<-")
}

// outTap is what reads along to the client, nil while o says so.
func (c *conn) outTap(o *Options) *tracer {
	if !o.Trace {
		return nil
	}
	return c.newTracer(o, "->>")
}

// setTap makes t read along from the next bytes on that are taken for writing, which
// begin with an operation.
func (o *Outbound) setTap(t *tracer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tap = t
}

// flight shows chunks about to be written.
func (t *tracer) flight(chunks [][]byte) {
	for _, c := range chunks {
		t.read(c)
	}
}

// read shows the operations in b, and keeps the beginning of one that is not whole.
func (t *tracer) read(b []byte) {
	for len(b) > 0 {
		if len(t.buf) == 0 { // most operations come in one piece
			if n := t.whole(b); n > 0 {
				t.show(b[:n])
				b = b[n:]
				continue
			}
		}
		n := t.more(b)
		t.buf = append(t.buf, b[:n]...)
		b = b[n:]
		if n = t.whole(t.buf); n > 0 {
			t.show(t.buf[:n])
			t.buf, t.need = t.buf[:0], 0
		} else if t.need == 0 && len(t.buf) > maxTracedLine {
			t.buf = t.buf[:0] // such a line ends the connection
		}
	}
	if len(t.buf) == 0 {
		t.buf = nil
	}
}

// more is how many bytes of b go with those in buf: to the end of the line, or to
// the end of the operation once its line is known.
func (t *tracer) more(b []byte) int {
	if t.need > 0 {
		return min(t.need-len(t.buf), len(b))
	}
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return i + 1
	}
	return len(b)
}

// whole is the length of the operation that b begins with, 0 if it is not all there;
// then need is what is known of it.
func (t *tracer) whole(b []byte) int {
	end := bytes.IndexByte(b, '\n') + 1
	if end == 0 {
		t.need = 0
		return 0
	}
	t.need = end + payloadSize(b[:end])
	if len(b) < t.need {
		return 0
	}
	n := t.need
	t.need = 0
	return n
}

// payloadSize is what follows the line of a message, CR LF included.
func payloadSize(line []byte) int {
	switch verbOf(line) {
	case "PUB", "HPUB", "MSG", "HMSG":
		f := bytes.Fields(line)
		n, err := strconv.ParseInt(string(f[len(f)-1]), 10, 31)
		if err == nil && n >= 0 {
			return int(n) + 2
		}
	}
	return 0
}

func verbOf(line []byte) string {
	end := bytes.IndexAny(line, " \t\r\n")
	if end < 0 || end > 8 {
		return ""
	}
	return strings.ToUpper(string(line[:end]))
}

// show writes the lines for one whole operation.
func (t *tracer) show(op []byte) {
	end := bytes.IndexByte(op, '\n') + 1
	line, payload := bytes.TrimRight(op[:end], "\r\n"), op[end:]
	verb := verbOf(op)
	_, args, _ := bytes.Cut(line, []byte(" "))
	switch verb {
	case "CONNECT":
		t.say(fmt.Sprintf("%s [CONNECT %s]", t.dir, redactConnect(args)))
	case "INFO":
	case "+OK":
		t.say(t.dir + " [OK]")
	case "-ERR":
		t.say(fmt.Sprintf("%s [-ERR %s]", t.dir, bytes.Trim(args, "'")))
	case "PING", "PONG":
		t.say(fmt.Sprintf("%s [%s]", t.dir, verb))
	case "PUB", "HPUB", "MSG", "HMSG", "SUB", "UNSUB":
		t.say(fmt.Sprintf("%s [%s %s]", t.dir, verb, args))
		t.payload(verb, line, payload)
	default: // it may be anything, a secret as well
		t.say(fmt.Sprintf("%s [unknown operation, %d bytes]", t.dir, len(op)))
	}
}

// payload shows a message's header and data, as far as is wanted.
func (t *tracer) payload(verb string, line, payload []byte) {
	payload = bytes.TrimSuffix(payload, []byte("\r\n"))
	if t.heads {
		f := bytes.Fields(line)
		n := 0
		if verb[0] == 'H' {
			n, _ = strconv.Atoi(string(f[max(0, len(f)-2)])) // the parser complains, not the trace
		}
		payload = bytes.TrimRight(payload[:min(max(n, 0), len(payload))], "\r\n")
	}
	switch {
	case len(payload) == 0:
	case t.max > 0 && len(payload) > t.max:
		q := strconv.Quote(string(payload[:t.max]))
		t.say(fmt.Sprintf(`%s MSG_PAYLOAD: [%s..."]`, t.dir, q[:len(q)-1]))
	default:
		t.say(fmt.Sprintf("%s MSG_PAYLOAD: [%q]", t.dir, payload))
	}
}

func (t *tracer) say(text string) { t.log.Log(context.Background(), LevelTrace, t.who+" - "+text) }

// secretFields are those of CONNECT that are not shown.
var secretFields = []string{"pass", "auth_token", "jwt", "sig"}

// redactConnect is a CONNECT's argument without its secrets. Names of fields are
// compared as the decoder does it, in any case.
func redactConnect(arg []byte) string {
	var fields map[string]json.RawMessage
	if json.Unmarshal(arg, &fields) != nil {
		return "(not JSON)"
	}
	for name := range fields {
		for _, secret := range secretFields {
			if strings.EqualFold(name, secret) {
				fields[name] = json.RawMessage(`"[REDACTED]"`)
			}
		}
	}
	out, err := json.Marshal(fields)
	if err != nil {
		return "(not JSON)"
	}
	return string(out)
}
