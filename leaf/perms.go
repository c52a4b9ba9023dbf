package leaf

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// Permissions say what a user may do. They are nats-server's: what is not allowed
// is forbidden where Allow is there, and Deny overrules it.
type Permissions struct {
	Publish   SubjectList
	Subscribe SubjectList // an entry "subject queue" is about members of that queue group only
	Responses *Responses  // answers to what was received, beside Publish; nil: none
}

// SubjectList is one direction of Permissions.
type SubjectList struct {
	Allow []string // nil allows everything, an empty one nothing
	Deny  []string
}

// Responses bound what may be published on the reply subject of a message that was
// received.
type Responses struct {
	Max     int           // messages; 0 means 1, negative any number
	Expires time.Duration // after the message came; 0 means 2 minutes, negative never
}

// rights are Permissions that were checked, to be asked quickly. They do not
// change; nil allows everything. This is the one place where it is decided what a
// user may do: each way to publish, subscribe or receive asks it.
type rights struct {
	publish         direction
	allow, deny     queueList // of Subscribe
	allSubjects     bool      // Subscribe.Allow is absent
	denied          *node     // deny without its queue groups, as a trie; nil if there is none
	responses       *Responses
	filtersDelivery bool // what a subscription matches may still be denied
}

// queueSubject is an entry of a list for subscriptions. queue is empty or, in the
// same grammar as a subject, a queue group.
type queueSubject struct{ subject, queue string }

type queueList []queueSubject

// newRights checks permissions.
func newRights(p *Permissions) (*rights, error) {
	if p == nil {
		return nil, nil
	}
	for _, s := range slices.Concat(p.Publish.Allow, p.Publish.Deny) {
		if !msg.ValidFilter(s) {
			return nil, fmt.Errorf("%q is not a subject", s)
		}
	}
	rt := &rights{allSubjects: p.Subscribe.Allow == nil}
	rt.publish = newDirection(&subjectPermission{Allow: p.Publish.Allow, Deny: p.Publish.Deny}, nil)
	if p.Responses != nil {
		rt.responses = &Responses{cmp.Or(p.Responses.Max, 1), cmp.Or(p.Responses.Expires, 2*time.Minute)}
		if rt.publish.allow == nil {
			rt.publish.allow = &node{} // who may answer may do no more than that
		}
	}
	var err error
	if rt.allow, err = newQueueList(p.Subscribe.Allow); err != nil {
		return nil, err
	}
	if rt.deny, err = newQueueList(p.Subscribe.Deny); err != nil {
		return nil, err
	}
	for _, e := range rt.deny {
		if e.queue != "" {
			continue
		}
		if rt.denied == nil {
			rt.denied = &node{}
		}
		rt.denied.insert(e.subject, entry{sub: &msg.Sub{Subject: e.subject}})
	}
	rt.filtersDelivery = len(rt.deny) > 0
	return rt, nil
}

func newQueueList(list []string) (q queueList, err error) {
	for _, s := range list {
		subject, queue, has := s, "", false
		if fields := strings.Fields(s); len(fields) == 2 {
			subject, queue, has = fields[0], fields[1], true
		}
		if !msg.ValidFilter(subject) || has && !msg.ValidFilter(queue) {
			return nil, fmt.Errorf(`%q is neither a subject nor "subject queue"`, s)
		}
		q = append(q, queueSubject{subject, queue})
	}
	return q, nil
}

// find says what a list has on a filter: whether as such; whether for some queue
// groups only, and whether queue is one of them.
func (l queueList) find(filter, queue string) (plain, grouped, named bool) {
	for _, e := range l {
		switch {
		case !msg.Match(e.subject, filter):
		case e.queue == "":
			plain = true
		default:
			grouped = true
			named = named || e.queue == queue || msg.HasWildcard(e.queue) && msg.Match(e.queue, queue)
		}
	}
	return plain, grouped, named
}

// mayPublish does not count answers, see [answers].
func (rt *rights) mayPublish(subject []byte) bool { return rt == nil || rt.publish.passes(subject) }

// maySubscribe decides about a filter as a whole. Where an allowed subject names
// queue groups, a member of a group must be in one of those; a denied subject that
// names groups denies it to those.
func (rt *rights) maySubscribe(filter, queue string) bool {
	if rt == nil {
		return true
	}
	if !rt.allSubjects {
		plain, grouped, named := rt.allow.find(filter, queue)
		if grouped && queue != "" {
			plain = named
		}
		if !plain {
			return false
		}
	}
	plain, _, named := rt.deny.find(filter, queue)
	return !plain && !(named && queue != "")
}

// mayReceive decides about one message for a subscription that maySubscribe, but
// that may match more than what is not denied.
func (rt *rights) mayReceive(subject []byte, queue string) bool {
	if rt == nil || !rt.filtersDelivery {
		return true
	}
	if rt.denied != nil && rt.denied.covers(subject) {
		return false
	}
	if queue == "" {
		return true
	}
	_, _, named := rt.deny.find(string(subject), queue)
	return !named
}
