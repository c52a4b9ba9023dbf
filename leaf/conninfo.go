package leaf

import (
	"cmp"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unique"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/secure"
)

// ConnInfo describes one connection, for monitoring. Packages with listeners of
// their own fill it in, too.
type ConnInfo struct {
	ID           uint64
	Type         string // nats, mqtt, websocket
	IP           string
	Port         int
	Start        time.Time
	LastActivity time.Time     // something came from it
	Stop         time.Time     // zero while it is open
	Reason       string        // why it ended, in the words of nats-server
	RTT          time.Duration // 0: not measured yet
	Pending      int           // bytes waiting for it
	In, Out      Traffic       // from it, to it
	Stalls       uint64        // times it was held because a recipient was behind
	NumSubs      int

	Account string // empty while it is in none: it has to log in first

	Known               bool // it has said who it is; what follows is empty before
	Name, Lang, Version string
	User                string // as in "authorized_user"
	NKey                bool   // User is one
	MQTTClient          string
	TLS                 TLSInfo

	Subs func() []SubInfo // what it is subscribed to; nil if not to be had
}

// Traffic counts messages and the bytes of their headers and data.
type Traffic struct{ Msgs, Bytes uint64 }

// Add adds u to t.
func (t *Traffic) Add(u Traffic) { t.Msgs, t.Bytes = t.Msgs+u.Msgs, t.Bytes+u.Bytes }

// SubInfo describes one subscription, for monitoring.
type SubInfo struct {
	Subject, Queue, SID string
	Msgs, Max           uint64 // delivered; after which it ends, 0: never
	ConnID              uint64 // 0: not of a connection
}

// Watcher is told of connections that come and go. It is called on the goroutine of
// the connection, in order, and must be quick.
type Watcher interface {
	Connected(*ConnInfo) // it has said who it is, and may stay
	Refused(*ConnInfo)   // for its credentials; Closed follows
	Closed(*ConnInfo)    // Stop and Reason say when and why
}

// profile is what a client said of itself. Lang and version are those of a
// library, which most clients share.
type profile struct {
	name, user string
	lib        unique.Handle[library]
}

type library struct{ lang, version string }

// Redacted is shown in the place of a user who came with a token.
const Redacted = "[REDACTED]"

func profileOf(c *Connect) *profile {
	user := cmp.Or(c.NKey, c.User)
	if user == "" && c.Token != "" {
		user = Redacted
	}
	return &profile{name: c.Name, user: user, lib: unique.Make(library{c.Lang, c.Version})}
}

// meter is what a connection counts about itself.
type meter struct {
	start  int64                 // Unix nanoseconds; static
	who    *profile              // guarded by conn.mu; nil before CONNECT
	out    Traffic               // guarded by out.mu of the connection
	pinged atomic.Int64          // by Mono, of the PING to measure by; 0: none
	rtt    atomic.Int64          // nanoseconds; 0: not measured yet
	cut    atomic.Pointer[error] // why the server ended the connection; nil: it did not
}

// pong ends the measurement that ping began.
func (m *meter) pong() {
	if at := m.pinged.Swap(0); at != 0 {
		m.rtt.Store(max(1, int64(Mono())-at))
	}
}

// ping asks the client whether it is there.
func (c *conn) ping() {
	c.meter.pinged.CompareAndSwap(0, max(1, int64(Mono())))
	c.out.Append([]byte("PING\r\n"))
	c.out.Flush()
}

// identify keeps who the client is, and reports whether that was not known before.
func (c *conn) identify(info *Connect) (first bool) {
	who := profileOf(info)
	if g := c.grant; g != nil {
		who.user = cmp.Or(who.user, g.User)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	first = c.meter.who == nil
	c.meter.who = who
	return first
}

// info describes the connection as it is now.
func (c *conn) info() ConnInfo {
	m := &c.meter
	i := ConnInfo{ID: c.id, Type: "nats", Start: time.Unix(0, m.start), LastActivity: At(c.in.Heard()),
		RTT: time.Duration(m.rtt.Load()), Subs: c.listSubs}
	i.IP, i.Port = splitAddr(c.nc.RemoteAddr())
	c.out.mu.Lock()
	i.Out, i.Pending = m.out, c.out.pending
	c.out.mu.Unlock()
	i.TLS = TLSOf(c.nc)
	if connType(c.nc) == WebSocket {
		i.Type = "websocket"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	i.In, i.Stalls, i.NumSubs = c.port.Received(), c.port.Stalls(), c.subs.Len()
	if c.grant != nil {
		i.Account, i.NKey = c.grant.Account, c.grant.NKey
	}
	if w := m.who; w != nil {
		lib := w.lib.Value()
		i.Known, i.Name, i.Lang, i.Version, i.User = true, w.name, lib.lang, lib.version, w.user
	}
	return i
}

func (c *conn) listSubs() []SubInfo {
	c.mu.Lock()
	list := make([]*msg.Sub, 0, c.subs.Len())
	for _, sid := range c.subs.Keys() {
		s, _ := c.subs.Get(sid)
		list = append(list, s)
	}
	c.mu.Unlock()
	infos := make([]SubInfo, len(list))
	for i, s := range list {
		infos[i] = c.SubInfo(s)
	}
	return infos
}

// SubInfo describes a subscription of the connection.
func (c *conn) SubInfo(s *msg.Sub) SubInfo {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	return SubInfo{s.Subject, s.Queue, string(s.SID), s.Delivered, s.Max, c.id}
}

// watch tells the watcher, if there is one, something of the connection.
func (c *conn) watch(event func(Watcher, *ConnInfo)) {
	if w := c.srv.opts.Load().Watcher; w != nil {
		i := c.info()
		event(w, &i)
	}
}

// watchClosed tells the watcher that the connection has ended, and why.
func (c *conn) watchClosed(err error) {
	if w := c.srv.opts.Load().Watcher; w != nil {
		i := c.info()
		i.Stop, i.Reason = time.Now(), c.srv.closeReason(err)
		w.Closed(&i)
	}
}

const userInfoSubject = "$SYS.REQ.USER.INFO"

// askedAboutUser answers a client that asks who it is. The question concerns this
// server alone and goes no further: nobody else knows who asks.
func (c *conn) askedAboutUser(m *msg.Msg) bool {
	answer := c.srv.opts.Load().UserInfo
	if answer == nil || len(m.Reply) == 0 || string(m.Subject) != userInfoSubject {
		return false
	}
	if sub := c.port.hasOwn(m.Reply); sub != nil {
		i := c.info()
		c.Deliver(&msg.Msg{Subject: m.Reply, Data: answer(&i, c.grant.Permissions())}, sub)
	}
	return true
}

// ConnInfos describes the connections there are now, in no order. A client whose
// round trip is not known yet is sent a PING, so that it is the next time.
func (s *Server) ConnInfos() []ConnInfo {
	list := s.snapshot(nil)
	infos := make([]ConnInfo, len(list))
	for i, c := range list {
		infos[i] = c.info()
		if infos[i].RTT == 0 && infos[i].Lang != "" && c.meter.pinged.Load() == 0 {
			c.ping()
		}
	}
	return infos
}

// Traffic returns what clients have sent and were sent since the start, those that
// have left included.
func (s *Server) Traffic() (in, out Traffic) {
	s.mu.Lock() // forgetting a connection and keeping its traffic are one step
	defer s.mu.Unlock()
	in, out = s.endedIn, s.endedOut
	for c := range s.conns {
		i, o := c.traffic()
		in.Add(i)
		out.Add(o)
	}
	return in, out
}

func (c *conn) traffic() (in, out Traffic) {
	c.mu.Lock()
	in = c.port.Received()
	c.mu.Unlock()
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	return in, c.meter.out
}

// closeReason says why a connection ended, as nats-server's /connz does.
func (s *Server) closeReason(err error) string {
	var pe *ProtoError
	var he *secure.HandshakeError
	switch {
	case err == errPanicked:
		return "Unknown State"
	case errors.As(err, &pe):
		return cmp.Or(pe.ended, "Protocol Violation")
	case errors.As(err, &he):
		return "TLS Handshake Failure"
	case errors.Is(err, ErrSlowConsumer):
		return "Slow Consumer (Pending Bytes)"
	case errors.Is(err, ErrWriteDeadline):
		return "Slow Consumer (Write Deadline)"
	case s.stopping.Load():
		return "Server Shutdown"
	case err == errKicked:
		return "Kicked"
	case err == nil, err == errUserGone, errors.Is(err, io.EOF):
		return "Client Closed"
	case errors.Is(err, syscall.EPIPE):
		return "Write Error"
	}
	return "Read Error"
}

// ClosedRing keeps the connections that ended last, for monitoring. It is safe for
// all goroutines.
type ClosedRing struct {
	size int // static

	mu   sync.Mutex
	ring []ConnInfo // guarded by mu; grows up to size
	next int        // guarded by mu; the oldest, once it is full
}

// closedSubs is how many subscriptions of a closed connection are kept.
const closedSubs = 32

// NewClosedRing makes a ring of size connections.
func NewClosedRing(size int) *ClosedRing { return &ClosedRing{size: size} }

// Add keeps a connection that has ended, in the place of the oldest if there is no
// room. What it knows of the connection is copied; no memory of it is held.
func (r *ClosedRing) Add(i *ConnInfo) {
	if r.size <= 0 {
		return
	}
	c := *i
	if c.Subs != nil {
		subs := c.Subs()
		subs = append([]SubInfo(nil), subs[:min(len(subs), closedSubs)]...)
		c.Subs = func() []SubInfo { return subs }
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ring) < r.size {
		r.ring = append(r.ring, c)
		return
	}
	r.ring[r.next] = c
	r.next = (r.next + 1) % r.size
}

// List returns the connections that are kept, oldest first.
func (r *ClosedRing) List() []ConnInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(append([]ConnInfo(nil), r.ring[r.next:]...), r.ring[:r.next]...)
}
