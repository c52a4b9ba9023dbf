package secure

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// MaxHandshake is how many bytes a peer can make the server read before both have
// shaken hands: enough for a chain of certificates.
const MaxHandshake = 32 << 10

var (
	errNoTLS        = errors.New("the client does not speak TLS, which this listener needs")
	errHandshakeBig = fmt.Errorf("more than %d bytes", MaxHandshake)
)

// HandshakeError is a handshake that failed, and why. It ends the connection.
type HandshakeError struct{ Reason string }

func (e *HandshakeError) Error() string { return "TLS handshake: " + e.Reason }

// failed does not wrap: a deadline of the handshake is not one of what follows.
func (c *Conn) failed(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &HandshakeError{fmt.Sprintf("not done within %v", c.id.cfg.Timeout)}
	}
	return &HandshakeError{err.Error()}
}

// Listener wraps ln. The connections it accepts are a [*Conn] each. Of a nil Source it is
// ln.
func (s *Source) Listener(ln net.Listener) net.Listener {
	if s == nil {
		return ln
	}
	return &listener{ln, s}
}

type listener struct {
	net.Listener
	source *Source
}

func (l *listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.source.Server(nc), nil
}

// Server is the server's side of TLS over nc.
func (s *Source) Server(nc net.Conn) *Conn {
	return &Conn{sock: nc, id: s.now.Load(), opened: make(chan struct{})}
}

// Conn is a connection that is to become TLS. Reading or writing opens it, if [Conn.Open]
// was not called before; others wait meanwhile. Like any net.Conn it has one reader and one
// writer, and Close and the deadlines may be called by anyone.
type Conn struct {
	// Static after Server.
	sock net.Conn
	id   *Identity

	required atomic.Bool  // TLS is; set before greet is called
	heard    atomic.Int64 // when the last bytes came, since epoch

	once   sync.Once
	opened chan struct{} // closed when the next four are static
	io     net.Conn      // what is read and written: tls, or the socket
	tls    *tls.Conn     // nil in clear
	first  bool          // a NATS client shook hands before it was greeted
	err    error         // why it could not be opened

	mu       sync.Mutex
	limit    time.Time // guarded by mu; of the handshake
	deadline time.Time // guarded by mu; for reading
	open     bool      // guarded by mu
}

// Open makes the connection what it will be, and returns when it is. greet, if not nil,
// gives the words that a NATS client hears first: before the handshake, in clear, or
// after it, as the tls block says. The caller is the reader.
func (c *Conn) Open(greet func() []byte) error {
	c.once.Do(func() {
		c.io = c.sock
		c.mu.Lock()
		c.limit = time.Now().Add(c.id.cfg.Timeout)
		c.sock.SetDeadline(c.limit)
		c.hasten()
		c.mu.Unlock()
		if c.err = c.begin(greet); c.err != nil {
			c.sock.Close()
		}
		c.mu.Lock()
		c.open = true
		c.sock.SetWriteDeadline(time.Time{})
		c.sock.SetReadDeadline(c.deadline)
		c.mu.Unlock()
		close(c.opened)
	})
	return c.err
}

// InClear opens the connection without TLS, to tell one who is turned away why.
func (c *Conn) InClear() {
	c.once.Do(func() {
		c.io = c.sock
		c.mu.Lock()
		c.open = true
		c.mu.Unlock()
		close(c.opened)
	})
}

// begin greets and shakes hands, in the order that the tls block says.
func (c *Conn) begin(greet func() []byte) error {
	cfg := &c.id.cfg
	head := &headConn{Conn: c.sock, heard: &c.heard, left: MaxHandshake}
	early := greet == nil || cfg.First && (cfg.Fallback == 0 || head.speaks(cfg.Fallback, cfg.Timeout))
	c.required.Store(early || !cfg.AllowNon)
	if !early {
		if _, err := c.sock.Write(greet()); err != nil {
			return err
		}
	}
	first, err := head.peek()
	switch {
	case err == nil && first == recordHandshake:
	case !c.required.Load() && (err == nil || errors.Is(err, os.ErrDeadlineExceeded)):
		head.left = -1
		c.io = head
		return nil
	default:
		return c.refuse(!early, cmp.Or(err, errNoTLS))
	}
	secured := tls.Server(head, c.id.tls)
	if err := secured.Handshake(); err != nil {
		return c.failed(err)
	}
	head.left = -1
	c.io, c.tls = secured, secured
	if c.first = early && greet != nil; c.first {
		_, err = secured.Write(greet())
	}
	return err
}

const (
	// recordHandshake is the first byte of a TLS handshake. [RFC 8446 5.1]
	recordHandshake = 0x16
	// tlsRequired is for a NATS client that was greeted in clear.
	tlsRequired = "-ERR 'Secure Connection - TLS Required'\r\n"
)

// refuse tells a NATS client that was greeted in clear what is missing.
func (c *Conn) refuse(greeted bool, err error) error {
	if greeted {
		c.sock.SetDeadline(time.Now().Add(sayTime))
		io.WriteString(c.sock, tlsRequired)
		c.sock.Read(make([]byte, 512)) // closing with something unread would take the words back
	}
	if errors.Is(err, errNoTLS) || errors.Is(err, os.ErrDeadlineExceeded) {
		return c.failed(err)
	}
	return err
}

// sayTime is how long a peer has that is told why it is refused.
const sayTime = 50 * time.Millisecond

// Offer is what INFO says of TLS to this client. It is for greet and what comes later.
func (c *Conn) Offer() (required, available, verify bool) {
	return c.required.Load(), !c.required.Load(), c.id.cfg.Verify
}

// Read opens the connection if need be.
func (c *Conn) Read(p []byte) (int, error) {
	if err := c.Open(nil); err != nil {
		return 0, err
	}
	return c.io.Read(p)
}

// Quiet is how long nothing has come, of a record that is not whole either.
func (c *Conn) Quiet() time.Duration { return time.Since(epoch) - time.Duration(c.heard.Load()) }

// Write opens the connection if need be, and waits while another opens it.
func (c *Conn) Write(p []byte) (int, error) {
	if err := c.Open(nil); err != nil {
		return 0, err
	}
	return c.io.Write(p)
}

// Close does not say good-bye, which could block.
func (c *Conn) Close() error { return c.sock.Close() }

// hasten needs mu. A deadline for reading that comes before that of the handshake
// holds for both.
func (c *Conn) hasten() {
	if !c.deadline.IsZero() && c.deadline.Before(c.limit) {
		c.sock.SetReadDeadline(c.deadline)
	}
}

// SetReadDeadline implements [net.Conn]. A later one than that of the handshake is for
// what comes after it.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	if !c.open {
		c.hasten()
		return nil
	}
	return c.sock.SetReadDeadline(t)
}

// SetWriteDeadline does nothing before the connection is open.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.open {
		return nil
	}
	return c.sock.SetWriteDeadline(t)
}

// SetDeadline is both.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// LocalAddr implements [net.Conn].
func (c *Conn) LocalAddr() net.Addr { return c.sock.LocalAddr() }

// RemoteAddr implements [net.Conn].
func (c *Conn) RemoteAddr() net.Addr { return c.sock.RemoteAddr() }

// Certificate is the one that the client showed and that was verified, and whether
// it is to be taken for the user it names. Both are nothing before the connection is
// open, and in clear.
func (c *Conn) Certificate() (cert *x509.Certificate, mapped bool) {
	if st, _, ok := c.State(); ok && len(st.VerifiedChains) > 0 {
		return st.PeerCertificates[0], c.id.cfg.Map
	}
	return nil, false
}

// State is that of TLS, and whether a NATS client shook hands before it was greeted.
// There is none before the connection is open, and in clear.
func (c *Conn) State() (st tls.ConnectionState, first, ok bool) {
	select {
	case <-c.opened:
	default:
		return st, false, false
	}
	if c.tls == nil || c.err != nil {
		return st, false, false
	}
	return c.tls.ConnectionState(), c.first, true
}

// headConn reads the socket, and counts until both have shaken hands. It belongs to
// the reader.
type headConn struct {
	net.Conn
	heard *atomic.Int64
	first [1]byte
	has   bool // first was read and not given out
	left  int  // bytes that may still come; negative: any number
}

// speaks reports whether the peer says something within a while.
func (h *headConn) speaks(wait, all time.Duration) bool {
	h.Conn.SetReadDeadline(time.Now().Add(min(wait, all)))
	_, err := h.peek()
	h.Conn.SetReadDeadline(time.Now().Add(all))
	return err == nil
}

func (h *headConn) peek() (byte, error) {
	if !h.has {
		if _, err := io.ReadFull(h.Conn, h.first[:]); err != nil {
			return 0, err
		}
		h.has = true
	}
	return h.first[0], nil
}

// Read implements [net.Conn].
func (h *headConn) Read(p []byte) (int, error) {
	if h.left == 0 {
		return 0, errHandshakeBig
	}
	if h.has && len(p) > 0 {
		h.has = false
		p[0] = h.first[0]
		return 1, nil
	}
	if h.left > 0 {
		p = p[:min(len(p), h.left)]
	}
	n, err := h.Conn.Read(p)
	if h.left > 0 {
		h.left -= n
	}
	if n > 0 {
		h.heard.Store(int64(time.Since(epoch)))
	}
	return n, err
}

var epoch = time.Now()
