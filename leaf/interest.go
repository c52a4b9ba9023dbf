package leaf

import (
	"maps"
	"slices"

	"github.com/leafd/leafd/internal/msg"
)

// A link tells its hub what local subscribers want. That is also what other accounts
// want of this one: their subscriptions to what they import, the requests it takes
// for them, and answers on their way. This is counted apart, as lent interest.

type interestKey struct{ subject, queue string }
type interestFunc func(subject, queue string, members int)

// Interest calls fn for every subject (and queue group) that local subscribers
// want, now and whenever that changes: with the first and after the last member
// of a plain subscription, and with each change of a queue group. members is how
// many there are now. fn runs under the router's lock: it must be quick and must
// not call the router. Subscriptions of an Uplink or Outbox are not local.
func (r *Router) Interest(fn func(subject, queue string, members int)) (stop func()) {
	f := interestFunc(fn)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchers[&f] = nil
	for k, n := range r.interest {
		f(k.subject, k.queue, n+r.lent[k])
	}
	for k, n := range r.lent {
		if r.interest[k] == 0 {
			f(k.subject, k.queue, n)
		}
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.watchers, &f)
	}
}

// changed needs mu. It makes cached matches stale and tells the watchers.
func (r *Router) changed(p *Port, sub *msg.Sub, delta int) {
	r.subs += delta
	if delta > 0 {
		r.stats.Inserts.Add(1)
	} else {
		r.stats.Removes.Add(1)
	}
	r.stale()
	if p.mode == Uplink || p.mode == Outbox {
		return
	}
	k := interestKey{sub.Subject, sub.Queue}
	n := r.interest[k] + delta
	if n == 0 {
		delete(r.interest, k)
	} else {
		r.interest[k] = n
	}
	r.tell(k, n-delta+r.lent[k], n+r.lent[k])
	r.lend(sub, delta)
}

// share replaces what accounts exchange. all are those that are and those that were.
func (a *Auth) share(all []*account, sh *shares) {
	a.global.mu.Lock()
	defer a.global.mu.Unlock()
	before := map[*Router]map[interestKey]int{}
	for _, w := range all {
		r := w.router
		before[r] = r.lent
		r.streams, r.services, r.borrowed, r.lookers, r.lent = nil, nil, nil, nil, map[interestKey]int{}
	}
	for _, s := range sh.streams {
		from, to := s.from.router, s.to.router
		from.streams, to.borrowed = append(from.streams, s), append(to.borrowed, s)
		for k, n := range to.interest {
			if f, ok := s.here.filter(k.subject); ok {
				from.lent[interestKey{f, k.queue}] += n
			}
		}
	}
	for _, s := range sh.services {
		from, to := s.from.router, s.to.router
		from.services = append(from.services, s)
		from.lent[interestKey{s.there.source(), ""}]++
		to.replies.begin()
		to.lent[interestKey{to.replies.root + ">", ""}] = 1
	}
	for _, w := range all {
		r := w.router
		r.lookers = sh.lookers(w)
		r.crosses = len(r.streams)+len(r.services) > 0 || r.replies.root != ""
		r.gen.Add(1)
		changed := maps.Clone(r.lent)
		maps.Copy(changed, before[r])
		for k := range changed {
			r.tell(k, r.interest[k]+before[r][k], r.interest[k]+r.lent[k])
		}
	}
}

// lookers returns those whose matches look into w, directly or by way of others.
func (sh *shares) lookers(w *account) (all []*Router) {
	found := []*account{w}
	see := func(by *account) {
		if !slices.Contains(found, by) {
			found, all = append(found, by), append(all, by.router)
		}
	}
	for i := 0; i < len(found); i++ {
		for _, s := range sh.streams {
			if s.to == found[i] {
				see(s.from)
			}
		}
		for _, s := range sh.services { // requests one way, answers the other
			switch found[i] {
			case s.to:
				see(s.from)
			case s.from:
				see(s.to)
			}
		}
	}
	return all
}

// stale makes cached matches stale that have looked into r. It needs mu.
func (r *Router) stale() {
	r.gen.Add(1)
	for _, l := range r.lookers {
		l.gen.Add(1)
	}
}

// lend passes a change of local interest on to the accounts it is imported from.
// It needs mu.
func (r *Router) lend(sub *msg.Sub, delta int) {
	for _, s := range r.borrowed {
		if f, ok := s.here.filter(sub.Subject); ok {
			from, k := s.from.router, interestKey{f, sub.Queue}
			n := from.lent[k] + delta
			if n == 0 {
				delete(from.lent, k)
			} else {
				from.lent[k] = n
			}
			from.tell(k, from.interest[k]+n-delta, from.interest[k]+n)
		}
	}
}

// tell tells the watchers of a change, where it is one for them. It needs mu.
func (r *Router) tell(k interestKey, before, now int) {
	if k.queue == "" && (before > 0) == (now > 0) || before == now {
		return
	}
	for f := range r.watchers {
		(*f)(k.subject, k.queue, now)
	}
}
