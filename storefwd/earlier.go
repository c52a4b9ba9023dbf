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

// mostEarlier is how many of these subjects are asked for, one by one.
const mostEarlier = 64

// filters are the outbox's subjects, and those of an earlier configuration that were met.
func (f *Forwarder) filters() []string {
	if len(f.earlier) == 0 {
		return f.o.Filters
	}
	return slices.Concat(f.o.Filters, f.earlier)
}

// knows has the hub asked for the subject of r, by a resume, if it was not.
func (f *Forwarder) knows(r *Record) error {
	if r.gap || r.Epoch == f.s.epoch || bytes.Equal(r.Subject, f.known) { // of this run, it is the outbox's
		return nil
	}
	subject := string(r.Subject)
	if slices.ContainsFunc(f.filters(), func(filter string) bool { return filter == subject || msg.Match(filter, subject) }) {
		f.known = append(f.known[:0], subject...)
		return nil
	}
	if len(f.earlier) >= mostEarlier {
		f.earlier, f.known = slices.Delete(f.earlier, 0, 1), nil // that one has been sent, or comes again
	}
	f.earlier = append(f.earlier, subject)
	return fmt.Errorf("%w: %.256q is of an earlier configuration", errResync, subject)
}
