package storefwd

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
)

// engine holds the records that were folded out of the journal. Open, Fold and
// Reset have one caller, the committer; the others may be called at any time. No call
// keeps anything open after it returned.
type engine interface {
	// Open opens the file anew, or makes it. After an error Read and Load may work
	// still, on a file that cannot be written.
	Open() (written int64, err error)
	// Load returns the states and the generation that the last Fold wrote.
	Load() (states map[uint32]logState, folded uint64, err error)
	// Fold applies a batch in one transaction, durable when it returns nil. After
	// an error the batch may still have been applied; applying it again, after Open, is
	// harmless.
	Fold(b *foldBatch) (written int64, err error)
	// Read calls fn for the records of a log with from ≤ seq ≤ to in order, until
	// fn returns false. rec is borrowed until fn returns.
	Read(log uint32, from, to uint64, fn func(seq uint64, rec []byte) bool) error
	// Reset forgets all records and writes b, which has none to remove, as Fold
	// does; the space goes back to the file system.
	Reset(b *foldBatch) (written int64, err error)
	// Compact gives free space within back to the file system, without which records
	// are as they were. It asks goOn between steps, and returns errStopped if that is false.
	Compact(goOn func() bool) (written int64, err error)
	// Size is what the records occupy on disk, free space within included; Free is that.
	Size() int64
	Free() int64
	// Taken reports whether the open file has lost its name. Then Open writes it anew. It is for the committer.
	Taken() bool
	Close() error
}

var (
	errNoSpace    = errors.New("no space left")
	errMaxSize    = fmt.Errorf("%w within store.max_size", errNoSpace)
	errEngineDown = errors.New("store.db is not open") // and may be later
	errStopped    = errors.New("stopped")
)

// foldBatch is one transaction.
type foldBatch struct {
	put    []foldRecord    // ascending within a log
	remove []seqRange      // what a log has up to there; some of it may stay beside what is not removed
	kill   []seqRange      // single records, anywhere
	hollow []seqRange      // anywhere, ascending within a log; records may be there. Fold leaves here those it took
	alone  map[uint32]bool // logs of which that is likely, so their records are not packed
	states map[uint32]logState
	folded uint64 // journal generations up to this one hold nothing new
	wear   []byte // the meter as it stands, nil to leave it

	tails    int  // records of put that are acknowledged
	more     bool // there is no room in it for all that should be put
	salvaged bool // put is out of a damaged file, and may be more than fits
}

type foldRecord struct {
	log uint32
	seq uint64
	rec []byte
}

type seqRange struct {
	log      uint32
	from, to uint64 // both included
}

// logState is what an engine keeps of a log besides its records, so that opening
// a large one needs no scan.
type logState struct {
	Name    string            `json:"name"`
	Base    uint64            `json:"base"`   // no record is below
	First   uint64            `json:"first"`  // below are only acknowledged records, which wait for removal
	Folded  uint64            `json:"folded"` // no record is above
	Last    uint64            `json:"last"`   // highest sequence ever seen on disk
	Msgs    int64             `json:"msgs"`
	Bytes   int64             `json:"bytes"`
	Epochs  []epochStart      `json:"epochs,omitempty"`
	Cursors map[string]uint64 `json:"cursors,omitempty"` // ack floors
	Sent    day               `json:"sent,omitzero"`     // toward the hub, where that is counted

	Tail      uint64 `json:"tail,omitempty"` // from here to First records are kept for a hub that goes back; 0: none
	TailMsgs  int64  `json:"tail_msgs,omitempty"`
	TailBytes int64  `json:"tail_bytes,omitempty"`
	Holes     []span `json:"holes,omitempty"` // of the tail, what was in RAM alone

	Gaps         map[string]gap  `json:"gaps,omitempty"`    // lost and not declared, by reason
	Marker       uint64          `json:"marker,omitempty"`  // what those from here on declare is in Gaps all the same: they are not on the disk, as far as is known
	Doubt        map[Loss][]span `json:"doubt,omitempty"`   // of these, perhaps at the hub
	Counted      map[Loss][]span `json:"counted,omitempty"` // of Doubt, what a run has counted as surely lost
	DoubtMarkers map[uint64]gap  `json:"doubt_markers,omitempty"`
	Declared     uint64          `json:"declared,omitempty"`   // losses before this sequence were, before a crash …
	Undeclared   []span          `json:"undeclared,omitempty"` // … but for these

	Early     map[string][]span `json:"early,omitempty"`     // acknowledged above the floors; counted neither in Msgs nor in Bytes
	Mark      mark              `json:"mark,omitzero"`       // up to where a hub's stream has nothing of ours but what is acknowledged
	Scattered bool              `json:"scattered,omitempty"` // behind that it may have ours in any order
	Foreign   string            `json:"foreign,omitempty"`   // a stream that others were seen to write to

	counted bool // from the records, for what was stored failed its checksum
}

// add counts one more record.
func (s *logState) add(seq uint64, rec []byte) {
	if s.Msgs == 0 {
		s.Base, s.First = seq, seq
	}
	s.Folded, s.Last = seq, seq
	s.Msgs++
	s.Bytes += int64(len(rec))
	if len(rec) >= recHeader {
		if n := len(s.Epochs); n == 0 || s.Epochs[n-1].Epoch != recordEpoch(rec) {
			s.Epochs = append(s.Epochs, epochStart{recordEpoch(rec), seq})
		}
	}
}

// epochStart says that records from First on were appended in Epoch.
type epochStart struct {
	Epoch uint64 `json:"e"`
	First uint64 `json:"s"`
}

func encodeState(s logState) ([]byte, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return append(binary.LittleEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli)), b...), nil
}

func decodeState(b []byte) (s logState, err error) {
	if len(b) < 4 || crc32.Checksum(b[4:], castagnoli) != binary.LittleEndian.Uint32(b) {
		return s, errors.New("log state: checksum does not match")
	}
	err = json.Unmarshal(b[4:], &s)
	return s, err
}
