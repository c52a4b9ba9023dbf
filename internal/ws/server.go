package ws

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/leafd/leafd/internal/secure"
)

// Options configures a Server. The zero value takes NATS clients of any origin.
type Options struct {
	TLS              *secure.Source // nil: ws://, else wss://
	SameOrigin       bool           // a browser's page must come from the host it connects to
	Origins          []Origin       // where pages may come from; none: anywhere
	Compression      bool           // for clients that ask for it
	HandshakeTimeout time.Duration  // from accept to the upgrade; 0 means 2 s
	Advertise        string         // host:port that NATS clients are told; empty: none
	MQTT             bool           // take MQTT clients on the path /mqtt
	Logger           *slog.Logger   // nil means slog.Default
}

const (
	maxHeaders  = 8 << 10 // bytes of a request
	maxUpgrades = 64      // connections of one address that have not upgraded
	mqttPath    = "/mqtt"
)

// Server upgrades connections. Its methods are safe for all goroutines.
type Server struct {
	// Static after New.
	opts       Options
	nats, mqtt *queue

	mu     sync.Mutex
	halves map[netip.Addr]int // guarded by mu; connections by address that have not upgraded
}

// New makes a server. It does not listen on its own.
func New(o Options) *Server {
	o.HandshakeTimeout = cmp.Or(o.HandshakeTimeout, 2*time.Second)
	o.Logger = cmp.Or(o.Logger, slog.Default())
	return &Server{opts: o, nats: newQueue(), mqtt: newQueue(), halves: map[netip.Addr]int{}}
}

// NATS gives the connections of NATS clients. Its address is that of the listener, once
// Serve was called.
func (s *Server) NATS() net.Listener { return s.nats }

// MQTT gives the connections of MQTT clients.
func (s *Server) MQTT() net.Listener { return s.mqtt }

type sockKey struct{}

// Serve takes connections from ln until ctx ends. It closes ln, and what it gives has an
// end then; connections that were given stay open. Its error is nil after an orderly end.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	ln = listener{s.opts.TLS.Listener(ln)}
	s.nats.start(ln.Addr())
	s.mqtt.start(ln.Addr())
	srv := &http.Server{
		Handler:           http.HandlerFunc(s.upgrade),
		ReadHeaderTimeout: s.opts.HandshakeTimeout,
		WriteTimeout:      s.opts.HandshakeTimeout,
		IdleTimeout:       s.opts.HandshakeTimeout,
		MaxHeaderBytes:    maxHeaders,
		ErrorLog:          slog.NewLogLogger(s.opts.Logger.Handler(), slog.LevelDebug),
		ConnContext:       func(ctx context.Context, nc net.Conn) context.Context { return context.WithValue(ctx, sockKey{}, nc) },
		ConnState:         s.count,
	}
	stop := context.AfterFunc(ctx, func() {
		s.nats.Close()
		s.mqtt.Close()
		srv.Close()
	})
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("accept websocket clients on %s: %w", ln.Addr(), err)
	}
	return nil
}

// count bounds how many connections of one address are on their way to the upgrade.
func (s *Server) count(nc net.Conn, st http.ConnState) {
	step := 0
	switch st {
	case http.StateNew:
		step = 1
	case http.StateHijacked, http.StateClosed:
		step = -1
	default:
		return
	}
	ap, _ := netip.ParseAddrPort(nc.RemoteAddr().String()) // what has no address shares one
	a := ap.Addr().Unmap()
	s.mu.Lock()
	n := s.halves[a] + step
	if s.halves[a] = n; n == 0 {
		delete(s.halves, a)
	}
	s.mu.Unlock()
	if step > 0 && n > maxUpgrades {
		nc.Close()
	}
}

// upgrade is the one HTTP handler: it turns a request into a connection.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Connection", "close")                                   // unless it becomes a WebSocket
	to, accept := s.nats, websocket.AcceptOptions{InsecureSkipVerify: true} // checkOrigin has more to say
	if strings.HasSuffix(r.URL.EscapedPath(), mqttPath) {
		if !s.opts.MQTT {
			http.Error(w, "no mqtt here", http.StatusNotFound)
			return
		}
		to, accept.Subprotocols = s.mqtt, []string{"mqtt"}
	}
	if err := s.checkOrigin(r); err != nil {
		s.opts.Logger.Warn("websocket refused", "remote", r.RemoteAddr, "origin", r.Header.Get("Origin"), "err", err)
		http.Error(w, "origin not allowed: "+err.Error(), http.StatusForbidden)
		return
	}
	if s.opts.Compression {
		accept.CompressionMode = websocket.CompressionNoContextTakeover
	}
	c, err := websocket.Accept(w, r, &accept)
	if err != nil {
		s.opts.Logger.Debug("websocket refused", "remote", r.RemoteAddr, "err", err)
		return
	}
	below := r.Context().Value(sockKey{}).(*sock)
	below.failed = nil // of the read that the HTTP server took back
	c.SetReadLimit(-1) // a message is a stream: who reads it bounds what it keeps, and reads no faster than it can
	nc := &Conn{sock: below, ws: c, srv: s}
	if !to.give(nc) {
		nc.Close()
	}
}

// listener gives each connection as a *sock.
type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &sock{Conn: nc}, nil
}

// queue hands connections from the HTTP server to another's Accept.
type queue struct {
	conns chan net.Conn // never closed
	addr  net.Addr      // static once started is closed

	begin, end      sync.Once
	started, closed chan struct{}
}

func newQueue() *queue {
	return &queue{conns: make(chan net.Conn), started: make(chan struct{}), closed: make(chan struct{})}
}

func (q *queue) start(a net.Addr) {
	q.begin.Do(func() {
		q.addr = a
		close(q.started)
	})
}

// give waits until the connection is taken; false: nobody will.
func (q *queue) give(nc net.Conn) bool {
	select {
	case q.conns <- nc:
		return true
	case <-q.closed:
		return false
	}
}

// Accept implements [net.Listener].
func (q *queue) Accept() (net.Conn, error) {
	select {
	case nc := <-q.conns:
		return nc, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (q *queue) Close() error {
	q.end.Do(func() { close(q.closed) })
	return nil
}

// Addr implements [net.Listener]. It waits for Serve.
func (q *queue) Addr() net.Addr {
	select {
	case <-q.started:
		return q.addr
	case <-q.closed:
		return &net.TCPAddr{}
	}
}
