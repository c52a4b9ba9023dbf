package storefwd

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/leafd/leafd/internal/msg"
)

// A log that is allowed more than the file may have fills it. Another, whose records come now
// and then, loses none and is refused none: the room for its share is kept, whatever becomes
// of what the first has too much, over restarts too; nor if it is the disk that has no more.
func TestShareIsKept(t *testing.T) {
	const size, every, alarms, most = 4000, 40, 150, 16 << 20
	for i, full := range []Full{Refuse, DropOldest, DropNewest, Refuse, DropOldest} {
		dir := t.TempDir()
		o := Options{MaxSize: most, JournalBytes: 1 << 20}
		if i >= 3 {
			o.MaxSize = 0
			o.faults.room = func() int64 {
				info, err := os.Stat(filepath.Join(dir, "store.db"))
				if err != nil {
					panic(err)
				}
				return max(0, most-info.Size())
			}
		}
		var s *Store
		var bulk, alarm *Log
		open := func() {
			t.Helper()
			var err error
			if s, err = Open(dir, o); err != nil {
				t.Fatal(err)
			}
			if bulk, err = s.Log("bulk", Retention{Full: full, MaxBytes: 1 << 30}); err != nil {
				t.Fatal(err)
			}
			if alarm, err = s.Log("alarm", Retention{MaxBytes: 4 << 20}); err != nil {
				t.Fatal(err)
			}
		}
		open()
		data := make([]byte, size)
		noise := rand.NewChaCha8([32]byte{})
		refused := 0
		for i := range every * alarms {
			noise.Read(data)
			if _, err := bulk.Append(&msg.Msg{Subject: []byte("b"), Data: data}); errors.Is(err, ErrFull) {
				refused++
			} else if err != nil {
				t.Fatal(err)
			}
			if i%every == every/2 {
				if _, err := alarm.Append(&msg.Msg{Subject: []byte("a"), Data: data}); err != nil {
					t.Fatalf("policy %d: alarm %d: %v", full, i/every, err)
				}
			}
			if err := s.await(); err != nil && !errors.Is(err, ErrFull) {
				t.Fatal(err)
			}
			if i%2500 == 2499 {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				open()
			}
		}
		a, b := alarm.Stats(), bulk.Stats()
		if a.Msgs != alarms || len(a.Lost) > 0 {
			t.Errorf("policy %d: %+v", full, a)
		}
		if kept := b.Msgs * size; kept < 6<<20 || (full == Refuse) != (refused > 500) {
			t.Errorf("policy %d: %d refused, %+v: %q", full, refused, b, s.Health())
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(filepath.Join(dir, "store.db")); err != nil || info.Size() > most {
			t.Fatal(info.Size(), err)
		}
	}
}
