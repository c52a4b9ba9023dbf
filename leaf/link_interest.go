package leaf

import (
	"strconv"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// Interest travels both ways: LS+ and LS- from the hub become subscriptions of
// the link in the router, and local subscriptions become LS+ and LS-.

// rise announces all local interest and brings the link up.
func (s *session) rise() {
	s.stop = s.link.router.Interest(s.announce)
	s.out.Append([]byte("LS+ " + s.mark + "\r\n"))
	s.ping()
	s.since = time.Now()
	s.link.rise(s)
}

// announce tells the hub how many local members want a subject. It runs under
// the router's lock, so the keeper flushes. A repeated call changes nothing.
func (s *session) announce(subject, queue string, members int) {
	if queue == "" {
		members = min(members, 1)
	}
	if len(subject)+len(queue) > maxHubLine/2 || !s.perms.Load().mayAnnounce(subject) {
		members = 0
	}
	k := interestKey{subject, queue}
	if s.announced[k] == members {
		return
	}
	b, ok := s.out.Begin(len(subject) + len(queue) + 32)
	if !ok {
		return
	}
	if members == 0 {
		delete(s.announced, k)
		b = append(b, "LS- "...)
	} else {
		s.announced[k] = members
		b = append(b, "LS+ "...)
	}
	b = append(b, subject...)
	if queue != "" {
		b = append(b, ' ')
		b = append(b, queue...)
		if members > 0 {
			b = append(b, ' ')
			b = strconv.AppendInt(b, int64(members), 10)
		}
	}
	s.out.End(append(b, "\r\n"...))
	s.link.localSubs.Store(int64(len(s.announced)))
	select {
	case s.kick <- struct{}{}:
	default: // it is awake already
	}
}

// reannounce goes through all local interest again after permissions changed.
// The new watch starts before the old one ends, so that no change is missed.
func (s *session) reannounce() {
	if s.stop == nil {
		return
	}
	old := s.stop
	s.stop = s.link.router.Interest(s.announce)
	old()
}

// permissions merges what the hub allows with what is configured, and with what
// the hub refused before.
func (l *Link) permissions(info *hubInfo) *permissions {
	exports, imports := l.banned.lists(l.opts.DenyExports, l.opts.DenyImports)
	return newPermissions(info.Export, info.Import, exports, imports)
}

// maxWeight bounds what one hub can make of a queue group.
const maxWeight = 1 << 20

// handleSub takes what the hub wants. For a queue group that is known, it is a
// new weight.
func (s *session) handleSub(o *op) error {
	if string(o.subj) == s.mark {
		return errLoop
	}
	if hasAnyPrefix(o.subj, loopMarks) {
		return nil // another's mark, on which nobody publishes
	}
	if !msg.ValidFilter(o.subj) || o.queue != nil && !msg.ValidQueue(o.queue) {
		s.out.Append([]byte("-ERR 'Invalid Subscription'\r\n"))
		return nil
	}
	weight := int32(max(1, min(o.n, maxWeight)))
	old := s.subs[string(s.subKey(o))]
	if old != nil && (o.queue == nil || old.Weight == weight) {
		return nil
	}
	sub := &msg.Sub{Subject: string(o.subj), Queue: string(o.queue), Weight: weight}
	if old == nil {
		s.subBytes += len(s.key)
		if len(s.subs) >= s.link.opts.MaxInterest || s.subBytes/256 > s.link.opts.MaxInterest {
			return errTooMuchInterest
		}
	}
	if err := s.port.Subscribe(sub); err != nil {
		return err
	}
	if old != nil { // after the new one, so that there is always one
		s.port.Unsubscribe(old)
	}
	s.subs[string(s.key)] = sub
	s.link.hubSubs.Store(int64(len(s.subs)))
	s.interest(sub.Subject, false)
	return nil
}

var loopMarks = []string{"$LDS."}

func (s *session) handleUnsub(o *op) {
	sub := s.subs[string(s.subKey(o))]
	if sub == nil {
		return
	}
	s.port.Unsubscribe(sub)
	delete(s.subs, string(s.key))
	s.subBytes -= len(s.key)
	s.link.hubSubs.Store(int64(len(s.subs)))
	s.interest(sub.Subject, true)
}

// subKey sets s.key to "subject queue".
func (s *session) subKey(o *op) []byte {
	s.key = append(append(append(s.key[:0], o.subj...), ' '), o.queue...)
	return s.key
}
