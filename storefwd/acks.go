package storefwd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// This file takes what the hub answers to publishes.

// Deliver takes what comes to the Inbox: acknowledgements, and answers to requests.
func (f *Forwarder) Deliver(m *msg.Msg, _ *msg.Sub) msg.Drop {
	token, ok := bytes.CutPrefix(m.Subject, f.inbox)
	if !ok {
		return msg.Gone
	}
	if number, ok := bytes.CutPrefix(token, []byte("r")); ok {
		if n, ok := parseUint(number); ok {
			f.answered(n, m)
		}
		return msg.Taken
	}
	a, s, named := bytes.Cut(token, []byte("_"))
	attempt, ok1 := parseUint(a)
	seq, ok2 := parseUint(s)
	ack, ok3 := parsePubAck(m.Data)
	switch {
	case ok1 && ok3 && ack.Error != nil && ack.Error.ErrCode == notThatStream && f.astray(attempt, &ack):
	case !ok1 || !ok2 && named || !ok3 || f.elsewhere(&ack):
		f.mu.Lock()
		f.st.Junk++
		f.mu.Unlock()
	case !named:
		f.nameless(attempt, &ack)
	case ack.Error == nil:
		f.acked(attempt, seq, &ack)
	default:
		f.refused(attempt, seq, ack.Error)
	}
	return msg.Taken
}

// astray notes that ack is of a stream which takes what is next, and refused it, for another one is configured.
// If that one does not take it either, this is why. The refusal alone does not say so: where that one is in a domain of its
// own, both may hear it.
func (f *Forwarder) astray(attempt uint64, ack *pubAck) (yes bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if yes = attempt == f.attempt && f.insisted != ""; yes {
		f.silence = fmt.Sprintf("; stream %q on the hub takes %.256q, which is next, and stream %q, which is set for this outbox, does not; add the subject to that one there, or take stream out of the outbox",
			ack.stream, f.insisted, f.o.Stream)
	}
	return yes
}

// elsewhere reports whether another stream than the one that is drained to sent ack. It may
// take the same subjects, in a domain of its own: that it has a message says nothing here.
func (f *Forwarder) elsewhere(ack *pubAck) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	yes := f.only != "" && len(ack.stream) > 0 && string(ack.stream) != f.only ||
		f.domain != "" && len(ack.domain) > 0 && string(ack.domain) != f.domain
	if yes && f.silence == "" {
		f.silence = fmt.Sprintf("; stream %q of domain %q answers in place of %q of %q", ack.stream, ack.domain, f.only, f.domain)
	}
	return yes
}

// mark is the last message that was acknowledged with all that was handed out before
// it: in a hub that was not set back it is still there. The log keeps it, and each fold
// saves it with what is acknowledged.
type mark struct {
	Stream string `json:"stream,omitempty"` // "": there are several, or it is not known
	Domain string `json:"domain,omitempty"` // of JetStream, that it is in; "": it has none, or it was not noted
	At     uint64 `json:"at,omitempty"`     // its sequence in the stream; 0: there is none
	Seq    uint64 `json:"seq,omitempty"`    // ours
	Read   uint64 `json:"read,omitempty"`   // up to here the stream has nothing of ours that is not acknowledged
	Made   int64  `json:"made,omitempty"`   // when the stream was made, Unix nanoseconds by the hub's clock; 0: not noted

	Elsewhere bool `json:"elsewhere,omitempty"` // what was acknowledged before is, or may be, in another stream, which is still there
}

// acked notes that the hub's stream has seq.
func (f *Forwarder) acked(attempt, seq uint64, ack *pubAck) {
	a := f.c.ack(seq, ack.Seq)
	f.mu.Lock()
	delete(f.refusals, seq)
	if ack.Duplicate {
		f.st.Duplicates++
	}
	if f.late.has(seq) {
		if f.late.remove(seq, seq); !ack.Duplicate {
			f.st.Reordered++
		}
	}
	if a.known {
		f.st.Acked++
		f.goes()
	}
	if a.unread != nil { // of a session before this one, or it would be on its way: ask again what is there
		resync := f.resync
		f.mu.Unlock()
		resync(fmt.Errorf("%w: seq %d is acknowledged, which cannot be read here now: %w", errResync, seq, a.unread))
		return
	}
	if attempt != f.attempt {
		f.mu.Unlock()
		return
	}
	f.repeats = f.repeats || ack.Duplicate
	if f.alone != nil && f.aloneSeq == seq {
		close(f.alone)
		f.alone = nil
	}
	hole := f.only != "" && a.known && !a.inOrder && !ack.Duplicate
	back := f.only != "" && a.less && !ack.Duplicate
	resync := f.resync
	changed := a.known && a.took > 0 && f.measure(a.took)
	stepped := a.known && f.flow.step(a.took, a.full, time.Now())
	window := f.flow.window
	f.mu.Unlock()
	if stepped {
		f.c.setWindow(window)
	}
	if hole {
		f.l.setLive(false, 0)
		resync(fmt.Errorf("%w: the hub acknowledged seq %d before an earlier one", errResync, seq))
	} else if back {
		f.l.setLive(false, 0)
		f.l.noteSetBack()
		resync(fmt.Errorf("%w: the stream was set back: seq %d is at %d there", errResync, seq, ack.Seq))
	} else if changed {
		f.l.setSpill(f.spill())
	}
}

// goes notes that the hub takes messages again. It needs mu.
func (f *Forwarder) goes() {
	if f.st.State == Refused {
		f.st.State, f.st.Since = Live, f.s.o.Clock.Now()
	}
}

// measure smooths the time that acknowledgements take, and reports whether it
// matters to the spill time.
func (f *Forwarder) measure(took time.Duration) (matters bool) {
	before := f.st.RTT
	if f.st.RTT += (took - before) / 8; before == 0 {
		f.st.RTT = took
	}
	return spillTime(f.st.RTT, f.s.o.SpillAfter) != spillTime(before, f.s.o.SpillAfter)
}

func (f *Forwarder) spill() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return spillTime(f.st.RTT, f.s.o.SpillAfter)
}

// spillTime is how long a record may wait for its acknowledgement before it is
// written: a few round trips, but not so few that a hub's hiccup costs a write, and
// never longer than the store's own patience.
func spillTime(rtt, most time.Duration) time.Duration {
	if rtt == 0 {
		return most
	}
	return min(max(4*rtt, most/2), most).Truncate(time.Millisecond)
}

const maxRefusals = 3

// refused sorts out an error of the stream. What is wrong with the message will
// not pass, and the message is given up at once or after a few tries. What is
// wrong with the stream may pass: go back to the first that is missing. seq is 0
// if it is not known: then nothing is given up.
func (f *Forwarder) refused(attempt, seq uint64, e *apiError) {
	f.mu.Lock()
	if attempt != f.attempt {
		f.mu.Unlock()
		return
	}
	resync := f.resync
	if e.ErrCode == notThatStream && f.alone != nil && f.aloneSeq == seq { // to a probe: it does answer
		close(f.alone)
		f.alone = nil
		f.mu.Unlock()
		return
	}
	if e.outOfTurn() {
		f.mu.Unlock()
		f.l.setLive(false, 0)
		resync(fmt.Errorf("%w: %w (seq %d: %s)", errResync, errOutOfTurn, seq, e))
		return
	}
	if e.ErrCode == noTTLHere && !f.noTTL.Swap(true) {
		f.mu.Unlock()
		f.o.Logger.Warn("forwarder: the hub's stream does not take Nats-TTL, messages go without it; allow it there with: nats stream edit --allow-msg-ttl", "log", f.l.name)
		f.l.setLive(false, 0)
		resync(fmt.Errorf("%w: the hub's stream does not take Nats-TTL", errResync))
		return
	}
	tries := 0
	if seq > 0 && !e.mayPass() {
		f.refusals[seq]++
		tries = f.refusals[seq]
	}
	f.mu.Unlock()
	if seq > 0 && (e.permanent() || !e.mayPass() && tries >= maxRefusals) {
		f.reject(seq, e.String())
		return
	}
	f.l.setLive(false, 0)
	resync(fmt.Errorf("%w: the hub refused seq %d: %s", errResync, seq, e))
}

const (
	noTTLHere     = 10166 // per-message TTL is disabled
	notThatStream = 10060 // expected stream does not match
)

// errOutOfTurn says that a guard held: something else is last in the stream.
var errOutOfTurn = errors.New("the stream is not where it was expected to be")

// reject gives a record up for good.
func (f *Forwarder) reject(seq uint64, why string) {
	f.c.lose(seq, LostRejected)
	f.mu.Lock()
	delete(f.refusals, seq)
	if f.alone != nil && f.aloneSeq == seq {
		close(f.alone)
		f.alone = nil
	}
	f.st.Rejected++
	f.st.LastError = fmt.Sprintf("given up: seq %d: %s", seq, why)
	f.mu.Unlock()
	f.o.Logger.Warn("forwarder: the hub will not take a message, it is dropped", "log", f.l.name, "err", why) // the same line for all
}

// saveAcks has what is acknowledged saved, if a crash would bring it back: it is in a stream that is not
// asked any more. It waits for that, but not for a disk that does not work.
func (l *Log) saveAcks(ctx context.Context) {
	l.s.mu.Lock()
	if l.comesBack() {
		l.ackNews, l.ackNewsFolding = true, false
		l.s.foldNow()
	}
	l.s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, saveLimit)
	defer cancel()
	look := time.NewTicker(saveLook)
	defer look.Stop()
	for !l.acksAreSaved() {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}

// How long saveAcks waits, and how often it looks.
const (
	saveLimit = 5 * time.Second
	saveLook  = 5 * time.Millisecond
)

func (l *Log) acksAreSaved() bool {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return !l.ackNews
}
