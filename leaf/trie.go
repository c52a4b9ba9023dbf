package leaf

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/leafd/leafd/internal/msg"
)

// entry is one subscription at one port.
type entry struct {
	sub *msg.Sub
	at  *Port
}

// node is one token position of the subject trie. Its fields are guarded by the
// router's lock. Empty nodes are removed.
type node struct {
	next   map[string]*node // by literal token
	star   *node            // "*"
	plain  []entry          // subscriptions that end here
	groups map[string][]entry
	gt     *node // ">", always without children
}

func (n *node) empty() bool {
	return len(n.next) == 0 && n.star == nil && n.gt == nil && len(n.plain) == 0 && len(n.groups) == 0
}

// child returns the place of the node for a token, which may hold nil.
func (n *node) child(token string) *node {
	switch token {
	case "*":
		return n.star
	case ">":
		return n.gt
	}
	return n.next[token]
}

func (n *node) setChild(token string, c *node) {
	switch {
	case token == "*":
		n.star = c
	case token == ">":
		n.gt = c
	case c == nil:
		delete(n.next, token)
	default:
		if n.next == nil {
			n.next = map[string]*node{}
		}
		n.next[token] = c
	}
}

func (n *node) insert(filter string, e entry) {
	for rest, more := filter, true; more; {
		var token string
		token, rest, more = strings.Cut(rest, ".")
		c := n.child(token)
		if c == nil {
			c = &node{}
			n.setChild(token, c)
		}
		n = c
	}
	if q := e.sub.Queue; q != "" {
		if n.groups == nil {
			n.groups = map[string][]entry{}
		}
		n.groups[q] = append(n.groups[q], e)
		return
	}
	n.plain = append(n.plain, e)
}

// remove takes e out and prunes what that leaves empty.
func (n *node) remove(filter string, e entry) {
	token, rest, more := strings.Cut(filter, ".")
	c := n.child(token)
	if c == nil {
		return
	}
	switch q := e.sub.Queue; {
	case more:
		c.remove(rest, e)
	case q == "":
		c.plain = without(c.plain, e)
	default:
		if c.groups[q] = without(c.groups[q], e); len(c.groups[q]) == 0 {
			delete(c.groups, q)
		}
	}
	if c.empty() {
		n.setChild(token, nil)
	}
}

// without removes e in place; order is kept, since deliveries follow it.
func without(list []entry, e entry) []entry {
	if i := slices.Index(list, e); i >= 0 {
		list = slices.Delete(list, i, i+1)
	}
	if len(list) == 0 {
		return nil
	}
	return list
}

// result is what one subject matches. Once published in the cache it does not
// change any more.
type result struct {
	subject string
	gen     uint64
	plain   []entry  // EachSub
	once    []target // Once, Uplink and Outbox ports, each a single time
	groups  []group
	outbox  bool // one of once is an Outbox
	answers bool // one of once is for Answers

	crossings []crossing // to other accounts
	passing   bool       // it holds for this message only
}

// target is a port that gets the message a single time. sub is nil if only queue
// subscriptions match there.
type target struct {
	at  *Port
	sub *msg.Sub
}

// group is one queue group: members here, and members behind uplinks.
type group struct {
	name  []byte
	local []entry
	far   []farMember
}

type farMember struct {
	once   int // index into result.once
	weight int
}

// pickFar returns the index in result.once of an uplink, chosen by weight.
func (g *group) pickFar() int {
	if len(g.far) == 1 {
		return g.far[0].once
	}
	sum := 0
	for _, f := range g.far {
		sum += f.weight
	}
	at := rand.IntN(sum)
	for _, f := range g.far {
		if at -= f.weight; at < 0 {
			return f.once
		}
	}
	return g.far[0].once
}

func (res *result) reset() {
	res.subject, res.gen, res.outbox, res.answers, res.passing = "", 0, false, false, false
	res.crossings = res.crossings[:0]
	res.plain, res.once, res.groups = res.plain[:0], res.once[:0], res.groups[:0]
}

// clone returns a copy with memory of its own.
func (res *result) clone(subject []byte) *result {
	c := &result{subject: string(subject), gen: res.gen, outbox: res.outbox, answers: res.answers,
		plain: slices.Clone(res.plain), once: slices.Clone(res.once), crossings: slices.Clone(res.crossings)}
	for _, g := range res.groups {
		c.groups = append(c.groups, group{bytes.Clone(g.name), slices.Clone(g.local), slices.Clone(g.far)})
	}
	return c
}

// collect adds all that matches the rest of a subject below n.
func (n *node) collect(subject []byte, res *result) {
	for {
		if n.gt != nil {
			n.gt.gather(res)
		}
		token, rest, more := bytes.Cut(subject, dot)
		if n.star != nil {
			if more {
				n.star.collect(rest, res)
			} else {
				n.star.gather(res)
			}
		}
		n = n.next[string(token)]
		if n == nil {
			return
		}
		if !more {
			n.gather(res)
			return
		}
		subject = rest
	}
}

var dot = []byte{'.'}

// gather sorts the subscriptions that end at n by how they want to be served.
func (n *node) gather(res *result) {
	for _, e := range n.plain {
		if e.at.mode == EachSub {
			res.plain = append(res.plain, e)
			continue
		}
		if t := &res.once[res.onceAt(e.at)]; t.sub == nil {
			t.sub = e.sub
		}
	}
	for name, members := range n.groups {
		g := res.groupNamed(name)
		for _, e := range members {
			if e.at.mode != Uplink {
				g.local = append(g.local, e)
				continue
			}
			g.far = append(g.far, farMember{res.onceAt(e.at), int(max(1, e.sub.Weight))})
		}
	}
}

func (res *result) onceAt(p *Port) int {
	for i := range res.once {
		if res.once[i].at == p {
			return i
		}
	}
	res.once = append(res.once, target{at: p})
	res.outbox, res.answers = res.outbox || p.mode == Outbox, res.answers || p.mode == Answers
	return len(res.once) - 1
}

// groupNamed finds or adds a group, reusing the slices of an earlier result.
func (res *result) groupNamed(name string) *group {
	for i := range res.groups {
		if string(res.groups[i].name) == name {
			return &res.groups[i]
		}
	}
	if len(res.groups) < cap(res.groups) {
		res.groups = res.groups[:len(res.groups)+1]
	} else {
		res.groups = append(res.groups, group{})
	}
	g := &res.groups[len(res.groups)-1]
	g.name, g.local, g.far = append(g.name[:0], name...), g.local[:0], g.far[:0]
	return g
}
