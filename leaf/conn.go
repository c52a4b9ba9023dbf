package leaf

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/table"
)

// gather is how many full reads may be answered with one write.
const gather = 4

// conn is one NATS client. It is the Sink of its subscriptions.
type conn struct {
	// Static after newConn.
	srv    *Server
	nc     net.Conn
	id     uint64
	in     *Inbound
	out    *Outbound
	nonce  string          // static after newConn: what an nkey has to sign; empty if none may
	served *sync.WaitGroup // static after admit; done once the connection has ended

	// Owned by the reader; static once the client has connected.
	port                                     *Port // of its account, put here under mu; before that one of nobody
	headers, noResponders, verbose, pedantic bool

	// Owned by the reader.
	parser   *parser // nil while the connection is parked, unless an operation is incomplete
	ready    bool    // CONNECT was accepted, or none is needed
	halfOpen bool    // counted by auth as one that has not logged in
	grant    *Grant  // nil before ready; put here under mu
	placed   bool    // the client was told its account

	tracer *tracer // owned by the reader; nil: no trace

	news      atomic.Bool // Reload has changed what the reader goes by
	asyncInfo atomic.Bool // the client takes an INFO at any time

	plain bool // guarded by out.mu: the client does not understand headers

	pings atomic.Int32 // sent and not answered
	meter meter

	mu   sync.Mutex
	subs table.Table[string, *msg.Sub] // guarded by mu; by sid
}

// read handles what comes until the connection ends or is idle, and says which. It
// flushes after each read or, while more is there already, after a few: fewer and
// longer writes cost less.
func (c *conn) read() (err error) {
	defer c.srv.survive(c, &err)
	if c.parser == nil {
		c.parser = c.newParser()
	}
	for n := 0; ; {
		b, err := c.in.Next(n == 0)
		if err == nil {
			c.overhear(b)
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
	if !c.ready {
		if err := c.beginWithout(b); err != nil {
			return err
		}
	}
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
			c.handlePing()
			continue
		case opPong:
			c.pings.Store(0)
			c.meter.pong()
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
		err = ErrNotAuthorized
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
	if len(m.Reply) > 0 && reservedReply(m.Reply) {
		return c.violation(fmt.Sprintf("Publish with Reply of %q", m.Reply))
	}
	if len(m.Subject) == len(userInfoSubject) && c.askedAboutUser(m) {
		return nil
	}
	if c.verbose && c.port.mayPublish(m.Subject) { // before what the publish brings the client itself, as from nats-server
		c.out.Append(okLine)
	}
	if rc := c.port.Publish(m); rc.Taken == 0 {
		return c.untaken(m, rc)
	}
	return nil
}

// untaken tells the client why nobody got its message, where it wants to know.
func (c *conn) untaken(m *msg.Msg, rc msg.Receipt) error {
	switch {
	case rc.Refused == msg.Forbidden:
		return c.violation("Publish to " + strconv.Quote(string(m.Subject)))
	case rc.Refused == msg.Taken && c.noResponders && len(m.Reply) > 0:
		c.sayNoResponders(m)
	}
	return nil
}

func (c *conn) handleSub(o *op) error {
	if !msg.ValidFilter(o.subj) || o.queue != nil && !msg.ValidQueue(o.queue) {
		return errInvalidSubject
	}
	sub := &msg.Sub{Subject: string(o.subj), Queue: string(o.queue), SID: append([]byte(nil), o.sid...)}
	if !c.port.MaySubscribe(sub.Subject, sub.Queue) {
		return c.violation(subscriptionTo(sub))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.subs.Get(string(o.sid)); ok {
		return nil // a repeated sid changes nothing, as in nats-server
	}
	if most := least(c.srv.opts.Load().MaxSubs, c.grant.Limits.MaxSubs); most > 0 && c.subs.Len() >= most {
		return errTooManySubs
	}
	c.subs.Put(string(sub.SID), sub)
	err := c.port.Subscribe(sub)
	if errors.Is(err, ErrForbidden) { // since it was asked
		c.subs.Remove(string(sub.SID))
		return c.violation(subscriptionTo(sub))
	}
	return err
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
	c.meter.out.Msgs++
	c.meter.out.Bytes += uint64(len(m.Header) + len(m.Data))
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
