package mqttbridge

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/leafd/leafd/leaf"
	"github.com/leafd/leafd/mqttbridge/packet"
)

// Options configures a Server. The zero value serves anonymous devices on a
// subject space of their own.
type Options struct {
	Router *leaf.Router // nil means a new one

	// Barrier runs its argument once everything published before the call is
	// safe, or failed. It is called once per read, not per message, and may call
	// back on any goroutine; the callback does not block. Nil means that no log
	// on the Router is durable.
	Barrier func(func(error))

	Auth *leaf.Auth // who may connect; nil lets everyone in

	MaxPacket  int // bytes of one control packet; 0 means 1 MiB and 8 KiB for what surrounds the payload
	MaxPayload int // bytes of one message; 0 means as many as a packet may have
	MaxConns   int // 0 means no limit
	MaxSubs    int // topic filters per connection; 0 means 4096
	MaxUnacked int // acknowledgements of one connection that may wait at barriers before it is read on; 0 means 4096

	MaxPending    int           // bytes waiting for one device; 0 means 8 MiB
	WriteDeadline time.Duration // 0 means 10 s
	Budget        *leaf.Budget  // of all connections together; nil means no limit

	ConnectTimeout time.Duration // from accept to the whole CONNECT; 0 means 2 s

	ConnIDs *atomic.Uint64 // the id last given, shared by all listeners; nil means one of its own
	Watcher leaf.Watcher   // nil: nobody is told

	Logger *slog.Logger // nil means slog.Default
}

// Server serves MQTT clients. Its methods are safe for all goroutines.
type Server struct {
	opts atomic.Pointer[Options] // what it points to is never changed, Reload replaces it
	log  *slog.Logger            // static after New

	counters   counters
	faults     faults
	violations violations

	look chan struct{} // holds one: the keeper is to look now

	parking *leaf.Parking // static while there are connections

	mu       sync.Mutex
	stopping bool                  // guarded by mu
	conns    map[*session]struct{} // guarded by mu; all that were accepted and have not ended
	byID     map[string]*session   // guarded by mu; by key, from CONNECT on
	serving  int                   // guarded by mu; calls of Serve that run
	stopHelp context.CancelFunc    // guarded by mu; ends helping
	helping  sync.WaitGroup
}

// New makes a server. It does not listen on its own.
func New(o Options) *Server {
	if o.Router == nil {
		o.Router = leaf.NewRouter()
	}
	o.Logger = cmp.Or(o.Logger, slog.Default())
	if o.Auth == nil {
		o.Auth = leaf.OpenAuth(o.Router)
	}
	if o.ConnIDs == nil {
		o.ConnIDs = new(atomic.Uint64)
	}
	o.setDefaults()
	srv := &Server{log: o.Logger, look: make(chan struct{}, 1), conns: map[*session]struct{}{}, byID: map[string]*session{}}
	srv.opts.Store(&o)
	return srv
}

func (o *Options) setDefaults() {
	o.MaxPacket = cmp.Or(o.MaxPacket, 1<<20+8<<10)
	o.MaxPayload = cmp.Or(o.MaxPayload, o.MaxPacket)
	o.MaxSubs = cmp.Or(o.MaxSubs, 4096)
	o.MaxUnacked = cmp.Or(o.MaxUnacked, 4096)
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, 2*time.Second)
}

// Reload puts o in force, for devices that are connected as well. Router, Auth, Barrier,
// ConnIDs, Watcher and Logger stay what New was given.
func (srv *Server) Reload(o Options) {
	was := srv.opts.Load()
	o.Router, o.Auth, o.Barrier, o.Logger = was.Router, was.Auth, was.Barrier, was.Logger
	o.ConnIDs, o.Watcher = was.ConnIDs, was.Watcher
	o.setDefaults()
	srv.opts.Store(&o)
	for _, s := range srv.snapshot() {
		s.out.SetLimits(leaf.OutboundOptions{MaxPending: o.MaxPending, WriteDeadline: o.WriteDeadline})
	}
}

// Serve accepts devices from ln until ctx ends, and returns when the last of them
// has gone: each has had its acknowledgements due and its will published. It
// closes ln. Its error is nil after an orderly end. Several may run at once, each with
// a listener of its own.
func (srv *Server) Serve(ctx context.Context, ln net.Listener) error {
	defer srv.help()()
	var clients sync.WaitGroup
	defer clients.Wait()
	stop := context.AfterFunc(ctx, func() {
		ln.Close()
		srv.shutdown()
	})
	defer stop()
	for {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if !leaf.PauseAccept(ctx, srv.log, ln, err) {
				return fmt.Errorf("accept MQTT clients on %s: %w", ln.Addr(), err)
			}
			continue
		}
		if s := srv.admit(nc); s != nil {
			s.served = &clients
			clients.Add(1) // until the session has ended
			go s.serve()
		}
	}
}

// help starts what serves all connections together, with the first listener. The
// result ends it with the last.
func (srv *Server) help() (done func()) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if srv.serving++; srv.serving == 1 {
		ctx, stop := context.WithCancel(context.Background())
		srv.stopHelp = stop
		srv.parking = leaf.NewParking(ctx, &srv.helping, srv.log)
		srv.helping.Go(func() { srv.keep(ctx) })
	}
	return func() {
		srv.mu.Lock()
		srv.serving--
		last, stop := srv.serving == 0, srv.stopHelp
		srv.mu.Unlock()
		if last {
			stop()
			srv.helping.Wait()
		}
	}
}

const (
	seldom = 5 * time.Second // between two looks of the keeper at all connections, at most
	often  = time.Second     // while some of them could be parked
)

// keep ends silent clients and nudges those that could be parked. One goroutine serves
// all connections, so that an idle one needs no timer.
func (srv *Server) keep(ctx context.Context) {
	t := time.NewTimer(leaf.Aligned(seldom))
	defer t.Stop()
	for was := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-srv.look:
		case <-t.C:
		}
		awake, rest := 0, leaf.Aligned(seldom)
		for _, s := range srv.snapshot() {
			up, until := s.tick()
			if rest = min(rest, until); up {
				awake++
			}
		}
		was = leaf.GiveBack(was, awake)
		if awake > 0 {
			rest = min(rest, leaf.Aligned(often))
		}
		t.Reset(rest)
	}
}

// hurry has the keeper look at a client that will be late before it would.
func (srv *Server) hurry(keepAlive time.Duration) {
	if keepAlive == 0 || keepAlive > seldom {
		return
	}
	select {
	case srv.look <- struct{}{}:
	default:
	}
}

// admit registers a connection, or closes it: before a CONNECT there is nothing
// that MQTT could be told.
func (srv *Server) admit(nc net.Conn) *session {
	s := newSession(srv, nc, srv.opts.Load().ConnIDs.Add(1))
	s.halfOpen = srv.opts.Load().Auth.Enter(nc.RemoteAddr())
	srv.mu.Lock()
	o := srv.opts.Load()
	full := o.MaxConns > 0 && len(srv.conns) >= o.MaxConns
	refused := full || srv.stopping || !s.halfOpen
	if !refused {
		srv.conns[s] = struct{}{}
	}
	srv.mu.Unlock()
	if refused {
		if full {
			srv.warn("MQTT connection refused", s, &packet.Error{Reason: packet.ServerUnavailable,
				Text: fmt.Sprintf("there are %d of at most %d; see mqtt.max_connections", o.MaxConns, o.MaxConns)})
		}
		srv.counters.refused.Add(1)
		s.endHalfOpen()
		nc.Close()
		return nil
	}
	srv.counters.accepted.Add(1)
	return s
}

// LameDuck closes the devices that are connected one after another, from grace after
// the call on until over after it, so that they do not all come to the next broker at
// once. MQTT has no notice to give them. It returns when all are closed or ctx ends;
// whoever calls it has closed the listener.
func (srv *Server) LameDuck(ctx context.Context, grace, over time.Duration) {
	devices := srv.snapshot()
	if len(devices) == 0 {
		return
	}
	select {
	case <-ctx.Done():
		return
	case <-time.After(grace):
	}
	leaf.Stagger(ctx, len(devices), over-grace, func(i int) { devices[i].close(errShutdown) })
}

// Kick ends the connection of a device, and reports whether there is one of that id.
func (srv *Server) Kick(id uint64) bool {
	all := srv.snapshot()
	i := slices.IndexFunc(all, func(s *session) bool { return s.id == id })
	if i >= 0 {
		all[i].close(errKicked)
	}
	return i >= 0
}

// shutdown ends every connection. Those accepted from now on are turned away.
func (srv *Server) shutdown() {
	srv.mu.Lock()
	srv.stopping = true
	srv.mu.Unlock()
	for _, s := range srv.snapshot() {
		s.close(errShutdown)
	}
}

func (srv *Server) snapshot() []*session {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	list := make([]*session, 0, len(srv.conns))
	for s := range srv.conns {
		list = append(list, s)
	}
	return list
}

// register gives a client id to s. A connection that had it is ended, its will
// published, before register returns. [MQTT-3.1.4-2]
func (srv *Server) register(s *session) {
	srv.mu.Lock()
	old := srv.byID[s.key()]
	srv.byID[s.key()] = s
	srv.mu.Unlock()
	if old != nil {
		srv.counters.takeovers.Add(1)
		old.close(errTakenOver)
		<-old.done
	}
}

// forget undoes admit and register. The client id may have a new owner by now.
func (srv *Server) forget(s *session) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	delete(srv.conns, s)
	srv.counters.ended.add(&s.traffic)
	if s.port != nil && srv.byID[s.key()] == s {
		delete(srv.byID, s.key())
	}
}

// Why connections are ended or refused, beside what package packet says.
var (
	errShutdown        = &packet.Error{Reason: packet.ServerShuttingDown, Text: "server is shutting down"}
	errTakenOver       = &packet.Error{Reason: packet.SessionTakenOver, Text: "another connection has the client id now"}
	errKeepAlive       = &packet.Error{Reason: packet.KeepAliveTimeout, Text: "nothing came for one and a half times the keep alive"}
	errConnectTimeout  = &packet.Error{Reason: packet.KeepAliveTimeout, Text: "no CONNECT came in time"}
	errNotConnect      = &packet.Error{Reason: packet.ProtocolError, Text: "first packet is not a CONNECT"}
	errSecondConnect   = &packet.Error{Reason: packet.ProtocolError, Text: "second CONNECT on a connection"}
	errUnexpected      = &packet.Error{Reason: packet.ProtocolError, Text: "packet type is not one a client may send now"}
	errTooLarge        = &packet.Error{Reason: packet.PacketTooLarge, Text: "packet is larger than allowed; see max_payload and mqtt.max_packet"}
	errClientID        = &packet.Error{Reason: packet.BadClientID, Text: "client id is empty though a persistent session is asked for"}
	errAccountFull     = &packet.Error{Reason: packet.QuotaExceeded, Text: "its account may not have so many connections"}
	errNotAuthorized   = &packet.Error{Reason: packet.NotAuthorized, Text: "user name or password is not accepted"}
	errUserGone        = &packet.Error{Reason: packet.NotAuthorized, Text: "its user was removed, or is in another account now"}
	errKicked          = &packet.Error{Reason: packet.AdminAction, Text: "it was kicked by a system request"}
	errUnfinished      = &packet.Error{Reason: packet.QuotaExceeded, Text: "it holds more of a packet that has not ended than others, and all connections together hold more than max_memory allows"}
	errStoreRefused    = &packet.Error{Reason: packet.QuotaExceeded, Text: "a durable log refused the message; see its limits and the state of its disk"}
	errBarrier         = &packet.Error{Reason: packet.UnspecifiedError, Text: "a message could not be made safe; see the state of the disk"}
	errHandlerPanicked = &packet.Error{Reason: packet.UnspecifiedError, Text: "a handler failed; this is a bug, please report it"}
)

// warn counts a fault and, once in a while for each reason, has it logged.
func (srv *Server) warn(what string, s *session, fault *packet.Error) {
	if since, log := srv.faults.note(fault.Reason, time.Now()); log {
		srv.log.Warn(what, "conn", s.name(), "remote", s.nc.RemoteAddr(), "reason", fault.Reason.String(), "err", fault, "count", since)
	}
}

// badTopic is why a PUBLISH or a will cannot be taken.
func badTopic(topic []byte) error {
	return &packet.Error{Reason: packet.BadTopicName, Text: fmt.Sprintf("%v: %.128q; have the device publish to another", errTopic, topic)}
}
