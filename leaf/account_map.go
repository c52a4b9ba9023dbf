package leaf

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/leafd/leafd/internal/msg"
)

// subjectMap turns the subjects that a filter matches into those of another space,
// one to one: each wildcard of the filter stands somewhere in the result. It does
// not change.
type subjectMap struct {
	from []string // tokens, with "*" and, as the last, ">"
	to   []string // tokens; "*" where one of from's goes, ">" as in from
	refs []int    // for each "*" of to, which of from's it is, counted from 0
}

var (
	errRefs = errors.New("each wildcard must be used once")
	errTail = errors.New(`">" must be in both or in neither`)
)

// newSubjectMap reads "*" in to as the next wildcard of from, "$2" as the second.
func newSubjectMap(from, to string) (*subjectMap, error) {
	if !msg.ValidFilter(from) {
		return nil, fmt.Errorf("%q is not a subject", from)
	}
	if !msg.ValidFilter(to) {
		return nil, fmt.Errorf("%q is not a subject", to)
	}
	m := &subjectMap{from: strings.Split(from, "."), to: strings.Split(to, ".")}
	wild := 0
	for _, t := range m.from {
		if t == "*" {
			wild++
		}
	}
	for i, t := range m.to {
		ref := len(m.refs)
		if n, err := strconv.Atoi(strings.TrimPrefix(t, "$")); err == nil && strings.HasPrefix(t, "$") {
			ref, m.to[i] = n-1, "*"
		}
		if m.to[i] == "*" {
			if ref < 0 || ref >= wild || slices.Contains(m.refs, ref) {
				return nil, fmt.Errorf("map %q to %q: %w", from, to, errRefs)
			}
			m.refs = append(m.refs, ref)
		}
	}
	if len(m.refs) != wild {
		return nil, fmt.Errorf("map %q to %q: %w", from, to, errRefs)
	}
	if (m.from[len(m.from)-1] == ">") != (m.to[len(m.to)-1] == ">") {
		return nil, fmt.Errorf("map %q to %q: %w", from, to, errTail)
	}
	return m, nil
}

// source and target are the filters of both sides.
func (m *subjectMap) source() string { return strings.Join(m.from, ".") }
func (m *subjectMap) target() string { return strings.Join(m.to, ".") }

// reverse maps back.
func (m *subjectMap) reverse() *subjectMap {
	r := &subjectMap{from: m.to, to: m.from, refs: make([]int, len(m.refs))}
	for i, ref := range m.refs {
		r.refs[ref] = i
	}
	return r
}

// subject maps one subject, or reports that it is not one of from's.
func (m *subjectMap) subject(s []byte) ([]byte, bool) {
	var wild [][]byte
	rest, more := s, true
	for _, t := range m.from {
		if !more {
			return nil, false
		}
		if t == ">" {
			break
		}
		var token []byte
		if token, rest, more = bytes.Cut(rest, dot); t == "*" {
			wild = append(wild, token)
		} else if t != string(token) {
			return nil, false
		}
	}
	tail := m.from[len(m.from)-1] == ">"
	if more != tail {
		return nil, false
	}
	out, ref := make([]byte, 0, len(s)+16), 0
	for i, t := range m.to {
		if i > 0 {
			out = append(out, '.')
		}
		switch t {
		case "*":
			out = append(out, wild[m.refs[ref]]...)
			ref++
		case ">":
			out = append(out, rest...)
		default:
			out = append(out, t...)
		}
	}
	return out, true
}

// filter maps what a filter has in common with from, or reports that it has
// nothing.
func (m *subjectMap) filter(f string) (string, bool) {
	common, ok := intersect(strings.Split(f, "."), m.from)
	if !ok {
		return "", false
	}
	out, _ := m.subject([]byte(strings.Join(common, ".")))
	return string(out), true
}

// intersect returns the filter of what two filters both match.
func intersect(a, b []string) (both []string, ok bool) {
	for i := 0; ; i++ {
		switch {
		case i == len(a) && i == len(b):
			return both, true
		case i == len(a) || i == len(b):
			return nil, false
		case a[i] == ">":
			return append(both, b[i:]...), true
		case b[i] == ">":
			return append(both, a[i:]...), true
		case a[i] == "*" || a[i] == b[i]:
			both = append(both, b[i])
		case b[i] == "*":
			both = append(both, a[i])
		default:
			return nil, false
		}
	}
}
