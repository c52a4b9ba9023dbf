package storefwd

import (
	"errors"
	"fmt"
	"time"
)

// Retention says what a log keeps. The zero value keeps everything, on disk.
type Retention struct {
	MaxMsgs, MaxBytes int64         // 0: no bound
	MaxAge            time.Duration // 0: no bound; of earlier boots only once the clock is trusted
	Keep              Keep
	Full              Full
	Memory            bool // in RAM only: gone at the end of the process, and safe by definition; needs a bound

	GapSubject string // losses are declared by a message on it; "": they are only counted

	// Interval 0: a barrier has everything before it written at once. Otherwise records
	// of this log are written when the first is so old, or with others, and a barrier
	// that follows them alone waits for that.
	Interval time.Duration

	Conflate bool // of each subject only the newest is kept, until it is handed out; not in memory only

	// What was acknowledged is kept for Grace, up to GraceBytes of it, for a hub that
	// goes back (Cursor.rewind); it counts for no bound. In RAM, unless it was on disk
	// already or GraceOnDisk says that it is to be.
	Grace       time.Duration // 0: not at all
	GraceBytes  int64
	GraceOnDisk bool
}

// Keep says for how long.
type Keep uint8

const (
	Limits     Keep = iota // until a bound is reached
	UntilAcked             // until every cursor has acknowledged it, too
)

// Full says what happens when a bound is reached.
type Full uint8

const (
	DropOldest Full = iota // the oldest record goes, and is counted
	Refuse                 // the new one is refused
	DropNewest             // the new one is taken and dropped, and is counted: its publisher is not told
)

func (r Retention) check() error {
	switch {
	case r.MaxMsgs < 0 || r.MaxAge < 0 || r.MaxBytes < 0 || r.Keep > UntilAcked || r.Full > DropNewest || r.Interval < 0:
		return fmt.Errorf("retention %+v is out of range", r)
	case r.Grace < 0 || r.GraceBytes < 0 || r.Grace > 0 && r.Keep != UntilAcked:
		return fmt.Errorf("retention %+v: what is kept after an acknowledgement is out of range", r)
	case r.Conflate && (r.Memory || r.Keep != UntilAcked):
		return errors.New("only what is kept on disk until it is acknowledged can be conflated")
	case r.Memory && r.MaxMsgs == 0 && r.MaxBytes == 0:
		return errors.New("a log in memory needs a bound")
	}
	return nil
}

// Loss says why a log does not have a message that it was given.
type Loss uint8

const (
	LostOldest   Loss = iota // dropped for a newer one when the log was full
	LostRefused              // refused: the log is full
	LostTooLarge             // refused: larger than the log or the journal can hold
	LostNoRoom               // refused: too much waits for the disk, or for its answer
	LostFailed               // refused: the store has failed or is closed
	LostRejected             // the hub will not take it
	LostDamaged              // what was on disk cannot be read
	LostOperator             // given up by a person
	LostNewest               // dropped as it came when the log was full
	LostByHub                // acknowledged by a hub that was set back, and no longer here
	LostExpired              // older than the log keeps, or than its own life
	LostHeader               // refused: its header asks for what the log cannot do
	NumLosses
)

var lossNames = [NumLosses]string{"oldest_dropped", "log_full", "too_large", "disk_behind", "store_failed", "rejected_by_hub", "damaged", "dropped_by_operator", "newest_dropped", "lost_by_hub", "expired", "header_refused"}

func (l Loss) String() string { return lossNames[min(l, NumLosses-1)] }
