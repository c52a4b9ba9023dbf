package leaf

import (
	"bytes"
	"hash/maphash"
	"sync/atomic"
)

// The match cache is shared by all ports of a router: a fixed table of
// cacheSets sets of cacheWays slots, read and written without a lock. A slot
// points to an immutable result that carries its subject and the generation it
// was computed in; a result of an older generation is a miss. Its memory is
// bounded by the table.
const (
	cacheSets = 4096 // a power of two
	cacheWays = 4
	doorSlots = 4096 // a power of two
)

type cache struct {
	slots [cacheSets * cacheWays]atomic.Pointer[result]

	// door remembers hashes of subjects missed once. Only a second miss is
	// cached, so that subjects used a single time (reply inboxes) neither push
	// out others nor allocate.
	door [doorSlots]atomic.Uint32
}

var cacheSeed = maphash.MakeSeed()

// match returns who gets what the port publishes on a subject. The result is valid
// until the next call.
func (p *Port) match(subject []byte) *result {
	if p.publishing == nil {
		p.publishing = publishings.Get().(*publishing)
	}
	gen := p.router.gen.Load()
	if p.last != nil && p.last.gen == gen && p.last.subject == string(subject) {
		return p.last
	}
	if rt := p.rights.Load(); rt != nil {
		return p.matchChecked(rt, gen, subject)
	}
	res := p.find(gen, subject)
	if res != &p.scratch {
		p.last = res
	}
	return res
}

// find returns what a subject matches: a result of the cache, or p.scratch.
func (p *Port) find(gen uint64, subject []byte) *result {
	r := p.router
	p.tally.matches++
	h := maphash.Bytes(cacheSeed, subject)
	set := r.cache.slots[h%cacheSets*cacheWays:][:cacheWays]
	for i := range set {
		if res := set[i].Load(); res != nil && res.gen == gen && res.subject == string(subject) {
			p.tally.hits++
			return res
		}
	}
	r.matchInto(&p.scratch, subject)
	door := &r.cache.door[h>>32%doorSlots]
	if p.scratch.passing || door.Load() != uint32(h) {
		door.Store(uint32(h))
		return &p.scratch
	}
	res := p.scratch.clone(subject)
	victim(set, gen, h).Store(res)
	return res
}

// matchInto computes what a subject matches.
func (r *Router) matchInto(res *result, subject []byte) {
	res.reset()
	r.mu.RLock()
	defer r.mu.RUnlock()
	res.gen = r.gen.Load()
	if !literal(subject) {
		return
	}
	r.trie.collect(subject, res)
	if r.guarded > 0 {
		res.leaveOut(subject)
	}
	if r.crosses {
		r.cross(subject, res, 0)
	}
}

// Wanted reports whether anyone would get a message on a subject, so that one that
// nobody wants need not be made. It counts nothing. Safe for any goroutine.
func (r *Router) Wanted(subject []byte) bool {
	pub := publishings.Get().(*publishing)
	defer publishings.Put(pub)
	res := &pub.scratch
	r.matchInto(res, subject)
	return len(res.plain)+len(res.groups)+len(res.once)+len(res.crossings) > 0
}

// victim picks an empty or stale slot, or else one that varies with the hash.
func victim(set []atomic.Pointer[result], gen, h uint64) *atomic.Pointer[result] {
	for i := range set {
		if res := set[i].Load(); res == nil || res.gen != gen {
			return &set[i]
		}
	}
	return &set[h>>48%cacheWays]
}

// literal reports whether a published subject can match at all: no empty token, no
// white space. Wildcard characters stand for themselves.
func literal(s []byte) bool {
	start := true
	for _, b := range s {
		if b == '.' && start || b == ' ' || b == '\t' || b == '\r' || b == '\n' {
			return false
		}
		start = b == '.'
	}
	return !start
}

// literalTokens reports whether a subject is literal and none of its tokens a wildcard.
func literalTokens(s []byte) bool {
	for more := literal(s); more; {
		var token []byte
		if token, s, more = bytes.Cut(s, dot); len(token) == 1 && (token[0] == '*' || token[0] == '>') {
			return false
		} else if !more {
			return true
		}
	}
	return false
}
