package leaf

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/leafd/leafd/internal/msg"
)

// LinkOptions say where the hub is and how to behave toward it. URLs is needed;
// for the rest the zero value is good.
type LinkOptions struct {
	Disabled    bool     // keep no link; URLs may be empty then
	URLs        []string // nats-leaf://[user[:password]@]host[:port], port 7422 if absent; a user alone is a token too
	NoRandomize bool     // try URLs as listed, not shuffled

	ServerName string // by which the hub knows this gateway; no two may share it
	ServerID   string // a public nkey of the server, as in INFO

	CredsFile string // a .creds file, read at each attempt; excludes NKeySeed
	NKeySeed  string // the seed of a user

	DenyImports []string // subjects not taken from the hub
	DenyExports []string // subjects not given to the hub

	Outbound    OutboundOptions // MaxPending: 0 means 16 MiB
	MaxInterest int             // subscriptions the hub may announce; 0 means 65536

	DialTimeout      time.Duration // 0 means 5 s
	FirstInfoTimeout time.Duration // for each of the hub's two greetings; 0 means 5 s
	ReconnectMin     time.Duration // delay after the first failure; 0 means 250 ms
	ReconnectMax     time.Duration // what it doubles up to with each round of failures; 0 means 800 ms
	PingInterval     time.Duration // 0 means 30 s
	PingMax          int           // unanswered PINGs before the hub is taken for dead; 0 means 2

	ConnIDs *atomic.Uint64 // the id last given, shared with listeners; nil means one of its own

	Logger *slog.Logger // nil means slog.Default
}

// LinkState is what a link is doing.
type LinkState uint8

const (
	LinkStopped LinkState = iota // Run is not running
	LinkConnecting
	LinkUp
	LinkBackingOff // waits before the next attempt
)

func (s LinkState) String() string {
	return [...]string{"stopped", "connecting", "up", "backing off"}[s]
}

// LinkStatus is a snapshot of a link, for people and monitoring.
type LinkStatus struct {
	State      LinkState
	Since      time.Time // when it got into State
	URL        string    // without user and password: connected to, or tried last
	LastError  string    // why it is not up, or was lost last; with what to do about it
	Attempts   int       // since it was up last, or since the start
	Reconnects int       // times it came up again
	RTT        time.Duration
	ConnID     uint64   // of the connection that came up last
	Remote     net.Addr // of the hub, then; nil before

	HubName    string
	HubVersion string
	Domain     string // of the hub's JetStream

	InMsgs, InBytes   uint64 // from the hub, header and data
	OutMsgs, OutBytes uint64 // to the hub
	Refused           uint64 // messages from the hub that permissions keep out
	Complaints        uint64 // -ERR lines from the hub

	HubInterest   int // subscriptions the hub has announced
	LocalInterest int // subscriptions announced to the hub
	Pending       int // bytes waiting for the hub
}

// Link keeps the leafnode link to the hub: a stock nats-server or a cluster of
// them. What the hub wants is subscribed in the router as long as the link is up,
// so that a client's request finds no responders while it is down. Run does the
// work; the other methods are safe for all goroutines.
//
// It tries for ever. A failure that passes by itself is retried after
// ReconnectMin, doubling to ReconnectMax: about a SYN a second is what makes
// the first message leave within a second of the hub's return. A failure that
// somebody must repair is retried after 1 s, doubling to 5 minutes. All delays
// are shortened at random by up to a half, so that a fleet does not come at once.
//
// Reading order: link_session.go (one connection), link_handshake.go,
// link_dial.go, link_line.go (slow lines), link_probe.go (a hub that is back), link_interest.go, link_deliver.go, link_handover.go (delivery that a PONG
// confirms), link_perms.go, link_errors.go (what a failure means), link_backoff.go,
// link_urls.go.
type Link struct {
	// Static after NewLink.
	router *Router
	log    *slog.Logger
	dial   func(ctx context.Context, addr string) (net.Conn, error)
	probe  func(ctx context.Context, addr string) (net.Conn, error) // dials once
	line   func(nc net.Conn) lineState

	// Owned by Run; while a session lasts they do not change.
	opts LinkOptions
	urls *urlPool

	// Owned by Run.
	backoff backoff
	history history
	banned  banned
	ceiling ceiling

	next chan *linkSetup // of one; what Reconfigure wants

	running    atomic.Bool
	live       atomic.Pointer[session] // nil while down
	rtt        atomic.Int64            // nanoseconds
	counters   linkCounters
	hubSubs    atomic.Int64
	localSubs  atomic.Int64
	maxPayload atomic.Int64 // of the hub, as last told

	mu     sync.Mutex
	status LinkStatus    // guarded by mu; counters left out
	ups    int           // guarded by mu
	up     chan struct{} // guarded by mu; closed while the link is up
	down   chan struct{} // guarded by mu; closed while it is not
	end    func()        // guarded by mu; ends the session that runs; nil if none does
}

// linkSetup is options that were checked.
type linkSetup struct {
	opts LinkOptions
	urls *urlPool
}

type linkCounters struct {
	inMsgs, inBytes, outMsgs, outBytes, refused, complaints atomic.Uint64
}

// checkLink says what is wrong with the options.
func checkLink(o LinkOptions) (*linkSetup, error) {
	o.setDefaults()
	if o.Disabled {
		return &linkSetup{opts: o}, nil
	}
	urls, err := newURLPool(o.URLs, o.NoRandomize)
	if err != nil {
		return nil, fmt.Errorf("link: %w", err)
	}
	if o.CredsFile != "" && o.NKeySeed != "" {
		return nil, errors.New("link: a credentials file and an nkey exclude each other")
	}
	if o.NKeySeed != "" {
		kp, err := nkeys.FromSeed([]byte(o.NKeySeed))
		if err != nil {
			return nil, errors.New("link: the nkey is not the seed of a user")
		}
		kp.Wipe()
	}
	for _, list := range [][]string{o.DenyImports, o.DenyExports} {
		for _, s := range list {
			if !msg.ValidFilter(s) {
				return nil, fmt.Errorf("link: deny %q: %w", s, ErrBadSubject)
			}
		}
	}
	return &linkSetup{o, urls}, nil
}

// NewLink checks the options and makes a link, which does nothing before Run.
func NewLink(o LinkOptions, r *Router) (*Link, error) {
	setup, err := checkLink(o)
	if err != nil {
		return nil, err
	}
	o = setup.opts
	l := &Link{opts: o, router: r, urls: setup.urls, log: o.Logger.With("conn", "link"), next: make(chan *linkSetup, 1),
		up: make(chan struct{}), down: make(chan struct{})}
	close(l.down)
	dialer := &net.Dialer{Timeout: o.DialTimeout}
	l.probe = func(ctx context.Context, addr string) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", addr) }
	l.dial = func(ctx context.Context, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, o.DialTimeout)
		defer cancel()
		return staggered(ctx, func(ctx context.Context) (net.Conn, error) { return l.probe(ctx, addr) })
	}
	l.line = readLine
	l.status.Since = time.Now()
	return l, nil
}

func (o *LinkOptions) setDefaults() {
	o.Outbound.MaxPending = cmp.Or(o.Outbound.MaxPending, 16<<20)
	o.MaxInterest = cmp.Or(o.MaxInterest, 1<<16)
	o.DialTimeout = cmp.Or(o.DialTimeout, 5*time.Second)
	o.FirstInfoTimeout = cmp.Or(o.FirstInfoTimeout, 5*time.Second)
	o.ReconnectMin = cmp.Or(o.ReconnectMin, 250*time.Millisecond)
	o.ReconnectMax = max(o.ReconnectMin, cmp.Or(o.ReconnectMax, 800*time.Millisecond))
	o.PingInterval = cmp.Or(o.PingInterval, 30*time.Second)
	o.PingMax = cmp.Or(o.PingMax, 2)
	if o.ConnIDs == nil {
		o.ConnIDs = new(atomic.Uint64)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

// Run keeps the link until ctx ends, then closes it after what waits is written,
// and returns nil. It must run only once at a time.
func (l *Link) Run(ctx context.Context) error {
	if !l.running.CompareAndSwap(false, true) {
		return errors.New("link: it runs already")
	}
	defer l.running.Store(false)
	defer l.enter(LinkStopped, nil)
	for {
		l.adopt(nil)
		if l.opts.Disabled {
			l.enter(LinkStopped, nil)
			select {
			case <-ctx.Done():
				return nil
			case s := <-l.next:
				l.adopt(s)
			}
			continue
		}
		u := l.urls.take()
		l.attempt(u)
		up, err := l.session(ctx, u)
		if ctx.Err() != nil {
			return nil
		}
		if len(l.next) > 0 { // Reconfigure ended it
			continue
		}
		switch {
		case up == 0:
			l.urls.failed(u)
		case up >= stableAfter:
			l.backoff, l.history = backoff{}, history{}
		}
		f := faultOf(err)
		wait := l.backoff.delay(f, &l.opts, l.urls.size())
		l.history.record(l.log, u, f)
		l.enter(LinkBackingOff, f)
		select {
		case <-ctx.Done():
			return nil
		case s := <-l.next:
			l.adopt(s)
		case <-time.After(wait):
		}
	}
}

// Reconfigure puts other options in force: the link that is up ends and begins anew
// with them. If they are wrong it changes nothing and says why. Logger stays what
// NewLink was given.
func (l *Link) Reconfigure(o LinkOptions) error {
	setup, err := checkLink(o)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.next: // never taken up, and out of date
	default:
	}
	l.next <- setup
	if l.end != nil {
		l.end()
	}
	return nil
}

// adopt puts s in force, or what Reconfigure wants if it wants anything.
func (l *Link) adopt(s *linkSetup) {
	if s == nil {
		select {
		case s = <-l.next:
		default:
			return
		}
	}
	s.opts.Logger = l.opts.Logger
	l.opts, l.urls = s.opts, s.urls
	l.backoff, l.history, l.banned, l.ceiling = backoff{}, history{}, banned{}, ceiling{}
}

// stableAfter is how long a link must have been up to count as repaired.
const stableAfter = 10 * time.Second

// session makes one connection to the hub, serves it until it ends and says why
// it did. up is how long the link was up, 0 if it did not come up.
func (l *Link) session(ctx context.Context, u hubURL) (up time.Duration, err error) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	l.setEnd(end)
	defer l.setEnd(nil)
	if len(l.next) > 0 { // it came before it could end this
		return 0, context.Canceled
	}
	nc, err := l.dial(ctx, u.addr)
	if err != nil {
		return 0, err
	}
	s := newSession(l, u, nc)
	err = s.run(ctx)
	if s.since.IsZero() {
		return 0, err
	}
	return max(1, time.Since(s.since)), err
}

func (l *Link) setEnd(end func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = end
}

// attempt notes that an address is being tried.
func (l *Link) attempt(u hubURL) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.State, l.status.Since, l.status.URL = LinkConnecting, time.Now(), u.String()
	l.status.Attempts++
}

// enter notes a new state and, if there is one, the error that led to it.
func (l *Link) enter(state LinkState, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.State, l.status.Since = state, time.Now()
	if err != nil {
		l.status.LastError = err.Error()
	}
}

// facts notes what a hub said of itself.
func (l *Link) facts(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.HubName, l.status.HubVersion, l.status.Domain = s.hubName, s.hubVersion, s.domain
	l.status.ConnID, l.status.Remote = s.id, s.nc.RemoteAddr()
	l.maxPayload.Store(s.maxPayload.Load())
}

// rise tells everyone that the link is up.
func (l *Link) rise(s *session) {
	l.urls.worked()
	if l.history.recovered() {
		l.log.Info("link to the hub is up", "url", s.url.String(), "hub", s.hubName, "version", s.hubVersion, "domain", s.domain)
	}
	l.live.Store(s)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.State, l.status.Since, l.status.Attempts = LinkUp, time.Now(), 0
	if l.ups++; l.ups > 1 {
		l.status.Reconnects++
	}
	close(l.up)
	l.down = make(chan struct{})
}

// fall tells everyone that it is not.
func (l *Link) fall(s *session) {
	if !l.live.CompareAndSwap(s, nil) {
		return
	}
	l.hubSubs.Store(0)
	l.localSubs.Store(0)
	l.rtt.Store(0)
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.down)
	l.up = make(chan struct{})
}

// Up returns a channel that is closed once the link is up, and closed already if
// it is.
func (l *Link) Up() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.up
}

// Down returns a channel that is closed once the link that is up now has ended,
// and closed already if it is down.
func (l *Link) Down() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.down
}

// Hub returns the JetStream domain of the hub, empty if it has none, and the
// largest message it takes, in bytes of header and data, as it said last; 0 if
// there was no link yet.
func (l *Link) Hub() (domain string, maxPayload int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status.Domain, int(l.maxPayload.Load())
}

// Hears reports whether messages for filter, or some, may come from the hub, as far as its
// permissions and the configuration say. It is true while the link is down.
func (l *Link) Hears(filter string) bool {
	s := l.live.Load()
	if s == nil || s.perms.Load().mayAnnounce(filter) {
		return true
	}
	s.missed.Store(true)
	return false
}

// Delay returns how long what the hub's machine takes now was on its way at most, here and in
// the kernel; 0 if the line does not move. It is too long by a second at most, for the line is
// looked at every half second, and never too short.
func (l *Link) Delay() time.Duration {
	if s := l.live.Load(); s != nil {
		return s.delay()
	}
	return 0
}

// Quiet returns how long not a byte has come from the hub; 0 while the link is down.
func (l *Link) Quiet() time.Duration {
	if s := l.live.Load(); s != nil {
		return Mono() - s.in.Heard()
	}
	return 0
}

// Ping asks the hub to answer behind all that it has to say so far; Flush must follow. answered is
// called by the link's reader, in order with what comes, with nil: it must not block. It is never
// called if the link is lost first.
func (l *Link) Ping(answered func(error)) error {
	if s := l.live.Load(); s != nil {
		return s.ask(ping{answered: answered})
	}
	return ErrLinkDown
}

// Status returns what the link is doing and has done.
func (l *Link) Status() LinkStatus {
	l.mu.Lock()
	st := l.status
	l.mu.Unlock()
	c := &l.counters
	st.InMsgs, st.InBytes = c.inMsgs.Load(), c.inBytes.Load()
	st.OutMsgs, st.OutBytes = c.outMsgs.Load(), c.outBytes.Load()
	st.Refused, st.Complaints = c.refused.Load(), c.complaints.Load()
	st.RTT = time.Duration(l.rtt.Load())
	st.HubInterest, st.LocalInterest = int(l.hubSubs.Load()), int(l.localSubs.Load())
	if s := l.live.Load(); s != nil {
		st.Pending = s.out.Pending()
	}
	return st
}

// Subjects returns what the hub wants from here, in no order; nothing while the link
// is down.
func (l *Link) Subjects() []string {
	if s := l.live.Load(); s != nil {
		return s.port.Subjects()
	}
	return nil
}

// Send appends a message for the hub without asking what the hub wants; the
// hub's reply comes to whoever has subscribed to m.Reply. m is borrowed until
// Send returns. Its errors are [ErrLinkDown]; [ErrLinkBusy], to be tried again
// after a while; and for a message that will never pass [ErrTooLarge],
// [ErrDenied] or [ErrBadSubject].
func (l *Link) Send(m *msg.Msg) error {
	s := l.live.Load()
	if s == nil {
		return ErrLinkDown
	}
	return sendError(m, s.send(m))
}

// Flush pushes what Send appended. It does not block.
func (l *Link) Flush() {
	if s := l.live.Load(); s != nil {
		s.out.Flush()
	}
}
