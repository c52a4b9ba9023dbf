package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"syscall"

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
}

// script is one recording to be made.
type script struct {
	name    string
	fixture string   // a store to start with, packed; empty: none
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
	h.start(s.strace)
	s.play(h)
	h.end(h.leafd.Stop)
	h.rec.hub = h.hub.messages(t)
	return h.rec, nil
}

func (h *stagehand) start(strace []string) {
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
