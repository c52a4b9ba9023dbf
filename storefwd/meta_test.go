package storefwd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// A card that was in use is copied for other boards: each copy goes on under a base of its own,
// and knows what the first wrote. On its own board, with another card beside it or with none
// known, a store keeps its base.
func TestCopiedStoreTakesABaseOfItsOwn(t *testing.T) {
	open := func(dir string, board ...string) meta {
		t.Helper()
		s, err := Open(dir, Options{Board: board})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		return s.meta
	}
	master := filepath.Join(t.TempDir(), "master")
	first := open(master, "serial 1", "cid 1")
	var copies []meta
	for i := range 20 {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(master)); err != nil {
			t.Fatal(err)
		}
		m := open(dir, fmt.Sprint("serial 1", i), fmt.Sprint("cid 1", i))
		if m.Base == first.Base || m.epoch() < first.epoch() || !m.made(first.epoch()) || first.made(m.epoch()) || m.Node != first.Node {
			t.Errorf("copy %d: %+v of %+v", i, m, first)
		}
		if again := open(dir, fmt.Sprint("cid 1", i), "serial 2"); again.Base != m.Base {
			t.Errorf("copy %d on another board with its card: %+v", i, again)
		}
		copies = append(copies, m)
	}
	slices.SortFunc(copies, func(a, b meta) int { return int(int64(a.Base) - int64(b.Base)) })
	if distinct := slices.CompactFunc(copies, func(a, b meta) bool { return a.Base == b.Base }); len(distinct) != 20 {
		t.Errorf("%d bases of 20 copies", len(distinct))
	}
	for _, board := range [][]string{nil, {"serial 1"}, {"cid 1", "mac 1"}} {
		if m := open(master, board...); m.Base != first.Base || !m.made(first.epoch()) {
			t.Errorf("on %q: %+v of %+v", board, m, first)
		}
	}
}

const metaOf12Bits = `{"format":2,"base":1073741825,"boots":20557,"node":"barn","sum":"cba436ab"}` + "\n"

// A store of an earlier version counts on: its epochs ascend, and sequences that a salvage
// begins at do not come back.
func TestEpochsAscend(t *testing.T) {
	for _, old := range []struct {
		meta
		epoch, opens uint64
	}{
		{meta{Base: 1 << 23, Boots: 70000}, 1<<23<<24 + 70000, 70000},                                   // drew nothing
		{meta{Base: 1<<30 + 1, Boots: 5}, (1<<30+1)<<24 + 5, 5},                                         // nor did this one
		{meta{Base: 1<<30 + 1, Boots: 5<<12 | 0xfff}, (1<<30+1)<<32 | 5<<12 | 0xfff, 5},                 // drew 12 bits
		{meta{Base: 1<<30 + 1, Boots: 1<<32 - 1, Opens: 1 << 20}, (1<<30+1)<<32 | (1<<32 - 1), 1 << 20}, // has used its numbers up
	} {
		m, epoch := old.meta, old.epoch
		for range 70000 {
			m.next(nil)
			if m.epoch() <= epoch || !m.made(epoch) {
				t.Fatalf("%+v after %d", m, epoch)
			}
			epoch = m.epoch()
		}
		if m.Opens < old.opens+70000 || len(m.Former) == 0 || len(m.Former) > maxFormer {
			t.Errorf("%+v: it was opened %d times before", m, old.opens)
		}
	}
	if _, err := decodeMeta([]byte(metaOf12Bits)); err != nil {
		t.Error(err)
	}
	m := meta{Base: 1<<32 - 1, Boots: 1<<32 - 1, Runs: []run{{}}}
	if m.next(nil); m.Base == 1<<32-1 || m.Base < 1<<30 || m.Runs != nil {
		t.Errorf("%+v: bases are used up, and its runs do not ascend", m)
	}
}

// Boards with copies of one card drain into one stream: what one of them has stored there is
// not the other's.
func TestForwardersOfCopiedStores(t *testing.T) {
	master := filepath.Join(t.TempDir(), "master")
	h := &fakeHub{takes: []string{"a.>"}}
	sent := 0
	send := func(dir, board string) {
		t.Helper()
		s, err := Open(dir, Options{Node: "n", Board: []string{board}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		l, err := s.Log("OUT/c", Retention{Keep: UntilAcked, Grace: time.Hour, GraceBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c", RetryMin: 1, RetryMax: 1, AckTimeout: testkit.Patience})
		h.f = f
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		for range 10 {
			sent++
			if _, err := l.Append(&msg.Msg{Subject: fmt.Appendf(nil, "a.%d", sent)}); err != nil {
				t.Fatal(err)
			}
		}
		testkit.Eventually(t, func() bool { return l.Stats().Msgs == 0 }, "the log drained")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if st, l := f.Stats(), l.Stats(); st.WentBack > 0 || st.Duplicates > 0 || st.Resent > 0 || len(l.Lost) > 0 {
			t.Errorf("%s: %+v %+v", board, st, l)
		}
	}
	send(master, "board 0")
	var dirs []string
	for i := range 3 {
		dirs = append(dirs, t.TempDir())
		if err := os.CopyFS(dirs[i], os.DirFS(master)); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		for i, dir := range dirs {
			send(dir, fmt.Sprint("board ", i+1))
		}
	}
	ids := map[string]bool{}
	for i, m := range h.stored {
		if m.subject != fmt.Sprint("a.", i+1) || ids[m.id] {
			t.Errorf("%d: %+v", i+1, m)
		}
		ids[m.id] = true
	}
	if len(h.stored) != sent {
		t.Errorf("%d stored of %d", len(h.stored), sent)
	}
}

// A gateway that is given another name knows what the hub has of it under the old one: it was taken
// for a hub that was set back, and all that was ever acknowledged was declared lost.
func TestRenamedGateway(t *testing.T) {
	dir := t.TempDir()
	h := &fakeHub{takes: []string{"a.>"}, unacked: func(subject string) bool { return subject >= "a.3" }}
	run := func(node string, more int, done func(l *Log) bool) {
		t.Helper()
		s, err := Open(dir, Options{Node: node, Board: []string{"board"}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		l, err := s.Log("OUT/c", Retention{Keep: UntilAcked, Grace: time.Hour, GraceBytes: 1 << 20, GapSubject: "a.gap"})
		if err != nil {
			t.Fatal(err)
		}
		f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c", RetryMin: 1, RetryMax: 1, AckTimeout: testkit.Patience})
		h.f = f
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		for range more {
			if _, err := l.Append(&msg.Msg{Subject: fmt.Appendf(nil, "a.%d", l.Stats().Last)}); err != nil {
				t.Fatal(err)
			}
		}
		go func() { ended <- f.Run(ctx) }()
		testkit.Eventually(t, func() bool { return done(l) }, "it went out as %s", node)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if st, l := f.Stats(), l.Stats(); st.WentBack > 0 || st.Duplicates > 0 || len(l.Lost) > 0 || st.Resent > 0 {
			t.Errorf("%s: %+v %+v", node, st, l)
		}
	}
	run("old", 6, func(*Log) bool { return len(h.subjects()) == 6 }) // three of them are not acknowledged
	h.unacked = nil
	for i, node := range []string{"new", "newer", "old"} {
		run(node, 2*min(i, 1), func(l *Log) bool { return l.Stats().Msgs == 0 })
	}
	if n := len(h.subjects()); n != 10 {
		t.Errorf("%d stored of 10: %v", n, h.subjects())
	}
}

// The meta file is lost, or damaged. Ids of ours are known by what else is in the store: what was in doubt was
// stored twice, and a hub that had all of it was taken for one that was set back, and all of it declared lost.
func TestMetaIsLost(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"gone":  os.Remove,
		"empty": func(path string) error { return os.Truncate(path, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, h := t.TempDir(), &fakeHub{takes: []string{"a.>"}}
			run := func(sound bool, subjects ...string) {
				t.Helper()
				s, l := openWith(t, dir, subjects...)
				defer s.Close()
				waitSafe(t, s)
				f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c", RetryMin: 1, RetryMax: 1, AckTimeout: testkit.Patience})
				h.f = f
				drain(t, f, h)
				if st, ls := f.Stats(), l.Stats(); st.WentBack > 0 || len(ls.Lost) > 0 || (len(s.Health()) == 0) != sound {
					t.Errorf("%+v %+v, health %q", st, ls, s.Health())
				}
			}
			lose := func() {
				t.Helper()
				if err := damage(filepath.Join(dir, metaFile)); err != nil {
					t.Fatal(err)
				}
				if c := verify(t, dir); c.OK() {
					t.Errorf("verify: %+v", c)
				}
			}
			run(true, "a.1", "a.2")
			lose()
			run(false, "a.3") // with nothing in doubt
			s, _ := openWith(t, dir, "a.4", "a.5", "a.6")
			waitSafe(t, s)
			for seq := uint64(4); seq <= 5; seq++ { // the hub has two of three
				h.stored = append(h.stored, fakeMsg{fmt.Sprint("a.", seq), string(appendID(nil, []byte("n/c"), s.Epoch(), seq)), ""})
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			lose()
			run(false, "a.7")
			run(true, "a.8")
			wantSubjects(t, h, "a.1", "a.2", "a.3", "a.4", "a.5", "a.6", "a.7", "a.8")
			before := s.Epoch()
			if s, _ = openWith(t, dir); !s.meta.made(before) {
				t.Errorf("%+v has forgotten epoch %d", s.meta, before)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
