package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/leafd/leafd/internal/testkit"
)

// powerOptions say how much of the part is done.
type powerOptions struct {
	states int     // in all recordings together, about; 0: the controls alone
	lies   int     // in each control
	scale  float64 // of the load, 1 is full size
	small  bool    // one recording and a control
	window string  // only this recording; empty: all
	seed   uint64
	repro  string
}

// Scripts of the recordings. Each is a set of windows in which a power cut is worst.
func scripts(o powerOptions) []script {
	n := func(full int) int { return max(2, int(float64(full)*o.scale)) }
	life := script{name: "life", play: func(h *stagehand) {
		h.load(n(120)) // first start, journal turns, folds
		h.restart(syscall.SIGTERM)
		h.load(n(30))
		h.restart(syscall.SIGKILL)
		h.load(n(30))
		h.online(n(10)) // the backlog drains while more comes
		h.offline()
		h.load(n(60))
		h.online(n(10))
	}}
	first := script{name: "first start", play: func(h *stagehand) { h.load(2) }}
	upgrade := script{name: "upgrade", fixture: fixtureFirst, play: func(h *stagehand) {
		h.load(n(40))
		h.online(n(10))
	}}
	compact := script{name: "compaction", play: func(h *stagehand) {
		h.fill(n(150))
		h.mark()
		h.online(1)
		h.restart(syscall.SIGTERM)
		h.load(8)
	}}
	rest := script{name: "compaction of a rest", config: slowB, play: func(h *stagehand) {
		h.fill(n(150))
		h.mark()
		h.hub.cable.Restore()
		awaitDrain(h.t, h.leafd.HTTPURL(), "a") // of b, which is slow, nearly all is left
		h.offline()
		h.shrinks()
		h.load(8)
		h.restart(syscall.SIGKILL)
		h.load(8)
	}}
	if o.small {
		return []script{{name: "life", play: func(h *stagehand) {
			h.load(n(120))
			h.restart(syscall.SIGKILL)
			h.online(n(10))
		}}}
	}
	all := []script{life, first, upgrade, compact, rest, life, life, life, life}
	if o.window != "" {
		all = slices.DeleteFunc(all, func(s script) bool { return s.name != o.window })
		all = all[:min(1, len(all))]
	}
	return all
}

// power is the part. The controls must lose something, or the tester is blind.
func power(ctx context.Context, o powerOptions) (all []tally, err error) {
	list := scripts(o)
	if len(list) == 0 {
		return nil, fmt.Errorf("there is no window %q", o.window)
	}
	if o.states == 0 {
		list = list[:1]
	}
	for i, s := range list {
		err := play(ramDir(), func(t testkit.T) error {
			rec, err := record(ctx, t, s)
			if err != nil {
				return err
			}
			if o.states > 0 {
				got, err := examine(rec, examineOptions{seed: o.seed, budget: o.states / len(list), repro: fmt.Sprintf("%s-%d", o.repro, i)})
				got.Name = "power loss: " + s.name
				all = append(all, got)
				if err != nil || i > 0 {
					return err
				}
			}
			c, err := examine(rec, examineOptions{seed: o.seed, budget: o.lies, control: true, lying: true, repro: o.repro + "-ignored"})
			c.Name = "control: the same log, syncs not counted"
			all = append(all, c)
			return err
		})
		if err != nil {
			return all, fmt.Errorf("recording %q: %w", s.name, err)
		}
	}
	err = play(ramDir(), func(t testkit.T) error {
		s := list[0]
		s.strace = []string{"-e", "inject=fsync,fdatasync:retval=0"}
		rec, err := record(ctx, t, s)
		if err != nil {
			return err
		}
		c, err := examine(rec, examineOptions{seed: o.seed, budget: o.lies, control: true, repro: o.repro + "-undone"})
		c.Name = "control: fsync and fdatasync made to do nothing"
		all = append(all, c)
		return err
	})
	return all, err
}

// examineOptions says how a recording is examined.
type examineOptions struct {
	seed    uint64
	budget  int    // states, about
	control bool   // see tally
	lying   bool   // syncs are ignored
	repro   string // see pool
}

// examine plays a recording into the model of a disk and has the states checked.
func examine(rec *recording, o examineOptions) (tally, error) {
	calls, err := readTrace(rec.trace)
	if err != nil {
		return tally{}, err
	}
	heard := newTalk()
	for _, c := range calls {
		heard.step(c)
	}
	if len(heard.acked) == 0 {
		return tally{}, errors.New("the trace shows no acknowledgement")
	}
	e := &examination{rec: rec, calls: inOrder(calls), talk: heard, lying: o.lying, share: 1}
	total, err := e.play(o.seed, func(job) {})
	if err != nil {
		return tally{}, err
	}
	e.share = min(1, float64(o.budget)/float64(total))
	p := newPool(workers(), ramDir(), o.repro)
	p.tally.Control = o.control
	_, err = e.play(o.seed, func(j job) { p.jobs <- j })
	return p.finish(), err
}

// inOrder sorts calls by the line at which they take effect: of a sync that is its end,
// of all others their begin.
func inOrder(calls []*call) []*call {
	at := func(c *call) int {
		if c.name == "fsync" || c.name == "fdatasync" {
			return c.to
		}
		return c.from
	}
	calls = slices.Clone(calls)
	slices.SortStableFunc(calls, func(a, b *call) int { return cmp.Compare(at(a), at(b)) })
	return calls
}

// examination is one pass over a recording. Owned by one goroutine.
type examination struct {
	rec   *recording
	calls []*call
	talk  *talk
	lying bool
	share float64 // of the states that are checked

	must    []number // so far; replaced, not changed: jobs share it
	mustVer int
	hub     map[number]int
	acks    []number // not yet in must, by line
}

// play gives every state to check, and returns how many there are.
func (e *examination) play(seed uint64, check func(job)) (total int, err error) {
	random := rand.New(rand.NewPCG(seed, 2))
	d := newDisk(e.rec.store, e.lying)
	if e.rec.initial != nil {
		d = e.rec.initial.clone()
	}
	e.hub = e.talk.hubLines(e.rec.hub)
	e.acks = e.sortedAcks()
	e.must, e.mustVer = slices.Clone(e.rec.earlier), 0
	seen := map[[2]uint64]bool{}
	now, since := d.states(random), 0
	version := [2]int{}
	emit := func(until int) {
		e.advance(since, until)
		if v := [2]int{d.version, e.mustVer}; v != version {
			version = v
			clear(seen)
		}
		if until <= e.rec.from {
			return
		}
		for i, s := range now {
			if k := [2]uint64{s.key(), uint64(len(s.ops))}; !seen[k] {
				seen[k] = true
				total++
				if i < 2 && e.share > 0.2 || random.Float64() < e.share {
					check(e.job(s, until, total%32 == 0))
				}
			}
		}
	}
	for _, c := range e.calls {
		before := d.version
		changed, err := d.step(c)
		if err != nil {
			return total, err
		}
		if !changed {
			continue
		}
		after := d.version
		d.version = before
		emit(c.from)
		d.version = after
		now, since = d.states(random), max(c.from, since)
		if c.name == "fsync" || c.name == "fdatasync" {
			since = c.to
		}
	}
	emit(math.MaxInt)
	if e.lying {
		return total, nil
	}
	return total, d.check()
}

// sortedAcks are all acknowledged messages by line.
func (e *examination) sortedAcks() (all []number) {
	for m := range e.talk.acked {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b number) int {
		return cmp.Or(e.talk.acked[a]-e.talk.acked[b], int(a.Src)-int(b.Src), int(a.N)-int(b.N))
	})
	return all
}

// advance makes must what a cut between two lines must not lose: what was acknowledged
// before the second, less what the hub was known to have by the first, or had before
// it was acknowledged.
func (e *examination) advance(from, to int) {
	n := 0
	for n < len(e.acks) && e.talk.acked[e.acks[n]] < to {
		n++
	}
	gone := func(m number) bool { h := e.hub[m]; return h > 0 && (h <= from || h <= e.talk.acked[m]) }
	if n == 0 && !slices.ContainsFunc(e.must, gone) {
		return
	}
	must := slices.Concat(e.must, e.acks[:n])
	e.must, e.acks = slices.DeleteFunc(must, gone), e.acks[n:]
	e.mustVer++
}

func (e *examination) job(s state, line int, again bool) job {
	x := &expect{Must: e.must, What: fmt.Sprintf("%s: power lost before line %d of the trace: %s", e.rec.name, line, s.what)}
	for _, u := range e.talk.epochs {
		if u.line < line {
			x.Epochs = append(x.Epochs, u.epoch)
		}
	}
	return job{make: s.make, expect: x, again: again}
}

// clone is a disk of its own with the same content, all of it synced.
func (d *disk) clone() *disk {
	c := newDisk(d.root, d.lying)
	for name, ino := range d.names {
		i := &inode{dir: ino.dir, data: ino.data, cache: slices.Clone(ino.data)}
		c.names[name], c.cache[name] = i, i
	}
	return c
}

// makeFixture makes testdata/NAME.tar.gz with another leafd.
func makeFixture(ctx context.Context, bin, to string) error {
	return play(ramDir(), func(t testkit.T) error {
		l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: config, Bin: bin,
			Env: map[string]string{"LEAFD_HUB_URL": "nats-leaf://127.0.0.1:1"}})
		sources := newSources(l.MQTTPort, l.NATSPort, 1)[:3] // that leafd acknowledges MQTT alone
		publish(ctx, sources, 60)
		l.Kill()
		var acked []number
		for _, s := range sources {
			acked = append(acked, s.ackedSoFar()...)
		}
		return packFixture(l.StoreDir, filepath.Clean(to), acked)
	})
}
