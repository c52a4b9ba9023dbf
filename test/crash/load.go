package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// source publishes numbered messages, some at a time, and notes which were
// acknowledged. It never sends a number twice: what was under way when a connection
// was lost may arrive or not, and may yet arrive beside what the next one brings. So
// each connection has a source number of its own, and order is asked for within it.
type source struct {
	// Static.
	base   uint32 // the first source number; the others are lives above
	class  string // its subject is crash.<class>.s<number>
	window int    // messages under way at once
	size   func() int
	dial   func(ctx context.Context, s *source) (client, error)

	id    uint32 // of the connection that is on; owned by run
	dials uint32 // so far; owned by run
	taken int    // of acked, how many the hub had at last; owned by a killRig

	mu    sync.Mutex
	next  uint32       // guarded by mu; the number of the next message
	acked []number     // guarded by mu; in the order of the acknowledgements
	first func(number) // guarded by mu; told of each acknowledgement, if not nil
}

// lives is more than there are sources at a time.
const lives = 1000

// client is one connection of a source. publish sends a batch, and returns once all of
// it was acknowledged, to s as it comes.
type client interface {
	publish(s *source, from uint32, payloads [][]byte) error
	io.Closer
}

func (s *source) subject() string { return fmt.Sprintf("crash.%s.s%d", s.class, s.id) }
func (s *source) topic() string   { return strings.ReplaceAll(s.subject(), ".", "/") }

// run publishes until it has sent limit messages (0: no end) or ctx ends. It connects
// as often as it takes.
func (s *source) run(ctx context.Context, limit int) {
	end := s.sent() + uint32(limit)
	var c client
	defer func() {
		if c != nil {
			c.Close()
		}
	}()
	for ctx.Err() == nil && (limit == 0 || s.sent() < end) {
		if c == nil {
			s.id = s.base + lives*s.dials
			s.dials++
			var err error
			if c, err = s.dial(ctx, s); err != nil {
				pause(ctx, time.Millisecond)
				continue
			}
		}
		if s.batch(c) != nil {
			c.Close()
			c = nil
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func (s *source) batch(c client) error {
	s.mu.Lock()
	from := s.next
	s.next += uint32(s.window)
	s.mu.Unlock()
	var out [][]byte
	for i := range s.window {
		out = append(out, payload(number{s.id, from + uint32(i)}, s.size()))
	}
	return c.publish(s, from, out)
}

func (s *source) sent() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next
}

// ack notes an acknowledgement.
func (s *source) ack(n uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = append(s.acked, number{s.id, n})
	if s.first != nil {
		s.first(number{s.id, n})
	}
}

func (s *source) ackedSoFar() []number {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.acked)
}

// ackPatience is how long a source waits for an acknowledgement before it connects anew.
const ackPatience = 5 * time.Second

func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: time.Second}
	return d.DialContext(ctx, "tcp", addr)
}

// mqttClient speaks as much of MQTT 3.1.1 as it takes to publish at QoS 1.
type mqttClient struct {
	net.Conn
	r   *bufio.Reader
	out []byte
}

func dialMQTT(addr string) func(context.Context, *source) (client, error) {
	return func(ctx context.Context, s *source) (client, error) {
		conn, err := dialTCP(ctx, addr)
		if err != nil {
			return nil, err
		}
		c := &mqttClient{Conn: conn, r: bufio.NewReader(conn)}
		body := append([]byte("\x00\x04MQTT\x04\x02\x00\x00"), mqttString(fmt.Sprintf("s%d", s.id))...)
		conn.SetDeadline(time.Now().Add(ackPatience))
		if _, err = conn.Write(append([]byte{0x10, byte(len(body))}, body...)); err == nil {
			var head, rest []byte
			if head, rest, err = readMQTT(c.r); err == nil && (head[0]>>4 != 2 || len(rest) != 2 || rest[1] != 0) {
				err = fmt.Errorf("MQTT connect refused: %x %x", head, rest)
			}
		}
		if err != nil {
			conn.Close()
			return nil, err
		}
		return c, nil
	}
}

func mqttString(s string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...)
}

// readMQTT reads one packet: its first byte, and what follows the remaining length.
func readMQTT(r *bufio.Reader) (head, body []byte, err error) {
	first, err := r.ReadByte()
	if err != nil {
		return nil, nil, err
	}
	n, err := binary.ReadUvarint(r) // the same encoding
	if err != nil || n > 1<<28 {
		return nil, nil, fmt.Errorf("MQTT length %d: %w", n, err)
	}
	body = make([]byte, n)
	_, err = io.ReadFull(r, body)
	return []byte{first}, body, err
}

func (c *mqttClient) publish(s *source, from uint32, payloads [][]byte) error {
	c.out = c.out[:0]
	topic := mqttString(s.topic())
	for i, p := range payloads {
		c.out = append(c.out, 0x32)
		c.out = binary.AppendUvarint(c.out, uint64(len(topic)+2+len(p)))
		c.out = append(c.out, topic...)
		c.out = binary.BigEndian.AppendUint16(c.out, packetID(from+uint32(i)))
		c.out = append(c.out, p...)
	}
	c.SetDeadline(time.Now().Add(ackPatience))
	if _, err := c.Write(c.out); err != nil {
		return err
	}
	for i := range payloads {
		head, body, err := readMQTT(c.r)
		if err != nil {
			return err
		}
		n := from + uint32(i)
		if head[0] != 0x40 || len(body) != 2 || binary.BigEndian.Uint16(body) != packetID(n) {
			return fmt.Errorf("packet %x %x instead of the PUBACK of %d", head, body, n)
		}
		s.ack(n)
	}
	return nil
}

func packetID(n uint32) uint16 { return uint16(n%65535) + 1 }

// natsClient publishes with a reply subject and takes the PubAck for it.
type natsClient struct {
	net.Conn
	r   *bufio.Reader
	out []byte
}

func dialNATS(addr string) func(context.Context, *source) (client, error) {
	return func(ctx context.Context, s *source) (client, error) {
		conn, err := dialTCP(ctx, addr)
		if err != nil {
			return nil, err
		}
		c := &natsClient{Conn: conn, r: bufio.NewReader(conn)}
		conn.SetDeadline(time.Now().Add(ackPatience))
		_, err = c.r.ReadString('\n') // INFO
		if err == nil {
			_, err = fmt.Fprintf(conn, "CONNECT {\"verbose\":false,\"headers\":true}\r\nSUB %s.* 1\r\nPING\r\n", natsInbox(s.id))
		}
		for line := ""; err == nil && line != "PONG\r\n"; {
			line, err = c.r.ReadString('\n')
		}
		if err != nil {
			conn.Close()
			return nil, err
		}
		return c, nil
	}
}

const natsInboxes = "_INBOX.crash."

func natsInbox(src uint32) string { return natsInboxes + strconv.Itoa(int(src)) }

func (c *natsClient) publish(s *source, from uint32, payloads [][]byte) error {
	c.out = c.out[:0]
	for i, p := range payloads {
		c.out = fmt.Appendf(c.out, "PUB %s %s.%d %d\r\n", s.subject(), natsInbox(s.id), from+uint32(i), len(p))
		c.out = append(append(c.out, p...), "\r\n"...)
	}
	c.SetDeadline(time.Now().Add(ackPatience))
	if _, err := c.Write(c.out); err != nil {
		return err
	}
	for acked := 0; acked < len(payloads); {
		line, err := c.r.ReadBytes('\n')
		if err != nil {
			return err
		}
		if bytes.HasPrefix(line, []byte("PING")) {
			if _, err := c.Write([]byte("PONG\r\n")); err != nil {
				return err
			}
			continue
		}
		m, size, ok := natsReply(line)
		if !ok {
			return fmt.Errorf("NATS: %q instead of a PubAck", line)
		}
		body := make([]byte, size+2)
		if _, err := io.ReadFull(c.r, body); err != nil {
			return err
		}
		if !isPubAck(body) {
			return fmt.Errorf("NATS: %q instead of a PubAck", body)
		}
		s.ack(m.N)
		acked++
	}
	return nil
}

// natsReply reads the line of a MSG to an inbox of a source.
func natsReply(line []byte) (m number, size int, ok bool) {
	f := bytes.Fields(line)
	if len(f) < 4 || string(f[0]) != "MSG" || !bytes.HasPrefix(f[1], []byte(natsInboxes)) {
		return m, 0, false
	}
	if _, err := fmt.Sscanf(string(f[1][len(natsInboxes):]), "%d.%d", &m.Src, &m.N); err != nil {
		return m, 0, false
	}
	size, err := strconv.Atoi(string(f[len(f)-1]))
	return m, size, err == nil
}

func isPubAck(body []byte) bool {
	return bytes.Contains(body, []byte(`"stream"`)) && !bytes.Contains(body, []byte(`"error"`))
}
