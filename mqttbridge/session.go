package mqttbridge

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/table"
	"github.com/leafd/leafd/leaf"
	"github.com/leafd/leafd/mqttbridge/packet"
)

const (
	// maxConnect bounds a CONNECT in bytes: nobody who has not said who they are
	// gets more memory than this and a read buffer.
	maxConnect = 8 << 10
	// smallCarry is the largest buffer an idle session keeps for a packet that
	// came in parts.
	smallCarry = 1 << 10
	// drainLimit bounds how long a session that the server ends waits for the
	// barriers of what it has taken.
	drainLimit = 5 * time.Second
)

// session is one MQTT client. It is the Sink of its subscriptions.
type session struct {
	// Static after newSession.
	srv   *Server
	nc    net.Conn
	id    uint64
	start time.Time
	in    *leaf.Inbound
	out   *leaf.Outbound
	done  chan struct{} // closed once the session has ended and its will is published
	quit  chan struct{} // closed by close

	// Static once the session is connected; written by the read loop before it
	// stores connected.
	version   packet.Version
	clientID  string
	user      string
	keepAlive time.Duration // how long it may be silent; 0 means for ever
	port      *leaf.Port    // nil until CONNECT was accepted
	grant     *leaf.Grant   // nil until login
	connected atomic.Bool

	// Owned by the read loop.
	halfOpen bool                               // counted by Auth as one that has not logged in
	carry    []byte                             // a packet whose end has not been read yet
	subs     table.Table[string, *subscription] // by filter
	will     *msg.Msg
	pub      *publisher // nil until it publishes, and while it is parked
	wrote    bool       // something was appended to out since the last flush
	inMsgs   uint64     // since the last settle
	inSize   uint64     // likewise, bytes of payload
	acks     *acks      // has a lock of its own; nil until something is to be acknowledged

	unreleased *idSet // owned by the read loop: of QoS 2 messages that came and whose PUBREL did not; nil: none

	delivery delivery // guarded by the lock of out, between Begin and End

	late     time.Duration // owned by the server's keeper: when it saw that the keep alive is nearly over; 0: it is not
	heard    atomic.Int64  // when we last listened and something had come, by leaf.Mono; 0: nothing came
	traffic  traffic
	numSubs  atomic.Int64
	closing  sync.Once
	closedBy error           // written before quit is closed
	served   *sync.WaitGroup // static after admit; done once the session has ended
}

func newSession(srv *Server, nc net.Conn, id uint64) *session {
	s := &session{
		srv: srv, nc: nc, id: id, start: time.Now(), in: leaf.NewInbound(nc),
		done: make(chan struct{}), quit: make(chan struct{}),
	}
	s.out = leaf.NewOutbound(nc, leaf.OutboundOptions{MaxPending: srv.opts.Load().MaxPending, WriteDeadline: srv.opts.Load().WriteDeadline,
		Budget: srv.opts.Load().Budget}, s.in.Wake)
	return s
}

// serve is the connection's first goroutine.
func (s *session) serve() {
	s.setReadDeadline(s.start.Add(s.srv.opts.Load().ConnectTimeout))
	s.Resume()
}

// Resume implements [leaf.Reader]. It is the connection's goroutine, and lasts until
// the connection ends or has nothing to say for a while.
func (s *session) Resume() {
	cause := s.guard(s.read)
	for errors.Is(cause, leaf.ErrIdle) {
		s.rest()
		if s.in.Park() {
			return // nothing here is ours any more
		}
		cause = s.guard(s.read)
	}
	s.end(cause)
	s.release()
	s.in.Leave()
	close(s.done)
	s.out.Wait()
	s.served.Done()
}

// rest gives up what is of no use until the client says something.
func (s *session) rest() {
	s.port.Rest()
	if s.unreleased != nil && s.unreleased.n == 0 {
		s.unreleased = nil
	}
	if p := s.pub; p != nil {
		s.pub = nil
		p.packet, p.msg = packet.Publish{}, msg.Msg{} // borrowed
		publishers.Put(p)
	}
}

// release gives back what Auth counts.
func (s *session) release() {
	s.endHalfOpen()
	if s.grant != nil {
		s.grant.Close()
	}
}

func (s *session) endHalfOpen() {
	if s.halfOpen {
		s.halfOpen = false
		s.srv.opts.Load().Auth.Leave(s.nc.RemoteAddr())
	}
}

// guard turns a panic into the end of this connection alone.
func (s *session) guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.srv.counters.panics.Add(1)
			s.srv.log.Error("MQTT handler failed; this is a bug, please report it", "conn", s.name(), "panic", p)
			err = errHandlerPanicked
		}
	}()
	return f()
}

// read handles what comes until the connection ends or is idle, and says which.
func (s *session) read() error {
	for {
		b, err := s.in.Next(true)
		if err != nil {
			return s.leave(s.readError(err))
		}
		if err := s.take(b); err != nil {
			return err
		}
		if s.acks != nil && s.acks.wait(s.srv.opts.Load().MaxUnacked, s.quit) {
			s.hear() // it was we who did not listen
		}
	}
}

// take handles what one read brought.
func (s *session) take(b []byte) error {
	err := s.consume(b)
	s.settle()
	s.hear() // after settle, which may have waited for the disk: then it was we who did not listen
	return err
}

// What a client is heard of once another has its place: about what sockets hold, and no longer than
// it takes to read that.
const (
	maxLeft  = 1 << 20 // bytes
	leftTime = 2 * time.Second
)

// leave says why the connection ends, once what the client sent before another took its
// place is handled: one that says goodbye and comes back at once may be here again before
// its last messages of QoS 0 and its DISCONNECT have been read. What waits behind
// acknowledgements that cannot reach it is not read: it comes again.
func (s *session) leave(cause error) error {
	if cause != errTakenOver {
		return cause
	}
	for n, until := 0, leaf.Mono()+leftTime; n < maxLeft && leaf.Mono() < until; {
		b := s.in.Left()
		n += len(b)
		if len(b) == 0 || s.acks != nil && s.acks.full(s.srv.opts.Load().MaxUnacked) {
			break
		}
		if err := s.take(b); err != nil {
			return err
		}
	}
	return cause
}

func (s *session) hear() { s.heard.Store(int64(leaf.Mono())) }

// settle finishes what one read brought: counters, acknowledgements, deliveries.
func (s *session) settle() {
	if s.port == nil {
		return
	}
	if s.inMsgs > 0 { // who is told of a message finds it counted
		s.traffic.inMsgs.Add(s.inMsgs)
		s.traffic.inBytes.Add(s.inSize)
		s.inMsgs, s.inSize = 0, 0
	}
	if s.acks != nil && s.acks.commit(s.srv.opts.Load().Barrier) {
		s.wrote = true
	}
	if s.wrote {
		s.out.Flush() // before the other, which may have to wait for the disk
		s.wrote = false
	}
	s.port.Flush()
}

// consume handles every packet that b completes and carries the rest over.
func (s *session) consume(b []byte) error {
	if len(s.carry) > 0 {
		var err error
		if b, err = s.resume(b); err != nil {
			return err
		}
	}
	for len(b) > 0 {
		h, ok, err := s.header(b)
		if err != nil {
			return err
		}
		size := h.Size + h.Len
		if !ok || len(b) < size {
			return s.keep(b, size)
		}
		if err := s.handle(h, b[h.Size:size]); err != nil {
			return err
		}
		b = b[size:]
	}
	return nil
}

// resume takes from b what the carried packet lacks, handles it once it is whole,
// and returns what follows it.
func (s *session) resume(b []byte) ([]byte, error) {
	for {
		h, ok, err := s.header(s.carry)
		if err != nil {
			return nil, err
		}
		size := h.Size + h.Len
		if !ok {
			size = len(s.carry) + 1 // the header is a byte longer at least
		} else if len(s.carry) == size {
			err := s.handle(h, s.carry[h.Size:])
			if s.carry = s.carry[:0]; cap(s.carry) > smallCarry {
				s.drop()
			}
			return b, err
		}
		if len(b) == 0 {
			return nil, nil
		}
		n := min(len(b), size-len(s.carry))
		if err := s.keep(b[:n], size); err != nil {
			return nil, err
		}
		b = b[n:]
	}
}

// keep appends b to the carried packet. The buffer grows eightfold up to the size
// the packet says, so that a length without bytes behind it costs little and a
// long packet is copied few times.
func (s *session) keep(b []byte, size int) error {
	if need := len(s.carry) + len(b); need > cap(s.carry) {
		room := max(need, min(max(size, packet.MaxHeader), 8*max(need, 128)))
		if s.srv.opts.Load().Budget.Hold(cap(s.carry), room) != nil {
			return errUnfinished
		}
		grown := make([]byte, len(s.carry), room)
		copy(grown, s.carry)
		s.carry = grown
	}
	s.carry = append(s.carry, b...)
	return nil
}

// drop gives up the carried packet.
func (s *session) drop() {
	s.srv.opts.Load().Budget.Hold(cap(s.carry), 0)
	s.carry = nil
}

// header reads a packet's header and holds it to the limits before its body is
// waited for.
func (s *session) header(b []byte) (packet.Header, bool, error) {
	limit := s.srv.opts.Load().MaxPacket
	if s.port == nil {
		limit = min(limit, maxConnect)
		if packet.Type(b[0]>>4) != packet.CONNECT {
			return packet.Header{}, false, errNotConnect // [MQTT-3.1.0-1]
		}
	}
	h, ok, err := packet.ParseHeader(b)
	if err == nil && h.Size+h.Len > limit {
		err = errTooLarge
	}
	return h, ok, err
}

// handle is the protocol: one handler for each packet a client may send.
func (s *session) handle(h packet.Header, body []byte) error {
	switch h.Type {
	case packet.PUBLISH:
		return s.handlePublish(h.Flags, body)
	case packet.PUBREL:
		return s.handlePubrel(body)
	case packet.PINGREQ:
		return s.handlePing(body)
	case packet.SUBSCRIBE:
		return s.handleSubscribe(body)
	case packet.UNSUBSCRIBE:
		return s.handleUnsubscribe(body)
	case packet.CONNECT:
		return s.handleConnect(body)
	case packet.DISCONNECT:
		return s.handleDisconnect(body)
	}
	return errUnexpected // acknowledgements of what was never sent, and the server's own packets
}

func (s *session) handlePing(body []byte) error {
	if len(body) > 0 {
		return packet.ErrTrailing
	}
	s.send(func(b []byte) []byte { return packet.AppendEmpty(b, packet.PINGRESP) }) // [MQTT-3.12.4-1]
	return nil
}

// errDisconnect is how a client ends a connection that it has no complaint about.
var errDisconnect = errors.New("client disconnected")

func (s *session) handleDisconnect(body []byte) error {
	var d packet.Disconnect
	if err := d.Decode(s.version, body); err != nil { // [MQTT-3.14.1-1]
		return err
	}
	s.will = nil // [MQTT-3.1.2-10] [MQTT-3.14.4-3]
	return errDisconnect
}

// send appends a packet to what waits for the client.
func (s *session) send(encode func(b []byte) []byte) {
	if b, ok := s.out.Begin(packet.MaxHeader); ok {
		s.out.End(encode(b))
		s.wrote = true
	}
}

// setReadDeadline bounds the next reads, unless the session is being closed: then
// none may wait.
func (s *session) setReadDeadline(t time.Time) {
	s.nc.SetReadDeadline(t)
	select {
	case <-s.quit:
		s.nc.SetReadDeadline(past)
	default:
	}
}

var past = time.Unix(1, 0)

// readError says why the connection ends, or that it is idle.
func (s *session) readError(err error) error {
	select {
	case <-s.quit:
		return s.closedBy
	default:
	}
	switch e := s.out.Err(); {
	case errors.Is(err, leaf.ErrIdle):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded) && s.port == nil:
		return errConnectTimeout
	case e != nil:
		return e
	case errors.Is(err, leaf.ErrUnreadable):
		return &packet.Error{Reason: packet.ProtocolError, Text: err.Error()}
	}
	return err
}

// tick is called now and then by the server's keeper: it ends a client that is silent
// for longer than it said it would be [MQTT-3.1.2-24], but not at the first look at one that nearly
// is: if it was this process that did not run, its words lie in the socket. It reports whether the
// client has a goroutine, and for how long nothing needs to be looked at.
func (s *session) tick() (awake bool, rest time.Duration) {
	rest = seldom
	if s.connected.Load() && s.keepAlive > 0 && !s.in.Busy() {
		if rest = s.patience(leaf.Mono()); rest <= 0 {
			s.close(errKeepAlive)
			return true, seldom
		}
	}
	return s.in.Nudge(), rest
}

// patience is how long the keeper waits before it looks again at a client that may be silent; 0 or
// less: it has been for too long.
func (s *session) patience(now time.Duration) time.Duration {
	left := max(time.Duration(s.heard.Load()), s.in.Heard()) + s.keepAlive - now
	if left > lookAgain {
		s.late = 0
		return left - lookAgain
	}
	if s.late == 0 {
		s.late = now
	}
	return max(left, s.late+lookAgain-now)
}

// lookAgain is how long a reader needs to get to what has come.
const lookAgain = time.Second

// close ends the session from any goroutine. It does not wait; done tells.
func (s *session) close(cause error) {
	s.closing.Do(func() {
		s.closedBy = cause
		close(s.quit)
		s.in.End(cause == errTakenOver)
	})
}

// end takes the session out of the subject space and lets go of the connection.
// What the server has acknowledged or refused still reaches the client; there is
// no point in that when the client is gone or another has its place.
func (s *session) end(cause error) {
	s.drop()
	if s.port != nil {
		s.port.Echo(false)
		s.publishWill()
		s.port.Close()
		s.port.Flush()
	}
	var fault *packet.Error
	errors.As(cause, &fault)
	told := fault != nil && fault != errTakenOver && fault != errKeepAlive
	if told && s.acks != nil && fault != errBarrier {
		ctx, cancel := context.WithTimeout(context.Background(), drainLimit)
		s.acks.wait(0, ctx.Done())
		cancel()
	}
	s.report(cause, fault)
	s.srv.forget(s) // before the client can know of its end: one that comes back takes nothing over
	if told {
		s.out.Flush()
		s.out.Close(nil)
	} else {
		s.out.Close(cause)
	}
	s.watchClosed(cause)
}

// report tells the log. A client that leaves is no news.
func (s *session) report(cause error, fault *packet.Error) {
	switch {
	case fault == nil && (errors.Is(cause, leaf.ErrSlowConsumer) || errors.Is(cause, leaf.ErrWriteDeadline)):
		fault = &packet.Error{Reason: packet.QuotaExceeded, Text: cause.Error()}
		s.srv.counters.slow.Add(1)
		if s.port != nil {
			s.port.CutOff()
		}
	case fault == nil || fault == errShutdown:
		s.srv.log.Debug("MQTT client gone", "conn", s.name(), "err", cause)
		return
	}
	s.srv.warn("MQTT connection ended", s, fault)
}

// key tells sessions from one another: client ids are those of an account.
func (s *session) key() string { return s.grant.Account + " " + s.clientID }

// name is what logs and the router call the session.
func (s *session) name() string { return "mqtt:" + s.clientID }

var (
	_ msg.Sink       = (*session)(nil)
	_ msg.Flusher    = (*session)(nil)
	_ leaf.Describer = (*session)(nil)
)
