package leaf

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// errNotWanted is a doubt: what was handed over may have found nobody.
var errNotWanted = errors.New("a subscriber left the hub meanwhile")

// Handover gives messages to whoever subscribes at the hub, over one session of the
// link, and learns from a PONG that the hub has parsed and routed them. It never goes
// over to another session: what is not confirmed when the link is lost must go again.
//
// Its methods are safe for all goroutines, but a caller must not let Offer and Ping
// overlap.
type Handover struct {
	// Static after Handover.
	s       *session
	filters []string
	changed chan struct{} // holds one

	// Owned by the caller of Offer and Wanted.
	port   *Port // only matches: nothing is subscribed or published there
	queues [][]byte

	// Guarded by the session's asked.mu.
	doubts int   // times that something came between what was offered and its PONG
	why    error // the last of them
	since  int   // doubts at the first offer since the last Ping; -1: there was none
}

// Handover begins to hand over messages with these subjects, in the session that is up
// now. Close ends it.
func (l *Link) Handover(filters []string) (*Handover, error) {
	s := l.live.Load()
	if s == nil {
		return nil, ErrLinkDown
	}
	h := &Handover{s: s, filters: filters, changed: make(chan struct{}, 1), port: l.router.Attach("handover", nil, Uplink), since: -1}
	s.asked.mu.Lock()
	defer s.asked.mu.Unlock()
	s.asked.handovers = append(s.asked.handovers, h)
	return h, nil
}

// Close makes the hub's interest no more tell h. Its PONGs still come.
func (h *Handover) Close() {
	a := &h.s.asked
	a.mu.Lock()
	defer a.mu.Unlock()
	a.handovers = slices.DeleteFunc(a.handovers, func(o *Handover) bool { return o == h })
}

// Changed gets a value when the hub's interest in the subjects of h may have changed.
func (h *Handover) Changed() <-chan struct{} { return h.changed }

// Wanted reports whether anybody at the hub subscribes to a subject. Just after the
// link came up the hub has not said yet; a first Ping waits for that.
func (h *Handover) Wanted(subject []byte) bool {
	res, at, wanted := h.port.match(subject), -1, false
	for i := range res.once {
		if res.once[i].at == h.s.port {
			at, wanted = i, res.once[i].sub != nil
		}
	}
	h.queues = h.queues[:0]
	for i := range res.groups {
		if g := &res.groups[i]; slices.ContainsFunc(g.far, func(f farMember) bool { return f.once == at }) {
			h.queues = append(h.queues, g.name)
		}
	}
	return wanted || len(h.queues) > 0
}

// Offer appends a message for the hub if somebody there wants it: every plain
// subscriber gets it and one of each queue group, whether or not the group has members
// here too. Its errors are those of [Link.Send].
func (h *Handover) Offer(m *msg.Msg) (wanted bool, err error) {
	s := h.s
	if s.link.live.Load() != s {
		return false, ErrLinkDown
	}
	if err = s.maySend(m.Subject); err == nil {
		h.begin() // before it is asked who wants it, so that whoever leaves then raises a doubt
		if !h.Wanted(m.Subject) {
			return false, nil
		}
		m.Queues = h.queues
		err = s.put(m, s.out.max/8*7)
		m.Queues = nil
	}
	return true, sendError(m, err)
}

func (h *Handover) begin() {
	a := &h.s.asked
	a.mu.Lock()
	if h.since < 0 {
		h.since = h.doubts
	}
	a.mu.Unlock()
}

// Ping asks the hub whether it has what was offered so far; Flush must follow. Once it
// has, answered is called with nil, or with what happened meanwhile because of which
// that proves nothing: the hub complained, or a subscriber left. It is called by the
// link's reader: it must not block. If the link is lost first it is never called.
func (h *Handover) Ping(answered func(error)) error {
	return h.s.ask(ping{h: h, answered: answered})
}

// asked is what the hub has not answered: PONGs come in the order of PINGs, whoever
// sent them.
type asked struct {
	mu        sync.Mutex
	pings     []ping      // guarded by mu
	handovers []*Handover // guarded by mu
}

// ping is one PING under way.
type ping struct {
	at       time.Time
	h        *Handover // nil for the keepalive's
	since    int       // its doubts when the first message was offered
	answered func(error)
}

// ask sends a PING and remembers its place.
func (s *session) ask(p ping) error {
	s.asked.mu.Lock()
	defer s.asked.mu.Unlock()
	if p.at = time.Now(); p.h != nil {
		if p.since = p.h.since; p.since < 0 {
			p.since = p.h.doubts
		}
		p.h.since = -1
	}
	if s.out.Append([]byte("PING\r\n")) != msg.Taken {
		return ErrLinkDown
	}
	s.asked.pings = append(s.asked.pings, p)
	return nil
}

// handlePong answers the oldest PING.
func (s *session) handlePong() {
	s.complaint = nil // the hub goes on
	a := &s.asked
	a.mu.Lock()
	if len(a.pings) == 0 {
		a.mu.Unlock()
		return // nobody asked
	}
	p := a.pings[0]
	a.pings = slices.Delete(a.pings, 0, 1)
	var doubt error
	if p.h != nil && p.h.doubts != p.since {
		doubt = p.h.why
	}
	a.mu.Unlock()
	s.link.rtt.Store(int64(time.Since(p.at)))
	if p.answered != nil {
		p.answered(doubt)
	}
}

// doubt notes that what was handed over and not yet confirmed may not have arrived.
func (s *session) doubt(why error) {
	s.asked.mu.Lock()
	defer s.asked.mu.Unlock()
	for _, h := range s.asked.handovers {
		h.doubts, h.why = h.doubts+1, why
	}
}

// interest tells handovers that the hub wants more or, if gone, less than before.
func (s *session) interest(filter string, gone bool) {
	s.asked.mu.Lock()
	defer s.asked.mu.Unlock()
	for _, h := range s.asked.handovers {
		if !slices.ContainsFunc(h.filters, func(f string) bool { return msg.Overlap(f, filter) }) {
			continue
		}
		if gone {
			h.doubts, h.why = h.doubts+1, errNotWanted
		}
		select {
		case h.changed <- struct{}{}:
		default:
		}
	}
}

// sendError names the subject, except where the link as a whole is the reason.
func sendError(m *msg.Msg, err error) error {
	if err == nil || err == ErrLinkDown {
		return err
	}
	return fmt.Errorf("send %.256q: %w", m.Subject, err)
}
