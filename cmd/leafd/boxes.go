package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/storefwd"
)

// boxes is what "leafd outbox" works on: a store that this process has open, or
// that of a running leafd behind its control socket.
type boxes interface {
	list() ([]boxStats, error)
	// read calls fn for n records of an outbox at most, oldest first, from a sequence
	// on; 0 is all. It ends at what was last when it began.
	read(name string, from uint64, n int, fn func(*boxRecord) error) error
	// add appends what next returns up to its io.EOF, and returns once it is safe. With an
	// error it says what came before that.
	add(name string, next func() (*boxRecord, error)) (added, error)
	// drop gives up all up to a sequence.
	drop(name string, to uint64) (dropped, error)
	verify() (storefwd.Check, error)
}

// boxStats is an outbox as "ls" shows it.
type boxStats struct {
	Name      string            `json:"name"`
	State     string            `json:"state"`
	Messages  int64             `json:"messages"`
	Bytes     int64             `json:"bytes"`
	First     uint64            `json:"first_seq"`
	Last      uint64            `json:"last_seq"`
	OldestAge time.Duration     `json:"oldest_age"`            // nanoseconds
	Older     bool              `json:"older_still,omitempty"` // than that; nobody knows how much
	Lost      map[string]uint64 `json:"lost,omitempty"`
}

// added is what an import did, up to its end or to what ended it.
type added struct {
	Messages int64             `json:"messages"` // that were put in and made safe
	First    uint64            `json:"first_seq"`
	Last     uint64            `json:"last_seq"`
	Line     int               `json:"line"`           // of the last of them
	Unsure   int64             `json:"unsure"`         // put in behind these, and perhaps not safe
	From     uint64            `json:"unsure_seq"`     // of the first of those
	Lost     map[string]uint64 `json:"lost,omitempty"` // what the outbox gave up meanwhile to keep its bounds, by reason

	unknown bool // nobody said; there may be more
}

type dropped struct {
	Messages int64 `json:"messages"`
	Bytes    int64 `json:"bytes"`
}

// logPrefix is in front of an outbox's name in the store.
const logPrefix = "OUT/"

// nameless is in front of the number that an outbox is shown by which was killed before its name was on
// the disk, and is not configured any more.
const nameless = "#"

// boxError is one that the person who typed the command can do something about.
type boxError struct{ text string }

func (e *boxError) Error() string { return e.text }

// archive is what a store and one that is only looked at have in common.
type archive interface {
	All() []storefwd.LogStats
	Lookup(name string) (*storefwd.Log, bool)
	Verify() (storefwd.Check, error)
}

// target is where an import goes.
type target struct {
	log      *storefwd.Log
	subjects []string // that it takes
	most     int      // bytes of header and data, where no forwarder has told the log what the hub takes; 0: one has
}

// storeBoxes are those of a store that this process has open.
type storeBoxes struct {
	archive
	store *storefwd.Store                  // nil if it is only looked at
	logs  map[string]target                // those that can be appended to, by name
	state func(name string) (string, bool) // of an outbox; false if it is not configured

	released chan (<-chan struct{}) // holds one: when the store that was released is back; nil if it cannot be
}

func (b *storeBoxes) list() ([]boxStats, error) {
	var all []boxStats
	for _, l := range b.All() {
		name, ok := strings.CutPrefix(l.Name, logPrefix)
		if !ok && !strings.HasPrefix(name, nameless) {
			continue
		}
		state, configured := b.state(name)
		if !configured && l.Msgs == 0 {
			continue
		}
		if !configured {
			state = "not configured"
		}
		all = append(all, boxStats{Name: name, State: state, Messages: l.Msgs, Bytes: l.Bytes, First: l.First, Last: l.Last,
			OldestAge: l.OldestAge, Older: l.OlderStill, Lost: l.Lost})
	}
	return all, nil
}

// whole is err, and what is damaged in a store that is only looked at: nobody takes a part
// of an outbox for all of it then.
func (b *storeBoxes) whole(err error) error {
	if v, ok := b.archive.(*storefwd.ReadOnly); ok {
		return v.Whole(err)
	}
	return err
}

func (b *storeBoxes) find(name string) (*storefwd.Log, error) {
	for _, as := range []string{logPrefix + name, nameless + strings.TrimPrefix(name, nameless)} {
		if l, ok := b.Lookup(as); ok {
			return l, nil
		}
	}
	return nil, &boxError{fmt.Sprintf("there is no outbox %q; leafd outbox ls lists them", name)}
}

func (b *storeBoxes) read(name string, from uint64, n int, fn func(*boxRecord) error) error {
	l, err := b.find(name)
	if err != nil {
		return err
	}
	had := l.Stats().Lost[storefwd.LostDamaged.String()]
	if err := readRecords(l, from, n, fn); err != nil || b.store == nil { // what is only looked at is judged as a whole
		return err
	}
	if bad := l.Stats().Lost[storefwd.LostDamaged.String()]; bad > had {
		return &boxError{fmt.Sprintf("%d messages of outbox %q cannot be read, are not among these, and count as damaged from now on; replace the disk", bad-had, name)}
	}
	return nil
}

func readRecords(l *storefwd.Log, from uint64, n int, fn func(*boxRecord) error) (err error) {
	last := l.Stats().Last
	recs := make([]storefwd.Record, 0, 64)
	for sent := 0; ; {
		if recs, err = l.Read(recs[:0], from); err != nil || len(recs) == 0 {
			return err
		}
		for i := range recs {
			r := &recs[i]
			if r.Seq > last || n > 0 && sent == n {
				return nil
			}
			out := newBoxRecord(r)
			if err := fn(&out); err != nil {
				return err
			}
			sent++
			from = r.Seq + 1
		}
	}
}

// addBatch is how many records are made safe together.
const addBatch = 512

func (b *storeBoxes) add(name string, next func() (*boxRecord, error)) (done added, err error) {
	t, ok := b.logs[name]
	if !ok {
		return done, &boxError{fmt.Sprintf("outbox %q is not configured; add it to the outbox block, so that its messages have somewhere to go", name)}
	}
	before := t.log.Stats().Lost
	for err == nil {
		var part added
		if part, err = b.addSome(name, &t, next); part.Messages == 0 {
			break
		}
		if bad := b.safe(); bad != nil {
			done.Unsure, done.From, err = part.Messages, part.First, bad
			break
		}
		if done.Messages == 0 {
			done.First = part.First
		}
		done.Messages, done.Last, done.Line = done.Messages+part.Messages, part.Last, part.Line
	}
	done.Lost = gaveUp(before, t.log.Stats().Lost)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return done, err
}

// addSome appends up to addBatch records. Its error may be the io.EOF of next.
func (b *storeBoxes) addSome(name string, t *target, next func() (*boxRecord, error)) (part added, err error) {
	for part.Messages < addBatch {
		r, err := next()
		if err != nil {
			return part, err
		}
		if err := t.check(name, r); err != nil {
			return part, err
		}
		seq, err := b.addOne(t.log, r)
		if err != nil {
			return part, fmt.Errorf("line %d (%.256q): %w", r.line, r.subject(), err)
		}
		if part.Messages == 0 {
			part.First = seq
		}
		part.Messages, part.Last, part.Line = part.Messages+1, seq, r.line
	}
	return part, nil
}

// gaveUp is what a log gave up between two looks at what it lost, because it was full.
func gaveUp(before, after map[string]uint64) map[string]uint64 {
	var lost map[string]uint64
	for _, l := range []storefwd.Loss{storefwd.LostOldest, storefwd.LostNewest} {
		if why := l.String(); after[why] > before[why] { // it goes down by what is found at the hub
			if lost == nil {
				lost = map[string]uint64{}
			}
			lost[why] = after[why] - before[why]
		}
	}
	return lost
}

// plain hides what stands for itself in what a device publishes: topic "a/*" is subject "a.*".
var plain = strings.NewReplacer("*", "x", ">", "x")

// check says what is wrong with a record of an import. A subject that is not the
// outbox's is one that the hub's stream need not take: the message, and all behind it,
// would wait for ever.
func (t *target) check(name string, r *boxRecord) error {
	subject := string(r.subject())
	switch {
	case !msg.ValidSubject(plain.Replace(subject)):
		return &boxError{fmt.Sprintf("line %d: %.256q is not a subject; correct it, or take the line out", r.line, subject)}
	case !slices.ContainsFunc(t.subjects, func(f string) bool { return msg.Match(f, subject) }):
		return &boxError{fmt.Sprintf("line %d: outbox %q takes %s, and not %.256q; import the line into the outbox of that subject, or take it out",
			r.line, name, quoteAll(t.subjects), subject)}
	case !validHeader(r.Header):
		return &boxError{fmt.Sprintf("line %d: its header, in base64, is not one of NATS: NATS/1.0 first, then a name, a colon and a value a line, each with CRLF, and an empty line at the end; correct it, or take it out", r.line)}
	case t.most > 0 && len(r.Header)+len(r.Data) > t.most:
		return &boxError{fmt.Sprintf("line %d: header and data have more than max_payload, %s; raise that here and at the hub, or take the line out", r.line, showSize(int64(t.most)))}
	}
	return nil
}

// addOne appends one record, and waits for the disk if that is behind.
func (b *storeBoxes) addOne(l *storefwd.Log, r *boxRecord) (uint64, error) {
	m := &msg.Msg{Subject: r.subject(), Header: storefwd.Aged(r.Header, b.store.Ago(r.Time)), Data: r.Data, QoS: min(r.QoS, 2), Retain: r.Retain}
	seq, err := l.Append(m)
	if errors.Is(err, storefwd.ErrFull) {
		if err := b.safe(); err != nil {
			return 0, err
		}
		seq, err = l.Append(m)
	}
	return seq, err
}

// safe waits until all that was appended is safe.
func (b *storeBoxes) safe() error {
	done := make(chan error, 1)
	b.store.Barrier(func(err error) { done <- err })
	return <-done
}

func (b *storeBoxes) drop(name string, to uint64) (dropped, error) {
	l, err := b.find(name)
	if err != nil {
		return dropped{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := b.store.Readable(ctx); err != nil {
		return dropped{}, &boxError{fmt.Sprintf("nothing was dropped, for the store cannot be read now: %v", err)}
	}
	msgs, bytes := l.Drop(to)
	return dropped{Messages: msgs, Bytes: bytes}, nil
}

func (b *storeBoxes) verify() (storefwd.Check, error) { return b.Verify() }

// release closes all files of the store, and has serveCtl close its socket.
func (b *storeBoxes) release() error {
	back, err := b.store.Release()
	if err != nil {
		return err
	}
	select {
	case b.released <- back:
	default: // it is on its way
	}
	return nil
}
