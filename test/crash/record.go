package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

// recording is one leafd under strace, through restarts, and what became of its messages.
type recording struct {
	name    string
	trace   string
	store   string
	earlier []number // acknowledged before the trace begins
	initial *disk    // the directory when it begins; nil if there was none
	hub     []hubMsg // what the hub has in the end
	from    int      // line of the trace from which on states are made
}

// stagehand is what the script of a recording works with.
type stagehand struct {
	t       testkit.T
	ctx     context.Context
	rec     *recording
	hub     *hub
	leafd   *testkit.Leafd
	sources []*source
	next    uint32 // id of the next source
	full    int64  // bytes of store.db that fill left
}

// script is one recording to be made.
type script struct {
	name    string
	fixture string   // a store to start with, packed; empty: none
	config  string   // in place of the usual one; empty: that
	strace  []string // more arguments
	play    func(*stagehand)
}

// record plays a script.
func record(ctx context.Context, t testkit.T, s script) (*recording, error) {
	h := &stagehand{t: t, ctx: ctx, hub: startHub(t), next: 1}
	h.rec = &recording{name: s.name, trace: filepath.Join(t.TempDir(), "trace")}
	if err := os.WriteFile(h.rec.trace, nil, 0o600); err != nil {
		return nil, err
	}
	dir := filepath.Join(t.TempDir(), "store")
	h.rec.store = dir
	if s.fixture != "" {
		var err error
		if h.rec.earlier, err = unpackFixture(s.fixture, dir); err != nil {
			return nil, err
		}
		h.next = 100 // sources of the fixture are below
	}
	d := newDisk(dir, false)
	if _, err := os.Stat(dir); err == nil {
		if err := d.load(); err != nil {
			return nil, err
		}
		h.rec.initial = d
	}
	h.start(cmp.Or(s.config, config), s.strace)
	s.play(h)
	h.end(h.leafd.Stop)
	h.rec.hub = h.hub.messages(t)
	return h.rec, nil
}

func (h *stagehand) start(config string, strace []string) {
	conf := bytes.ReplaceAll([]byte(config), []byte("$LEAFD_STORE"), fmt.Appendf(nil, "%q", h.rec.store))
	h.leafd = testkit.StartLeafd(h.t, testkit.LeafdOptions{Config: string(conf), Run: straceLine(h.rec.trace, strace...),
		Env: map[string]string{"LEAFD_HUB_URL": h.hub.url()}})
	h.sources = newSources(h.leafd.MQTTPort, h.leafd.NATSPort, h.next)
}

// load has every source publish n messages.
func (h *stagehand) load(n int) { publish(h.ctx, h.sources, n) }

// online plugs the hub in, publishes beside the backlog, and waits for its end.
func (h *stagehand) online(n int) {
	h.hub.cable.Restore()
	h.load(n)
	drained(h.t, h.leafd.HTTPURL())
}

func (h *stagehand) offline() { h.hub.cable.Cut() }

// fill makes store.db larger than what is compacted or exchanged. Nearly all is of outbox a.
func (h *stagehand) fill(n int) {
	for _, s := range h.sources {
		size := 40 << 10
		if s.class == "b" {
			size = 8 << 10
		}
		s.size, s.window = func() int { return size }, 1 // more is refused: the journal is small
	}
	h.load(n)
	for range 10 { // some of it may be in the journal still
		if h.full = h.storeSize(); h.full > 16<<20 {
			return
		}
		h.load(n / 10)
	}
	h.t.Fatalf("store.db has %d bytes, too few for this", h.full)
}

// shrinks waits until store.db has less than half of what fill left. That takes a fold, which
// removes what the hub has, and then some rest.
func (h *stagehand) shrinks() {
	for end := time.Now().Add(5 * time.Minute); h.storeSize() > h.full/2; pause(h.ctx, 100*time.Millisecond) {
		if time.Now().After(end) || h.ctx.Err() != nil {
			h.t.Fatalf("store.db had %d bytes and has %d still", h.full, h.storeSize())
		}
	}
}

func (h *stagehand) storeSize() int64 {
	info, err := os.Stat(filepath.Join(h.rec.store, "store.db"))
	if err != nil {
		h.t.Fatalf("%v", err)
	}
	return info.Size()
}

// end ends leafd with what, and waits for the trace to end with it.
func (h *stagehand) end(what func()) {
	ended := regexp.MustCompile(fmt.Sprintf(`(?m)^%d +\+\+\+ `, h.leafd.PID()))
	what()
	testkit.Eventually(h.t, func() bool {
		return ended.Match(lastOf(h.rec.trace, 64<<10))
	}, "strace has written all it saw")
}

// restart ends leafd, politely or not, and starts it again on the same store. It has
// new sources: what the old ones had under way is nobody's.
func (h *stagehand) restart(sig syscall.Signal) {
	if sig == syscall.SIGKILL {
		h.end(h.leafd.Kill)
	} else {
		h.end(h.leafd.Stop)
	}
	h.leafd.Restart()
}

// mark makes states only of what comes now.
func (h *stagehand) mark() {
	b, err := os.ReadFile(h.rec.trace)
	if err != nil {
		h.t.Fatalf("%v", err)
	}
	h.rec.from = bytes.Count(b, []byte("\n"))
}

// lastOf reads the last n bytes of a file, or what there is.
func lastOf(path string, n int64) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil
	}
	b := make([]byte, min(n, size))
	got, _ := f.ReadAt(b, size-int64(len(b))) // what cannot be read is not there
	return b[:got]
}
