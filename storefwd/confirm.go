package storefwd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// This file is how a forwarder knows that the hub has what was sent: from its streams
// (resume.go, publish.go, acks.go), or without any from the PONG that answers a PING
// behind it on the same connection.
//
// A PONG says that the hub's server has parsed and routed what came before. That is
// less than a stream's acknowledgement: a hub that dies then, or a subscriber of it
// that does, takes the message along, and nothing at the hub knows a duplicate. After
// an interruption what was not confirmed goes again, so each message comes once at
// least.

// confirmer is one of these ways. Its methods are called by Run.
type confirmer interface {
	resume(ctx context.Context) error                    // begins a session
	send(ctx context.Context, r *Record, most int) error // sends one record
	flush() error                                        // pushes what was sent
}

// flush belongs to the way by streams, in which every publish asks for its own
// acknowledgement.
func (f *Forwarder) flush() error {
	f.up.Flush()
	return nil
}

// How a forwarder's messages are confirmed.
const (
	ByStream = "stream"
	ByFlush  = "flush"
)

// ByNothing is how a Forwarder without a stream goes on after an interruption.
const ByNothing = "none"

const noResume = "the hub keeps no stream to ask: what it had not confirmed is sent again"

// NoInterest is the state of a Forwarder without a stream whose next message nobody
// at the hub subscribes to.
const NoInterest = "no interest"

// Handover gives messages to the hub's subscribers over one connection of the link.
// Offer and Ping are never called at the same time.
type Handover interface {
	Wanted(subject []byte) bool                // somebody at the hub subscribes to it
	Offer(m *msg.Msg) (wanted bool, err error) // appends m, as Uplink.Send does, if it is wanted
	// Ping asks the hub to answer once it has what was offered so far. answered gets nil,
	// or why that proves nothing. It is called later, in order, unless Ping failed or the
	// connection ends first.
	Ping(answered func(error)) error
	Changed() <-chan struct{} // gets a value when what is wanted may have changed
	Close()                   // ends Changed; nothing is offered and no PING under way any more
}

// mostPings is how many unanswered PINGs there may be: enough that a PONG is always
// under way, few enough that each stands for many messages when there are many.
const mostPings = 4

// byFlush is the way without a stream.
type byFlush struct {
	f *Forwarder
	h *handed // of this session or, before its first, nil; owned by Run
}

// handed is what one session has handed over.
type handed struct {
	// Static after handOver.
	over    Handover // Offer and Ping with mu held
	f       *Forwarder
	attempt uint64
	pong    func(error) // answered

	mu      sync.Mutex
	sent    deque[uint64] // guarded by mu; sequences that are not confirmed, as they were sent
	covered []int         // guarded by mu; how many of them each PING under way stands for
	asked   int           // guarded by mu; the sum of these
	void    bool          // guarded by mu; nothing is confirmed any more, since all goes again in order
	settled chan struct{} // guarded by mu; closed when no PING is under way; nil if nobody waits

	done []uint64 // owned by answered
}

// resume waits for the hub's answer, before which it has said what it wants, and
// answered all that an earlier session asked on the same connection; and then until the
// next message is wanted.
func (c *byFlush) resume(ctx context.Context) error {
	f, before := c.f, c.h
	over, err := f.o.Handover(f.o.Filters)
	if err != nil {
		return err
	}
	f.mu.Lock()
	c.h = &handed{over: over, f: f, attempt: f.attempt}
	f.st.Resume, f.st.ResumeWhy = ByNothing, noResume
	f.mu.Unlock()
	c.h.pong = c.h.answered
	if before != nil {
		before.mu.Lock()
		_ = before.ask(true) // on a connection that has ended there is no answer
		before.mu.Unlock()
	}
	if err := c.settle(ctx); err != nil {
		return err
	}
	if before != nil {
		before.over.Close()
	}
	f.l.settleDoubt(true)
	return c.awaitInterest(ctx)
}

// awaitInterest looks at the next record, if there is one, until it is wanted. It
// looks again now and then, for what is next may have been dropped meanwhile.
func (c *byFlush) awaitInterest(ctx context.Context) error {
	f := c.f
	for pause := f.o.RetryMin; f.c.more(); pause = f.longer(pause) {
		soon, cancel := context.WithTimeout(ctx, f.o.RetryMin) // all that is left may have expired
		next, err := f.c.Next(soon, f.recs[:0:1])
		cancel()
		f.c.putBack()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, ErrClosed):
			return err
		case err != nil || c.h.over.Wanted(next[0].Subject):
			return nil
		}
		f.noInterest(unwanted(next[0].Subject))
		timer := time.NewTimer(pause)
		select {
		case <-c.h.over.Changed():
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return nil
}

// unwanted is the subject of a message that waits for a subscriber.
type unwanted string

func (s unwanted) Error() string {
	return fmt.Sprintf("nobody at the hub subscribes to %.256q, and this message and those behind it wait; subscribe there, for example: nats sub %.256q", string(s), string(s))
}

func (f *Forwarder) noInterest(why unwanted) {
	text := why.Error()
	f.setState(NoInterest, text)
	if f.quiet != text {
		f.quiet = text
		f.o.Logger.Warn("forwarder: "+text, "log", f.l.name)
	}
}

// send hands one record over. One that nobody wants ends the session, once what is
// before it is confirmed.
func (c *byFlush) send(ctx context.Context, r *Record, _ int) error {
	f := c.f
	f.expect = f.expect[:0]
	f.header = f.appendHeader(f.header[:0], r)
	f.out = msg.Msg{Subject: r.Subject, Header: f.header, Data: r.Data, QoS: r.QoS}
	wanted, err := c.h.offer(&f.out, r.Seq)
	switch {
	case permanent(err):
		f.reject(r.Seq, err.Error())
		return nil
	case err != nil:
		return err
	case !wanted:
		if err := c.settle(ctx); err != nil {
			return err
		}
		return unwanted(r.Subject)
	}
	f.bytes += int64(len(r.Subject) + len(f.header) + len(r.Data) + 24)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.st.Sent++; r.again && r.Seq <= f.sentTo {
		f.st.Resent++
	}
	f.sentTo = max(f.sentTo, r.Seq)
	return nil
}

// permanent reports whether err says that a message will never pass.
func permanent(err error) bool {
	var never interface{ Permanent() bool }
	return errors.As(err, &never) && never.Permanent()
}

func (c *byFlush) flush() error {
	c.h.mu.Lock()
	err := c.h.ask(false)
	c.h.mu.Unlock()
	c.f.up.Flush()
	return err
}

// settle waits until all that was handed over is confirmed.
func (c *byFlush) settle(ctx context.Context) error {
	settled := make(chan struct{})
	c.h.mu.Lock()
	c.h.settled = settled
	err := c.h.ask(true)
	c.h.mu.Unlock()
	if err != nil {
		return err
	}
	c.f.up.Flush()
	select {
	case <-settled:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *handed) offer(m *msg.Msg, seq uint64) (wanted bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if wanted, err = h.over.Offer(m); wanted && err == nil {
		h.sent.push(seq)
	}
	return wanted, err
}

// ask needs mu. It sends a PING for what has none yet, if few are under way, or always.
func (h *handed) ask(always bool) error {
	n := h.sent.len() - h.asked
	if !always && (n == 0 || len(h.covered) >= mostPings) {
		return nil
	}
	if err := h.over.Ping(h.pong); err != nil {
		return err
	}
	h.covered = append(h.covered, n)
	h.asked += n
	return nil
}

// answered takes the hub's answer to the oldest PING. A doubt about what that stands
// for ends the session.
func (h *handed) answered(doubt error) {
	h.mu.Lock()
	n := h.covered[0]
	h.covered = slices.Delete(h.covered, 0, 1)
	h.asked -= n
	h.done = h.done[:0]
	for range n {
		h.done = append(h.done, h.sent.pop())
	}
	first := n > 0 && doubt != nil && !h.void
	h.void = h.void || first
	void := h.void
	h.mu.Unlock()
	switch {
	case first:
		h.f.interrupt(h.attempt, fmt.Errorf("%w: not confirmed: %w", errResync, doubt))
	case !void:
		h.f.confirmed(h.done)
	}
	if void {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	_ = h.ask(false) // a connection that has ended says so itself
	if len(h.covered) == 0 && h.settled != nil {
		close(h.settled)
		h.settled = nil
	}
}

// interrupt ends a session, if it still runs.
func (f *Forwarder) interrupt(attempt uint64, err error) {
	f.mu.Lock()
	resync, runs := f.resync, attempt == f.attempt
	f.mu.Unlock()
	if runs {
		f.l.setLive(false, 0)
		resync(err)
	}
}

// confirmed notes that the hub has these records.
func (f *Forwarder) confirmed(seqs []uint64) {
	var took time.Duration // of the slowest, which is the first
	n, full := 0, false
	for _, seq := range seqs {
		if a := f.c.ack(seq, 0); a.known {
			took, full = max(took, a.took), full || a.full
			n++
		}
	}
	f.mu.Lock()
	if f.st.Acked += uint64(n); n > 0 {
		f.goes()
	}
	matters := took > 0 && f.measure(took)
	stepped := n > 0 && f.flow.step(took, full, time.Now())
	window := f.flow.window
	f.mu.Unlock()
	if stepped {
		f.c.setWindow(window)
	}
	if matters {
		f.l.setSpill(f.spill())
	}
}
