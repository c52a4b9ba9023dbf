package leaf

import "github.com/leafd/leafd/internal/msg"

// This file reads what only a hub says: the arguments of its verbs, and messages that are too large.

// argsLmsg reads: subject routing size
func (p *parser) argsLmsg(rest []byte) error {
	a := p.split(rest)
	ok := len(a) >= 2 && p.routed(a[0], a[1:len(a)-1]) && p.sizes(nil, a[len(a)-1])
	return p.checked(ok, "LMSG", rest)
}

// argsHmsg reads: subject routing header-size total-size
func (p *parser) argsHmsg(rest []byte) error {
	a := p.split(rest)
	ok := len(a) >= 3 && p.routed(a[0], a[1:len(a)-2]) && p.sizes(a[len(a)-2], a[len(a)-1]) && p.head > 0
	return p.checked(ok, "HMSG", rest)
}

// routed reads what stands between subject and sizes of a message on a link:
// nothing, a reply, "| queue…", or "+ reply queue…". A single word is the reply,
// whatever it looks like.
func (p *parser) routed(subject []byte, a [][]byte) bool {
	p.op.m = msg.Msg{Subject: subject}
	switch {
	case len(a) == 0:
		return true
	case len(a) == 1:
		p.op.m.Reply = a[0]
		return true
	case string(a[0]) == "+":
		p.op.m.Reply, a = a[1], a[2:]
	case string(a[0]) == "|":
		a = a[1:]
	default:
		return false
	}
	p.queues = append(p.queues[:0], a...)
	p.op.m.Queues = p.queues
	return true
}

// argsLsub reads: subject [queue weight]
func (p *parser) argsLsub(rest []byte) error {
	a := p.split(rest)
	if len(a) != 1 && len(a) != 3 {
		return badArgs("LS+", rest)
	}
	p.op.subj, p.op.queue, p.op.n = a[0], nil, 0
	if len(a) == 3 {
		p.op.queue, p.op.n = a[1], number(a[2])
	}
	if p.op.n < 0 {
		return badArgs("LS+", rest)
	}
	return nil
}

// argsLunsub reads: subject [queue]
func (p *parser) argsLunsub(rest []byte) error {
	a := p.split(rest)
	if len(a) != 1 && len(a) != 2 {
		return badArgs("LS-", rest)
	}
	p.op.subj, p.op.queue = a[0], nil
	if len(a) == 2 {
		p.op.queue = a[1]
	}
	return nil
}

// passOver is next within a message that is too large.
func (p *parser) passOver(b []byte) (used int, o *op, err error) {
	n := min(p.skip, len(b))
	if p.skip -= n; n < len(b) {
		used, o, err = p.next(b[n:])
	}
	return n + used, o, err
}
