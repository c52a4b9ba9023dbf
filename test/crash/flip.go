package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

// flipOptions say how much of the part is done.
type flipOptions struct {
	flips  int // mutations that a checker opens
	leafds int // mutations that leafd itself is started on
	seed   uint64
	repro  string
}

// specimen is a store to be damaged, and what it holds.
type specimen struct {
	name   string
	files  files
	acked  []number
	epochs []uint64 // that were used
}

// flips is the part.
func flips(ctx context.Context, o flipOptions) (all []tally, err error) {
	random := rand.New(rand.NewPCG(o.seed, 4))
	err = play(ramDir(), func(t testkit.T) error {
		specimens, err := makeSpecimens(ctx, t)
		if err != nil {
			return err
		}
		for i, s := range specimens {
			p := newPool(workers(), ramDir(), fmt.Sprintf("%s-%d", o.repro, i))
			for n := range o.flips / len(specimens) {
				damaged, file, what := s.damage(random)
				p.jobs <- job{make: damaged.make, tries: 2, again: n%8 == 0,
					expect: &expect{Must: s.acked, Epochs: s.epochs, Lossy: true, Tail: file == "journal", What: s.name + ": " + what}}
			}
			got := p.finish()
			got.Name = "damage: " + s.name
			all = append(all, got)
		}
		p := newPool(1, ramDir(), o.repro+"-leafd")
		rig := newKillRig(ctx, t, "nats-leaf://127.0.0.1:1", o.seed)
		for range o.leafds {
			s := specimens[random.IntN(len(specimens))]
			damaged, _, what := s.damage(random)
			if why := rig.startOn(damaged, p, "leafd on "+s.name+": "+what); why != "" {
				p.mu.Lock()
				save := p.tally.add(&expect{What: what}, verdict{Unopened: 1, Detail: why})
				p.mu.Unlock()
				if save != "" {
					v := verdict{Unopened: 1, Detail: why}
					if err := saveRepro(save, job{make: damaged.make, expect: &expect{What: what}, tries: 2}, v); err != nil {
						return err
					}
				}
			}
		}
		got := p.finish()
		got.Name = "damage: leafd itself started on it"
		all = append(all, got)
		return nil
	})
	return all, err
}

// makeSpecimens are stores as leafd leaves them: with records in the journal alone, and that at
// rest, in bbolt alone, and in both.
func makeSpecimens(ctx context.Context, t testkit.T) (all []specimen, err error) {
	for _, k := range []struct {
		name string
		load int
		sig  syscall.Signal
		rest time.Duration
	}{
		{"journal", 6, syscall.SIGKILL, 0}, {"journal at rest", 6, syscall.SIGKILL, 2 * time.Second},
		{"folded", 100, syscall.SIGTERM, 0}, {"both", 100, syscall.SIGKILL, 0},
	} {
		l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: config, Env: map[string]string{"LEAFD_HUB_URL": "nats-leaf://127.0.0.1:1"}})
		sources := newSources(l.MQTTPort, l.NATSPort, 1)
		publish(ctx, sources, k.load)
		pause(ctx, k.rest)
		l.Signal(k.sig)
		<-l.Done()
		s := specimen{name: k.name}
		for _, src := range sources {
			s.acked = append(s.acked, src.ackedSoFar()...)
		}
		if s.files, err = readFiles(l.StoreDir); err != nil {
			return nil, err
		}
		m := metaText.FindSubmatch(s.files["meta.json"])
		if m == nil {
			return nil, fmt.Errorf("meta.json has no epoch: %q", s.files["meta.json"])
		}
		base, _ := strconv.ParseUint(string(m[1]), 10, 32) // digits, says the expression
		boots, _ := strconv.ParseUint(string(m[2]), 10, 64)
		s.epochs = append(s.epochs, base<<32+boots)
		all = append(all, s)
	}
	return all, nil
}

// damage is the specimen with one thing wrong: in which file, and what.
func (s *specimen) damage(random *rand.Rand) (all files, name, what string) {
	all = maps.Clone(s.files)
	names := slices.Sorted(maps.Keys(all))
	names = slices.DeleteFunc(names, func(n string) bool { return len(all[n]) == 0 })
	name = names[random.IntN(len(names))]
	b := slices.Clone(all[name])
	at := random.IntN(len(b))
	switch kind := random.IntN(10); {
	case kind < 5:
		for range 200 { // most of a file is empty: half of the flips are to hit something
			if kind%2 == 0 || b[at] != 0 {
				break
			}
			at = random.IntN(len(b))
		}
		bit := random.IntN(8)
		b[at] ^= 1 << bit
		what = fmt.Sprintf("bit %d of byte %d of %s flipped", bit, at, name)
	case kind < 9:
		size := 4096 << (2 * random.IntN(3))
		at = at / size * size
		unit := b[at:min(at+size, len(b))]
		what = fmt.Sprintf("%d bytes at %d of %s are zero", size, at, name)
		clear(unit)
		if random.IntN(2) == 0 {
			what = fmt.Sprintf("%d bytes at %d of %s are garbage", size, at, name)
			for i := range unit {
				unit[i] = byte(random.Uint32())
			}
		}
	default:
		b = b[:at]
		what = fmt.Sprintf("%s cut off at %d", name, at)
	}
	all[name] = b
	return all, name, what
}

// startOn starts leafd on damaged files: it must acknowledge something at the second
// start at the latest. What it leaves goes to p. The result says what went wrong.
func (r *killRig) startOn(damaged files, p *pool, what string) (why string) {
	if _, err := damaged.make(r.store, nil); err != nil {
		return err.Error()
	}
	for try := range 2 {
		s := &source{base: 5000 + uint32(try), class: "a", window: 1, size: sizes(1), dial: r.sources[0].dial}
		r.start()
		ctx, stop := context.WithTimeout(r.ctx, testkit.Patience)
		run := make(chan struct{})
		go func() {
			defer close(run)
			s.run(ctx, 1)
		}()
		select {
		case <-run:
		case <-r.done:
		}
		stop()
		<-run
		r.kill()
		if acked := s.ackedSoFar(); len(acked) > 0 {
			left, err := readFiles(r.store)
			if err != nil {
				return err.Error()
			}
			p.jobs <- job{make: left.make, expect: &expect{Must: acked, Lossy: true, What: what}}
			return ""
		}
		why = fmt.Sprintf("leafd does not serve: %s", lastOf(r.log.Name(), 2000))
	}
	return why
}
