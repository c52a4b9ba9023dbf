package leaf

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// conn is one NATS client. It is the Sink of its subscriptions.
type conn struct {
	// Static after newConn.
	srv  *Server
	nc   net.Conn
	id   uint64
	in   *Inbound
	out  *Outbound
	port *Port
	log  *slog.Logger

	// Owned by the reader; static once the client has connected.
	headers, noResponders, verbose, pedantic bool

	// Owned by the reader.
	parser parser
	ready  bool // CONNECT was accepted, or none is needed

	plain bool // guarded by out.mu: the client does not understand headers

	active atomic.Int64 // Unix nanoseconds of the last read
	pings  atomic.Int32 // sent and not answered

	mu   sync.Mutex
	subs map[string]*msg.Sub // guarded by mu; by sid
}

func newConn(s *Server, nc net.Conn, id uint64) *conn {
	c := &conn{srv: s, nc: nc, id: id, in: NewInbound(nc), out: NewOutbound(nc, s.opts.Outbound)}
	name := "nats:" + strconv.FormatUint(id, 10)
	c.port = s.router.Attach(name, c, EachSub)
	c.log = s.log.With("conn", name)
	c.active.Store(time.Now().UnixNano())
	c.parser = parser{verbs: clientVerbs, maxLine: s.opts.MaxControlLine, maxPayload: s.opts.MaxPayload}
	c.ready, c.plain = true, true
	if s.opts.Authenticate != nil {
		c.ready, c.parser.verbs = false, loginVerbs
	}
	return c
}

// serve is the whole life of the connection: greet, read until an error, leave.
func (c *conn) serve() {
	c.out.Append(c.srv.infoLine(c.id, c.nc))
	c.out.Flush()
	if !c.ready {
		c.nc.SetReadDeadline(time.Now().Add(c.srv.opts.AuthTimeout))
	}
	err := c.read()
	c.port.Close()
	c.port.Flush()
	c.leave(err)
	c.out.Wait()
}

// read handles what comes until the connection ends, and says why it did.
func (c *conn) read() error {
	for {
		b, err := c.in.Next()
		if err != nil {
			return err
		}
		c.active.Store(time.Now().UnixNano())
		err = c.handle(b)
		c.port.Flush()
		c.out.Flush()
		if err != nil {
			return err
		}
	}
}

// handle is the protocol: each operation in b, one handler each.
func (c *conn) handle(b []byte) error {
	for len(b) > 0 {
		n, o, err := c.parser.next(b)
		if err != nil {
			return c.reject(err)
		}
		b = b[n:]
		if o == nil {
			return nil
		}
		switch o.kind {
		case opMsg:
			err = c.handlePub(&o.m)
		case opSub:
			err = c.handleSub(o)
		case opUnsub:
			c.handleUnsub(o)
		case opPing:
			c.out.Append([]byte("PONG\r\n"))
			continue
		case opPong:
			c.pings.Store(0)
			continue
		case opConnect:
			err = c.handleConnect(o.arg)
		}
		if err != nil {
			if err = c.tell(err); err != nil {
				return err
			}
		} else if c.verbose {
			c.out.Append([]byte("+OK\r\n"))
		}
	}
	return nil
}

// reject turns what the parser refused into what the peer is told. Before the
// client has said who it is, everything but CONNECT is a breach of that.
func (c *conn) reject(err error) error {
	if !c.ready && errors.Is(err, errUnknownVerb) {
		err = errAuthorization
	}
	return c.tell(err)
}

// tell sends -ERR. It returns the error if the connection must end.
func (c *conn) tell(err error) error {
	var pe *ProtoError
	if !errors.As(err, &pe) {
		return err
	}
	c.srv.counters.ProtocolErrors.Add(1)
	c.out.Append([]byte("-ERR '" + pe.Text + "'\r\n"))
	if pe.Fatal {
		return err
	}
	return nil
}

// handlePub is the hot path.
func (c *conn) handlePub(m *msg.Msg) error {
	if c.pedantic && !msg.ValidSubject(m.Subject) {
		return errInvalidPublishSubject
	}
	if len(m.Header) > 0 && !c.headers {
		return errHeadersOff
	}
	rc := c.port.Publish(m)
	if rc.Taken == 0 && rc.Refused == msg.Taken && c.noResponders && len(m.Reply) > 0 {
		c.sayNoResponders(m)
	}
	return nil
}

// sayNoResponders answers a request that nobody received with status 503, which
// goes to the client's own subscription for the reply and nowhere else.
func (c *conn) sayNoResponders(m *msg.Msg) {
	sub := c.port.hasOwn(m.Reply)
	if sub == nil {
		return
	}
	head := "NATS/1.0 503\r\nNats-Subject: " + string(m.Subject) + "\r\n\r\n"
	c.Deliver(&msg.Msg{Subject: m.Reply, Header: []byte(head)}, sub)
}

func (c *conn) handleSub(o *op) error {
	if !msg.ValidFilter(o.subj) || o.queue != nil && !msg.ValidQueue(o.queue) {
		return errInvalidSubject
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.subs[string(o.sid)]; ok {
		return nil // a repeated sid changes nothing, as in nats-server
	}
	if c.srv.opts.MaxSubs > 0 && len(c.subs) >= c.srv.opts.MaxSubs {
		return errTooManySubs
	}
	sub := &msg.Sub{Subject: string(o.subj), Queue: string(o.queue), SID: append([]byte(nil), o.sid...)}
	if c.subs == nil {
		c.subs = map[string]*msg.Sub{}
	}
	c.subs[string(sub.SID)] = sub
	return c.port.Subscribe(sub)
}

func (c *conn) handleUnsub(o *op) {
	c.mu.Lock()
	sub := c.subs[string(o.sid)]
	c.mu.Unlock()
	if sub == nil {
		return
	}
	c.out.mu.Lock()
	sub.Max = uint64(o.n)
	over := sub.Delivered >= sub.Max
	c.out.mu.Unlock()
	if over { // also when no maximum was given
		c.retire(sub)
	}
}

// retire ends a subscription. Safe for any goroutine.
func (c *conn) retire(sub *msg.Sub) {
	c.port.Unsubscribe(sub)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.subs[string(sub.SID)] == sub {
		delete(c.subs, string(sub.SID))
	}
}

// handleConnect accepts the client or ends the connection. A second CONNECT may
// change options, as in nats-server, but not who the client is.
func (c *conn) handleConnect(arg []byte) error {
	info, err := parseConnect(arg)
	if err != nil {
		return err
	}
	if !c.ready {
		if err := c.srv.opts.Authenticate(info); err != nil {
			c.srv.counters.AuthErrors.Add(1)
			c.log.Warn("client refused", "name", info.Name, "user", info.User, "err", err)
			return errAuthorization
		}
		c.nc.SetReadDeadline(time.Time{})
	}
	c.ready, c.parser.verbs = true, clientVerbs
	c.headers, c.noResponders = info.Headers, info.NoResponders
	c.out.mu.Lock() // Deliver reads headers under it
	c.plain = !info.Headers
	c.out.mu.Unlock()
	c.verbose, c.pedantic = info.Verbose, info.Pedantic
	c.port.Echo(info.Echo == nil || *info.Echo)
	c.in.Trust()
	return nil
}

// Deliver implements [msg.Sink]: it appends m as MSG or HMSG to what waits for
// the client.
func (c *conn) Deliver(m *msg.Msg, sub *msg.Sub) msg.Drop {
	b, ok := c.out.Begin(len(m.Subject) + len(m.Reply) + len(sub.SID) + len(m.Header) + len(m.Data) + 40)
	if !ok {
		return msg.Gone
	}
	if sub.Max > 0 && sub.Delivered >= sub.Max {
		c.out.End(b)
		return msg.Gone
	}
	sub.Delivered++
	last := sub.Delivered == sub.Max
	d := c.out.End(appendMsg(b, m, sub.SID, !c.plain))
	if last {
		c.retire(sub)
	}
	if d == msg.SlowConsumer {
		c.srv.counters.SlowConsumers.Add(1)
	}
	return d
}

// appendMsg encodes m for a client: MSG, or HMSG if there is a header and the
// client understands it. (NATS client protocol, MSG and HMSG.)
func appendMsg(b []byte, m *msg.Msg, sid []byte, headers bool) []byte {
	if len(m.Header) > 0 && headers {
		b = append(b, "HMSG "...)
	} else {
		b = append(b, "MSG "...)
	}
	b = append(b, m.Subject...)
	b = append(b, ' ')
	b = append(b, sid...)
	b = append(b, ' ')
	if len(m.Reply) > 0 {
		b = append(b, m.Reply...)
		b = append(b, ' ')
	}
	return appendPayload(b, m, headers)
}

// appendPayload encodes the sizes, header and data that end every message verb.
func appendPayload(b []byte, m *msg.Msg, headers bool) []byte {
	if len(m.Header) > 0 && headers {
		b = appendSize(b, len(m.Header))
		b = append(b, ' ')
		b = appendSize(b, len(m.Header)+len(m.Data))
		b = append(b, "\r\n"...)
		b = append(b, m.Header...)
	} else {
		b = appendSize(b, len(m.Data))
		b = append(b, "\r\n"...)
	}
	b = append(b, m.Data...)
	return append(b, "\r\n"...)
}

// appendSize is strconv.AppendUint for the small numbers that sizes are.
func appendSize(b []byte, n int) []byte {
	switch {
	case n < 10:
		return append(b, byte('0'+n))
	case n < 100:
		return append(b, byte('0'+n/10), byte('0'+n%10))
	case n < 1000:
		return append(b, byte('0'+n/100), byte('0'+n/10%10), byte('0'+n%10))
	}
	return strconv.AppendUint(b, uint64(n), 10)
}

// Flush implements [msg.Flusher].
func (c *conn) Flush() (behind <-chan struct{}) { return c.out.Flush() }

// tick is called now and then by the server's keeper: it asks a silent client
// whether it is there, and ends one that has not answered.
func (c *conn) tick(now time.Time) {
	o := &c.srv.opts
	if now.Sub(time.Unix(0, c.active.Load())) < o.PingInterval*time.Duration(1+c.pings.Load()) {
		return
	}
	if int(c.pings.Add(1)) > o.PingMax {
		c.out.Append([]byte("-ERR 'Stale Connection'\r\n"))
		c.out.Flush()
		c.out.Close(errStale)
		return
	}
	c.out.Append([]byte("PING\r\n"))
	c.out.Flush()
}

// leave ends the connection and writes the one line that says why.
func (c *conn) leave(err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = c.tell(errAuthTimeout)
	}
	c.out.Flush()
	if cut := c.out.Err(); cut != nil { // the reader saw only a closed socket
		err = cut
	}
	c.out.Close(nil)
	var pe *ProtoError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed) && c.srv.stopping.Load(), err == nil:
		c.log.Debug("client left")
	case errors.As(err, &pe):
		c.log.Warn("client cut off", "err", pe, "remote", c.nc.RemoteAddr())
	case errors.Is(err, ErrSlowConsumer), errors.Is(err, ErrWriteDeadline):
		c.log.Warn("client cut off", "err", err, "remote", c.nc.RemoteAddr())
	default:
		c.log.Debug("client left", "err", strings.TrimSpace(err.Error()))
	}
}

var (
	errAuthorization         = &ProtoError{Text: "Authorization Violation", Fatal: true}
	errAuthTimeout           = &ProtoError{Text: "Authentication Timeout", Fatal: true}
	errStale                 = &ProtoError{Text: "Stale Connection", Fatal: true}
	errTooManyConns          = &ProtoError{Text: "maximum connections exceeded", Fatal: true}
	errTooManySubs           = &ProtoError{Text: "maximum subscriptions exceeded"}
	errInvalidSubject        = &ProtoError{Text: "Invalid Subject"}
	errInvalidPublishSubject = &ProtoError{Text: "Invalid Publish Subject"}
	errHeadersOff            = &ProtoError{Text: "message headers not supported", Fatal: true}
)
