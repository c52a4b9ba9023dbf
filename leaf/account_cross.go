package leaf

import (
	"bytes"
	"strconv"

	"github.com/leafd/leafd/internal/msg"
)

// How messages cross from one account to another. An import is expanded when a
// match is computed: the result then has the recipients in the other account, with
// the subject that they know it by, so that publishing knows nothing of accounts.

// crossing is what an account's messages on one subject become in another.
type crossing struct {
	subject []byte
	inner   *result        // who gets them there
	service *serviceImport // nil for streams and answers
	answer  *reply         // what an answer belongs to; nil for streams and requests
}

// maxCrossings bounds how far a request goes from account to account.
const maxCrossings = 8

// cross adds to a match what other accounts have on the subject. It needs
// router.mu, which all of them share.
func (r *Router) cross(subject []byte, res *result, depth int) {
	if depth == maxCrossings {
		return
	}
	for _, s := range r.streams {
		if local, ok := s.there.subject(subject); ok {
			inner := s.to.router.inner(local)
			res.add(crossing{subject: local, inner: inner})
		}
	}
	for _, s := range r.services {
		if remote, ok := s.there.subject(subject); ok {
			inner := s.to.router.inner(remote)
			s.to.router.cross(remote, inner, depth+1)
			res.add(crossing{subject: remote, inner: inner, service: s})
		}
	}
	if root := r.replies.root; root != "" && bytes.HasPrefix(subject, []byte(root)) {
		res.passing = true
		if w := r.replies.find(subject); w != nil {
			inner := w.to.inner([]byte(w.subject))
			w.to.cross([]byte(w.subject), inner, depth+1)
			res.add(crossing{subject: []byte(w.subject), inner: inner, answer: w})
		}
	}
}

// inner is the match of a subject in this account alone. It needs mu.
func (r *Router) inner(subject []byte) *result {
	res := &result{}
	r.trie.collect(subject, res)
	if r.guarded > 0 {
		res.leaveOut(subject)
	}
	return res
}

func (res *result) add(c crossing) {
	if in := c.inner; len(in.plain)+len(in.groups)+len(in.once)+len(in.crossings) > 0 {
		res.crossings = append(res.crossings, c)
		res.passing = res.passing || in.passing
	}
}

// publishCrossings delivers m to other accounts.
func (p *Port) publishCrossings(res *result, m *msg.Msg, rc *msg.Receipt) {
	for i := range res.crossings {
		c := &res.crossings[i]
		if c.answer != nil && !c.answer.take(len(m.Data)) {
			continue
		}
		there := *m
		there.Subject = c.subject
		if c.service != nil {
			if p.mode == Uplink { // the request came once for all of the groups that answer
				there.Queues = c.inner.groupNames()
			}
			if p.crossing == 0 { // who asked first
				there.Header = requestInfo(m.Header, c.service.from.name)
			}
			if len(m.Reply) > 0 {
				there.Reply = c.service.to.router.replies.open(c.service, m.Reply)
			}
		}
		p.crossing++
		was := p.tally
		p.distribute(c.inner, &there, rc)
		p.crossing--
		if to := c.counts(); to != nil {
			to.stats.OutMsgs.Add(p.tally.outMsgs - was.outMsgs)
			to.stats.OutBytes.Add(p.tally.outBytes - was.outBytes)
			p.tally.outMsgs, p.tally.outBytes = was.outMsgs, was.outBytes
		}
	}
}

// counts is the account whose traffic a delivery is where it is not the publisher's: as
// with nats-server, requests and answers are of who gets them, streams of who exports.
func (c *crossing) counts() *Router {
	switch {
	case c.service != nil:
		return c.service.to.router
	case c.answer != nil:
		return c.answer.to
	}
	return nil
}

func (res *result) groupNames() (names [][]byte) {
	for i := range res.groups {
		names = append(names, res.groups[i].name)
	}
	return names
}

const requestInfoKey = "Nats-Request-Info"

// requestInfo returns header with the account that asks, as nats-server tells a
// service. What the client put there is replaced.
func requestInfo(header []byte, account string) []byte {
	out := []byte("NATS/1.0\r\n")
	for line := range bytes.Lines(header[min(len(header), len(out)):]) {
		name, _, _ := bytes.Cut(line, []byte(":"))
		if len(bytes.TrimSpace(line)) > 0 && !bytes.EqualFold(bytes.TrimSpace(name), []byte(requestInfoKey)) {
			out = append(out, line...)
		}
	}
	out = append(out, requestInfoKey+`: {"acc":`...)
	out = strconv.AppendQuote(out, account)
	return append(out, "}\r\n\r\n"...)
}
