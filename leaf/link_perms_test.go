package leaf

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/leafd/leafd/internal/msg"
)

// A direction lets pass what its two lists let pass, and lets a filter be wanted
// wherever something it matches may pass.
func TestDirectionAgainstLists(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		filters := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string { return drawSubject(t, "a", "b", "*", ">") }), 0, 4)
		p := &subjectPermission{Deny: filters.Draw(t, "deny")}
		if rapid.Bool().Draw(t, "has allow") {
			p.Allow = filters.Draw(t, "allow")
		}
		here := filters.Draw(t, "deny here")
		d := newDirection(p, here)
		for range 10 {
			subject := drawSubject(t, "a", "b", "c")
			matches := func(f string) bool { return msg.Match(f, subject) }
			want := (p.Allow == nil || slices.ContainsFunc(p.Allow, matches)) && !slices.ContainsFunc(p.Deny, matches) && !slices.ContainsFunc(here, matches)
			if got := d.passes([]byte(subject)); got != want {
				t.Fatalf("%q passes: %v", subject, got)
			}
			filter := drawSubject(t, "a", "b", "*", ">")
			if want && msg.Match(filter, subject) && !d.mayWant(filter) {
				t.Fatalf("%q may not be wanted, and %q may pass", filter, subject)
			}
			if !msg.HasWildcard(filter) && d.mayWant(filter) != d.passes([]byte(filter)) {
				t.Fatalf("%q may be wanted or pass, not both", filter)
			}
		}
	})
}

func TestPermissionsOfInternalSubjects(t *testing.T) {
	nothing := &subjectPermission{Allow: []string{}}
	p := newPermissions(nothing, nothing, nil, nil)
	for s, want := range map[string]bool{"_R_.x": true, "_GR_.x": true, "$GR.x": true, "$JS.ACK.s.c.1": true, "a": false, "_R_.": false, "_R_x": false} {
		if got := p.mayReceive([]byte(s)); got != want {
			t.Errorf("may receive %q: %v", s, got)
		}
	}
	all := newPermissions(nil, nil, nil, nil)
	for s, want := range map[string]bool{"$JS.API.x": false, "$JS.API": true, "$JS.dom.API.x": true, "$KV.b.k": false, "$KVx.b": true, "$OBJ.x": false, "$O.x": true, ">": true, "$KV.>": false} {
		if all.mayForward([]byte(s)) != want || all.mayAnnounce(s) != want || !all.maySend([]byte(s)) {
			t.Errorf("%q: forward %v, announce %v, send %v", s, all.mayForward([]byte(s)), all.mayAnnounce(s), all.maySend([]byte(s)))
		}
	}
}
