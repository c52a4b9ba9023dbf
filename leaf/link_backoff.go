package leaf

import (
	"log/slog"
	"math/rand/v2"
	"time"
)

const (
	refusedMin = time.Second
	refusedMax = 5 * time.Minute
	loopDelay  = 30 * time.Second // as nats-server
)

// backoff counts failures since the link was stable.
type backoff struct{ failures, refusals int }

// delay says how long to wait after a failure. Delays double with each round
// through the addresses.
func (b *backoff) delay(f *linkFault, o *LinkOptions, addresses int) time.Duration {
	b.failures++
	switch f.cause {
	case looping:
		return loopDelay + rand.N(loopDelay/4)
	case refused:
		b.refusals++
		return jitter(doubled(refusedMin, refusedMax, (b.refusals-1)/addresses))
	}
	return jitter(doubled(o.ReconnectMin, o.ReconnectMax, (b.failures-1)/addresses))
}

func doubled(from, to time.Duration, times int) time.Duration {
	for ; times > 0 && from < to; times-- {
		from *= 2
	}
	return min(from, to)
}

// jitter takes up to a half off.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/2+1) }

// history keeps the log short: a failure is logged when it is new for its
// address, and once every summaryInterval with a count; that the link is up, at
// first and after a failure that was logged.
type history struct {
	last   map[string]*failure
	silent bool // the link being up would be no news
}

type failure struct {
	text   string
	logged time.Time
	again  int // since then
}

const summaryInterval = 5 * time.Minute

// recovered reports whether the link being up is worth a line.
func (h *history) recovered() bool {
	news := !h.silent
	h.silent = true
	return news
}

func (h *history) record(log *slog.Logger, u hubURL, f *linkFault) {
	text := f.Error()
	e := h.last[u.addr]
	if e != nil && e.text == text && time.Since(e.logged) < summaryInterval {
		e.again++
		return
	}
	attrs := []any{"url", u.String(), "err", text}
	if e != nil && e.text == text && e.again > 0 {
		attrs = append(attrs, "times", e.again+1)
	}
	log.Warn("no link to the hub", attrs...)
	h.silent = false
	if h.last == nil || len(h.last) > 4*maxLearned {
		h.last = map[string]*failure{}
	}
	h.last[u.addr] = &failure{text: text, logged: time.Now()}
}

// banned are subjects for which the hub cut the link off although its INFO
// allowed them. They are left out of later links for a while, since the hub's
// permissions may be corrected.
type banned struct{ export, import_ map[string]time.Time }

const (
	banTime = 5 * time.Minute
	maxBans = 256 // in each direction
)

func (b *banned) add(subject string, publish bool) {
	list := &b.import_
	if publish {
		list = &b.export
	}
	if *list == nil || len(*list) >= maxBans {
		*list = map[string]time.Time{}
	}
	(*list)[subject] = time.Now().Add(banTime)
}

// lists adds what is banned now to two lists of denied subjects.
func (b *banned) lists(exports, imports []string) ([]string, []string) {
	return withBanned(exports, b.export), withBanned(imports, b.import_)
}

func withBanned(list []string, bans map[string]time.Time) []string {
	list = list[:len(list):len(list)]
	for s, until := range bans {
		if time.Now().Before(until) {
			list = append(list, s)
		} else {
			delete(bans, s)
		}
	}
	return list
}

// ceiling is the largest message that a hub takes, where that is less than its INFO says: an
// account of it may have a limit of its own. It is found by what was too large, and forgotten
// by a link that is made after a while, since the limit may be raised.
type ceiling struct {
	most  int64
	until time.Time
}

// lower notes that the hub did not take a message of size bytes, and says what it may take.
func (c *ceiling) lower(size int64) int64 {
	c.most, c.until = size-1, time.Now().Add(banTime)
	return c.most
}

// under is what may be sent to a hub that says it takes told.
func (c *ceiling) under(told int64) int64 {
	if c.most > 0 && time.Now().Before(c.until) {
		return min(told, c.most)
	}
	return told
}
