package testkit

import "strings"

// Law is the reference model of what permissions allow: nats-server's, as documented,
// over subjects of which there are few enough to be listed. Parts that obey
// permissions are held to it.
type Law struct{ Publish, Subscribe SubjectList }

// SubjectList is one direction of a Law. A nil Allow allows everything; an entry of
// Subscribe may be "subject queue".
type SubjectList struct{ Allow, Deny []string }

// LawTokens are those of LawSubjects.
var LawTokens = []string{"a", "b", "c"}

// LawSubjects are all of up to four tokens. A filter in a Law has up to three.
var LawSubjects = func() (all []string) {
	level := []string{""}
	for range 4 {
		var next []string
		for _, s := range level {
			for _, t := range LawTokens {
				next = append(next, strings.TrimPrefix(s+"."+t, "."))
			}
		}
		all, level = append(all, next...), next
	}
	return all
}()

// Matches reports whether a filter matches a subject, or as much as a subject as a
// filter is.
func Matches(filter, subject string) bool {
	f, s := strings.Split(filter, "."), strings.Split(subject, ".")
	for i := range f {
		if f[i] == ">" {
			return len(s) > i
		}
		if i >= len(s) || f[i] != "*" && f[i] != s[i] {
			return false
		}
	}
	return len(f) == len(s)
}

// find says what a list has on all that filter matches.
func find(list []string, queue, filter string) (plain, grouped, named bool) {
	for _, e := range list {
		subject, q, _ := strings.Cut(e, " ")
		covers := true
		for _, s := range LawSubjects {
			covers = covers && (!Matches(filter, s) || Matches(subject, s))
		}
		plain = plain || covers && q == ""
		grouped = grouped || covers && q != ""
		named = named || covers && q != "" && queue != "" && Matches(q, queue)
	}
	return plain, grouped, named
}

// MayPublish is about one subject.
func (l *Law) MayPublish(subject string) bool {
	allowed, _, _ := find(l.Publish.Allow, "", subject)
	denied, _, _ := find(l.Publish.Deny, "", subject)
	return (l.Publish.Allow == nil || allowed) && !denied
}

// MaySubscribe is about a filter, and a queue group or "".
func (l *Law) MaySubscribe(filter, queue string) bool {
	plain, grouped, named := find(l.Subscribe.Allow, queue, filter)
	return (l.Subscribe.Allow == nil || named || plain && !(grouped && queue != "")) && l.MayReceive(filter, queue)
}

// MayReceive is about one subject that a subscription matches.
func (l *Law) MayReceive(subject, queue string) bool {
	plain, _, named := find(l.Subscribe.Deny, queue, subject)
	return !plain && !named
}
