package storefwd

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// Uplink is the link to the hub, as much of it as a Forwarder needs.
type Uplink interface {
	// Send appends toward the hub; m is borrowed. It fails while the link is down.
	// An error with a method Permanent() bool that returns true says that m will
	// never pass.
	Send(m *msg.Msg) error
	Flush()                // pushes what Send appended
	Up() <-chan struct{}   // closed while the link is up
	Down() <-chan struct{} // closed once the session that is up now has ended, or if there is none
	Hub() (domain string, maxPayload int)
	Hears(filter string) bool // the hub lets through what it sends there
	Delay() time.Duration     // how long what the hub takes now has waited on the way to it at most; 0 if it takes nothing
	Quiet() time.Duration     // how long not a byte has come from the hub
	// Ping asks the hub to answer behind all that it has to say so far. answered gets nil; it is called
	// later, in order with what comes, and must not block; never if Ping failed or the link goes down first.
	Ping(answered func(error)) error
}

// ForwarderOptions say what goes where. Log, Uplink and Filters are required.
type ForwarderOptions struct {
	Log     *Log     // the outbox; UntilAcked
	Uplink  Uplink   //
	Filters []string // the subjects the outbox takes; used to find the hub's stream and what it has

	Class  string // goes into message ids, <node>/<class>; outboxes of one store must differ in it
	Stream string // the hub's stream, if it is not to be found by subject
	Domain string // the hub's JetStream domain, if its INFO does not say

	MaxPayload int // what the hub takes, until it has said so: bytes of header and data; 0: no limit known

	// Handover, if it is set, gives the messages to the hub's subscribers instead of a
	// stream, and a PONG confirms them: confirm.go says what that is worth. It begins in
	// the session of the link that is up, and fails if there is none.
	Handover func(filters []string) (Handover, error)

	Window      int           // messages in flight at most; default 8192
	WindowBytes int           // bytes in flight; default 1 MiB
	Priority    int           // outboxes of one store: the higher ones drain first; default 0
	Rate        int64         // bytes a second while a backlog drains; default no limit
	DailyBytes  int64         // bytes sent in one UTC day; default no limit
	Newest      bool          // a backlog drains newest first, and what comes meanwhile before it
	LiveShare   int           // percent of the bytes that what comes has while a backlog drains, oldest first; default 0
	AckTimeout  time.Duration // then the hub is asked where it stands; default 5s
	RetryMin    time.Duration // pause before asking again, doubled up to RetryMax; default 250ms
	RetryMax    time.Duration // default 30s

	Logger *slog.Logger
}

func (o *ForwarderOptions) setDefaults() {
	o.Window = cmpOr(o.Window, 8192)
	o.WindowBytes = cmpOr(o.WindowBytes, 1<<20)
	o.AckTimeout = cmpOr(o.AckTimeout, 5*time.Second)
	o.RetryMin = cmpOr(o.RetryMin, 250*time.Millisecond)
	o.RetryMax = max(cmpOr(o.RetryMax, 30*time.Second), o.RetryMin)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Forwarder drains an outbox to a stream on the hub: each record is published with
// a message id and a reply subject, the stream's acknowledgement acks the cursor.
// After every interruption it asks the hub what it has, so that nothing is sent
// twice however long the interruption was. Without a stream: confirm.go.
//
// Its Inbox must be subscribed for it; the acknowledgements come to Deliver.
type Forwarder struct {
	o ForwarderOptions // owned by Run; while a session lasts it does not change

	// Static after NewForwarder.
	s       *Store
	l       *Log
	up      Uplink
	inbox   []byte   // "_INBOX.<random>."
	origin  []byte   // of message ids
	origins [][]byte // the same, and what it was under former names of the gateway
	how     confirmer

	// Static after Run opened it.
	c *Cursor

	// Owned by Run.
	places     []*place // of this session
	owed       owed     // see settleHoles
	ends       []place  // streams at whose end are ours, as they were read last
	earlier    []string // see earlier.go
	known      []byte   // the subject that was looked at last, and found among them
	partial    bool     // they may leave out subjects of the outbox
	pacer      pacer
	bytes      int64 // of the stride that is being sent
	isLive     bool  // what the log was told
	head       bool  // nothing was sent in this session
	unanswered int   // resumes in a row in which a stream did not answer
	probed     bool  // it acknowledged a message since
	stuck      bool  // the last session ended, and nothing had been acknowledged in it
	outOfTurn  int   // sessions in a row that ended with a guard and nothing acknowledged; see contradictions
	recs       []Record
	header     []byte
	expect     []byte // header lines of the publish that is being made
	reply      []byte
	out        msg.Msg
	quiet      string // the last trouble that was logged
	saidStrict bool   // why the order of the log is kept to
	blindness  string // why the duplicate window is relied on, as logged last

	noTTL atomic.Bool // the hub's stream refused a Nats-TTL: none is sent

	// Guarded by mu.
	mu       sync.Mutex
	attempt  uint64                   // counts sessions; acknowledgements carry it
	resync   func(error)              // ends the session that runs
	tuning   *Tuning                  // what Retune wants; nil: nothing
	request  uint64                   // counts requests
	answers  map[uint64]chan *msg.Msg // to the requests that are out
	repeats  bool                     // the hub knew one already, since the last resume
	alone    chan struct{}            // closed once aloneSeq is acknowledged; nil if nobody waits
	aloneSeq uint64
	insisted string // the subject of that, if it is to go to a configured stream that does not list it; else ""
	sentTo   uint64 // the highest sequence that was given to a hub that confirms by flush
	only     string // the stream, if there is one only
	domain   string // of JetStream there, as it was asked last
	silence  string // why the hub acknowledges nothing in this session, if that is known, for people
	flow     flow
	flight   flight
	refusals map[uint64]int  // refused by the hub for now: how often
	late     spans           // sent in this session behind later ones, and not acknowledged
	foreign  map[string]bool // streams in which somebody else's message was seen
	st       ForwarderStats
}

// ForwarderStats describe a Forwarder at one moment.
type ForwarderStats struct {
	State     string // connecting, resuming, no stream, no interest, live, refused, waiting
	Detail    string // for people: what is missing and what to do
	Since     time.Time
	LastError string
	Stream    string
	Shared    bool // others write to the same subjects

	Confirm         string        // ByStream or ByFlush
	Resume          string        // after an interruption: ByChain, ByReads, ByWindow or ByNothing
	ResumeWhy       string        // why by the window or by nothing
	DuplicateWindow time.Duration // of that stream, if it is known

	Sent       uint64 // publishes, repeated ones included
	Resent     uint64 // of these, repeated
	Acked      uint64 // acknowledged by the stream
	Resumed    uint64 // found on the hub after an interruption, not sent again
	Duplicates uint64 // sent twice, and recognised by the hub
	Rejected   uint64 // given up: the hub will not take them
	Junk       uint64 // replies that were no acknowledgement
	WentBack   uint64 // times that the hub had less than it had acknowledged
	Reordered  uint64 // stored behind later ones: they were lost in the hub and the stream is not ours alone
	InFlight   int
	RTT        time.Duration // of acknowledgements, smoothed
}

// States of a Forwarder.
const (
	Connecting = "connecting"
	Resuming   = "resuming"
	NoStream   = "no stream"
	Live       = "live"
	Refused    = "refused" // the hub does not take what is next, for now
	Waiting    = "waiting" // for a higher priority, or for tomorrow
)

var (
	errDown   = errors.New("the link went down")
	errResync = errors.New("resync")
)

// hubCursor is the name of a Forwarder's cursor, in the store too.
const hubCursor = "hub"

// NewForwarder returns a forwarder that does nothing until Run.
func NewForwarder(o ForwarderOptions) *Forwarder {
	o.setDefaults()
	f := &Forwarder{o: o, l: o.Log, s: o.Log.s, up: o.Uplink, recs: make([]Record, 0, 512),
		answers: map[uint64]chan *msg.Msg{}, refusals: map[uint64]int{}, foreign: map[string]bool{}}
	f.inbox = []byte("_INBOX." + hex.EncodeToString(random(11)) + ".")
	for _, node := range append([]string{f.s.node}, f.s.meta.Nodes...) {
		if o.Class != "" {
			node += "/" + o.Class
		}
		f.origins = append(f.origins, []byte(node))
	}
	f.origin = f.origins[0]
	f.flow = flow{window: window{startWindow, startBytes}, most: window{o.Window, o.WindowBytes}, patience: o.AckTimeout}
	f.setState(Connecting, "")
	f.fit(o.MaxPayload)
	f.how, f.st.Confirm = f, ByStream
	if o.Handover != nil {
		f.how, f.st.Confirm = &byFlush{f: f}, ByFlush
	}
	return f
}

// Inbox is the filter of the subjects that acknowledgements come to.
func (f *Forwarder) Inbox() string { return string(f.inbox) + "*" }

// Run forwards until ctx is done or the store is closed. It may be called once.
func (f *Forwarder) Run(ctx context.Context) error {
	if err := f.s.claimOrigin(string(f.origin)); err != nil {
		return err
	}
	c, err := f.l.Cursor(hubCursor, CursorConfig{MaxPending: startWindow, Stride: int(f.o.stride()), Ahead: true,
		Newest: f.o.Newest, LiveShare: f.o.LiveShare, Idle: f.idle})
	if err != nil {
		return err
	}
	f.c = c
	for pause := f.o.RetryMin; ; {
		f.retune()
		f.setState(Connecting, "")
		select {
		case <-f.up.Up():
		case <-ctx.Done():
			return nil
		}
		went, err := f.session(ctx)
		if ctx.Err() != nil || errors.Is(err, ErrClosed) {
			return nil
		}
		f.trouble(err)
		f.stuck = !went && !errors.Is(err, errDown)
		if went || errors.Is(err, errDown) { // the link paces its attempts itself
			pause = f.o.RetryMin
			continue
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		pause = f.longer(pause)
	}
}

// longer makes the pauses a fifth of the time that has passed: what returns soon is
// found soon, what is away long is asked seldom.
func (f *Forwarder) longer(pause time.Duration) time.Duration {
	return min(pause+pause/4, f.o.RetryMax)
}

// session lasts from one interruption to the next. went says whether anything was
// acknowledged in it.
func (f *Forwarder) session(run context.Context) (went bool, err error) {
	ctx, cancel := context.WithCancelCause(run)
	defer cancel(nil)
	f.mu.Lock()
	f.attempt++
	f.late = spans{}
	f.flight.seqs.clear()
	f.silence = ""
	f.resync = cancel
	if f.tuning != nil { // since Run looked: the link was down, say
		cancel(errRetuned)
	}
	f.flow.begin(time.Now())
	window := f.flow.window
	before := f.st.Acked + f.st.Resumed
	f.mu.Unlock()
	f.c.setWindow(window)
	floor := f.c.reset()
	f.mu.Lock()
	maps.DeleteFunc(f.refusals, func(seq uint64, _ int) bool { return seq <= floor })
	f.mu.Unlock()
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel(nil)
	down := f.up.Down()
	watch.Go(func() { f.watch(ctx, down, cancel) })

	f.setState(Resuming, "")
	_, most := f.up.Hub()
	f.fit(most)
	if err = f.awaitLog(ctx); err != nil {
		return false, err
	}
	if err = f.how.resume(ctx); err == nil {
		f.isLive = false // until the backlog is small
		f.l.setAway(false, false)
		f.l.setDrains()
		f.live()
		f.setState(f.afresh(), "")
		err = f.pump(ctx)
	}
	f.l.setLive(false, 0)
	if run.Err() == nil {
		f.l.setAway(true, slices.ContainsFunc(f.places, func(p *place) bool { return p.info.Config.Persist == "async" }))
	}
	f.s.busy(f, false)
	f.pacer.waits = ""
	f.mu.Lock()
	went = f.st.Acked+f.st.Resumed > before
	f.mu.Unlock()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	f.countOutOfTurn(went, err)
	return went, err
}

// awaitLog returns once it is known what the log holds. What the hub says it has could not be
// acknowledged before, and would be sent again.
func (f *Forwarder) awaitLog(ctx context.Context) error {
	for told := false; ; told = true {
		if err := f.s.awaitSalvage(ctx); err != nil {
			return err
		}
		if f.l.known() {
			return nil
		}
		if !told {
			f.setState(Resuming, "the store cannot be read yet")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.s.done:
			return ErrClosed
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// afresh is the state of a session that begins: Live, or Refused until something is
// acknowledged, if nothing was in the one before.
func (f *Forwarder) afresh() string {
	if f.stuck {
		return Refused
	}
	return Live
}

// watch ends the session when the link goes down or the hub falls silent: it acknowledges nothing for AckTimeout,
// beside the time that bytes are on the line, be it on the way back.
func (f *Forwarder) watch(ctx context.Context, down <-chan struct{}, cancel func(error)) {
	tick := time.NewTicker(f.o.AckTimeout / 4)
	defer tick.Stop()
	silent := func() {
		f.l.setLive(false, 0)
		f.slower()
		cancel(f.unheard())
	}
	var pong chan struct{} // nil: none is waited for
	var before time.Time   // of what was sent before that the acknowledgement is there when it comes, or will not be
	for {
		select {
		case <-ctx.Done():
			return
		case <-down:
			f.l.setLive(false, 0)
			cancel(errDown)
			return
		case <-tick.C:
			switch late := f.o.AckTimeout + f.up.Delay(); {
			case f.c.oldestPending() < late:
			case f.up.Quiet() >= f.o.AckTimeout:
				silent()
				return
			case pong == nil: // the acknowledgement may be behind what comes
				came := make(chan struct{})
				if f.ping(func() { close(came) }) == nil {
					pong, before = came, time.Now().Add(-late)
				}
			}
		case <-pong:
			if pong = nil; f.c.oldestPending() >= time.Since(before) { // and is not
				silent()
				return
			}
		}
	}
}

// unheard is why the session ends that nobody acknowledges.
func (f *Forwarder) unheard() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fmt.Errorf("%w: no acknowledgement from the hub in %v%s", errResync, f.o.AckTimeout, f.silence)
}

func (f *Forwarder) setState(state, detail string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.st.State != state {
		f.st.State, f.st.Since = state, f.s.o.Clock.Now()
	}
	f.st.Detail = detail
}

// trouble notes why a session ended; the same reason is logged once.
func (f *Forwarder) trouble(err error) {
	if err == nil {
		return
	}
	f.mu.Lock()
	f.st.LastError = err.Error()
	f.mu.Unlock()
	if text := strings.Map(noDigit, err.Error()); text != f.quiet { // the numbers are always new
		f.quiet = text
		f.o.Logger.Warn("forwarder: interrupted", "log", f.l.name, "err", err)
	}
}

func noDigit(r rune) rune {
	if '0' <= r && r <= '9' {
		return -1
	}
	return r
}

// Stats is a snapshot.
func (f *Forwarder) Stats() ForwarderStats {
	f.mu.Lock()
	st := f.st
	f.mu.Unlock()
	f.s.mu.Lock()
	for _, c := range f.l.cursors {
		if c.name == hubCursor {
			st.InFlight = c.pending.len()
		}
	}
	if st.State == Refused && f.l.msgs == 0 {
		st.State = Live // what it was about was dropped, or acknowledged late
	}
	f.s.mu.Unlock()
	return st
}

// streamHeader is the header block that a stream takes at most, in bytes.
const streamHeader = 1<<16 - 1

// fit lets the log take what the hub will: nobody is to have an acknowledgement for more.
func (f *Forwarder) fit(maxPayload int) {
	more := f.overhead()
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if maxPayload > 0 {
		f.l.most = max(1, maxPayload-more)
	}
	if f.o.Handover == nil {
		f.l.header = streamHeader - more
	}
}

func (l *Log) setSpill(d time.Duration) {
	l.s.mu.Lock()
	l.spill = int64(d)
	l.s.mu.Unlock()
}

// claimOrigin makes sure that no two forwarders make the same message ids.
func (s *Store) claimOrigin(origin string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.origins[origin] {
		return fmt.Errorf("two outboxes use message ids of %q; give one a class", origin)
	}
	s.origins[origin] = true
	return nil
}
