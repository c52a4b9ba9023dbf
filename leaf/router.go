package leaf

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/table"
)

// Mode says how a sink wants what its subscriptions match.
type Mode uint8

const (
	// EachSub delivers once per matching subscription: NATS clients, MQTT
	// sessions, actuators.
	EachSub Mode = iota
	// Once delivers a message a single time however many subscriptions match.
	Once
	// Uplink is Once for a link to a hub. It gets nothing that an Outbox takes,
	// and of a queue group only what no local member can take.
	Uplink
	// Outbox is Once for a durable log that is forwarded to a hub. It takes only
	// what is published here, never what an Uplink brings.
	Outbox
	// Answers is Once for who asks a hub. It takes only what an Uplink brings, and that goes
	// to nobody else: who knew where answers go could have the hub send some.
	Answers
)

// ErrBadSubject is returned for a subscription whose subject or queue group is
// not valid.
var ErrBadSubject = errors.New("invalid subject")

// stallLimit bounds how long one Flush waits for recipients that are behind, so
// that a publisher pays for a slow reader without being held by a dead one.
const stallLimit = 10 * time.Millisecond

// diskLimit is the same for an outbox. What does not fit before its disk is refused
// and counts as lost, so its publishers are better held.
const diskLimit = time.Second

// flushAfter is how many bytes one batch may leave waiting at its recipients, framing
// included roughly.
const flushAfter = 1 << 20

// Router brings each message to the sinks whose subscriptions match its subject.
// One router is one subject space, that of an account. Its methods are safe for
// all goroutines.
type Router struct {
	stats   Stats
	cache   cache
	gen     atomic.Uint64 // bumped by every change of subscriptions, after the change
	account string        // static
	replies replies       // to requests of other accounts

	mu       *sync.RWMutex         // one for all accounts that may share
	trie     node                  // guarded by mu
	guarded  int                   // guarded by mu; ports whose rights a match must look at
	subs     int                   // guarded by mu
	interest map[interestKey]int   // guarded by mu; local members per subject and queue
	watchers map[*interestFunc]any // guarded by mu

	// What accounts share, guarded by mu; see account_cross.go.
	crosses  bool                // there is any of it for cross to find
	streams  []*streamImport     // others import from here
	services []*serviceImport    // requests that others answer
	borrowed []*streamImport     // imported from others
	lookers  []*Router           // whose matches look in here
	lent     map[interestKey]int // interest of others; see interest.go
}

// NewRouter returns an empty subject space.
func NewRouter() *Router {
	return &Router{mu: &sync.RWMutex{}, account: GlobalAccount, interest: map[interestKey]int{},
		watchers: map[*interestFunc]any{}, lent: map[interestKey]int{}}
}

// Attach gives a sink its place in the subject space. The name appears in errors
// and monitoring. If the sink is also a [msg.Flusher], publishers flush it after
// each batch.
func (r *Router) Attach(name string, s msg.Sink, mode Mode) *Port {
	p := &Port{router: r, name: name, sink: s, mode: mode}
	p.owner = p
	p.flusher, _ = s.(msg.Flusher)
	return p
}

// Port is one sink's place in a router, and its way to publish.
type Port struct {
	// Static after Attach.
	router  *Router
	name    string
	sink    msg.Sink
	flusher msg.Flusher // nil if the sink gathers nothing
	mode    Mode
	owner   *Port // itself, but for a stand-in that a match has in its place

	rights    atomic.Pointer[rights]  // set under router.mu; nil: it may do everything
	answers   atomic.Pointer[answers] // set under router.mu; nil unless rights has Responses
	answering *Port                   // guarded by router.mu; its stand-in that fills answers
	guarded   bool                    // guarded by router.mu; counted in router.guarded
	closed    bool                    // guarded by router.mu

	noEcho atomic.Bool   // see Echo
	dirty  atomic.Bool   // some publisher has this port on its flush list
	stalls atomic.Uint32 // times it was held, see stall

	received struct{ msgs, bytes atomic.Uint64 } // published here, as of the last Flush

	subs table.Table[*msg.Sub, struct{}] // guarded by router.mu

	*publishing // owned by the publishing goroutine; nil until it publishes, and after Rest
}

// publishing is what a port needs while it publishes, and gives back when it rests:
// most ports of a gateway publish seldom.
type publishing struct {
	last     *result // what the previous subject matched
	scratch  result  // for subjects seen too rarely to be cached
	flush    []*Port // recipients touched since the last Flush
	chosen   []int   // per queue group of one publish: index of the picked uplink, or -1
	picks    [][]byte
	crossing int // accounts that the message under way has come through
	tally    tally
	timer    *time.Timer

	checked    map[*result]struct{} // cached matches that rights let the port publish to
	checkedGen uint64               // the generation of all of them
}

var publishings = sync.Pool{New: func() any { return new(publishing) }}

// Rest gives back what the port needed to publish, until it publishes again. It belongs
// to the publishing goroutine, after a Flush.
func (p *Port) Rest() {
	if pub := p.publishing; pub != nil {
		p.publishing, pub.last = nil, nil
		clear(pub.checked) // by this port's rights
		publishings.Put(pub)
	}
}

// tally counts since the last Flush without touching shared memory.
type tally struct {
	inMsgs, inBytes, outMsgs, outBytes uint64
	matches, hits                      uint64
	drops                              [msg.NumDrops]uint64
	dropped                            bool
}

// Name returns the name given to Attach.
func (p *Port) Name() string { return p.name }

// Echo says whether the port's own subscriptions get what it publishes itself,
// which is so unless turned off. An Uplink is never echoed to.
func (p *Port) Echo(on bool) { p.noEcho.Store(!on) }

// Subscribe adds a subscription. Deliveries bring sub back to the sink; its
// exported fields must not change any more. One that permissions forbid fails with
// [ErrForbidden]. Safe for any goroutine.
func (p *Port) Subscribe(sub *msg.Sub) error {
	if !msg.ValidFilter(sub.Subject) {
		return fmt.Errorf("subscribe to %q: %w", sub.Subject, ErrBadSubject)
	}
	if sub.Queue != "" && !msg.ValidQueue(sub.Queue) {
		return fmt.Errorf("subscribe to %q with queue %q: %w", sub.Subject, sub.Queue, ErrBadSubject)
	}
	r := p.router
	r.mu.Lock()
	defer r.mu.Unlock()
	if !p.MaySubscribe(sub.Subject, sub.Queue) {
		return fmt.Errorf("subscribe to %q: %w", sub.Subject, ErrForbidden)
	}
	if _, ok := p.subs.Get(sub); ok {
		return nil
	}
	p.subs.Put(sub, struct{}{})
	r.trie.insert(sub.Subject, entry{sub, p})
	r.changed(p, sub, +1)
	return nil
}

// Unsubscribe removes what Subscribe added; unknown subscriptions are ignored.
// A publish that runs at the same moment may still deliver to it. Safe for any
// goroutine.
func (p *Port) Unsubscribe(sub *msg.Sub) {
	p.router.mu.Lock()
	defer p.router.mu.Unlock()
	p.remove(sub)
}

// Close removes all subscriptions of the port.
func (p *Port) Close() {
	p.router.mu.Lock()
	defer p.router.mu.Unlock()
	for _, sub := range p.subs.Keys() {
		p.remove(sub)
	}
	p.guard(false)
	p.closed = true
}

// remove needs router.mu.
func (p *Port) remove(sub *msg.Sub) {
	if _, ok := p.subs.Get(sub); !ok {
		return
	}
	p.subs.Remove(sub)
	p.router.trie.remove(sub.Subject, entry{sub, p})
	p.router.changed(p, sub, -1)
}

// Publish delivers m to everyone who wants it and reports what became of it. m
// is borrowed; m.Queues is used as scratch space. Flush must follow, after one
// message or after a batch.
func (p *Port) Publish(m *msg.Msg) (rc msg.Receipt) {
	res := p.match(m.Subject)
	p.tally.inMsgs++
	p.tally.inBytes += uint64(len(m.Header) + len(m.Data))
	p.distribute(res, m, &rc)
	if p.tally.outBytes+p.tally.outMsgs*64 > flushAfter {
		p.Flush() // many recipients: what waits for all of them is to stay small
	}
	return rc
}

// distribute delivers m to all of a match.
func (p *Port) distribute(res *result, m *msg.Msg, rc *msg.Receipt) {
	if res.answers && p.mode == Uplink {
		p.publishAnswers(res, m, rc)
		return
	}
	for i := range res.plain {
		if e := &res.plain[i]; e.at.owner != p || !p.noEcho.Load() {
			p.deliver(e.at, e.sub, m, rc)
		}
	}
	if len(res.groups) > 0 {
		p.publishGroups(res, m, rc)
	}
	if len(res.once) > 0 {
		p.publishOnce(res, m, rc)
	}
	if len(res.crossings) > 0 {
		p.publishCrossings(res, m, rc)
	}
}

// publishGroups gives m to one member of each queue group. A message from a hub
// names the groups it is for; one from here is for all. Where no local member
// can take it, an uplink with members is chosen for publishOnce.
func (p *Port) publishGroups(res *result, m *msg.Msg, rc *msg.Receipt) {
	p.chosen = p.chosen[:0]
	for i := range res.groups {
		g := &res.groups[i]
		p.chosen = append(p.chosen, -1)
		if p.mode == Uplink && !contains(m.Queues, g.name) {
			continue
		}
		if !p.deliverOneOf(g.local, m, rc) && len(g.far) > 0 && p.mode != Uplink {
			p.chosen[i] = g.pickFar()
		}
	}
}

// deliverOneOf tries the members from a random one on until one takes m.
func (p *Port) deliverOneOf(members []entry, m *msg.Msg, rc *msg.Receipt) bool {
	if len(members) == 0 {
		return false
	}
	start := rand.IntN(len(members))
	for i := range members {
		e := &members[(start+i)%len(members)]
		if e.at.owner == p && p.noEcho.Load() {
			continue
		}
		if p.deliver(e.at, e.sub, m, rc) {
			return true
		}
	}
	return false
}

// publishOnce serves uplinks and logs. A subject is live or forwarded, never
// both: where an outbox takes a message, no uplink gets it.
func (p *Port) publishOnce(res *result, m *msg.Msg, rc *msg.Receipt) {
	from := m.Queues
	for i := range res.once {
		t := &res.once[i]
		if !t.at.mode.takes(p.mode, res.outbox) {
			continue
		}
		if t.at == p && (p.mode == Uplink || p.noEcho.Load()) {
			continue
		}
		p.picks = p.picks[:0]
		if t.at.mode == Uplink {
			for g, to := range p.chosen[:min(len(p.chosen), len(res.groups))] {
				if to == i {
					p.picks = append(p.picks, res.groups[g].name)
				}
			}
		}
		if t.sub == nil && len(p.picks) == 0 {
			continue
		}
		m.Queues = p.picks
		p.deliver(t.at, t.sub, m, rc)
	}
	m.Queues = from
}

// publishAnswers gives what a hub answers to who asked.
func (p *Port) publishAnswers(res *result, m *msg.Msg, rc *msg.Receipt) {
	for i := range res.once {
		if t := &res.once[i]; t.at.mode == Answers {
			p.deliver(t.at, t.sub, m, rc)
		}
	}
}

// takes reports whether such a sink is for what comes from a port of mode from, if a
// subject is that of an outbox.
func (m Mode) takes(from Mode, outbox bool) bool {
	switch m {
	case Uplink:
		return !outbox
	case Outbox:
		return from != Uplink
	case Answers: // publishAnswers has what is for it
		return false
	}
	return true
}

// deliver hands m to one sink, counts the answer and remembers whom to flush.
func (p *Port) deliver(to *Port, sub *msg.Sub, m *msg.Msg, rc *msg.Receipt) bool {
	d := to.sink.Deliver(m, sub)
	if d > msg.Kept {
		p.tally.drops[d]++
		p.tally.dropped = true
		if to.mode == Outbox {
			rc.Refused = d
		}
		return false
	}
	rc.Taken++
	if d == msg.Kept {
		rc.Kept = true
	}
	p.tally.outMsgs++
	p.tally.outBytes += uint64(len(m.Header) + len(m.Data))
	switch {
	case to.flusher == nil:
	case to.mode == Outbox: // whose disk may be behind: each publisher is to see that
		if !slices.Contains(p.flush, to) {
			p.flush = append(p.flush, to)
		}
	case !to.dirty.Load() && to.dirty.CompareAndSwap(false, true):
		p.flush = append(p.flush, to)
	}
	return true
}

// Flush pushes what was published to the recipients' sockets and adds to the
// router's counters. If a recipient is far behind it waits for it a little: the
// publisher pays, and TCP pushes back on whoever feeds it.
func (p *Port) Flush() {
	if p.publishing == nil {
		return
	}
	if p.tally.inMsgs > 0 {
		p.settle() // who is told of a message finds it counted
	}
	var behind <-chan struct{}
	limit := stallLimit
	for i, to := range p.flush {
		to.dirty.Store(false) // before the flush: what is appended from here on is someone else's to flush
		if ch := to.flusher.Flush(); ch != nil && to.owner != p && limit < diskLimit {
			if behind = ch; to.mode == Outbox {
				limit = diskLimit
			}
		}
		p.flush[i] = nil
	}
	p.flush = p.flush[:0]
	if behind != nil {
		p.stall(behind, limit)
	}
}

func (p *Port) settle() {
	s, t := &p.router.stats, &p.tally
	p.received.msgs.Add(t.inMsgs)
	p.received.bytes.Add(t.inBytes)
	s.InMsgs.Add(t.inMsgs)
	s.InBytes.Add(t.inBytes)
	s.OutMsgs.Add(t.outMsgs)
	s.OutBytes.Add(t.outBytes)
	if t.matches > 0 {
		s.Matches.Add(t.matches)
		s.CacheHits.Add(t.hits)
	}
	if t.dropped {
		for d, n := range t.drops {
			s.Drops[d].Add(n)
		}
	}
	*t = tally{}
}

func (p *Port) stall(behind <-chan struct{}, limit time.Duration) {
	p.stalls.Add(1)
	p.router.stats.Stalls.Add(1)
	if p.timer == nil {
		p.timer = time.NewTimer(limit)
	} else {
		p.timer.Reset(limit)
	}
	select {
	case <-behind:
	case <-p.timer.C:
	}
	p.timer.Stop()
}

func contains(list [][]byte, want []byte) bool {
	for _, b := range list {
		if string(b) == string(want) {
			return true
		}
	}
	return false
}
