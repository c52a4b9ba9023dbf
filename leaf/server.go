package leaf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// Options configures a Server. The zero value serves anonymous clients with the
// limits of nats-server, but for MaxPending.
type Options struct {
	ServerID   string // as in INFO; a public nkey of the server
	ServerName string

	MaxPayload     int // bytes of header and data; 0 means 1 MiB
	MaxControlLine int // bytes; 0 means 4096
	MaxConns       int // 0 means no limit
	MaxSubs        int // per connection; 0 means no limit
	Outbound       OutboundOptions

	PingInterval time.Duration // 0 means 2 minutes
	PingMax      int           // unanswered PINGs before a connection is stale; 0 means 2

	Auth *Auth // who may connect; nil lets everyone in

	AdvertiseHost string // what INFO tells clients of where the server is; empty: the listener's own
	AdvertisePort int    // 0: the listener's own
	NoHeaders     bool   // clients get no header support

	Trace        bool // log at LevelTrace what clients and server say
	TraceHeaders bool // of messages only the headers
	TraceMax     int  // bytes of a message shown; 0: all

	// UserInfo answers what a client asks on $SYS.REQ.USER.INFO about itself; nil
	// leaves the question to whoever subscribed to it. It must be quick. Permissions are
	// nil if all is allowed.
	UserInfo func(*ConnInfo, *Permissions) []byte

	ConnIDs *atomic.Uint64 // the id last given, shared by all listeners; nil means one of its own
	Watcher Watcher        // nil: nobody is told

	Logger *slog.Logger // nil means slog.Default
}

// Counters are what a Server counts beside the Router's Stats.
type Counters struct {
	Accepted, Refused, ProtocolErrors, AuthErrors, SlowConsumers, StaleConns, Panics atomic.Uint64
}

// Server serves NATS clients. Its methods are safe for all goroutines.
type Server struct {
	opts atomic.Pointer[Options] // what it points to is never changed, Reload replaces it

	// Static after New.
	router *Router
	auth   *Auth
	log    *slog.Logger
	quit   chan struct{} // closed once, when Serve begins to stop

	parking *Parking // static while there are connections; nil: they keep their goroutines

	counters Counters
	stopping atomic.Bool
	lame     atomic.Bool // LameDuck was called

	mu       sync.Mutex
	conns    map[*conn]struct{} // guarded by mu
	serving  int                // guarded by mu; calls of Serve that run
	stopHelp context.CancelFunc // guarded by mu; ends helping
	helping  sync.WaitGroup

	endedIn, endedOut Traffic // guarded by mu; of connections that have left
}

// New makes a server for the subject space r. It does not listen on its own.
func New(o Options, r *Router) *Server {
	o.setDefaults()
	if o.Auth == nil {
		o.Auth = OpenAuth(r)
	}
	if o.ConnIDs == nil {
		o.ConnIDs = new(atomic.Uint64)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	s := &Server{router: r, auth: o.Auth, quit: make(chan struct{}), log: o.Logger, conns: map[*conn]struct{}{}}
	s.opts.Store(&o)
	return s
}

// Router returns the subject space it serves.
func (s *Server) Router() *Router { return s.router }

// Counters returns its counters, which go on counting.
func (s *Server) Counters() *Counters { return &s.counters }

// Conns returns how many clients are connected.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Serve accepts clients from ln until ctx ends, and returns when the last of
// them has gone. It closes ln. Its error is nil after an orderly end. Several may
// run at once, each with a listener of its own.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	defer s.help()()
	var clients sync.WaitGroup
	defer clients.Wait()
	stop := context.AfterFunc(ctx, func() {
		if s.stopping.CompareAndSwap(false, true) {
			close(s.quit)
		}
		ln.Close()
		s.closeAll()
	})
	defer stop()
	for {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if !PauseAccept(ctx, s.log, ln, err) {
				return fmt.Errorf("accept clients on %s: %w", ln.Addr(), err)
			}
			continue
		}
		s.counters.Accepted.Add(1)
		if c := s.admit(nc); c != nil {
			c.served = &clients
			clients.Add(1) // until end
			go c.serve()
		}
	}
}

// help starts what serves all connections together, with the first listener. The
// result ends it with the last.
func (s *Server) help() (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.serving++; s.serving == 1 {
		ctx, stop := context.WithCancel(context.Background())
		s.stopHelp = stop
		s.parking = NewParking(ctx, &s.helping, s.log)
		s.helping.Go(func() { s.keep(ctx) })
	}
	return func() {
		s.mu.Lock()
		s.serving--
		last, stop := s.serving == 0, s.stopHelp
		s.mu.Unlock()
		if last {
			stop()
			s.helping.Wait()
		}
	}
}

// PauseAccept waits out a lack of file descriptors or memory, which passes; it
// reports false for other errors of Accept. For every listener of the gateway.
func PauseAccept(ctx context.Context, log *slog.Logger, ln net.Listener, err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if !errors.Is(err, e) {
			continue
		}
		log.Warn("accepting nobody for a second", "listener", ln.Addr(), "err", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
		return true
	}
	return false
}

// admit registers a connection, or turns it away.
func (s *Server) admit(nc net.Conn) *conn {
	c := newConn(s, nc, s.opts.Load().ConnIDs.Add(1))
	s.mu.Lock()
	most := s.opts.Load().MaxConns
	full := most > 0 && len(s.conns) >= most || s.stopping.Load()
	if !full {
		s.conns[c] = struct{}{}
	}
	s.mu.Unlock()
	if !full && !c.ready {
		c.halfOpen = s.auth.Enter(nc.RemoteAddr())
		full = !c.halfOpen
	}
	if full {
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		c.release()
		s.counters.Refused.Add(1)
		c.turnAway(errTooManyConns)
		c.watchClosed(errTooManyConns)
		return nil
	}
	return c
}

// ended forgets a connection that has let go of all it had.
func (s *Server) ended(c *conn, err error) {
	in, out := c.traffic() // nothing is counted any more
	s.mu.Lock()
	delete(s.conns, c)
	s.endedIn.Add(in)
	s.endedOut.Add(out)
	s.mu.Unlock()
	c.watchClosed(err)
	c.served.Done()
}

// survive turns a panic into the end of this connection alone.
func (s *Server) survive(c *conn, err *error) {
	if p := recover(); p != nil {
		s.counters.Panics.Add(1)
		c.log().Error("client handler failed; this is a bug, please report it", "panic", p)
		*err = errPanicked
	}
}

var errPanicked = errors.New("the handler failed")

// pause waits, but not longer than the server runs.
func (s *Server) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-time.After(d):
	case <-s.quit:
	}
}

// keep pings silent clients and nudges those that could be parked. One goroutine
// serves all connections, so that an idle one needs no timer.
func (s *Server) keep(ctx context.Context) {
	seldom := func() time.Duration {
		return min(max(s.opts.Load().PingInterval/4, 10*time.Millisecond), 5*time.Second)
	}
	t := time.NewTimer(Aligned(seldom()))
	defer t.Stop()
	var list []*conn
	for was := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			list = s.snapshot(list[:0])
			awake := 0
			for _, c := range list {
				if c.tick() {
					awake++
				}
			}
			clear(list)
			was = GiveBack(was, awake)
			if t.Reset(Aligned(seldom())); awake > 0 {
				t.Reset(Aligned(min(seldom(), linger)))
			}
		}
	}
}

func (s *Server) snapshot(list []*conn) []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		list = append(list, c)
	}
	return list
}

// closeAll ends every connection after what waits for it is written.
func (s *Server) closeAll() {
	for _, c := range s.snapshot(nil) {
		c.out.Flush()
		c.out.Close(nil)
	}
}

var _ interface {
	msg.Sink
	msg.Flusher
} = (*conn)(nil)
