package monitor

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// query reads the parameters of a request. It keeps the first error, which is said
// in the words of nats-server, for its tools look at them.
type query struct {
	values url.Values
	err    error
}

func (q *query) text(name string) string { return q.values.Get(name) }

func (q *query) flag(name string) bool {
	s := q.text(name)
	if s == "" {
		return false
	}
	v, err := strconv.ParseBool(s)
	q.failed("boolean", name, err)
	return v
}

func (q *query) int(name string) int {
	s := q.text(name)
	if s == "" {
		return 0
	}
	v, err := strconv.Atoi(s)
	q.failed("int", name, err)
	return v
}

func (q *query) uint(name string) uint64 {
	s := q.text(name)
	if s == "" {
		return 0
	}
	v, err := strconv.ParseUint(s, 10, 64)
	q.failed("uint64", name, err)
	return v
}

func (q *query) failed(kind, name string, err error) {
	if err != nil && q.err == nil {
		q.err = fmt.Errorf("Error decoding %s for '%s': %w", kind, name, err) // as nats-server says it
	}
}

// subs reads ?subs=, which is a truth or the word "detail".
func (q *query) subs() (list, detail bool) {
	if strings.EqualFold(q.text("subs"), "detail") {
		return false, true
	}
	return q.flag("subs"), false
}

// state reads ?state= of /connz.
func (q *query) state() ConnState {
	s := q.text("state")
	switch strings.ToLower(s) {
	case "", "open":
		return Open
	case "closed":
		return Closed
	case "any", "all":
		return Any
	}
	if q.err == nil {
		q.err = errors.New("Error decoding state for " + s) // as nats-server says it
	}
	return Open
}

// page is the part of a list that ?offset= and ?limit= ask for.
type page struct {
	Offset int `json:"offset"`
	Limit  int `json:"limit"`
}

const defaultLimit = 1024

func (p *page) setDefaults() {
	p.Offset = max(p.Offset, 0)
	if p.Limit <= 0 {
		p.Limit = defaultLimit
	}
}

// cut returns where the page begins and ends in a list of n.
func (p *page) cut(n int) (from, to int) {
	from = min(p.Offset, n)
	return from, from + min(p.Limit, n-from)
}
