package ws

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/leafd/leafd/internal/secure"
)

// Conn is one WebSocket as a stream of bytes. It has one reader and one writer; Close
// and the deadlines may be called by anyone. A deadline that passes ends it.
type Conn struct {
	// Static.
	sock *sock
	ws   *websocket.Conn
	srv  *Server

	msg io.Reader // owned by the reader; of a message that is not at its end

	writing sync.Mutex // held while a message is written
}

// Read returns bytes of one message. It is io.EOF once the peer has said good-bye.
func (c *Conn) Read(p []byte) (int, error) {
	for {
		if c.msg == nil {
			_, r, err := c.ws.Reader(context.Background())
			if err != nil {
				return 0, ended(err)
			}
			c.msg = r
		}
		n, err := c.msg.Read(p)
		if cut := c.sock.failed; cut != nil { // in a frame: what came of it may be masked still
			return 0, cut
		}
		if errors.Is(err, io.EOF) {
			c.msg, err = nil, nil
		}
		if n > 0 || err != nil || len(p) == 0 {
			return n, ended(err)
		}
	}
}

// Quiet is how long nothing has come, of a frame that is not whole either.
func (c *Conn) Quiet() time.Duration { return c.sock.Quiet() }

// sock is what is beneath a Conn: the socket, or TLS. Its methods are those of a [net.Conn].
type sock struct {
	net.Conn
	heard  atomic.Int64 // when the last bytes came, since epoch
	failed error        // owned by the reader; what ended its reads
}

var epoch = time.Now()

func (s *sock) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if n > 0 { // an error that TLS gives with the last bytes comes again
		s.heard.Store(int64(time.Since(epoch)))
		err = nil
	}
	s.failed = err
	return n, err
}

// Quiet is how long nothing has come.
func (s *sock) Quiet() time.Duration {
	if sc, ok := s.Conn.(*secure.Conn); ok {
		return sc.Quiet()
	}
	return time.Since(epoch) - time.Duration(s.heard.Load())
}

// ended makes a peer's good-bye, whatever its code, the end of the stream.
func ended(err error) error {
	if websocket.CloseStatus(err) != -1 {
		return io.EOF
	}
	return err
}

// Write sends p as one binary message.
func (c *Conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.ws.Write(context.Background(), websocket.MessageBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// goodbye is a close frame with status 1000. [RFC 6455 5.5.1]
var goodbye = []byte{0x88, 2, 1000 >> 8, 1000 & 0xff}

const goodbyeTime = 50 * time.Millisecond

// Close says good-bye, where that can be done at once, and closes the socket. It does
// not wait for the peer to answer.
func (c *Conn) Close() error {
	if c.writing.TryLock() {
		c.sock.SetWriteDeadline(time.Now().Add(goodbyeTime))
		c.sock.Write(goodbye)
		c.writing.Unlock()
	}
	return c.sock.Close()
}

// WebSocket tells a server what this is, whether it runs over TLS, and what
// Options.Advertise says.
func (c *Conn) WebSocket() (tls bool, advertise string) {
	return c.srv.opts.TLS != nil, c.srv.opts.Advertise
}

// Certificate is [secure.Conn.Certificate] of what is beneath.
func (c *Conn) Certificate() (cert *x509.Certificate, mapped bool) {
	if sc, ok := c.sock.Conn.(*secure.Conn); ok {
		return sc.Certificate()
	}
	return nil, false
}

// State is [secure.Conn.State] of what is beneath.
func (c *Conn) State() (st tls.ConnectionState, first, ok bool) {
	if sc, secured := c.sock.Conn.(*secure.Conn); secured {
		return sc.State()
	}
	return st, false, false
}

// LocalAddr implements [net.Conn].
func (c *Conn) LocalAddr() net.Addr { return c.sock.LocalAddr() }

// RemoteAddr implements [net.Conn].
func (c *Conn) RemoteAddr() net.Addr { return c.sock.RemoteAddr() }

// SetDeadline implements [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error { return c.sock.SetDeadline(t) }

// SetReadDeadline implements [net.Conn].
func (c *Conn) SetReadDeadline(t time.Time) error { return c.sock.SetReadDeadline(t) }

// SetWriteDeadline implements [net.Conn].
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.sock.SetWriteDeadline(t) }
