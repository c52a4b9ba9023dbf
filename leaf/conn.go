package leaf

import (
	"errors"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/table"
)

// gather is how many full reads may be answered with one write.
const gather = 4

// conn is one NATS client. It is the Sink of its subscriptions.
type conn struct {
	// Static after newConn.
	srv  *Server
	nc   net.Conn
	id   uint64
	in   *Inbound
	out  *Outbound
	port *Port

	served *sync.WaitGroup // static after admit; done once the connection has ended

	// Owned by the reader; static once the client has connected.
	headers, noResponders, verbose, pedantic bool

	// Owned by the reader.
	parser *parser // nil while the connection is parked, unless an operation is incomplete
	ready  bool    // CONNECT was accepted, or none is needed

	plain bool // guarded by out.mu: the client does not understand headers

	pings atomic.Int32 // sent and not answered

	mu   sync.Mutex
	subs table.Table[string, *msg.Sub] // guarded by mu; by sid
}

// read handles what comes until the connection ends or is idle, and says which. It
// flushes after each read or, while more is there already, after a few: fewer and
// longer writes cost less.
func (c *conn) read() (err error) {
	defer c.srv.survive(c, &err)
	if c.parser == nil {
		c.parser = c.srv.newParser(c.ready)
	}
	for n := 0; ; {
		b, err := c.in.Next(n == 0)
		if err == nil {
			err = c.handle(b)
			n++
		}
		if n > 0 && (err != nil || n == gather || !c.in.Full()) {
			c.port.Flush()
			c.out.Flush()
			if n = 0; err == ErrIdle {
				continue
			}
		}
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
		case opInfo, opOK:
			continue
		case opErr:
			return &ProtoError{Text: "the client reports an error", Detail: string(o.arg), Fatal: true}
		case opConnect:
			err = c.handleConnect(o.arg)
		}
		if err != nil {
			if err = c.tell(err); err != nil {
				return err
			}
		} else if c.verbose && o.kind != opMsg {
			c.out.Append(okLine)
		}
	}
	return nil
}

var okLine = []byte("+OK\r\n") // never written to

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
	if c.pedantic && !literalTokens(m.Subject) {
		c.tell(errInvalidPublishSubject) // and it is published, as by nats-server
	}
	if len(m.Header) > 0 && !c.headers {
		return errHeadersOff
	}
	if c.verbose { // before what the publish brings the client itself, as from nats-server
		c.out.Append(okLine)
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
	if _, ok := c.subs.Get(string(o.sid)); ok {
		return nil // a repeated sid changes nothing, as in nats-server
	}
	if c.srv.opts.MaxSubs > 0 && c.subs.Len() >= c.srv.opts.MaxSubs {
		return errTooManySubs
	}
	sub := &msg.Sub{Subject: string(o.subj), Queue: string(o.queue), SID: append([]byte(nil), o.sid...)}
	c.subs.Put(string(sub.SID), sub)
	return c.port.Subscribe(sub)
}

func (c *conn) handleUnsub(o *op) {
	c.mu.Lock()
	sub, _ := c.subs.Get(string(o.sid))
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
	if known, _ := c.subs.Get(string(sub.SID)); known == sub {
		c.subs.Remove(string(sub.SID))
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
			c.log().Warn("client refused", "name", info.Name, "user", info.User, "err", err)
			return errAuthorization
		}
		c.nc.SetReadDeadline(time.Time{})
		c.in.MayPark(c.srv.parking, c)
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
