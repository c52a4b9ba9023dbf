package leaf

import "github.com/leafd/leafd/internal/msg"

// This file tells who asked what is subscribed here: a link announces it to its hub.

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
		f(k.subject, k.queue, n)
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
	r.gen.Add(1)
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
	if sub.Queue != "" || n == 0 || n == 1 && delta > 0 {
		for f := range r.watchers {
			(*f)(sub.Subject, sub.Queue, n)
		}
	}
}
