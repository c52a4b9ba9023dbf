package storefwd

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"maps"
	"slices"
	"time"
)

// Wear is what a store has cost its disk since it was made: bytes handed to the
// kernel, by cause and by day. It is written with each fold and at no other time, so
// it costs no write of its own; what the last fold before the end of the process
// wrote, and after a crash what came since that fold, is not in it.
type Wear struct {
	Causes map[string]int64 // journal, fold, open
	Days   []WearDay        // on which something was written, in the order they came; the last 31
}

// WearDay is one day by the wall clock, UTC.
type WearDay struct {
	Day   int64 // since 1970-01-01
	Bytes int64
}

const wearDays = 31

// Wear is a snapshot.
func (s *Store) Wear() Wear {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.countWear()
	return Wear{Causes: maps.Clone(s.wear.Causes), Days: slices.Clone(s.wear.Days)}
}

// Total is the sum over all causes, Today that of the day of t.
func (w *Wear) Total() (n int64) {
	for _, b := range w.Causes {
		n += b
	}
	return n
}

func (w *Wear) Today(t time.Time) int64 {
	if i := w.day(t); i >= 0 {
		return w.Days[i].Bytes
	}
	return 0
}

func (w *Wear) day(t time.Time) int {
	return slices.IndexFunc(w.Days, func(d WearDay) bool { return d.Day == dayOf(t) })
}

func dayOf(t time.Time) int64 { return t.Unix() / 86400 }

// countWear adds what was written since it was last called. The caller holds mu.
func (s *Store) countWear() {
	now := map[string]int64{"journal": s.stats.JournalBytes, "fold": s.stats.BoltBytes, "open": s.stats.MetaBytes}
	var sum int64
	for cause, n := range now {
		sum += n - s.wearSeen[cause]
		s.wear.add(cause, n-s.wearSeen[cause])
	}
	s.wearSeen = now
	if sum == 0 {
		return
	}
	i := s.wear.day(s.o.Clock.Now())
	if i < 0 {
		if len(s.wear.Days) == wearDays {
			s.wear.Days = slices.Delete(s.wear.Days, 0, 1)
		}
		s.wear.Days = append(s.wear.Days, WearDay{Day: dayOf(s.o.Clock.Now())})
		i = len(s.wear.Days) - 1
	}
	s.wear.Days[i].Bytes += sum
}

func (w *Wear) add(cause string, n int64) {
	if n != 0 {
		if w.Causes == nil {
			w.Causes = map[string]int64{}
		}
		w.Causes[cause] += n
	}
}

// loadWear goes on counting where the last run stopped. What cannot be read begins
// anew: it is a meter and nothing else. The caller holds mu.
func (s *Store) loadWear() {
	e, ok := s.eng.(interface{ Wear() ([]byte, error) })
	if !ok {
		return
	}
	if b, err := e.Wear(); err == nil {
		if w, err := decodeWear(b); err == nil {
			s.wear = w
		}
	}
}

func encodeWear(w *Wear) []byte {
	b, err := json.Marshal(w)
	if err != nil {
		panic("storefwd: numbers do not marshal: " + err.Error())
	}
	return append(binary.LittleEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli)), b...)
}

func decodeWear(b []byte) (w Wear, err error) {
	if len(b) < 4 || crc32.Checksum(b[4:], castagnoli) != binary.LittleEndian.Uint32(b) {
		return w, errors.New("wear: checksum does not match")
	}
	if err = json.Unmarshal(b[4:], &w); err != nil || len(w.Days) > wearDays || len(w.Causes) > 16 {
		return Wear{}, errors.Join(err, errors.New("wear: not what this version writes"))
	}
	return w, nil
}
