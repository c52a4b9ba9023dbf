package leaf

import (
	"bytes"
	"slices"
	"strings"

	"github.com/leafd/leafd/internal/msg"
)

// subjectPermission is one direction of the permissions in an INFO: what may
// pass, or all if Allow is absent, and what of that may not.
type subjectPermission struct {
	Allow []string `json:"allow,omitempty"`
	Deny  []string `json:"deny,omitempty"`
}

// noJetStreamHere is what nats-server without JetStream of its own keeps apart
// from its hub's in both directions: a client reaches the hub's JetStream by its
// domain, and gets "no responders" without one.
var noJetStreamHere = []string{"$JS.API.", "$KV.", "$OBJ."}

// permissions are what may pass a link. They do not change once made, and asking
// them allocates nothing.
type permissions struct {
	export, import_ direction
}

// newPermissions merges what the hub says with what is configured here. nil
// means that the hub says nothing.
func newPermissions(export, import_ *subjectPermission, denyExports, denyImports []string) *permissions {
	return &permissions{newDirection(export, denyExports), newDirection(import_, denyImports)}
}

// direction is a list to allow and a list to deny, each also as a trie.
type direction struct {
	allowList, denyList []string
	allow, deny         *node // nil: all is allowed, nothing denied
}

func newDirection(p *subjectPermission, denyHere []string) (d direction) {
	d.denyList = denyHere
	if p != nil {
		d.denyList = slices.Concat(denyHere, subjectsOnly(p.Deny))
		if p.Allow != nil {
			d.allowList = subjectsOnly(p.Allow)
			d.allow = filterTrie(d.allowList)
		}
	}
	if len(d.denyList) > 0 {
		d.deny = filterTrie(d.denyList)
	}
	return d
}

// subjectsOnly leaves out what is not a subject: nats-server allows "subject
// queue" in such lists, which says nothing about a link's plain subscriptions.
func subjectsOnly(list []string) (ok []string) {
	for _, s := range list {
		if msg.ValidFilter(s) {
			ok = append(ok, s)
		}
	}
	return ok
}

func filterTrie(list []string) *node {
	n := &node{}
	for _, s := range list {
		n.insert(s, entry{sub: &msg.Sub{Subject: s}})
	}
	return n
}

// passes reports whether a message with this subject may.
func (d *direction) passes(subject []byte) bool {
	return (d.allow == nil || d.allow.covers(subject)) && (d.deny == nil || !d.deny.covers(subject))
}

// mayWant reports whether interest in filter may be announced: all of it, or a
// part while the messages are checked one by one.
func (d *direction) mayWant(filter string) bool {
	covers := func(f string) bool { return msg.Match(f, filter) }
	overlaps := func(f string) bool { return msg.Overlap(f, filter) }
	return (d.allow == nil || slices.ContainsFunc(d.allowList, overlaps)) && !slices.ContainsFunc(d.denyList, covers)
}

// maySend says whether the hub takes a message: the hub cuts off a link that
// sends what it may not.
func (p *permissions) maySend(subject []byte) bool { return p.export.passes(subject) }

// mayForward says whether what local clients publish may go to the hub.
func (p *permissions) mayForward(subject []byte) bool {
	return !jetStreamHere(subject) && p.maySend(subject)
}

// mayReceive says whether what the hub sends may come in. Replies by ways that
// only servers make are the hub's own business.
func (p *permissions) mayReceive(subject []byte) bool {
	if jetStreamHere(subject) {
		return false
	}
	return p.import_.passes(subject) || hasAnyPrefix(subject, internalReplies)
}

// mayAnnounce says whether the hub may be told of local interest.
func (p *permissions) mayAnnounce(filter string) bool {
	for _, prefix := range noJetStreamHere {
		if strings.HasPrefix(filter, prefix) {
			return false
		}
	}
	return p.import_.mayWant(filter)
}

var internalReplies = []string{"_R_.", "_GR_.", "$GR.", "$JS.ACK."}

// reservedReply reports whether a client may not ask for answers on subject, as it
// is made by servers alone.
func reservedReply(subject []byte) bool {
	return (subject[0] == '_' || subject[0] == '$') && hasAnyPrefix(subject, internalReplies)
}

func jetStreamHere(subject []byte) bool {
	return len(subject) > 0 && subject[0] == '$' && hasAnyPrefix(subject, noJetStreamHere)
}

func hasAnyPrefix(subject []byte, prefixes []string) bool {
	for _, p := range prefixes {
		if len(subject) > len(p) && string(subject[:len(p)]) == p {
			return true
		}
	}
	return false
}

// covers reports whether a filter in the trie matches subject.
func (n *node) covers(subject []byte) bool {
	for {
		if n.gt != nil {
			return true
		}
		token, rest, more := bytes.Cut(subject, dot)
		if n.star != nil && (more && n.star.covers(rest) || !more && len(n.star.plain) > 0) {
			return true
		}
		if n = n.next[string(token)]; n == nil {
			return false
		}
		if !more {
			return len(n.plain) > 0
		}
		subject = rest
	}
}
