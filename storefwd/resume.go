package storefwd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// This file finds out what the hub has, before anything is sent to it.
//
// What is acknowledged here was seen in the stream, message by message
// (readback.go): that a later one is there proves nothing about an earlier one,
// since a cluster may lose some in the middle when its leader changes.

// How a Forwarder knows what to send after an interruption.
const (
	ByChain  = "chain"    // the stream is ours: each publish says what it must come behind
	ByReads  = "readback" // others write to the stream, too: it is read where ours may be
	ByWindow = "window"   // the stream cannot tell: its duplicate window is relied on
)

// place is one stream that takes messages of ours. It is made anew by each resume
// and owned by Run.
type place struct {
	name    string
	domain  string
	filters []string
	info    streamInfo
	blind   string // why the stream cannot tell what it has; empty: it can

	lasts []stored  // the last message of each filter
	last  stored    // the last of these that is ours
	own   bool      // nobody else's message is the last of a filter
	top   uint64    // records before this one were handed out before what it has of ours
	gone  forgotten // … and of these it has dropped some
	probe bool      // it did not answer: ask again once it answers to a publish

	insists bool // the configuration names it, and it does not list all that is to go there: no other is to store that

	chained bool   // publishes carry next
	next    uint64 // the stream's last sequence once all that was sent is stored
}

// resume finds the streams, acknowledges what they have and prepares what is sent
// next. It does not end while there is no stream.
func (f *Forwarder) resume(ctx context.Context) error {
	if !f.up.Hears(f.Inbox()) {
		return errDeaf
	}
	places, err := f.findPlaces(ctx)
	if err != nil {
		return err
	}
	if err := f.single(ctx, places); err != nil {
		return err
	}
	for _, p := range places {
		if err := f.survey(ctx, p); err != nil {
			return err
		}
	}
	f.l.settleSetBack()
	for _, p := range places {
		p.insists = p.name == f.o.Stream && !p.info.Config.Counter && slices.ContainsFunc(p.filters, func(filter string) bool { return !p.takes(filter) })
	}
	if !slices.ContainsFunc(places, func(p *place) bool { return !p.info.Config.TTL }) {
		f.noTTL.Store(false) // they may not have taken it before
	}
	f.keepOrder(places)
	f.noteRead(places)
	blind := slices.ContainsFunc(places, func(p *place) bool { return p.blind != "" })
	if slices.ContainsFunc(places, func(p *place) bool { return p.probe }) {
		f.l.setBlind()
	} else {
		f.l.settleDoubt(blind)
	}
	f.places, f.head, f.partial = places, true, f.takePart(places)
	f.tell(places)
	return nil
}

// single notes which stream it is, if there is one only: then acknowledgements come
// in order and tell how far it is. One that was put in the place of another has to have
// what that had. One in another JetStream domain has not: it may have the name, but is none that
// was set back. Nor has one that is left of several: who knows what the others had.
func (f *Forwarder) single(ctx context.Context, places []*place) error {
	only := ""
	if len(places) == 1 {
		only = places[0].name
	}
	domain := f.jsDomain()
	f.mu.Lock()
	f.only, f.domain = only, domain
	f.mu.Unlock()
	m := f.l.getMark()
	moved := m.Domain != "" && m.Domain != domain // one that an earlier version left has none
	switch {
	case moved:
		f.l.settleSetBack() // it was seen there, not here
	case m.Stream == only && m.Domain == domain && (only != "" || m.Elsewhere):
		return nil
	case m.Stream == only:
		m.Domain, m.Elsewhere = domain, m.Elsewhere || only == ""
		f.l.setMark(m)
		return nil
	}
	if only != "" && m.At > 0 && !moved {
		switch gone, err := f.isGone(ctx, m.Stream); {
		case err != nil:
			return err
		case gone:
			f.l.setMark(mark{Stream: only, Domain: domain, At: m.At, Seq: m.Seq})
			return nil
		}
	}
	if !moved {
		if err := f.readFormer(ctx, m); err != nil {
			return err
		}
	}
	f.l.setMark(mark{Stream: only, Domain: domain, Elsewhere: m.Elsewhere || m.At > 0 || only == ""})
	if moved {
		f.l.saveAcks(ctx)
	}
	return nil
}

// readFormer acknowledges what is in doubt and in the stream that took it before its subjects went to
// another one, as far as that can be read.
func (f *Forwarder) readFormer(ctx context.Context, m mark) error {
	if _, doubt := f.c.ambiguous(); m.Stream == "" || doubt == 0 {
		return nil
	}
	info, err := f.streamInfo(ctx, m.Stream)
	var found []stored
	if err == nil && info.State.Messages > 0 {
		found, err = f.walk(ctx, m.Stream, getMsg{NextOf: ">", anyone: true}, max(info.State.FirstSeq, m.Read), info.State.LastSeq)
	}
	var refused *apiError
	if errors.Is(err, errTooMany) || errors.Is(err, errNoAnswer) || errors.As(err, &refused) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.ackStored(&place{name: m.Stream}, found)
}

// isGone reports whether the hub says that it has no such stream.
func (f *Forwarder) isGone(ctx context.Context, stream string) (bool, error) {
	_, err := f.streamInfo(ctx, stream)
	var refused *apiError
	switch {
	case errors.As(err, &refused):
		return refused.ErrCode == noStream, nil
	case errors.Is(err, errNoAnswer): // one that has no leader, or that may not be asked for
		return false, nil
	}
	return false, err
}

// keepOrder has a backlog drained oldest first where order and live_share would do harm.
func (f *Forwarder) keepOrder(places []*place) {
	why := ""
	switch {
	case len(places) > 1:
		why = "several streams on the hub take this outbox's messages"
	case places[0].info.Config.MaxPerSubject == 1:
		why = fmt.Sprintf("stream %q keeps one message of each subject, which is to be the newest", places[0].name)
	}
	f.c.setStrict(why != "")
	if why != "" && f.c.mixes() && !f.saidStrict {
		f.saidStrict = true
		f.o.Logger.Warn("forwarder: "+why+", so a backlog drains oldest first, whatever order and live_share say", "log", f.l.name)
	}
}

// noteRead notes that nothing of ours is in the one stream that is not acknowledged.
func (f *Forwarder) noteRead(places []*place) {
	if len(places) != 1 || places[0].blind != "" {
		return
	}
	p, m := places[0], f.l.getMark()
	m.Read, m.Made = max(m.Read, p.info.State.LastSeq), p.info.made()
	if p.last.ours && p.last.at > m.At {
		m.At, m.Seq = p.last.at, p.last.seq
	}
	f.l.setMark(m)
}

// contradictions is after how many sessions, 10 s at least, there is no chain until the link is made anew: the
// stream says where it stands, and then that it stands elsewhere. nats-server 2.10 counts what it refuses in a
// full account as if it had stored it, until it is started again. A leader that has lost its cluster is
// none any more by then.
const contradictions = 12

// countOutOfTurn counts the sessions in a row that a guard ended.
func (f *Forwarder) countOutOfTurn(went bool, err error) {
	if went || !errors.Is(err, errOutOfTurn) {
		if f.outOfTurn < contradictions || errors.Is(err, errDown) {
			f.outOfTurn = 0
		}
		return
	}
	if f.outOfTurn++; f.outOfTurn == contradictions {
		f.o.Logger.Warn("forwarder: the hub's stream refuses what comes behind its own last sequence; it goes on without that check until the link is made anew, and a restart of the hub mends it", "log", f.l.name)
	}
}

// survey learns how far one stream has come.
func (f *Forwarder) survey(ctx context.Context, p *place) (err error) {
	had := f.l.getMark() // before the question: what is acknowledged while it is answered is not in the answer
	p.info, err = f.streamInfo(ctx, p.name)
	if p.blind != "" {
		return nil
	}
	if err == nil {
		err = f.lastOf(ctx, p)
	}
	if err != nil {
		return f.mute(p, err)
	}
	f.unanswered, f.probed = 0, false
	if p.info.Config.NoAck {
		f.mu.Lock()
		f.silence = fmt.Sprintf("; stream %q acknowledges nothing, and has to be asked each time; mend it with: nats stream edit %s --ack", p.name, p.name)
		f.mu.Unlock()
	}
	tail := p.last.at == p.info.State.LastSeq || p.info.State.Messages == 0
	p.chained, p.next = p.own && tail && f.exclusive(p) && !p.info.Config.Counter && !f.repeated() && f.outOfTurn < contradictions, p.info.State.LastSeq
	if r := p.info.Config.Retention; r != "" && r != "limits" {
		p.blind = fmt.Sprintf("stream %q has %s retention, and does not keep what was consumed", p.name, r)
	}
	if err = f.giveBack(ctx, p, had); err != nil {
		return f.mute(p, err)
	}
	if err = f.readBack(ctx, p); errors.Is(err, errTooMany) {
		p.blind, err = err.Error(), nil
	}
	if err == nil {
		f.settleHoles()
	}
	return err
}

// exclusive reports whether nobody else writes to a stream, as far as can be known: it
// takes no subject that is not this outbox's, and nobody else's message was seen in it. A
// chain must not be tried on another: where a foreign message takes the place of one of ours,
// that one is refused, and the next comes behind the foreign one as if it were the right one.
func (f *Forwarder) exclusive(p *place) bool {
	for _, subject := range p.info.Config.Subjects {
		if !slices.ContainsFunc(f.filters(), func(filter string) bool { return msg.Match(filter, subject) }) && subject != f.l.ret.GapSubject {
			return false
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(p.info.Config.Sources) == 0 && !f.foreign[p.name] && f.l.foreignIn() != p.name
}

// repeated reports whether the hub knew one already since the last resume: then more
// of them may follow, which would not come behind what is last.
func (f *Forwarder) repeated() (yes bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	yes, f.repeats = f.repeats, false
	return yes
}

// query is how to ask the stream for what it took under one of the filters: by its own
// subjects, or, where it stores under others, by all.
func (p *place) query(filter int) string {
	if p.renames(p.filters[filter]) {
		return ">"
	}
	return p.filters[filter]
}

// renames reports whether messages of a filter are stored under other subjects: the stream has
// a subject_transform, or the hub's account a mapping before it.
func (p *place) renames(filter string) bool {
	subjects := p.info.Config.Subjects
	return len(p.info.Config.Transform) > 0 || len(subjects) > 0 && !slices.ContainsFunc(subjects, func(s string) bool { return msg.Overlap(s, filter) })
}

// lastOf asks for the last message of each filter, unless they were ours and nothing has come and nothing
// has gone since they were asked for: they may be large.
func (f *Forwarder) lastOf(ctx context.Context, p *place) error {
	p.domain, p.own = f.jsDomain(), true
	if i := slices.IndexFunc(f.ends, p.unchanged); i >= 0 {
		p.lasts, p.last = f.ends[i].lasts, f.ends[i].last
		return nil
	}
	for i := range p.filters {
		m, err := f.message(ctx, p.name, getMsg{LastOf: p.query(i)})
		if err != nil {
			return err
		}
		p.lasts = append(p.lasts, m)
		p.own = p.own && (m.ours || m.at == 0)
		if m.ours && m.at > p.last.at {
			p.last = m
		}
	}
	f.ends = slices.DeleteFunc(f.ends, func(o place) bool { return o.name == p.name })
	if p.own { // what another's says depends on the mark
		f.ends = append(f.ends, *p)
	}
	return nil
}

// unchanged reports whether the stream stands where it stood. The time of its last message, which the hub
// gave it, tells it from one that was set back and has taken as many since.
func (p *place) unchanged(before place) bool {
	queries := func(p *place) (all []string) {
		for i := range p.filters {
			all = append(all, p.query(i))
		}
		return all
	}
	return p.name == before.name && p.domain == before.domain && p.info.made() == before.info.made() &&
		!p.info.State.LastTime.IsZero() && p.info.State == before.info.State && slices.Equal(queries(p), queries(&before))
}

const unansweredMost = 3

// mute sorts out why a stream did not say what it has. What will not change makes it
// blind. Silence may be that of a stream without a leader: after the third in a row
// one message is sent as to another stream, which it does not store, and only if it says so and the
// next question is not answered either a permission must be missing.
func (f *Forwarder) mute(p *place, err error) error {
	var never interface{ Permanent() bool }
	var refused *apiError
	switch {
	case errors.As(err, &never) && never.Permanent():
	case errors.As(err, &refused) && refused.Code >= 400 && refused.Code < 500 && refused.ErrCode != noStream:
	case errors.Is(err, errNoAnswer):
		if f.unanswered++; f.unanswered < unansweredMost {
			return err
		}
		p.probe = !f.probed
	default:
		return err
	}
	p.blind, p.chained, p.lasts = fmt.Sprintf("what stream %q has cannot be read: %v", p.name, err), false, nil
	return nil
}

// tell notes, for people, how it goes on.
func (f *Forwarder) tell(places []*place) {
	var names []string
	how, why, shared, window := ByChain, "", false, time.Duration(0)
	for _, p := range places {
		names = append(names, p.name)
		shared = shared || !p.own && p.blind == ""
		switch {
		case p.blind != "":
			how, why, window = ByWindow, p.blind, p.info.Config.Window
		case !p.chained && how == ByChain:
			how = ByReads
		}
	}
	f.mu.Lock()
	f.st.Stream, f.st.Shared = strings.Join(names, ", "), shared
	f.st.Resume, f.st.ResumeWhy, f.st.DuplicateWindow = how, why, window
	f.mu.Unlock()
	if why != "" && f.blindness != why {
		f.o.Logger.Warn("forwarder: after an interruption the hub's duplicate window is relied on",
			"log", f.l.name, "reason", why, "duplicate_window", window)
	}
	f.blindness = why
}

// findPlaces asks which streams capture each filter, until every one has one.
func (f *Forwarder) findPlaces(ctx context.Context) (places []*place, err error) {
	pause := f.o.RetryMin
	for {
		places, missing, err := f.tryPlaces(ctx)
		if err != nil || missing == "" {
			return places, err
		}
		f.noStream(missing)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
			pause = f.longer(pause)
		}
	}
}

// tryPlaces looks once. Where the configuration names the stream, that of what it left over from an earlier one is
// looked for all the same, unless the hub does not say.
func (f *Forwarder) tryPlaces(ctx context.Context) (places []*place, missing string, err error) {
	named, asks := []string{f.o.Stream}, true
	for i, filter := range f.filters() {
		names, err := named, error(nil)
		if f.o.Stream == "" || i >= len(f.o.Filters) && asks {
			names, err = f.streamNames(ctx, filter)
		}
		if asks = asks && err == nil; f.o.Stream != "" && (err != nil || len(names) == 0) {
			names, err = named, nil
		}
		switch {
		case err != nil:
			return nil, "", err
		case len(names) == 0:
			missing = filter
		}
		for _, name := range names {
			i := slices.IndexFunc(places, func(p *place) bool { return p.name == name })
			if i < 0 {
				i = len(places)
				places = append(places, &place{name: name})
			}
			places[i].filters = append(places[i].filters, filter)
			if len(names) > 1 {
				places[i].blind = fmt.Sprintf("%d streams capture %s, and one acknowledges before the others", len(names), filter)
			}
		}
	}
	return places, missing, nil
}

func (f *Forwarder) noStream(filter string) {
	name := strings.ToUpper(strings.FieldsFunc(filter+".OUTBOX", func(r rune) bool { return strings.ContainsRune(".*>$ /\\", r) })[0])
	text := fmt.Sprintf("no stream on the hub captures %s; create one there, for example: nats stream add %s --subjects '%s' --defaults", filter, name, filter)
	f.setState(NoStream, text)
	if f.quiet != text {
		f.quiet = text
		f.o.Logger.Warn("forwarder: "+text, "log", f.l.name)
	}
}

// takePart reports whether these streams may leave out subjects of the outbox. A stream that
// is named in the configuration gets its messages by whatever way was made for them.
func (f *Forwarder) takePart(places []*place) bool {
	if f.o.Stream != "" {
		return false
	}
	for _, filter := range f.filters() {
		if !slices.ContainsFunc(places, func(p *place) bool { return p.takes(filter) }) {
			return true
		}
	}
	return false
}

// takes reports whether the stream captures all of a filter, or a subject, as far as it is known.
func (p *place) takes(filter string) bool {
	subjects := p.info.Config.Subjects
	return len(subjects) == 0 || slices.ContainsFunc(subjects, func(s string) bool { return msg.Match(s, filter) })
}

// untaken reports that no stream captures r, if that is so: nothing would answer to it.
func (f *Forwarder) untaken(r *Record) error {
	subject := string(r.Subject)
	if slices.ContainsFunc(f.places, func(p *place) bool { return p.takes(subject) }) {
		return nil
	}
	return fmt.Errorf("no stream on the hub captures %.256q, which is next; add it to the subjects of stream %q there, or take it out of this outbox's", subject, f.places[0].name)
}

// markerUntaken gives a marker back that the streams left out when they were asked. One that
// takes it by now is a reason to ask again.
func (f *Forwarder) markerUntaken(ctx context.Context, r *Record) error {
	f.c.lose(r.Seq, LostRejected)
	f.mu.Lock()
	f.st.LastError = fmt.Sprintf("a gap marker: no stream on the hub captures %.256q", r.Subject)
	f.mu.Unlock()
	if names, err := f.streamNames(ctx, string(r.Subject)); err == nil && len(names) > 0 {
		return fmt.Errorf("%w: stream %q takes %.256q by now", errResync, names[0], r.Subject)
	}
	return nil
}

// placeOf is the stream that takes a subject, and which of its filters does.
func (f *Forwarder) placeOf(subject []byte) (p *place, filter int) {
	if len(f.places) == 1 && len(f.places[0].filters) == 1 {
		return f.places[0], 0
	}
	s := string(subject)
	for _, p := range f.places {
		for i, filter := range p.filters {
			if msg.Match(filter, s) {
				return p, i
			}
		}
	}
	return f.places[0], 0
}
