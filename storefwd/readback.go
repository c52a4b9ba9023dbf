package storefwd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"
)

// This file reads in a stream which messages of ours it has. It asks the leader,
// message by message and, if the line bears it, many at once; and only where some may be
// that were sent and not acknowledged: between the last one known to be acknowledged and the end.

const (
	readers     = 64
	readBackMax = 1 << 16 // messages
)

var errTooMany = errors.New("too many messages to read")

// readBack acknowledges what the stream has above the ack floor.
func (f *Forwarder) readBack(ctx context.Context, p *place) error {
	if err := f.countPlaces(p); err != nil {
		return err
	}
	floor, doubt := f.c.ambiguous()
	p.top, _ = f.l.behind(p.last)
	if doubt == 0 || p.info.State.Messages == 0 {
		return nil
	}
	found, whole, err := f.readAll(ctx, p, doubt)
	if !whole && err == nil {
		found, whole, err = f.readOurs(ctx, p, floor)
	}
	if err != nil {
		return err
	}
	sort.SliceStable(found, func(i, j int) bool { return found[i].at < found[j].at })
	if !f.l.scattered() {
		p.gone = p.forgot(f.l, found, whole)
	}
	if p.gone.mixed = f.c.mixes(); f.l.ret.Conflate {
		p.gone.supersedes(f.l, found)
	}
	return f.ackStored(p, found)
}

// countPlaces notes up to where a stream of our own took what was on its way, by the places that it gave
// away since: the publishes of this session's predecessor said which they are for. What is dead by now
// by its own Nats-TTL was stored then, though it is not there any more, and does not count as expired here.
// For what lives that proves too little, a hub may count what it refuses: it is sent again.
func (f *Forwarder) countPlaces(p *place) error {
	m, was, last := f.l.getMark(), f.places, p.info.State.LastSeq
	ours := p.own && f.exclusive(p) && !f.l.scattered() && m.Stream == p.name && m.Made == p.info.made()
	if !ours || len(was) != 1 || !was[0].chained || was[0].name != p.name || m.At == 0 || last <= m.At {
		f.c.tookPlaces(0, 0)
		return nil
	}
	for _, seq := range f.c.tookPlaces(m.Seq, last-m.At) {
		if err := f.resumed(seq); err != nil {
			return err
		}
	}
	return nil
}

// tookPlaces notes that the stream took n of those that were on their way behind after. It returns
// those of them that expired here since.
func (c *Cursor) tookPlaces(after, n uint64) (expired []uint64) {
	l := c.l
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	var sent spans
	sent.copyOf(&c.sent)
	for _, d := range []*doubt{&l.doubt, &l.late} {
		seqs := d.seqs()
		for _, s := range seqs.s {
			sent.add(s.From, s.To)
		}
	}
	sent.remove(0, after)
	c.took = 0
	for _, s := range sent.s {
		if n == 0 {
			break
		}
		c.took = min(s.To, s.From+n-1)
		n -= c.took - s.From + 1
	}
	for _, d := range []*doubt{&l.doubt, &l.late} {
		for _, s := range d.lost[LostExpired].s {
			for seq := max(s.From, after+1); seq <= min(s.To, c.took); seq++ {
				expired = append(expired, seq)
			}
		}
	}
	return expired
}

// readAll reads all that came since the mark, if of that ours in doubt may be a quarter: it has what the
// stream took as ours and stored under another subject, by a transform that was taken back since.
// whole says that it was read, and that nothing was dropped from the stream's beginning.
func (f *Forwarder) readAll(ctx context.Context, p *place, doubt uint64) (found []stored, whole bool, err error) {
	m, at := f.l.getMark(), p.info.State
	if m.Stream != p.name || m.Read == 0 || len(f.earlier) > 0 || at.FirstSeq > m.Read+1 || at.LastSeq > m.Read+min(4*doubt+64, readBackMax) {
		return nil, false, nil
	}
	found, err = f.walk(ctx, p.name, getMsg{NextOf: ">", anyone: true}, max(at.FirstSeq, m.Read), at.LastSeq)
	return found, true, err
}

// readOurs reads what is ours by its subject.
func (f *Forwarder) readOurs(ctx context.Context, p *place, floor uint64) (found []stored, whole bool, err error) {
	var asked []string
	for i := range p.filters {
		if p.lasts[i].at == 0 || slices.Contains(asked, p.query(i)) {
			continue
		}
		asked = append(asked, p.query(i))
		from, known, err := f.lowest(ctx, p, i, floor)
		if err != nil {
			return nil, false, err
		}
		whole = whole || known
		more, err := f.walk(ctx, p.name, getMsg{NextOf: p.query(i)}, from, p.lasts[i].at)
		if err != nil {
			return nil, false, err
		}
		found = append(found, more...)
	}
	return found, whole, nil
}

// ackStored acknowledges those of the messages that were found which are the log's own.
func (f *Forwarder) ackStored(p *place, found []stored) error {
	found = slices.DeleteFunc(found, func(m stored) bool { return !f.l.wrote(m) })
	for _, m := range found {
		p.top = max(p.top, m.seq)
		if err := f.resumed(m.seq); err != nil {
			return fmt.Errorf("the stream has seq %d, which cannot be read here now: %w", m.seq, err)
		}
	}
	have := f.l.getMark()
	for _, m := range found { // what is still missing is nowhere up to here
		if have.Stream == p.name && m.at > have.At {
			have.At, have.Seq, have.Read = m.at, m.seq, m.at
		}
	}
	f.l.setMark(have)
	return nil
}

// resumed acknowledges what the stream has, or had. The error is that of a store which cannot be
// read: then seq would be sent again.
func (f *Forwarder) resumed(seq uint64) error {
	a := f.c.ack(seq, 0)
	if a.known {
		f.mu.Lock()
		f.st.Resumed++
		f.mu.Unlock()
	}
	return a.unread
}

// lowest is where in the stream to begin to read: behind the mark, or at one of
// ours that is acknowledged, looked for backwards in growing steps. Before that are
// only acknowledged ones, since nothing is sent while an earlier one is missing. Where
// that is not so (order.go), only the mark tells. known says that nothing between that and
// what is read was dropped from the stream's beginning.
func (f *Forwarder) lowest(ctx context.Context, p *place, filter int, floor uint64) (from uint64, known bool, err error) {
	end := p.lasts[filter].at
	first, read := p.info.State.FirstSeq, uint64(0)
	if m := f.l.getMark(); m.Stream == p.name && !slices.Contains(f.earlier, p.filters[filter]) { // it was not asked for before
		read = m.Read
	}
	known = first <= read+1
	first = max(first, read)
	if f.l.scattered() {
		return first, known, nil
	}
	for step := uint64(256); ; step *= 2 {
		at := first
		if end > first && end-first > step {
			at = end - step
		}
		if at <= first {
			return at, known, nil
		}
		m, err := f.message(ctx, p.name, getMsg{Seq: at, NextOf: p.query(filter)})
		if err != nil || m.ours && m.seq <= floor {
			return at, true, err
		}
	}
}

// walk collects ours among the messages that are asked for, from one sequence to another,
// with several readers, each on a stretch of its own.
func (f *Forwarder) walk(ctx context.Context, stream string, ask getMsg, from, to uint64) ([]stored, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := walk{f: f, stream: stream, ask: ask, ctx: ctx, cancel: cancel, readers: 1, most: 1}
	stretch := (to-from)/readers + 8
	for start := from; start <= to; start += stretch {
		w.left = append(w.left, span{start, min(start+stretch-1, to)})
	}
	w.all.Go(w.read)
	w.all.Wait()
	return w.found, w.err
}

// walk is one under way. It begins with one reader: answers that are large, on a line that is slow,
// would only wait for one another, in the hub, which cuts off a link that has much to come.
type walk struct {
	// Static.
	f      *Forwarder
	stream string
	ask    getMsg
	ctx    context.Context
	cancel func()

	all sync.WaitGroup // the readers

	mu      sync.Mutex // guards what follows
	left    []span     // stretches that nobody reads now
	readers int
	most    int           // of them at once
	least   time.Duration // that an answer took
	seen    int
	found   []stored
	err     error
}

// read is a reader: it asks for one message after another.
func (w *walk) read() {
	for s, ok := w.next(); ok; s, ok = w.next() {
		ask, began := w.ask, time.Now()
		ask.Seq = s.From
		m, err := w.f.message(w.ctx, w.stream, ask)
		w.took(s, m, err, time.Since(began))
	}
}

// next is a stretch to read on from its beginning. If it is false the reader ends.
func (w *walk) next() (s span, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil || len(w.left) == 0 || w.readers > w.most {
		w.readers--
		return s, false
	}
	last := len(w.left) - 1
	s, w.left = w.left[last], w.left[:last]
	return s, true
}

// took takes an answer, or the error in its place.
func (w *walk) took(s span, m stored, err error, took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && (m.at == 0 || m.at > s.To) { // nothing more in this stretch
		return
	}
	if w.seen++; err == nil && w.seen > readBackMax {
		err = fmt.Errorf("%w: more than %d in stream %q since the last acknowledgement", errTooMany, readBackMax, w.stream)
	}
	if err != nil {
		if w.err == nil {
			w.err = err
			w.cancel()
		}
		return
	}
	if m.ours {
		w.found = append(w.found, m)
	}
	if m.at < s.To {
		w.left = append(w.left, span{m.at + 1, s.To})
	}
	w.pace(took)
	if w.readers < w.most && len(w.left) > 1 {
		w.readers++
		w.all.Go(w.read)
	}
}

// pace lets more answers be under way at once as long as they come as soon as they can, as flow.step does
// with acknowledgements.
func (w *walk) pace(took time.Duration) {
	if w.least == 0 || took < w.least {
		w.least = took
	}
	switch patience := w.f.o.AckTimeout; {
	case took < max(patience/6, 2*w.least):
		w.most = min(w.most+1, readers)
	case took > patience/3:
		w.most = max(w.most/2, 1)
	}
}

// ambiguous is how many records the hub may have without our knowing it: those of
// an earlier run, and those that were handed out before. All of them are above floor.
func (c *Cursor) ambiguous() (floor, n uint64) {
	l := c.l
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	c.catchUp()
	most := l.last
	if n := len(l.epochs); n > 0 && l.epochs[n-1].Epoch == l.s.epoch {
		most = l.epochs[n-1].First - 1
	}
	floor = c.floor
	if o, ok := l.head(); ok && o.seq > 0 {
		floor = max(floor, o.seq-1)
	}
	n = c.sent.n
	if floor < most {
		n += most - floor
	}
	if from := l.doubtFrom(); from > 0 {
		for _, d := range []*doubt{&l.doubt, &l.late} {
			seqs := d.seqs()
			n += seqs.n
		}
		floor = min(floor, from-1)
	}
	return floor, n
}

// wrote reports whether a message that was seen in a stream is the log's own. After a crash, or
// in a store that was restored from a copy, a sequence may have come back with another epoch:
// then it is a message that nobody was promised, or that nobody has any more.
func (l *Log) wrote(m stored) bool {
	_, wrote := l.behind(m)
	return wrote
}

// behindRun is the bound of the records that were handed out before the end of an earlier run of
// which nothing is left here. 0 if it is not known: a store that was restored from a copy does not
// know what it did since.
func (l *Log) behindRun(epoch uint64) (bound uint64) {
	known := func(epoch uint64) bool { _, ok := l.s.runOf(epoch); return ok }
	if epoch >= l.s.epoch || !known(epoch) {
		return 0
	}
	for _, e := range l.epochs {
		if e.Epoch > epoch && known(e.Epoch) {
			return e.First
		}
	}
	return l.last + 1
}

// behind is the bound of the records that were handed out before a message that was seen in a
// stream: they are less. If a crash made the log forget the message, that is where what is left of
// its run ends: the next run gives the sequences behind again. 0 if the run is not known.
func (l *Log) behind(m stored) (bound uint64, wrote bool) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	i := slices.IndexFunc(l.epochs, func(e epochStart) bool { return e.Epoch == m.epoch })
	if m.ours && i < 0 {
		return l.behindRun(m.epoch), false
	}
	if !m.ours {
		return 0, false
	}
	if m.seq < l.epochs[i].First { // of its run only later ones are left
		return m.seq, false
	}
	end := l.last
	if i+1 < len(l.epochs) {
		end = l.epochs[i+1].First - 1
	}
	return min(m.seq, end+1), m.seq <= end
}
