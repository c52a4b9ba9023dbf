package leaf

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/leafd/leafd/internal/secure"
)

// This file is a client's connection from its first goroutine to its end. What it does
// in between is conn.go.

func newConn(s *Server, nc net.Conn, id uint64) *conn {
	o := s.opts.Load()
	c := &conn{srv: s, nc: nc, id: id, in: NewInbound(nc), plain: true,
		verbose: true, pedantic: true} // as nats-server is until it is told otherwise
	c.out = NewOutbound(nc, o.Outbound, c.in.Wake)
	c.out.setTap(c.outTap(o))
	c.news.Store(true)
	c.meter.start = time.Now().UnixNano()
	if s.auth.challenges(connType(nc)) {
		c.nonce = newNonce()
	}
	if !s.auth.Required(connType(nc)) && c.enter(&Login{Type: connType(nc)}) == nil {
		return c
	}
	c.port = s.router.Attach(c.name(), c, EachSub)
	return c
}

func (c *conn) name() string { return "nats:" + strconv.FormatUint(c.id, 10) }

// newParser is one for what the client may say now.
func (c *conn) newParser() *parser {
	p := parsers.Get().(*parser)
	p.budget = c.srv.opts.Load().Outbound.Budget
	c.limit(p)
	return p
}

// limit sets what the client may say: before it has said who it is, CONNECT alone.
func (c *conn) limit(p *parser) {
	o := c.srv.opts.Load()
	p.verbs, p.maxLine, p.maxPayload = loginVerbs, min(o.MaxControlLine, maxLoginLine), o.MaxPayload
	if c.ready {
		p.verbs, p.maxLine, p.maxPayload = clientVerbs, o.MaxControlLine, least(o.MaxPayload, c.grant.Limits.MaxPayload)
	}
}

// log is made when there is something to say: most connections never do.
func (c *conn) log() *slog.Logger { return c.srv.log.With("conn", c.port.Name()) }

// serve is the connection's first goroutine: it says what a client hears first.
func (c *conn) serve() {
	if err := c.open(); err != nil {
		c.end(err)
		return
	}
	if c.ready {
		c.in.MayPark(c.srv.parking, c)
	} else {
		c.nc.SetReadDeadline(time.Now().Add(c.srv.auth.timeout()))
	}
	c.Resume()
}

// Resume implements [Reader]. It is the connection's goroutine, and lasts until the
// connection ends or has nothing to say for a while.
func (c *conn) Resume() {
	err := c.read()
	for errors.Is(err, ErrIdle) {
		c.rest()
		if c.in.Park() {
			return // nothing here is ours any more
		}
		err = c.read()
	}
	c.end(err)
}

// rest gives up what is of no use until the client says something.
func (c *conn) rest() {
	c.port.Rest()
	if p := c.parser; p != nil && p.idle() {
		c.parser = nil
		putParser(p)
	}
}

// end lets go of the connection.
func (c *conn) end(err error) {
	c.port.Close()
	c.port.Flush()
	err = c.leave(err)
	if c.parser != nil {
		c.parser.forget()
	}
	c.release()
	c.out.Wait()
	c.in.Leave()
	c.srv.ended(c, err)
}

// tick is called now and then by the server's keeper: it asks a silent client
// whether it is there, and ends one that has not answered. It reports whether the
// client has a goroutine.
func (c *conn) tick() (awake bool) {
	o := c.srv.opts.Load()
	if Mono()-c.in.Heard() < o.PingInterval*time.Duration(1+c.pings.Load()) {
		return c.in.Nudge()
	}
	if int(c.pings.Add(1)) > o.PingMax {
		c.srv.counters.StaleConns.Add(1)
		c.out.Append([]byte("-ERR 'Stale Connection'\r\n"))
		c.out.Flush()
		c.out.Close(errStale)
		return true
	}
	c.ping()
	return true
}

// leave ends the connection, writes the one line that says why, and returns it.
func (c *conn) leave(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = c.tell(errAuthTimeout)
	}
	c.out.Flush()
	c.hearOut(err)
	if cut := c.out.Err(); cut != nil { // the reader saw only a closed socket
		err = cut
	}
	if why := c.meter.cut.Load(); why != nil {
		err = *why
	}
	c.out.Close(nil)
	var pe *ProtoError
	var he *secure.HandshakeError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed) && c.srv.stopping.Load(), err == nil:
		c.log().Debug("client left")
	case errors.As(err, &he):
		c.srv.counters.ProtocolErrors.Add(1)
		c.log().Warn("client cut off", "err", he, "remote", c.nc.RemoteAddr())
	case errors.As(err, &pe), err == errUserGone, err == errKicked, errors.Is(err, ErrUnreadable):
		c.log().Warn("client cut off", "err", err, "remote", c.nc.RemoteAddr())
	case errors.Is(err, ErrSlowConsumer), errors.Is(err, ErrWriteDeadline):
		c.srv.counters.SlowConsumers.Add(1)
		c.port.CutOff()
		c.log().Warn("client cut off", "err", err, "remote", c.nc.RemoteAddr())
	default:
		c.log().Debug("client left", "err", strings.TrimSpace(err.Error()))
	}
	return err
}

// hearOutTime is how long a client has to go that was told why it must.
const hearOutTime = 50 * time.Millisecond

// hearOut reads away what such a client still says, until it goes. A socket that is
// closed with something unread takes back what was not yet read of it, and official
// clients say PING after a CONNECT that is refused.
func (c *conn) hearOut(why error) {
	var pe *ProtoError
	if !errors.As(why, &pe) || pe == errAuthTimeout || c.out.Err() != nil { // who was too late says nothing
		return
	}
	c.nc.SetReadDeadline(time.Now().Add(hearOutTime))
	b := make([]byte, 512)
	for err := error(nil); err == nil; {
		_, err = c.nc.Read(b)
	}
}

// ProtoError is a violation of the protocol. Text is what the peer is told, as
// in -ERR 'Text'; the connection is closed if it is Fatal.
type ProtoError struct {
	Text   string
	Detail string // for the log
	Fatal  bool

	ended string // how nats-server's /connz calls the end of a connection for it; "": Protocol Violation
}

func (e *ProtoError) Error() string {
	if e.Detail == "" {
		return e.Text
	}
	return e.Text + ": " + e.Detail
}

var (
	errAuthTimeout           = &ProtoError{Text: "Authentication Timeout", Fatal: true, ended: "Authentication Timeout"}
	errStale                 = &ProtoError{Text: "Stale Connection", Fatal: true, ended: "Stale Connection"}
	errTooManyConns          = &ProtoError{Text: "maximum connections exceeded", Fatal: true, ended: "Maximum Connections Exceeded"}
	errTooManySubs           = &ProtoError{Text: "maximum subscriptions exceeded", ended: "Maximum Subscriptions Exceeded"}
	errInvalidSubject        = &ProtoError{Text: "Invalid Subject"}
	errInvalidPublishSubject = &ProtoError{Text: "Invalid Publish Subject"}
	errHeadersOff            = &ProtoError{Text: "message headers not supported", Fatal: true, ended: "Message Header Violation"}

	errUserGone = errors.New("its user was removed, or is in another account now")
	errKicked   = errors.New("it was kicked by a system request")

	errNoRespondersNeedHeaders = &ProtoError{Text: "no responders requires headers support", Fatal: true, ended: "No Responders Requires Headers"}
)
