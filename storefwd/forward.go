package storefwd

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
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
}

// ForwarderOptions say what goes where. Log, Uplink and Filters are required.
type ForwarderOptions struct {
	Log     *Log     // the outbox; UntilAcked
	Uplink  Uplink   //
	Filters []string // the subjects the outbox takes; used to find the hub's stream and what it has

	Class  string // goes into message ids, <node>/<class>; outboxes of one store must differ in it
	Stream string // the hub's stream, if it is not to be found by subject
	Domain string // the hub's JetStream domain, if its INFO does not say

	Window      int           // messages in flight; default 256
	WindowBytes int           // bytes in flight; default 1 MiB
	AckTimeout  time.Duration // then the hub is asked where it stands; default 5s
	RetryMin    time.Duration // pause before asking again, doubled up to RetryMax; default 250ms
	RetryMax    time.Duration // default 30s

	Logger *slog.Logger
}

func (o *ForwarderOptions) setDefaults() {
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
// twice however long the interruption was.
//
// Its Inbox must be subscribed for it; the acknowledgements come to Deliver.
type Forwarder struct {
	// Static after NewForwarder.
	o      ForwarderOptions
	s      *Store
	l      *Log
	up     Uplink
	inbox  []byte // "_INBOX.<random>."
	origin []byte // of message ids

	// Static after Run opened it.
	c *Cursor

	// Owned by Run.
	recs   []Record
	header []byte
	reply  []byte
	out    msg.Msg
	quiet  string // the last trouble that was logged

	// Guarded by mu.
	mu      sync.Mutex
	attempt uint64         // counts sessions; acknowledgements carry it
	resync  func(error)    // ends the session that runs
	answer  chan *msg.Msg  // to the request that is out; nil if none is
	request uint64         // its number
	holes   map[uint64]int // refused by the hub for now: how often
	st      ForwarderStats
}

// ForwarderStats describe a Forwarder at one moment.
type ForwarderStats struct {
	State     string // connecting, resuming, no stream, live
	Detail    string // for people: what is missing and what to do
	Since     time.Time
	LastError string
	Stream    string
	Shared    bool // others write to the same subjects: resuming relies on the stream's duplicate window

	Sent       uint64 // publishes, repeated ones included
	Resent     uint64 // of these, repeated
	Acked      uint64 // acknowledged by the stream
	Resumed    uint64 // found on the hub after an interruption, not sent again
	Duplicates uint64 // sent twice, and recognised by the hub
	Rejected   uint64 // given up: the hub will not take them
	Junk       uint64 // replies that were no acknowledgement
	InFlight   int
	RTT        time.Duration // of acknowledgements, smoothed
}

// States of a Forwarder.
const (
	Connecting = "connecting"
	Resuming   = "resuming"
	NoStream   = "no stream"
	Live       = "live"
)

var (
	errDown   = errors.New("the link went down")
	errResync = errors.New("resync")
)

// NewForwarder returns a forwarder that does nothing until Run.
func NewForwarder(o ForwarderOptions) *Forwarder {
	o.setDefaults()
	f := &Forwarder{o: o, l: o.Log, s: o.Log.s, up: o.Uplink, recs: make([]Record, 0, 64)}
	f.inbox = []byte("_INBOX." + hex.EncodeToString(random(11)) + ".")
	f.origin = []byte(f.s.node)
	if o.Class != "" {
		f.origin = append(append(f.origin, '/'), o.Class...)
	}
	f.setState(Connecting, "")
	return f
}

// Inbox is the filter of the subjects that acknowledgements come to.
func (f *Forwarder) Inbox() string { return string(f.inbox) + "*" }

// Run forwards until ctx is done or the store is closed. It may be called once.
func (f *Forwarder) Run(ctx context.Context) error {
	if err := f.s.claimOrigin(string(f.origin)); err != nil {
		return err
	}
	c, err := f.l.Cursor("hub", CursorConfig{MaxPending: f.o.Window, MaxPendingBytes: f.o.WindowBytes, Ahead: true})
	if err != nil {
		return err
	}
	f.c = c
	pause := f.o.RetryMin
	for {
		f.setState(Connecting, "")
		select {
		case <-f.up.Up():
		case <-ctx.Done():
			return nil
		}
		went, err := f.session(ctx)
		switch {
		case ctx.Err() != nil || errors.Is(err, ErrClosed):
			return nil
		case went:
			pause = f.o.RetryMin
		}
		f.trouble(err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, f.o.RetryMax)
	}
}

// session lasts from one interruption to the next. went says whether anything was
// acknowledged in it.
func (f *Forwarder) session(ctx context.Context) (went bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f.mu.Lock()
	f.attempt++
	f.resync = cancel
	before := f.st.Acked
	f.mu.Unlock()
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel(nil)
	down := f.up.Down()
	watch.Go(func() { f.watch(ctx, down, cancel) })

	f.setState(Resuming, "")
	if err = f.resume(ctx); err == nil {
		f.l.setLive(true, f.spill())
		f.setState(Live, "")
		err = f.pump(ctx)
	}
	f.l.setLive(false, 0)
	f.mu.Lock()
	went = f.st.Acked > before
	f.mu.Unlock()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return went, err
}

// watch ends the session when the link goes down or the hub falls silent.
func (f *Forwarder) watch(ctx context.Context, down <-chan struct{}, cancel func(error)) {
	tick := time.NewTicker(f.o.AckTimeout / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-down:
			f.l.setLive(false, 0)
			cancel(errDown)
			return
		case <-tick.C:
			if f.c.oldestPending() >= f.o.AckTimeout {
				f.l.setLive(false, 0)
				cancel(fmt.Errorf("%w: no acknowledgement from the hub in %v", errResync, f.o.AckTimeout))
				return
			}
		}
	}
}

// pump sends what the cursor gives, in order, as far as the window allows.
func (f *Forwarder) pump(ctx context.Context) (err error) {
	_, most := f.up.Hub()
	for {
		if f.recs, err = f.c.Next(ctx, f.recs[:0]); err != nil {
			return err
		}
		for i := range f.recs {
			if ctx.Err() != nil {
				return ctx.Err() // the hub refused an earlier one: none may overtake it
			}
			if err := f.send(&f.recs[i], most); err != nil {
				return err
			}
		}
		f.up.Flush()
		clear(f.recs)
	}
}

// send publishes one record.
func (f *Forwarder) send(r *Record, most int) error {
	f.header = f.appendHeader(f.header[:0], r)
	if most > 0 && len(f.header)+len(r.Data) > most {
		f.reject(r.Seq, r.Subject, fmt.Sprintf("%d bytes are more than the hub's max_payload of %d", len(f.header)+len(r.Data), most))
		return nil
	}
	f.mu.Lock()
	f.st.Sent++
	f.reply = append(f.reply[:0], f.inbox...)
	f.reply = strconv.AppendUint(f.reply, f.attempt, 10)
	f.mu.Unlock()
	f.reply = append(f.reply, '_')
	f.reply = strconv.AppendUint(f.reply, r.Seq, 10)
	f.out = msg.Msg{Subject: r.Subject, Reply: f.reply, Header: f.header, Data: r.Data}
	err := f.up.Send(&f.out)
	var never interface{ Permanent() bool }
	if errors.As(err, &never) && never.Permanent() {
		f.reject(r.Seq, r.Subject, err.Error())
		return nil
	}
	return err
}

var (
	headerLine = []byte("NATS/1.0\r\n")
	crlf       = []byte("\r\n")
	msgID      = []byte("Nats-Msg-Id")
)

// appendHeader appends the record's header block with our message id in it. An id
// that a device set would undo what ours is for; it is left out.
func (f *Forwarder) appendHeader(b []byte, r *Record) []byte {
	first, rest, _ := bytes.Cut(r.Header, crlf)
	if bytes.HasPrefix(first, headerLine[:8]) && bytes.HasSuffix(rest, crlf) {
		b = append(append(b, first...), crlf...)
	} else {
		b, rest = append(b, headerLine...), nil
	}
	b = append(append(b, msgID...), ": "...)
	b = appendID(b, f.origin, r.Epoch, r.Seq)
	b = append(b, crlf...)
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, crlf)
		if name, _, _ := bytes.Cut(line, []byte(":")); len(line) > 0 && !bytes.EqualFold(name, msgID) {
			b = append(append(b, line...), crlf...)
		}
	}
	return append(b, crlf...)
}

// Deliver takes what comes to the Inbox: acknowledgements, and answers to the one
// request that may be out.
func (f *Forwarder) Deliver(m *msg.Msg, _ *msg.Sub) msg.Drop {
	token, ok := bytes.CutPrefix(m.Subject, f.inbox)
	if !ok {
		return msg.Gone
	}
	if number, ok := bytes.CutPrefix(token, []byte("r")); ok {
		f.mu.Lock()
		defer f.mu.Unlock()
		if n, ok := parseUint(number); ok && f.answer != nil && n == f.request {
			f.answer <- m.Clone() // holds one
			f.answer = nil
		}
		return msg.Taken
	}
	a, s, _ := bytes.Cut(token, []byte("_"))
	attempt, ok1 := parseUint(a)
	seq, ok2 := parseUint(s)
	ack, ok3 := parsePubAck(m.Data)
	if !ok1 || !ok2 || !ok3 {
		f.mu.Lock()
		f.st.Junk++
		f.mu.Unlock()
		return msg.Taken
	}
	if ack.Error == nil {
		f.acked(attempt, seq, ack.Duplicate)
	} else {
		f.refused(attempt, seq, ack.Error)
	}
	return msg.Taken
}

// acked notes that the hub's stream has seq.
func (f *Forwarder) acked(attempt, seq uint64, duplicate bool) {
	took, known := f.c.ack(seq)
	f.mu.Lock()
	delete(f.holes, seq)
	if duplicate {
		f.st.Duplicates++
	}
	if !known {
		f.mu.Unlock()
		return
	}
	f.st.Acked++
	if attempt != f.attempt || took == 0 {
		f.mu.Unlock()
		return
	}
	before := f.st.RTT
	if f.st.RTT += (took - f.st.RTT) / 8; before == 0 {
		f.st.RTT = took
	}
	slower := f.st.RTT > f.s.o.SpillAfter/4 || before > f.s.o.SpillAfter/4
	f.mu.Unlock()
	if slower {
		f.l.setSpill(f.spill())
	}
}

// spill is how long a record may wait for its acknowledgement: a few round trips,
// when these are longer than the store's own patience.
func (f *Forwarder) spill() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return min(4*f.st.RTT, f.o.AckTimeout)
}

const maxRefusals = 3

// refused sorts out an error of the stream. What is wrong with the message will
// not pass, and the message is given up at once or after a few tries. What is
// wrong with the stream may pass: go back to the first that is missing.
func (f *Forwarder) refused(attempt, seq uint64, e *apiError) {
	f.mu.Lock()
	if attempt != f.attempt {
		f.mu.Unlock()
		return
	}
	if f.holes == nil {
		f.holes = map[uint64]int{}
	}
	f.holes[seq]++
	tries, resync := f.holes[seq], f.resync
	f.mu.Unlock()
	if e.permanent() || e.Code >= 400 && e.Code < 500 && tries >= maxRefusals {
		f.reject(seq, nil, e.String())
		return
	}
	f.l.setLive(false, 0)
	resync(fmt.Errorf("%w: the hub refused seq %d: %s", errResync, seq, e))
}

// reject gives a record up for good.
func (f *Forwarder) reject(seq uint64, subject []byte, why string) {
	f.c.lose(seq, LostRejected)
	f.mu.Lock()
	delete(f.holes, seq)
	f.st.Rejected++
	f.st.LastError = "given up: " + why
	f.mu.Unlock()
	f.o.Logger.Warn("forwarder: the hub will not take a message, it is dropped",
		"log", f.l.name, "seq", seq, "subject", string(subject), "err", why)
}

func (f *Forwarder) setState(state, detail string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.st.State != state {
		f.st.State, f.st.Since = state, f.s.o.Now()
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
	if text := err.Error(); text != f.quiet {
		f.quiet = text
		f.o.Logger.Warn("forwarder: interrupted", "log", f.l.name, "err", err)
	}
}

// Stats is a snapshot.
func (f *Forwarder) Stats() ForwarderStats {
	f.mu.Lock()
	st := f.st
	f.mu.Unlock()
	f.s.mu.Lock()
	if c := f.l.cursors["hub"]; c != nil {
		st.InFlight = c.pending.len()
	}
	f.s.mu.Unlock()
	return st
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
