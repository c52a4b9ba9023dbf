package storefwd

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/leafd/leafd/internal/msg"
)

// This file is about messages of subjects that the outbox took under an earlier
// configuration. Where the hub has them, and which stream takes them, has to be asked, too:
// else what is in doubt of them is stored twice, or goes to the wrong stream.

// mostEarlier is how many of these subjects are asked for by one resume, one by one.
const mostEarlier = 64

// filters are the outbox's subjects, and those of an earlier configuration that were met.
func (f *Forwarder) filters() []string {
	if len(f.earlier) == 0 {
		return f.o.Filters
	}
	return slices.Concat(f.o.Filters, f.earlier)
}

// knows has the hub asked for the subject of r, by a resume, if it was not. Those of the records
// behind it are asked for at once, and not each by a session of its own. Wider filters would be
// fewer, but what others have under them would be read as well, and more streams may take them.
func (f *Forwarder) knows(r *Record) error {
	switch {
	case f.isOurs(r) || bytes.Equal(r.Subject, f.known):
		return nil
	case f.asksFor(string(r.Subject)):
		f.known = append(f.known[:0], r.Subject...)
		return nil
	}
	if len(f.earlier) >= mostEarlier {
		f.earlier, f.known = nil, nil // these have been sent, or come again
	}
	f.earlier = append(f.earlier, string(r.Subject))
	for i := range f.recs {
		next := &f.recs[i]
		if subject := string(next.Subject); len(f.earlier) < mostEarlier && next.Seq > r.Seq && !f.isOurs(next) && !f.asksFor(subject) {
			f.earlier = append(f.earlier, subject)
		}
	}
	return fmt.Errorf("%w: %.256q is of an earlier configuration", errResync, r.Subject)
}

// isOurs reports whether the subject of r is sure to be one of the outbox's: it is of this run.
func (f *Forwarder) isOurs(r *Record) bool { return r.gap || r.Epoch == f.s.epoch }

// asksFor reports whether a resume asks for a subject.
func (f *Forwarder) asksFor(subject string) bool {
	return slices.ContainsFunc(f.filters(), func(filter string) bool { return filter == subject || msg.Match(filter, subject) })
}
