package leaf

import (
	"fmt"
	"sync"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// How a port obeys its rights: publishing is checked where a subject is matched,
// what a match may not deliver is left out of it. Once a match is remembered, by
// the port or in the cache, neither costs anything.

// ErrForbidden is returned for a subscription that permissions forbid.
var ErrForbidden = fmt.Errorf("permissions forbid it")

// setRights replaces what the port may do, and ends and returns the subscriptions
// that it may not have any more.
func (p *Port) setRights(rt *rights) (ended []*msg.Sub) {
	r := p.router
	r.mu.Lock()
	defer r.mu.Unlock()
	p.rights.Store(rt)
	if rt == nil || rt.responses == nil {
		p.answers.Store(nil)
		p.answering = nil
	} else {
		a := &answers{limits: *rt.responses}
		if old := p.answers.Load(); old != nil {
			a.inherit(old)
		}
		p.answers.Store(a)
		p.answering = &Port{router: r, name: p.name, sink: &answeringSink{p.sink, rt, a}, flusher: p.flusher, mode: p.mode, owner: p}
	}
	p.guard(rt != nil && (rt.filtersDelivery || rt.responses != nil))
	for _, sub := range p.subs.Keys() {
		if !rt.maySubscribe(sub.Subject, sub.Queue) {
			p.remove(sub)
			ended = append(ended, sub)
		}
	}
	r.stale()
	return ended
}

// guard needs router.mu. It says whether matches must look at the port's rights.
func (p *Port) guard(on bool) {
	if on == p.guarded || on && p.closed {
		return
	}
	p.guarded = on
	if on {
		p.router.guarded++
	} else {
		p.router.guarded--
	}
}

// MaySubscribe reports whether permissions allow a subscription.
func (p *Port) MaySubscribe(subject, queue string) bool {
	return p.rights.Load().maySubscribe(subject, queue)
}

// mayPublish reports whether a publish now would be let through. It counts nothing.
func (p *Port) mayPublish(subject []byte) bool {
	a := p.answers.Load()
	return p.rights.Load().mayPublish(subject) || a != nil && a.has(subject, time.Now())
}

// offLimits is what a subject matches that may not be published to: one recipient
// that refuses.
var offLimits = &result{once: []target{{at: &Port{sink: refuses{}, mode: Outbox}, sub: &msg.Sub{}}}}

type refuses struct{}

func (refuses) Deliver(*msg.Msg, *msg.Sub) msg.Drop { return msg.Forbidden }

// maxChecked bounds the matches that a port remembers it may publish to.
const maxChecked = 256

// matchChecked is match for a port with rights.
func (p *Port) matchChecked(rt *rights, gen uint64, subject []byte) *result {
	res := p.find(gen, subject)
	cached := res != &p.scratch
	if p.checkedGen != gen || len(p.checked) >= maxChecked {
		clear(p.checked)
		p.checkedGen = gen
	}
	if _, ok := p.checked[res]; cached && ok {
		p.last = res
		return res
	}
	if rt.mayPublish(subject) {
		if cached {
			if p.checked == nil {
				p.checked = map[*result]struct{}{}
			}
			p.checked[res] = struct{}{}
			p.last = res
		}
		return res
	}
	if a := p.answers.Load(); a != nil && a.take(subject, time.Now()) {
		return res // and not remembered: the next one is counted again
	}
	return offLimits
}

// leaveOut removes from a new match what permissions do not let through, and has
// those whose answers are counted served by way of that. It needs router.mu.
func (res *result) leaveOut(subject []byte) {
	var v verdict
	res.plain = v.filter(res.plain, subject)
	for i := range res.groups {
		res.groups[i].local = v.filter(res.groups[i].local, subject)
	}
}

// verdict remembers the last answer: many connections are of one user.
type verdict struct {
	rt    *rights
	queue string
	ok    bool
}

func (v *verdict) filter(list []entry, subject []byte) []entry {
	kept := list[:0]
	for _, e := range list {
		rt := e.at.rights.Load()
		if rt != nil && (rt != v.rt || e.sub.Queue != v.queue) {
			*v = verdict{rt, e.sub.Queue, rt.mayReceive(subject, e.sub.Queue)}
		}
		if rt != nil && !v.ok {
			continue
		}
		if e.at.answering != nil {
			e.at = e.at.answering
		}
		kept = append(kept, e)
	}
	return kept
}

// answeringSink notes the reply subjects of what is delivered through it, but for
// those that may be published to anyway.
type answeringSink struct {
	msg.Sink
	rights  *rights
	answers *answers
}

func (s *answeringSink) Deliver(m *msg.Msg, sub *msg.Sub) msg.Drop {
	if len(m.Reply) > 0 && !s.rights.mayPublish(m.Reply) { // before the delivery, which is answered at once
		s.answers.add(m.Reply, time.Now())
	}
	return s.Sink.Deliver(m, sub)
}

// maxAnswers bounds the reply subjects that one client may still answer; then the
// oldest is forgotten.
const maxAnswers = 8192

// answers are the reply subjects that a client may publish to because it received
// them. (nats-server, allow_responses.)
type answers struct {
	limits Responses // static

	mu    sync.Mutex
	open  map[string]owed // guarded by mu
	queue []string        // guarded by mu; the keys of open and some that are gone, oldest first
}

type owed struct {
	sent int
	at   time.Time
}

func (a *answers) add(reply []byte, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open == nil {
		a.open = map[string]owed{}
	}
	key := string(reply)
	if _, ok := a.open[key]; !ok {
		a.queue = append(a.queue, key)
	}
	a.open[key] = owed{at: now}
	for len(a.queue) > 0 && (len(a.queue) > maxAnswers || a.over(a.queue[0], now)) {
		delete(a.open, a.queue[0])
		a.queue = a.queue[1:]
	}
}

// over needs mu.
func (a *answers) over(key string, now time.Time) bool {
	w, ok := a.open[key]
	return !ok || a.limits.Expires >= 0 && now.Sub(w.at) > a.limits.Expires
}

func (a *answers) has(subject []byte, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.over(string(subject), now)
}

// take counts one answer and reports whether it may be given.
func (a *answers) take(subject []byte, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	w, ok := a.open[string(subject)]
	if !ok {
		return false
	}
	key := string(subject)
	if a.over(key, now) {
		delete(a.open, key)
		return false
	}
	w.sent++
	if a.limits.Max >= 0 && w.sent >= a.limits.Max {
		delete(a.open, key)
	} else {
		a.open[key] = w
	}
	return true
}

// inherit takes over what may still be answered.
func (a *answers) inherit(old *answers) {
	old.mu.Lock()
	defer old.mu.Unlock()
	a.open, a.queue = old.open, old.queue
	old.open, old.queue = nil, nil
}

// violation is the answer to what permissions forbid.
func (c *conn) violation(what string) error {
	c.log().Debug("permissions violation", "user", c.grant.User, "what", what)
	return &ProtoError{Text: "Permissions Violation for " + what}
}

func subscriptionTo(sub *msg.Sub) string {
	if sub.Queue == "" {
		return fmt.Sprintf("Subscription to %q", sub.Subject)
	}
	return fmt.Sprintf("Subscription to %q using queue %q", sub.Subject, sub.Queue)
}
