package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

const natsConnect = `CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"protocol":1,"lang":"perf","version":"1","name":"perf"}` + "\r\n"

// natsConn is a raw NATS client connection: callers write protocol lines
// themselves and read with next or count.
type natsConn struct {
	net.Conn
	buf   []byte
	r, w  int
	inbox string
	reqs  int
}

func natsDial(addr string) (*natsConn, error) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	n := &natsConn{Conn: c, buf: make([]byte, 16<<10)}
	c.SetDeadline(time.Now().Add(10 * time.Second))
	defer c.SetDeadline(time.Time{})
	if op, _, _, err := n.next(); err != nil || op != 'I' {
		c.Close()
		return nil, fmt.Errorf("%s sent no INFO: %v", addr, err)
	}
	if _, err = io.WriteString(c, natsConnect); err == nil {
		err = n.flush()
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return n, nil
}

// flush sends PING and reads until PONG, dropping messages.
func (n *natsConn) flush() error {
	if _, err := io.WriteString(n, "PING\r\n"); err != nil {
		return err
	}
	for {
		op, line, _, err := n.next()
		if err != nil {
			return err
		}
		if op == '-' {
			return errors.New(string(line))
		}
		if op == 'O' {
			return nil
		}
	}
}

// fill reads more bytes behind those not yet consumed.
func (n *natsConn) fill() error {
	if n.r > 0 {
		copy(n.buf, n.buf[n.r:n.w])
		n.w -= n.r
		n.r = 0
	}
	if n.w == len(n.buf) {
		n.buf = append(n.buf, make([]byte, len(n.buf))...)
	}
	k, err := n.Read(n.buf[n.w:])
	n.w += k
	if k > 0 {
		return nil
	}
	return err
}

// next returns one protocol operation: 'I' INFO, 'M' MSG or HMSG (payload set,
// headers cut off), 'O' PONG, '+' OK, '-' error. PING is answered. The slices
// are good until the next call.
func (n *natsConn) next() (op byte, line, payload []byte, err error) {
	for {
		j := bytes.IndexByte(n.buf[n.r:n.w], '\n')
		if j < 0 {
			if err := n.fill(); err != nil {
				return 0, nil, nil, err
			}
			continue
		}
		line = n.buf[n.r : n.r+j+1]
		switch line[0] {
		case 'M', 'H':
			size, hdr := msgSizes(line)
			need := len(line) + size + 2
			if n.w-n.r < need {
				if err := n.fill(); err != nil {
					return 0, nil, nil, err
				}
				continue
			}
			payload = n.buf[n.r+len(line)+hdr : n.r+len(line)+size]
			n.r += need
			return 'M', line, payload, nil
		}
		n.r += len(line)
		if line[0] != 'P' {
			return line[0], line, nil, nil
		}
		if line[1] == 'O' {
			return 'O', line, nil, nil
		}
		if _, err := io.WriteString(n, "PONG\r\n"); err != nil {
			return 0, nil, nil, err
		}
	}
}

// msgSizes parses the total and header sizes at the end of a MSG or HMSG line.
func msgSizes(line []byte) (size, hdr int) {
	i := len(line) - 3 // before \r\n
	mul := 1
	for ; i >= 0 && line[i] != ' '; i-- {
		size += int(line[i]-'0') * mul
		mul *= 10
	}
	if line[0] != 'H' {
		return size, 0
	}
	mul = 1
	for i--; i >= 0 && line[i] != ' '; i-- {
		hdr += int(line[i]-'0') * mul
		mul *= 10
	}
	return size, hdr
}

// count reads until the connection ends, calling got with the messages and
// bytes of each read. Payloads are skipped unseen.
func (n *natsConn) count(got func(msgs, bytes int64)) error {
	buf := make([]byte, 256<<10)
	w := copy(buf, n.buf[n.r:n.w])
	skip := 0
	for {
		var msgs int64
		i := 0
		for i < w {
			if skip > 0 {
				d := min(skip, w-i)
				skip -= d
				i += d
				continue
			}
			j := bytes.IndexByte(buf[i:w], '\n')
			if j < 0 {
				break
			}
			line := buf[i : i+j+1]
			i += j + 1
			switch line[0] {
			case 'M', 'H':
				size, _ := msgSizes(line)
				skip = size + 2
				msgs++
			case '-':
				return errors.New(strings.TrimSpace(string(line)))
			case 'P':
				if line[1] == 'I' {
					if _, err := io.WriteString(n, "PONG\r\n"); err != nil {
						return err
					}
				}
			}
		}
		if msgs > 0 {
			got(msgs, int64(i))
		}
		w = copy(buf, buf[i:w])
		k, err := n.Read(buf[w:])
		w += k
		if k == 0 && err != nil {
			return err
		}
	}
}

// batch is a prebuilt run of whole messages for one write.
type batch struct {
	b []byte
	n int64
}

// batches builds writes of about 64 KB that cover every subject in turn.
func batches(verb string, subjects []string, size int, hdr bool) []batch {
	payload := bytes.Repeat([]byte{'x'}, size)
	const head = "NATS/1.0\r\nK: value\r\n\r\n"
	var out []batch
	var cur batch
	for i := 0; ; i++ {
		if i > 0 && i%len(subjects) == 0 && (len(out) > 0 || len(cur.b) >= 64<<10) {
			break
		}
		s := subjects[i%len(subjects)]
		if hdr {
			cur.b = fmt.Appendf(cur.b, "H%s %s %d %d\r\n%s%s\r\n", verb, s, len(head), len(head)+size, head, payload)
		} else {
			cur.b = fmt.Appendf(cur.b, "%s %s %d\r\n%s\r\n", verb, s, size, payload)
		}
		cur.n++
		if len(cur.b) >= 64<<10 {
			out = append(out, cur)
			cur = batch{}
		}
	}
	if cur.n > 0 {
		out = append(out, cur)
	}
	return out
}

// request sends one NATS request and returns the reply's payload.
func (n *natsConn) request(subject string, body any, wait time.Duration) ([]byte, error) {
	if n.inbox == "" {
		n.inbox = fmt.Sprintf("_INBOX.perf%x", time.Now().UnixNano())
		fmt.Fprintf(n, "SUB %s.* 1\r\n", n.inbox)
	}
	n.reqs++
	reply := fmt.Sprintf("%s.%d", n.inbox, n.reqs)
	var b []byte
	if body != nil {
		b, _ = json.Marshal(body)
	}
	n.SetReadDeadline(time.Now().Add(wait))
	defer n.SetReadDeadline(time.Time{})
	if _, err := fmt.Fprintf(n, "PUB %s %s %d\r\n%s\r\n", subject, reply, len(b), b); err != nil {
		return nil, err
	}
	for {
		op, line, payload, err := n.next()
		if err != nil {
			return nil, err
		}
		if op == '-' {
			return nil, errors.New(string(line))
		}
		if op == 'M' && bytes.HasPrefix(line[bytes.IndexByte(line, ' ')+1:], []byte(reply+" ")) {
			if line[0] == 'H' && len(payload) == 0 {
				return nil, errors.New("no responders for " + subject)
			}
			return payload, nil
		}
	}
}

type obj = map[string]any

// js sends a JetStream API request and decodes the reply into out.
func (n *natsConn) js(api string, body any, out any) error {
	p, err := n.request("$JS.API."+api, body, 5*time.Second)
	if err != nil {
		return err
	}
	var e struct {
		Error *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if json.Unmarshal(p, &e) == nil && e.Error != nil {
		return fmt.Errorf("%s: %s", api, e.Error.Description)
	}
	if out != nil {
		return json.Unmarshal(p, out)
	}
	return nil
}
