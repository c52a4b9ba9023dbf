package storefwd

import (
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

var (
	ErrClosed   = errors.New("store is closed")
	ErrFailed   = errors.New("store has failed")
	ErrFull     = errors.New("log is full")
	ErrTooLarge = errors.New("message is too large")
	ErrInUse    = errors.New("locked")
)

// Options of a Store. The zero value is good.
type Options struct {
	Node           string        // name in front of message ids; default: the one of the last open, at first leafd-<random>
	JournalBytes   int64         // size of the journal file, and the bound on unfolded records in RAM; default 8 MiB, at least 256 KiB
	CommitInterval time.Duration // records that nobody waits for are on disk after this; default 1s
	CommitBytes    int           // or once this many bytes wait; default 1 MiB
	SpillAfter     time.Duration // how long a record of a live outbox waits for the hub before it is written; default 250ms
	FoldAfter      time.Duration // how long the journal keeps what is left in it before it is folded; default 1m
	MaxSize        int64         // bytes the bbolt file may have; default and most 512 MiB on 32-bit machines, 4 GiB on others
	Board          []string      // what tells this board from another of its kind: serial numbers; default: nothing is known
	Reserve        int64         // bytes kept from the disk to be let go when it is full; default 1 MiB, negative: none

	// Check looks at the bbolt file at path before it is opened; the error is ErrDamaged if
	// it is not to be. Default: the first half of CheckFile, which cannot crash.
	Check func(path string) error

	Logger *slog.Logger
	Clock  Clock // default SystemClock("auto")

	faults faults // of tests
}

// faults lets tests stand between the store and its files.
type faults struct {
	journal func(journalFile) journalFile
	engine  func(engine) engine
	step    func(name string) error // before each step of bring
	retry   time.Duration           // in place of retryMin
	room    func() int64            // in place of diskRoom
}

func (o *Options) setDefaults() {
	o.JournalBytes = max(min(cmpOr(o.JournalBytes, 8<<20), 1<<30), 256<<10) &^ (2*journalBlock - 1)
	most := int64(4 << 30)
	if strconv.IntSize == 32 {
		most = 512 << 20 // of the 2 to 3 GiB of addresses that there are
	}
	o.MaxSize = min(cmpOr(o.MaxSize, most), most)
	if o.Reserve == 0 {
		o.Reserve = 1 << 20
	}
	o.CommitInterval = cmpOr(o.CommitInterval, time.Second)
	o.CommitBytes = cmpOr(o.CommitBytes, 1<<20)
	o.SpillAfter = cmpOr(o.SpillAfter, 250*time.Millisecond)
	o.FoldAfter = cmpOr(o.FoldAfter, time.Minute)
	if o.Check == nil {
		o.Check = checkPages
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = SystemClock("auto")
	}
}

func cmpOr[T ~int | ~int64 | ~string](v, def T) T {
	var zero T
	if v > zero {
		return v
	}
	return def
}

// Store keeps the logs of one gateway in one directory.
type Store struct {
	// Static after Open.
	o       Options
	dir     string
	node    string
	epoch   uint64
	idHead  []byte // "<node>"
	start   time.Time
	meta    meta // its Former and the last of its Runs are guarded by mu
	eng     engine
	wake    chan struct{} // holds one; for the committer
	closing chan struct{}
	done    chan struct{} // the committer has ended
	asks    chan func()   // for the committer to run

	// Owned by the committer, before that by Open.
	lock                       *os.File  // nil until the directory is taken
	metaOK, engineOK, replayed bool      // steps of bring that were taken; engineOK: bbolt can be written
	unread                     int       // so often the journal was looked at and not replayed
	j                          *journal  // nil while there is none to be trusted
	cached                     bool      // it is written through the page cache, whatever the file system can do
	markAt                     int64     // when it has been idle for so long that its newest batch is marked, by mono; 0: it is
	salvage                    *salvage  // of damaged files; nil: there are none
	salvageAt                  int64     // when that is tried, or looked for, again, by mono
	acquitted                  bool      // bbolt's file was suspected and found sound since the last fold
	away                       *released // nil while the files are ours
	lockAt, metaAt, journalAt  namedFile // where they were when they were opened
	filesAt                    int64     // when these are looked at next, by mono
	suspicious                 bool      // the last look found some taken away
	taken                      string    // which were, for people, until they are made anew
	removeFirst                bool      // the next fold only removes: the file may not grow
	noTails                    bool      // there is no room for them; until a hub is there again
	reserveAt                  int64     // when the reserve is looked at next, by mono
	batch                      []*rec
	frames                     [][]byte
	puts                       []foldRecord

	// Guarded by mu.
	mu          sync.Mutex
	logs        map[uint32]*Log
	loaded      bool            // logs has what bbolt holds
	readable    bool            // bbolt can be read; while not, readers wait
	folded      uint64          // generations up to this one are in bbolt, by its own account at the start
	sealGen     uint64          // generations up to this one get nothing more, and are to be folded
	origins     map[string]bool // id prefixes taken by running forwarders
	turns       turns
	queue       deque[*rec] // appended and, the first at least, not yet safe; in the order of pos
	pos         uint64      // of the last append
	plainTo     uint64      // of the last one to a log without an Interval
	plainAt     int64       // when that was, by mono; long ago: never
	hurryTo     uint64      // up to here barriers hurry logs with an Interval, too
	limit       int64       // bytes that may be unsafe at once
	unsafeBytes int64
	journalRoom int64         // what the journal takes without a fold, by weight
	behind      chan struct{} // not nil while publishers should pause
	barriers    deque[barrier]
	siblings    siblings      // who is waited for before the next commit
	firing      bool          // some goroutine is running callbacks
	armed       int64         // when the committer will look next, by mono; 0: not before it is woken
	dirtySince  int64         // when there began to be something to fold, by mono; 0: nothing
	foldAgain   int64         // after a fold failed: when it is tried again, by mono
	foldedAt    int64         // when the last fold ended, by mono
	compactNot  int64         // no compaction is tried before, by mono
	retryAt     int64         // what failed, or found the disk full, is tried again then, by mono
	pause       time.Duration // to the retry after that
	noRoom      error         // what the last commit found instead of room
	refused     error         // the answer to the first refusing of the barriers
	refusing    int
	failed      error // why nothing is acknowledged now; ErrClosed at last
	closed      bool
	full        string        // why the last fold or commit found no room, and the remedy; "": it found some
	foldErr     string        // why nothing goes from the journal into bbolt now
	suspected   error         // what bbolt said when it could not be read, until it has been looked into
	salvaging   chan struct{} // not nil while a damaged file is salvaged, and closed after: nothing can be read
	files       int           // damaged ones that a fresh one took the place of
	sharers     int           // logs that want room in bbolt's file
	crowded     bool          // … and have no more than what the shares of some of them lack
	diskRoom    int64         // what the file system had left after the last fold, without the reserve, in bytes
	seqFloor    uint64        // while the states are unknown: sequences up to here may be taken
	early       int64         // the smallest that thisRun().Wall was
	lookAt      int64         // when the clock is looked at next, by mono
	saveAt      int64         // when what it said may be written next, by mono
	metaNews    bool          // there is something to write in the meta file
	dropping    bool          // there is more to drop than was at once
	unfinished  error         // why Close left work in the journal
	health      []string
	stats       Stats
	wear        Wear             // since the store was made
	wearSeen    map[string]int64 // what of stats is in it
}

// Stats of a Store. Bytes are those handed to the kernel since Open.
type Stats struct {
	Node  string
	Epoch uint64

	JournalBytes int64  // written to the journal for records
	JournalMode  string // how, for people
	BoltBytes    int64  // written to the bbolt file
	MetaBytes    int64  // written at open: the meta file, and empty files where none were
	Commits      int64  // batches made durable in the journal
	CommitMsgs   int64  // records in them
	Folds        int64
	Faults       int64 // errors of the disk after which the files were opened anew
	Recoveries   int64 // returns from Failed to acknowledging

	UnsafeMsgs, UnsafeBytes int64 // appended, and neither on disk nor with the hub
	Barriers                int   // waiting
	BoltSize                int64 // of the bbolt file

	Full     bool     // no room on the disk or within max_size: nothing new becomes safe until there is
	Salvaged []string // what was found damaged and moved aside, since Open
	Failed   string   // why nothing is acknowledged now; empty while that is not so
}

// Open opens the store in dir, or makes it. Only one process may have it open. The
// error says what is wrong with dir and does not name it. It is one that a person must
// see to. Damaged files are moved aside and reported by Health; a disk that is full,
// failing or mounted for reading only leaves a store that refuses to keep anything, says
// so in Health, and goes on by itself once the disk works.
func Open(dir string, o Options) (*Store, error) {
	o.setDefaults()
	s := &Store{
		o: o, dir: dir, plainAt: -sinceAppend, start: time.Now(), wake: make(chan struct{}, 1), closing: make(chan struct{}),
		done: make(chan struct{}), asks: make(chan func()), logs: map[uint32]*Log{}, origins: map[string]bool{}, pause: cmpOr(o.faults.retry, retryMin),
		limit: (o.JournalBytes - 2*journalBlock) / 2, diskRoom: o.MaxSize,
	}
	s.eng = newBolt(s.path("store.db"), o.MaxSize)
	if o.faults.engine != nil {
		s.eng = o.faults.engine(s.eng)
	}
	if err := s.open(); err != nil {
		s.closeJournal()
		if s.lock != nil {
			err = errors.Join(err, s.lock.Close())
		}
		return nil, errors.Join(err, s.eng.Close())
	}
	go s.run()
	return s, nil
}

func (s *Store) open() (err error) {
	if err = s.bringLock(); err != nil && stops(err) {
		return err
	}
	m, note, metaErr := readMeta(s.dir, s.o.Node, s.o.Board)
	if metaErr != nil {
		return metaErr
	}
	s.meta, s.node, s.epoch, s.idHead = m, m.Node, m.epoch(), []byte(m.Node)
	s.startRun()
	s.note(note)
	if err = s.bring(); err == nil || stops(err) {
		return err
	}
	s.setFull(err)
	s.setFailed(fmt.Errorf("%w: %w", ErrFailed, err))
	s.backOff()
	s.wakeBy(s.retryAt)
	return nil
}

func (s *Store) faulty(f journalFile) journalFile {
	if s.o.faults.journal != nil {
		return s.o.faults.journal(f)
	}
	return f
}

// Log opens the log of that name, or makes it. A log may be opened once; what
// earlier runs left in it is there. The retention applies from now on.
func (s *Store) Log(name string, r Retention) (*Log, error) {
	if name == "" || len(name) > 256 {
		return nil, fmt.Errorf("log name %q: must have 1 to 256 bytes", name)
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("log %q: %w", name, err)
	}
	id := crc32.Checksum([]byte(name), castagnoli)
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.logs[id]
	switch {
	case s.closed:
		return nil, ErrClosed
	case l == nil:
		l = s.restoreLog(id, logState{})
	case l.claimed && l.name == name:
		return nil, fmt.Errorf("log %q is open already", name)
	case l.name != "" && l.name != name:
		return nil, fmt.Errorf("log %q: its id is taken by log %q; choose another name", name, l.name)
	}
	l.name, l.ret, l.claimed = name, r, true
	if r.Conflate {
		l.startConflation()
	}
	s.divide()
	l.expire(s.mono())
	l.enforce()
	return l, nil
}

// Barrier calls fn once everything appended before the call is safe, with nil, or
// with why it is not. Safe means on disk, or acknowledged by the hub.
//
// If nothing is unsafe fn runs at once, before Barrier returns; otherwise on the
// committer's goroutine or on one that delivers acknowledgements. fn must not
// block. Of two barriers the one that was called first gets its answer first.
func (s *Store) Barrier(fn func(error)) {
	s.mu.Lock()
	s.settle()
	switch {
	case s.barriers.len() > 0 || s.firing:
	case s.failed != nil:
		err := s.failed
		s.mu.Unlock()
		fn(err)
		return
	case s.queue.len() == 0:
		s.mu.Unlock()
		fn(nil)
		return
	}
	s.barriers.push(barrier{pos: s.pos, fn: fn})
	s.hurry()
	s.wakeForBarriers()
	s.unlockAndFire()
}

// Node is the name in front of message ids, Epoch the number of this run.
func (s *Store) Node() string  { return s.node }
func (s *Store) Epoch() uint64 { return s.epoch }

// appendID appends the message id <origin>.<epoch>.<seq>.
func appendID(b, origin []byte, epoch, seq uint64) []byte {
	b = append(b, origin...)
	b = append(b, '.')
	b = strconv.AppendUint(b, epoch, 10)
	b = append(b, '.')
	return strconv.AppendUint(b, seq, 10)
}

// Health lists what is wrong or was found damaged, in sentences for people. It is
// empty for a sound store.
func (s *Store) Health() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeBy(s.mono()) // the files are looked at for the next who asks
	h := slices.Clone(s.health)
	if s.failed != nil && !s.closed {
		h = append(h, fmt.Sprintf("nothing is acknowledged now: %v; it is tried again until it works, see to the disk", s.failed))
	}
	if s.foldErr != "" && s.full == "" {
		h = append(h, "store.db cannot be written, records stay in the journal while it has room: "+s.foldErr)
	}
	if s.full != "" {
		h = append(h, s.full+": records stay in the journal while it has room")
	}
	h = append(h, s.unclaimed()...)
	slices.Sort(h)
	return h
}

// Unclaimed says which logs hold messages and were not opened: nobody forwards these.
func (s *Store) Unclaimed() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unclaimed()
}

func (s *Store) unclaimed() (texts []string) {
	for _, l := range s.logs {
		if !l.claimed && l.msgs > 0 {
			texts = append(texts, fmt.Sprintf("log %q is not configured and still holds %d messages", labelOf(l.name, l.id), l.msgs))
		}
	}
	return texts
}

// note adds a finding to Health. The caller holds mu, or is Open.
func (s *Store) note(text string) {
	if text != "" && !slices.Contains(s.health, text) {
		s.health = append(s.health, text)
		s.o.Logger.Warn("store: "+text, "dir", s.dir)
	}
}

// setFull notes whether err, nil too, is that there is no room, and logs when that changes. The
// caller holds mu.
func (s *Store) setFull(err error) {
	why := ""
	switch {
	case errors.Is(err, errMaxSize):
		why = "no room within store.max_size, raise it"
	case errors.Is(err, errNoSpace):
		why = "no room on the disk, free some space"
	}
	if why == s.full {
		return
	}
	if s.full = why; why != "" {
		s.o.Logger.Warn("store: "+why, "dir", s.dir)
	} else {
		s.o.Logger.Info("store: there is room again", "dir", s.dir)
	}
}

// Stats is a snapshot.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Node, st.Epoch, st.Barriers, st.BoltSize = s.node, s.epoch, s.barriers.len(), s.eng.Size()
	st.Salvaged = slices.Clone(s.health)
	st.UnsafeBytes, st.Full = s.unsafeBytes, s.full != ""
	if s.failed != nil {
		st.Failed = s.failed.Error()
	}
	for i := range s.queue.len() {
		if (*s.queue.at(i)).state == recNew {
			st.UnsafeMsgs++
		}
	}
	return st
}

// Close makes everything safe, answers all barriers and gives the directory back.
// Appends fail from now on.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		<-s.done
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	close(s.closing)
	<-s.done
	s.mu.Lock()
	err := s.failed
	if errors.Is(err, ErrClosed) {
		err = s.unfinished
	}
	s.mu.Unlock()
	s.comeBack()
	s.closeJournal()
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
	}
	return errors.Join(err, s.eng.Close())
}

// mono is the time since Open in nanoseconds, by a clock that cannot be set.
func (s *Store) mono() int64 { return int64(time.Since(s.start)) + 1 }

var _ msg.Flusher = (*Log)(nil)
