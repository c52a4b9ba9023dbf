package storefwd

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// flipEngine is an engine that gives record 3 with one bit flipped.
type flipEngine struct{ engine }

func (e flipEngine) Read(log uint32, from, to uint64, fn func(seq uint64, rec []byte) bool) error {
	return e.engine.Read(log, from, to, func(seq uint64, rec []byte) bool {
		if seq == 3 {
			rec = slices.Clone(rec)
			rec[len(rec)-1] ^= 1
		}
		return fn(seq, rec)
	})
}

// A damaged record is lost once, however often somebody looks at the log. Each look, as of
// leafd outbox peek, counted and declared it again.
func TestDamagedCountedOnce(t *testing.T) {
	dir := t.TempDir()
	s, l, _ := tailLog(t, dir, Retention{})
	appendN(t, l, 5)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	o := Options{Node: "n"}
	o.faults.engine = func(e engine) engine { return flipEngine{e} }
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if l, err = s.Log("OUT/a", Retention{Keep: UntilAcked, GapSubject: "a.gap"}); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := l.Read(make([]Record, 0, 64), 0); err != nil {
			t.Fatal(err)
		}
	}
	c, err := l.Cursor("hub", CursorConfig{Ahead: true})
	if err != nil {
		t.Fatal(err)
	}
	ackAll(t, c, 4)
	if st := l.Stats(); st.Lost["damaged"] != 1 || l.gaps["damaged"].Count != 1 || st.Msgs != 0 {
		t.Errorf("%+v, to be declared %+v", st, l.gaps)
	}
}

// A store.db that fsck or a person took away is missed: verify and Health say so. Nobody did, and
// the store began anew in silence.
func TestStoreGoneIsSaid(t *testing.T) {
	dir := backlog(t, 3000, 100)
	if err := os.Remove(filepath.Join(dir, "store.db")); err != nil {
		t.Fatal(err)
	}
	if c := verify(t, dir); c.OK() {
		t.Errorf("verify: %+v", c)
	}
	s, l := openBacklog(t, dir, Options{})
	defer s.Close()
	if got := readBack(t, s, l); len(s.Health()) == 0 {
		t.Errorf("%d of 2900 are there, lost %v, and health says nothing", len(got), l.Stats().Lost)
	}
}

// A journal that fsck or a person took away is missed likewise, by the start that finds it gone. In silence the
// messages in it were gone, too.
func TestJournalGoneIsSaid(t *testing.T) {
	_, _, running := filled(t)
	dir := crashed(t, running)
	if c := verify(t, dir); !c.OK() {
		t.Fatalf("sound: %+v", c)
	}
	if err := os.Remove(filepath.Join(dir, "journal")); err != nil {
		t.Fatal(err)
	}
	if c := verify(t, dir); len(c.Notes) != 1 || c.Notes[0] != "the journal is gone, and with it all that was in it and not in store.db" {
		t.Errorf("verify: %+v", c)
	}
	for _, said := range []int{1, 0} {
		s, l := openBacklog(t, dir, Options{})
		if h := s.Health(); len(h) != said || l.Stats().Msgs != 100 {
			t.Errorf("%d messages, and health says %q", l.Stats().Msgs, h)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The first journal comes after all other files, and on a full disk perhaps never: that is no damage,
// however often it is tried, with messages in RAM or without.
func TestNoJournalYet(t *testing.T) {
	dir := t.TempDir()
	var o Options
	o.faults.step = func(name string) error {
		if name == "journal" {
			return errNoSpace
		}
		return nil
	}
	for range 3 {
		s, l := openBacklog(t, dir, o)
		l.Append(&msg.Msg{Subject: []byte("a.b")}) // is refused
		for _, h := range s.Health() {
			if strings.Contains(h, "gone") {
				t.Error(h)
			}
		}
		s.Close() // says that the disk is full
		if c := verify(t, dir); !c.OK() {
			t.Errorf("verify: %+v", c)
		}
	}
}

// The account of a log whose checksum fails is made anew from its records, but for the losses that
// were to be declared: Health says that these are forgotten.
func TestDamagedAccountIsSaid(t *testing.T) {
	dir := t.TempDir()
	open := func() (*Store, *Log) {
		t.Helper()
		s, err := Open(dir, Options{FoldAfter: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		l, err := s.Log("OUT/a", Retention{Keep: UntilAcked, MaxMsgs: 100, GapSubject: "gap"})
		if err != nil {
			t.Fatal(err)
		}
		return s, l
	}
	s, l := open()
	appendN(t, l, 1000)
	waitSafe(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "store.db")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := 0
	for i := range len(b) - 12 { // the copy that counts is among them
		if string(b[i:i+9]) == `"reason":` {
			b[i+11] ^= 1
			flipped++
		}
	}
	if err := os.WriteFile(path, b, 0o600); err != nil || flipped == 0 {
		t.Fatal(err, flipped)
	}
	s, l = open()
	defer s.Close()
	s.mu.Lock()
	gaps := len(l.gaps)
	s.mu.Unlock()
	if gaps == 0 && len(s.Health()) == 0 {
		t.Errorf("900 losses that were to be declared are forgotten, and health says nothing: %+v", l.Stats())
	}
}

// Who looks at a store that was stopped in the middle of a salvage is told that there is more than is
// shown. verify said that all was well.
func TestLookInMidSalvage(t *testing.T) {
	dir := backlog(t, 3000, 100)
	if err := os.Rename(filepath.Join(dir, "store.db"), filepath.Join(dir, "store.db"+salvageMark+"1-0")); err != nil {
		t.Fatal(err)
	}
	if c := verify(t, dir); c.OK() {
		t.Errorf("%+v", c)
	}
}

// A branch page of store.db is its own child, as one flipped bit can make it. leafd outbox verify says
// that the store is damaged. bbolt went down into it until the process ended, so that the look is
// taken by a process of its own.
func TestPageInItselfIsSaid(t *testing.T) {
	const env = "LEAFD_TEST_PAGE_IN_ITSELF"
	if dir := os.Getenv(env); dir != "" {
		if c := verify(t, dir); c.OK() {
			t.Errorf("verify: %+v", c)
		}
		return
	}
	dir := backlog(t, 6000, 0)
	path := filepath.Join(dir, "store.db")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	branches := 0
	for at := 2 * boltPage; at < len(b); at += boltPage {
		if p := b[at:]; le.Uint64(p) == uint64(at/boltPage) && le.Uint16(p[8:]) == pageBranch {
			for i := range int(le.Uint16(p[10:])) {
				le.PutUint64(p[pageHeader+i*elemSize+8:], uint64(at/boltPage))
			}
			branches++
		}
	}
	if err := os.WriteFile(path, b, 0o600); err != nil || branches == 0 {
		t.Fatal(err, branches)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), env+"="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %.300s", err, out)
	}
}
