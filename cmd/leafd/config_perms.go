package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/leaf"
)

// readPermissions reads what a user may do; nil if nothing is said.
func readPermissions(b *block, names ...string) (p *leaf.Permissions) {
	b.sub(func(b *block) {
		p = &leaf.Permissions{}
		readSubjects(b, &p.Publish, false, "publish", "pub", "import")
		readSubjects(b, &p.Subscribe, true, "subscribe", "sub", "export")
		p.Responses = readResponses(b)
	}, names...)
	return p
}

// readSubjects reads a subject, a list of them, or { allow, deny }.
func readSubjects(b *block, dst *leaf.SubjectList, queues bool, names ...string) {
	v, ok := b.get(names...)
	if !ok {
		return
	}
	if _, isMap := v.v.(map[string]any); isMap {
		v.enter(func(b *block) {
			b.subjects(&dst.Allow, queues, "allow")
			b.subjects(&dst.Deny, queues, "deny")
		})
		return
	}
	v.subjects(&dst.Allow, queues)
}

func (b *block) subjects(dst *[]string, queues bool, name string) {
	if v, ok := b.get(name); ok {
		v.subjects(dst, queues)
	}
}

// subjects reads subjects with wildcards and, with queues, "subject queue".
func (v value) subjects(dst *[]string, queues bool) {
	list, ok := v.texts()
	if !ok {
		return
	}
	for _, s := range list {
		words := strings.Fields(s)
		switch {
		case msg.ValidFilter(s):
		case !queues && len(words) == 2:
			v.fail(fmt.Sprintf("%q names a queue group, which publishers have none of", s), "write the subject alone")
		case len(words) != 2 || !msg.ValidFilter(words[0]) || !msg.ValidFilter(words[1]):
			v.fail(fmt.Sprintf("%q is not a subject", s), `subjects are words joined by dots; "*" is one word, ">" the rest`)
		}
	}
	*dst = list
}

// readResponses reads what may be answered: true, or { max, expires }.
func readResponses(b *block) *leaf.Responses {
	v, ok := b.get("allow_responses", "publish_allow_responses")
	if !ok {
		return nil
	}
	if on, isBool := v.v.(bool); isBool {
		if !on {
			return nil
		}
		return &leaf.Responses{Max: 1, Expires: 2 * time.Minute}
	}
	r := leaf.Responses{Max: 1, Expires: 2 * time.Minute}
	v.enter(func(b *block) {
		b.integer(&r.Max, -1, 1e6, "max", "max_msgs", "max_messages", "max_responses")
		b.dur(&r.Expires, -1, 24*time.Hour, "expires", "expiration", "ttl")
	})
	return &r
}

// permitAll gives users without permissions of their own the default ones.
func permitAll(users []leaf.User, p *leaf.Permissions) {
	for i := range users {
		if users[i].Permissions == nil {
			users[i].Permissions = p
		}
	}
}
