package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/leaf"
	"github.com/leafd/leafd/storefwd"
)

// pubacks is an outbox's log as the router sees it: it answers a publish that has a
// reply subject the way a stream does, with a PubAck once the message is safe, or
// with the error that says why it is not. What has no reply subject and no message
// id goes to the log as it is.
//
// Deliver gathers what is to be answered; Flush, which publishers call after each
// batch, asks one barrier for all of it; run publishes the answers. A publisher
// that does not wait for its answers is slowed down by Flush, which has the store hurry,
// and refused when maxAnswers are on their way. Refusals wait for no barrier, so there is
// room for as many of these; beyond, they are counted alone.
type pubacks struct {
	// Static after newPubacks.
	name    string // of the outbox
	log     *storefwd.Log
	barrier func(func(error))
	port    *leaf.Port // its Publish and Flush belong to run
	logger  *slog.Logger
	wake    chan struct{} // holds one; for run

	mu      sync.Mutex
	ids     idWindow      // guarded by mu
	open    []answer      // guarded by mu; no barrier asked for them yet
	ready   []answer      // guarded by mu; to be published
	waiting int           // guarded by mu; answers that are not published yet, without refusals
	behind  chan struct{} // guarded by mu; not nil while publishers should pause

	quiet   time.Time // guarded by mu; refusals are not logged before
	refused int       // guarded by mu; since the last one that was logged
	subject []byte    // guarded by mu; of the last one
	why     error     // guarded by mu; of the last one

	lost map[string]uint64 // of the log, as the program's log knows it; belongs to run
}

// answer is what one publisher is told.
type answer struct {
	reply     []byte // its own
	seq       uint64
	duplicate bool
	err       error
}

const (
	maxAnswers    = 16 << 10    // on their way at once, and refusals besides
	refusalPeriod = time.Minute // refusals are logged once in, and what is dropped
)

var (
	errPubacksBehind = errors.New("more than 16384 answers are on their way; wait for some")
	errExpectation   = error(notKept("an outbox cannot check Nats-Expected-… or Nats-Batch-… headers; publish without them, or to a stream of the hub"))
	errTraceOnly     = error(notKept("Nats-Trace-Only says that nothing is to be stored; an outbox has nothing to trace"))
	errTTL           = error(notKept("invalid per-message TTL: Nats-TTL is a number of seconds, a duration of 1s or more, or never"))
)

// notKept is why a message is none for an outbox, however often it comes.
type notKept string

func (e notKept) Error() string { return string(e) }

func newPubacks(name string, l *storefwd.Log, barrier func(func(error)), window time.Duration, r *leaf.Router, logger *slog.Logger) *pubacks {
	a := &pubacks{name: name, log: l, barrier: barrier, logger: logger, wake: make(chan struct{}, 1), ids: idWindow{span: window}}
	a.lost = surelyLost(l.Stats())
	a.port = r.Attach("pubacks:"+name, deaf{}, leaf.EachSub)
	return a
}

// deaf is the sink of a port that only publishes.
type deaf struct{}

func (deaf) Deliver(*msg.Msg, *msg.Sub) msg.Drop { return msg.Gone }

// Deliver implements [msg.Sink].
func (a *pubacks) Deliver(m *msg.Msg, _ *msg.Sub) msg.Drop {
	id, why := scanHeader(m.Header)
	if len(m.Reply) == 0 && why == nil && (id == nil || a.ids.span == 0) {
		if _, why = a.log.Append(m); why == nil {
			return msg.Kept
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if why != nil {
		return a.refuse(m, why)
	}
	return a.append(m, keyOf(id))
}

// append keeps m, unless its id says that it is kept already. It needs mu.
func (a *pubacks) append(m *msg.Msg, id idKey) msg.Drop {
	now := time.Now()
	seq, duplicate := a.ids.find(id, now)
	if len(m.Reply) > 0 && a.waiting >= maxAnswers {
		if !duplicate { // else it is there
			a.log.Refused(storefwd.LostNoRoom)
		}
		return a.refuse(m, errPubacksBehind)
	}
	if !duplicate {
		var err error
		if seq, err = a.log.Append(m); err != nil {
			return a.refuse(m, err)
		}
		a.ids.add(id, seq, now)
	}
	if len(m.Reply) > 0 {
		a.open = append(a.open, answer{reply: bytes.Clone(m.Reply), seq: seq, duplicate: duplicate})
		a.waiting++
	}
	return msg.Kept
}

// refuse tells the publisher, if it asked, and now and then the program's log. But for a message
// that is none for an outbox, that has been counted. It needs mu.
func (a *pubacks) refuse(m *msg.Msg, err error) msg.Drop {
	a.refused++
	a.subject, a.why = append(a.subject[:0], m.Subject...), err
	if now := time.Now(); now.After(a.quiet) {
		a.logRefused(now)
	}
	if len(m.Reply) > 0 && len(a.ready) < maxAnswers {
		a.ready = append(a.ready, answer{reply: bytes.Clone(m.Reply), err: err})
		a.signal()
	}
	if _, ok := err.(notKept); ok {
		a.log.Refused(storefwd.LostHeader)
		return msg.Denied
	}
	return msg.StoreFull
}

// logRefused needs mu, and a refusal that was not logged.
func (a *pubacks) logRefused(now time.Time) {
	a.logger.Warn("outbox refuses messages", "outbox", a.name, "subject", string(a.subject), "err", a.why, "count", a.refused)
	a.refused, a.quiet = 0, now.Add(refusalPeriod)
}

// report logs what the log does not know yet: the last refusals, which no other follows,
// and what the outbox dropped, of which nobody else is told. end says that there is no
// later time for it.
func (a *pubacks) report(now time.Time, end bool) {
	a.mu.Lock()
	if a.refused > 0 && (end || now.After(a.quiet)) {
		a.logRefused(now)
	}
	a.mu.Unlock()
	lost := surelyLost(a.log.Stats())
	dropped := gaveUp(a.lost, lost)
	for _, why := range slices.Sorted(maps.Keys(dropped)) {
		a.logger.Warn("outbox is full and drops messages", "outbox", a.name, "reason", why, "count", dropped[why])
	}
	a.lost = lost
}

// surelyLost is what a log lost in this run, without what may be at the hub after all.
func surelyLost(st storefwd.LogStats) map[string]uint64 {
	for why, n := range st.InDoubt {
		st.Lost[why] -= n
	}
	for why, n := range st.Earlier {
		st.Lost[why] -= n
	}
	return st.Lost
}

// Flush implements [msg.Flusher].
func (a *pubacks) Flush() <-chan struct{} {
	a.mu.Lock()
	batch := a.open
	a.open = nil
	if a.behind == nil && max(a.waiting, len(a.ready)) > maxAnswers/2 {
		a.behind = make(chan struct{})
	}
	behind, many := a.behind, a.waiting > maxAnswers/8
	a.mu.Unlock()
	if len(batch) > 0 {
		a.barrier(func(err error) { a.settle(batch, err) })
	}
	if many { // a log with an Interval would let more gather than there is room for
		a.log.Hurry()
	}
	if b := a.log.Flush(); b != nil {
		return b
	}
	return behind
}

// settle is what a barrier calls. A message that could not be made safe keeps its
// place in the log and its id: sent again, it is answered when the disk works again
// and the first one is safe.
func (a *pubacks) settle(batch []answer, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range batch {
		batch[i].err = err
	}
	a.ready = append(a.ready, batch...)
	a.signal()
}

func (a *pubacks) signal() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// run publishes answers, and reports once a minute, until stop is closed.
func (a *pubacks) run(stop <-chan struct{}) {
	minute := time.NewTicker(refusalPeriod)
	defer minute.Stop()
	var batch []answer
	var body []byte
	for done := 0; ; {
		a.mu.Lock()
		a.waiting -= done
		done = 0
		if a.behind != nil && a.waiting <= maxAnswers/4 {
			close(a.behind)
			a.behind = nil
		}
		clear(batch)
		batch, a.ready = a.ready, batch[:0]
		a.mu.Unlock()
		for i := range batch {
			body = a.encode(body[:0], &batch[i])
			a.port.Publish(&msg.Msg{Subject: batch[i].reply, Data: body})
			if batch[i].seq > 0 {
				done++
			}
		}
		a.port.Flush()
		if len(batch) > 0 {
			a.signal() // there may be more
		}
		select {
		case <-a.wake:
		case <-minute.C:
			a.report(time.Now(), false)
		case <-stop:
			if len(batch) == 0 {
				a.report(time.Now(), true)
				return
			}
		}
	}
}

// encode writes an answer as JetStream does.
func (a *pubacks) encode(b []byte, w *answer) []byte {
	b = append(b, '{')
	if w.err != nil {
		code, errCode := 503, 10077
		if w.err == errTTL {
			errCode = 10165 // as a stream has it
		}
		if _, ok := w.err.(notKept); ok || errors.Is(w.err, storefwd.ErrTooLarge) {
			code = 400
		}
		text, err := json.Marshal("outbox " + a.name + ": " + w.err.Error())
		if err != nil {
			panic(err) // a string always marshals
		}
		b = fmt.Appendf(b, `"error":{"code":%d,"err_code":%d,"description":%s},`, code, errCode, text)
	}
	b = append(append(b, `"stream":"`...), a.name...) // a name needs no escapes
	b = strconv.AppendUint(append(b, `","seq":`...), w.seq, 10)
	if w.duplicate && w.err == nil {
		b = append(b, `,"duplicate":true`...)
	}
	return append(b, '}')
}

var (
	headerMsgID     = []byte("Nats-Msg-Id")
	headerExpect    = []byte("Nats-Expected-")
	headerBatch     = []byte("Nats-Batch-")
	headerTraceOnly = []byte("Nats-Trace-Only")
	headerTTL       = []byte("Nats-TTL")
)

// scanHeader finds the message id, and why the message cannot be kept: its publisher asks
// for what only a stream can check, or for a life that no stream takes. Of a name that comes
// twice the first counts, and names are compared letter for letter, as nats-server does it.
func scanHeader(header []byte) (id []byte, why error) {
	mortal := false
	for line := range bytes.Lines(header) {
		name, value, ok := bytes.Cut(line, []byte(":"))
		switch {
		case !ok:
		case id == nil && bytes.Equal(name, headerMsgID):
			id = bytes.TrimSpace(value)
		case bytes.HasPrefix(name, headerExpect), bytes.HasPrefix(name, headerBatch):
			why = errExpectation
		case bytes.Equal(name, headerTraceOnly) && isTrue(value):
			why = errTraceOnly
		case !mortal && bytes.Equal(name, headerTTL):
			if mortal = true; !validTTL(value) {
				why = errTTL
			}
		}
	}
	return id, why
}

// isTrue is what nats-server takes for true in a header.
func isTrue(value []byte) bool {
	switch strings.ToLower(string(bytes.TrimSpace(value))) {
	case "1", "true", "on":
		return true
	}
	return false
}

// validTTL reports whether nats-server takes the value of a Nats-TTL, which it does if it is empty.
func validTTL(value []byte) bool {
	v := string(bytes.TrimSpace(value))
	if d, err := time.ParseDuration(v); err == nil {
		return d >= time.Second
	}
	_, err := strconv.ParseUint(v, 10, 63)
	return err == nil || v == "" || strings.EqualFold(v, "never")
}

var (
	_ msg.Sink    = (*pubacks)(nil)
	_ msg.Flusher = (*pubacks)(nil)
)
