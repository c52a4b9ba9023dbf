package leaf

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// shares are all exports and imports of a configuration, checked. They do not
// change.
type shares struct {
	streams  []*streamImport
	services []*serviceImport
}

// streamImport brings messages of one account to subscribers of another.
type streamImport struct {
	from, to *account
	there    *subjectMap // from's subjects to those of to
	here     *subjectMap // and back
}

// serviceImport brings requests of one account to subscribers of another, and
// their answers back.
type serviceImport struct {
	from, to *account    // who asks, and who answers
	there    *subjectMap // from's subjects to those of to
	response ResponseType
	limit    time.Duration
}

var (
	errNotExported = errors.New("that account does not export it to this one")
	errCycle       = errors.New("import forms a cycle")
	errTwice       = errors.New("it is imported twice")
)

func newShares(cfg []AccountConfig, all map[string]*account) (*shares, error) {
	exports := map[string][]Export{}
	for i := range cfg {
		for _, e := range cfg[i].Exports {
			if !msg.ValidFilter(e.Subject) {
				return nil, &AccountError{cfg[i].Name, fmt.Errorf("export %q: not a subject", e.Subject)}
			}
			for _, name := range e.Accounts {
				if all[name] == nil {
					return nil, &AccountError{cfg[i].Name, fmt.Errorf("export %q: there is no account %q", e.Subject, name)}
				}
			}
		}
		exports[cfg[i].Name] = cfg[i].Exports
	}
	sh := &shares{}
	for i := range cfg {
		for _, im := range cfg[i].Imports {
			if err := sh.add(all[cfg[i].Name], im, all, exports[im.Account]); err != nil {
				return nil, &AccountError{cfg[i].Name, fmt.Errorf("import of %q from account %q: %w", im.Subject, im.Account, err)}
			}
		}
	}
	return sh, nil
}

func (sh *shares) add(to *account, im Import, all map[string]*account, exports []Export) error {
	there := all[im.Account]
	if there == nil {
		return fmt.Errorf("there is no such account")
	}
	local := cmp.Or(im.To, im.Subject)
	if im.Prefix != "" {
		if im.Service || im.To != "" || !msg.ValidSubject(im.Prefix) {
			return fmt.Errorf("prefix %q is for a stream without \"to\", and has no wildcards", im.Prefix)
		}
		local = im.Prefix + "." + im.Subject
	}
	m, err := newSubjectMap(im.Subject, local)
	if err != nil {
		return err
	}
	e := approved(exports, &im, to.name)
	if e == nil {
		return errNotExported
	}
	if im.Service {
		return sh.addService(&serviceImport{from: to, to: there, there: m.reverse(), response: e.Response, limit: cmp.Or(e.Threshold, 2*time.Minute)})
	}
	return sh.addStream(&streamImport{from: there, to: to, there: m, here: m.reverse()})
}

// approved returns the export that lets an account import something: the same
// subject, or one that covers it.
func approved(exports []Export, im *Import, who string) (found *Export) {
	for i := range exports {
		e := &exports[i]
		if e.Service != im.Service || !msg.Match(e.Subject, im.Subject) {
			continue
		}
		ok := len(e.Accounts) == 0 || slices.Contains(e.Accounts, who)
		if e.Subject == im.Subject {
			if !ok {
				return nil
			}
			return e
		}
		if ok && found == nil {
			found = e
		}
	}
	return found
}

func (sh *shares) addStream(s *streamImport) error {
	for _, o := range sh.streams {
		if o.from == s.from && o.to == s.to && o.there.source() == s.there.source() {
			return errTwice
		}
	}
	sh.streams = append(sh.streams, s)
	return sh.follow(s.from, s.there.source(), []*account{s.to}, false)
}

func (sh *shares) addService(s *serviceImport) error {
	for _, o := range sh.services {
		if o.from == s.from && o.to == s.to && o.there.source() == s.there.source() {
			return errTwice
		}
	}
	sh.services = append(sh.services, s)
	return sh.follow(s.to, s.there.target(), []*account{s.from}, true)
}

// follow goes on from an import to those that its subject meets in the account it
// comes from, and fails where that leads back to one of the accounts passed.
func (sh *shares) follow(at *account, subject string, passed []*account, services bool) error {
	if slices.Contains(passed, at) {
		return errCycle
	}
	passed = append(slices.Clip(passed), at)
	for _, s := range sh.streams {
		if local := s.there.target(); !services && s.to == at && msg.Overlap(local, subject) {
			if err := sh.follow(s.from, s.there.source(), passed, false); err != nil {
				return err
			}
		}
	}
	for _, s := range sh.services {
		if local := s.there.source(); services && s.from == at && msg.Overlap(local, subject) {
			if err := sh.follow(s.to, s.there.target(), passed, true); err != nil {
				return err
			}
		}
	}
	return nil
}
