package storefwd

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// Log is a sequence of messages. All methods are safe for any goroutine.
type Log struct {
	// Static after Store.Log.
	s  *Store
	id uint32

	// Guarded by s.mu.
	name    string // "" until somebody opens it, if only the journal knows it
	ret     Retention
	claimed bool

	// Sequences: base ≤ first ≤ last+1. Records wait for removal from the engine in
	// [base, first), are in the engine in [first, folded], and in ram above. In ram
	// all up to journaled are in the journal, too. There may be gaps anywhere.
	// Of those in the journal, all up to sealed are in halves that get nothing more.
	base, first, folded, sealed, journaled, last uint64

	ram     deque[*rec]
	ramDead int        // in ram, acknowledged early and released; at least
	oldest  deque[ref] // the first of those in the engine, read ahead
	tail    tail       // acknowledged, below first
	stated  uint64     // first, as the engine knows it
	folding uint64     // folded, once the fold that runs has succeeded; 0: none runs

	msgs, bytes       int64  // that still count: from first on
	oldMsgs, oldBytes int64  // that did when the files were read
	ramMsgs, ramBytes int64  // of these, those in ram
	removeTo          uint64 // base up to here wait for removal from the engine
	removeMsgs        int64  // about how many these are
	removeBytes       int64
	unsafeBytes       int64 // of the store's, those of this log

	early       deque[earlySpan] // acknowledged early and still in their place, in the order of that
	earlyBytes  int64
	hollow      spans // released: nothing is there, or a fold will remove it from the engine
	bad         spans // damaged in the engine, and counted, where no cursor settles them
	unsure      spans // in RAM, and perhaps in the engine: a fold failed in doubt, in this run
	hollowBytes int64 // about what that removes

	ackNews, ackNewsFolding      bool   // what is acknowledged changed in a way that a crash must not undo, and the engine does not know; a fold that runs tells it
	acks, acksSaved, acksFolding uint64 // acknowledgements; those that the engine knows of, and will once the fold that runs has succeeded
	saveTo                       uint64 // acknowledgements that the engine is to know of with the next fold
	scatter, scatterSaid         bool   // records may have been handed out while older ones waited; the engine knows that
	hub                          mark   // where the hub's stream stands
	foreign, foreignSaid         string // a stream that others were seen to write to; the engine knows of it
	setBack                      bool   // … and it was set back while the link was up: the mark stays until the next resume
	blind                        bool   // the stream was not read up to what is acknowledged there: mark.Read stays

	epochs   []epochStart // ascending by First; who appended what
	cursors  []*Cursor    // few, each of another name
	sent     day          // toward the hub today, if its forwarder has a daily budget …
	sentSaid day          // … and as the engine knows it
	drains   bool         // the forwarder sends, a backlog first …
	live     bool         // … or at once, and expects an acknowledgement
	spill    int64        // what it asks for instead of Options.SpillAfter, ns
	most     int          // bytes of header and data that the hub takes of a message; 0: no limit known
	header   int          // and of header alone

	chunk []byte // the free rest of the buffer that records are made in
	slab  []rec
	grow  int

	gaps        map[string]gap // lost and not declared, by reason
	gapNews     bool           // the engine does not know of all of them …
	gapFolding  bool           // … and did not before the fold that runs
	declaring   []seqGap       // markers that may not be on the disk yet
	markers     []seqGap       // that the hub has, of this run, the last of them
	notTaken    time.Duration  // how long the next marker is put off, since the hub did not take the last
	declaredAt  int64          // when markers were appended last, by mono
	marker      uint64         // sequence of the last marker of this run; handed out once it is on the disk
	declared    uint64         // losses before this sequence were declared in an earlier run …
	undeclared  spans          // … but for these, which were in doubt
	declaredIn  spans          // … and those are among these: the others up to declared were acknowledged
	later       []seqGap       // markers that the journal gave back
	given       spans          // counted as lost, by loseOnce, and perhaps in the tail
	pendingFrom uint64         // markers from here on were not on the disk then, as far as was known
	knownTo     uint64         // last, as the engine knew it at the start, and with it what was lost and what was declared
	asked       bool           // the hub was asked what it has of earlier runs
	askedAt     int64          // when it was last, by mono
	doubt       doubt          // what was dropped, and may be at the hub
	late        doubt          // was in doubt, was not found, and is not declared yet

	told, toldFolding [][]byte // what of told.go the journal alone knows; what a fold that runs makes known

	narrowed     bool   // it may hold more than its bounds: they have become narrower
	cut, cutSaid uint64 // what is before was dropped for newer ones; the journal knows, or will with cutRec
	cutRec       *rec   // waits to be written
	cutBefore    uint64 // what is before was, by an earlier run

	conf      *conflation // nil: every message is kept
	conflated uint64      // superseded since Open

	acked             int64
	appended, written uint64
	lost              [NumLosses]uint64
	lostBefore        [NumLosses]spans // of these, what an earlier run has counted
}

// ref is what the accounts need of a record that is not in RAM.
type ref struct {
	seq  uint64
	size int64
	stamp
	r    *rec          // or nil
	gap  *gap          // if it is a marker
	life time.Duration // of its own; 0: none
}

// restoreLog adds a log as the engine knows it, or takes that over into one that was
// opened before the engine was.
func (s *Store) restoreLog(id uint32, st logState) *Log {
	l := s.logs[id]
	if l == nil {
		l = &Log{s: s, id: id, name: st.Name}
		s.logs[id] = l
	}
	l.base, l.first, l.folded = max(st.Base, 1), max(st.First, 1), st.Folded
	l.journaled, l.msgs, l.bytes, l.epochs = st.Folded, l.msgs+st.Msgs, l.bytes+st.Bytes, st.Epochs
	l.oldMsgs, l.oldBytes = l.oldMsgs+st.Msgs, l.oldBytes+st.Bytes
	l.stated, l.sent, l.sentSaid = l.first, st.Sent, st.Sent
	l.restoreTail(st)
	for _, g := range st.Gaps {
		l.addGap(g)
	}
	for _, e := range st.Epochs {
		s.recall(e.Epoch)
	}
	l.gapNews, l.knownTo, l.pendingFrom = false, st.Last, st.Marker
	if kept := l.kept(); kept > l.base { // a crash, or a close, came before their removal
		l.removeTo = min(kept-1, l.folded)
		l.removeMsgs = int64(min(l.removeTo, l.base+maxRemove)) - int64(l.base) + 1
	}
	l.scanEngine()
	l.last = max(l.last, st.Last, l.folded, l.first-1, s.seqFloor)
	for name, floor := range st.Cursors {
		c := l.cursor(name)
		c.floor = min(floor, l.last, mostSeq)
		c.rebuild()
	}
	l.hub, l.scatter, l.scatterSaid = st.Mark, st.Scattered, st.Scattered
	l.foreign, l.foreignSaid = st.Foreign, st.Foreign
	l.restoreEarly(st)
	l.restoreDoubt(st)
	return l
}

// state is what the engine is to know about the log once it holds the records up
// to sequence upTo, or no more than now if that is 0.
func (l *Log) state(upTo uint64) logState {
	st := logState{
		Name: l.name, Base: l.base, First: l.first, Folded: max(l.folded, upTo),
		Epochs: slices.Clone(l.epochs), Cursors: map[string]uint64{},
	}
	st.Last = max(l.last, st.Folded)
	st.Msgs, st.Bytes = l.msgs-l.ramMsgs, l.bytes-l.ramBytes
	for i := range l.ram.len() {
		r := *l.ram.at(i)
		if r.seq > upTo {
			break // what is only in RAM is not the engine's to count
		}
		if r.dead || r.early {
			continue
		}
		st.Msgs++
		st.Bytes += int64(len(r.buf))
	}
	for _, c := range l.cursors {
		st.Cursors[c.name] = c.floor
		if len(c.done.s) > 0 {
			if st.Early == nil {
				st.Early = map[string][]span{}
			}
			st.Early[c.name] = c.done.list()
		}
	}
	st.Mark, st.Scattered, st.Foreign = l.hub, l.scatter, l.foreign
	st.Sent = l.sent
	l.tailState(&st, upTo)
	st.Gaps, st.Marker = l.gapState()
	l.doubtState(&st)
	return st
}

// Name is what the log was opened as.
func (l *Log) Name() string { return l.name }

// Deliver appends m: a Log may be attached to a router. It answers msg.Kept or
// msg.StoreFull.
func (l *Log) Deliver(m *msg.Msg, _ *msg.Sub) msg.Drop {
	if _, err := l.Append(m); err != nil {
		return msg.StoreFull
	}
	return msg.Kept
}

// Flush implements msg.Flusher: publishers pause while too much waits for the disk.
func (l *Log) Flush() (behind <-chan struct{}) {
	s := l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.behind == nil && s.unsafeBytes > s.limit/2 && s.failed == nil && s.retryAt == 0 {
		s.behind = make(chan struct{})
	}
	return s.behind
}

// Append copies subject, header and data of m to the end of the log; a reply
// subject is not kept. The record is safe only after a Barrier. The error is
// ErrFull, ErrTooLarge, ErrClosed or ErrFailed, and has been counted.
func (l *Log) Append(m *msg.Msg) (seq uint64, err error) {
	s := l.s
	m = withTTL(m)
	now := int64(s.o.Clock.Boot())
	s.mu.Lock()
	defer s.mu.Unlock()
	size := int64(recordSize(m))
	if loss, err := l.admit(m, size); err != nil {
		l.lost[loss]++
		return 0, err
	}
	if l.ret.Full == DropNewest && (l.overWith(m, size) || l.squeezed(size)) {
		return l.turnAway(), nil
	}
	return l.place(m, now, 0), nil
}

// place puts m at the end of the log.
func (l *Log) place(m *msg.Msg, now int64, flags uint8) (seq uint64) {
	s := l.s
	l.sayCut()
	l.last++
	s.pos++
	r := l.newRec()
	*r = rec{log: l, seq: l.last, pos: s.pos, at: s.mono()}
	r.buf = appendRecord(l.alloc(recordSize(m)), l.id, s.epoch, r.seq, now, s.stampFlags()|flags, m)
	if l.ret.Memory {
		r.state = recSafe
	} else {
		l.enqueue(r)
	}
	l.insert(r, s.epoch)
	l.appended++
	l.wakeReaders()
	return r.seq
}

// enqueue gives r to the committer.
func (l *Log) enqueue(r *rec) {
	s := l.s
	s.queue.push(r)
	s.unsafeBytes += int64(len(r.buf))
	l.unsafeBytes += int64(len(r.buf))
	if l.ret.Interval == 0 {
		s.plainTo, s.plainAt = r.pos, r.at
	}
	if s.presses() {
		s.wakeBy(r.at)
	} else {
		s.wakeBy(s.due(r, false))
	}
}

// admit makes room for a record of size bytes, or says why there is none.
func (l *Log) admit(m *msg.Msg, size int64) (Loss, error) {
	s := l.s
	switch {
	case s.closed:
		return LostFailed, ErrClosed
	case s.failed != nil && !l.ret.Memory:
		return LostFailed, s.failed
	case !l.ret.Memory && frameSize(int(size)) > s.limit-batchExtra:
		return LostTooLarge, fmt.Errorf("%w for the journal; raise store.journal_size to twice its size and more", ErrTooLarge)
	case !fits(m) || l.ret.MaxBytes > 0 && size > l.ret.MaxBytes:
		return LostTooLarge, fmt.Errorf("%w for the store", ErrTooLarge)
	case l.header > 0 && len(m.Header) > l.header:
		return LostTooLarge, fmt.Errorf("%w: a stream takes no header of more than 64 KB", ErrTooLarge)
	case l.most > 0 && len(m.Header)+len(m.Data) > l.most:
		return LostTooLarge, fmt.Errorf("%w: with its message id it has more than the hub's max_payload", ErrTooLarge)
	}
	if why, err := l.stuck(size); err != nil {
		return why, err
	}
	for l.expireOld() && (l.overWith(m, size) || l.squeezed(size)) {
	}
	if l.overWith(m, size) || l.squeezed(size) {
		l.expireDead()
	}
	if l.ret.Full != DropNewest && l.squeezed(size) {
		if err := l.giveWay(size); err != nil {
			return LostRefused, err
		}
	}
	for n := 0; l.ret.Full != DropNewest && l.overWith(m, size); n++ {
		if l.ret.Full == Refuse {
			return LostRefused, ErrFull
		}
		if l.narrowed && n == dropMost {
			break // the committer drops the rest
		}
		o, ok := l.head()
		if !ok {
			break
		}
		l.drop(o, LostOldest)
	}
	l.trimEpochs()
	s.settle()
	return 0, nil
}

// stuck says why a record of size bytes would not be written soon, if that is known. What is refused
// after it has its place is stored all the same, perhaps, so nothing is taken that the journal of
// a full store has no room for.
func (l *Log) stuck(size int64) (Loss, error) {
	s := l.s
	waits := !l.live // for the disk, else the hub is about to acknowledge it
	switch {
	case l.ret.Memory:
	case waits && s.retryAt != 0 && s.unsafeBytes > 0: // a commit is tried again then
		why := LostNoRoom
		if s.full != "" {
			why = LostRefused
		}
		return why, fmt.Errorf("%w: %w", ErrFull, s.noRoom)
	case waits && s.full != "" && l.ret.Full != DropOldest && s.weight(size) > s.journalRoom:
		return LostRefused, fmt.Errorf("%w: %s", ErrFull, s.full)
	case s.unsafeBytes+size > s.limit:
		return LostNoRoom, fmt.Errorf("%w: the disk is behind", ErrFull)
	}
	return 0, nil
}

func (l *Log) over(msgs, bytes int64) bool {
	if c := l.conf; c != nil {
		if c.scan <= c.scanTo { // most of it may be superseded
			return false
		}
		msgs -= int64(len(c.waiting))
		bytes -= c.waitBytes
	}
	if l.scatter && !l.asked { // the hub may have the newest of what earlier runs left
		msgs -= l.oldMsgs
		bytes -= l.oldBytes
	}
	return l.ret.MaxMsgs > 0 && l.msgs+msgs > l.ret.MaxMsgs || l.ret.MaxBytes > 0 && l.bytes+bytes > l.ret.MaxBytes
}

// overWith reports whether the log is over its bounds once it has m.
func (l *Log) overWith(m *msg.Msg, size int64) bool {
	if old := l.replaced(m.Subject); old != nil {
		return l.over(0, size-old.size)
	}
	return l.over(1, size)
}

// enforce applies what the journal says was dropped, and bounds that have become narrower.
func (l *Log) enforce() {
	for o, ok := l.head(); ok && o.seq < l.cutBefore; o, ok = l.head() {
		l.drop(o, LostOldest)
	}
	if l.narrowed = true; l.dropOld() {
		l.s.dropping = true // the committer goes on
		l.s.wakeBy(l.s.mono())
	}
}

// dropOld drops what is older than the log keeps, and what is too much since its bounds have
// become narrower, as much as may be at once. It reports whether there may be more.
func (l *Log) dropOld() (more bool) {
	if more = l.expireOld(); more || !l.narrowed {
		return more
	}
	for range dropMost {
		o, ok := l.head()
		if !ok || !l.over(0, 0) || l.ret.Full != DropOldest {
			l.narrowed = false
			return false
		}
		l.drop(o, LostOldest)
	}
	return true
}

// insert puts a record with the next sequence into RAM and the accounts.
func (l *Log) insert(r *rec, epoch uint64) {
	if n := len(l.epochs); n == 0 || l.epochs[n-1].Epoch != epoch {
		l.epochs = append(l.epochs, epochStart{epoch, r.seq})
	}
	l.ram.push(r)
	l.last = max(l.last, r.seq)
	l.msgs++
	l.ramMsgs++
	l.bytes += int64(len(r.buf))
	l.ramBytes += int64(len(r.buf))
	l.supersede(r)
}

// newRec and alloc take from blocks, so that an append seldom allocates. A block
// holds records of one log in order, so it is free soon after its first record is.
func (l *Log) newRec() *rec {
	if len(l.slab) == 0 {
		l.slab = make([]rec, 32)
	}
	r := &l.slab[0]
	l.slab = l.slab[1:]
	return r
}

func (l *Log) alloc(size int) []byte {
	const most = 64 << 10
	if size > most/8 {
		return make([]byte, 0, size)
	}
	if size > len(l.chunk) {
		l.grow = min(max(2*l.grow, 4<<10, 2*size), most)
		l.chunk = make([]byte, l.grow)
	}
	b := l.chunk[:0:size]
	l.chunk = l.chunk[size:]
	return b
}

// end is the sequence of the newest record in RAM, or where the engine ends.
func (l *Log) end() uint64 {
	if n := l.ram.len(); n > 0 {
		return (*l.ram.at(n - 1)).seq
	}
	return l.folded
}

// trimEpochs forgets epochs that no record is left of, or in doubt, but for the last.
func (l *Log) trimEpochs() {
	if len(l.epochs) <= 1 {
		return
	}
	kept := l.kept()
	if from := l.doubtFrom(); from > 0 {
		kept = min(kept, from)
	}
	for len(l.epochs) > 1 && l.epochs[1].First <= kept {
		l.epochs = l.epochs[1:]
	}
}

// setLive says whether the hub acknowledges what is appended, within about spill. If not, nothing
// is sent, until setDrains says so.
func (l *Log) setLive(live bool, spill time.Duration) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.live != live {
		l.s.wakeBy(l.s.mono())
	}
	l.drains, l.live, l.spill = live, live, int64(spill)
}

// setDrains says that a backlog is sent, so that the hub does not have soon what is appended.
func (l *Log) setDrains() {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.drains, l.live = true, false
	l.s.wakeBy(l.s.mono())
}

func (l *Log) wakeReaders() {
	for _, c := range l.cursors {
		c.signal()
	}
}

// LogStats describe a log at one moment.
type LogStats struct {
	Name        string
	Msgs, Bytes int64
	First, Last uint64 // sequences; First is Last+1 if the log is empty
	OldestAge   time.Duration
	OlderStill  bool // than OldestAge, which is since the boot: nobody knows how much
	Live        bool
	KeptInRAM   int // acknowledged by the hub, kept for one that goes back, and not in the engine

	Appended, Acked, Written uint64            // since Open; Written counts records that went to the journal
	Conflated                uint64            // superseded by newer ones of their subject, since Open
	Lost                     map[string]uint64 // by Loss, since Open, and what was in doubt then
	InDoubt                  map[string]uint64 // of Lost, what the hub may have after all; the others stay lost
	Earlier                  map[string]uint64 // of the others, what an earlier run has counted
}

// Stats is a snapshot.
func (l *Log) Stats() LogStats {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	st := l.counts()
	if o, ok := l.head(); ok {
		st.First = o.seq
		age, exact := l.s.ageAtLeast(o.stamp)
		st.OldestAge, st.OlderStill = age, !exact
	}
	return st
}

// counts fills in what needs no look at the oldest record.
func (l *Log) counts() LogStats {
	st := LogStats{
		Name: l.name, Msgs: l.msgs, Bytes: l.bytes, First: l.last + 1, Last: l.last, Live: l.live, KeptInRAM: l.tail.ram.len(),
		Appended: l.appended, Acked: uint64(max(0, l.acked)), Written: l.written, Conflated: l.conflated, Lost: map[string]uint64{}, InDoubt: map[string]uint64{}, Earlier: map[string]uint64{},
	}
	for i, n := range l.lost {
		if n > 0 {
			st.Lost[Loss(i).String()] = n
		}
		if n := l.inDoubt(Loss(i)); n > 0 {
			st.InDoubt[Loss(i).String()] = n
		}
		if n := l.countedBefore(Loss(i)); n > 0 {
			st.Earlier[Loss(i).String()] = n
		}
	}
	return st
}

// Logs lists the logs that were opened, by name.
func (s *Store) Logs() []*Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Collect(maps.Values(s.logs))
	all = slices.DeleteFunc(all, func(l *Log) bool { return !l.claimed })
	slices.SortFunc(all, func(a, b *Log) int { return strings.Compare(a.name, b.name) })
	return all
}

// Refused counts a message that was refused before it came to the log.
func (l *Log) Refused(why Loss) {
	l.s.mu.Lock()
	l.lost[why]++
	l.s.mu.Unlock()
}

// Hurry has all that barriers wait for written at once, whatever its Interval.
func (l *Log) Hurry() {
	l.s.mu.Lock()
	l.s.hurryTo = l.s.pos
	l.s.wakeBy(l.s.mono())
	l.s.mu.Unlock()
}
