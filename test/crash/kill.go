package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
	"github.com/leafd/leafd/storefwd"
)

// killOptions say how much of the part is done.
type killOptions struct {
	kills   int
	rigs    int   // at the same time
	backlog int64 // bytes in the store before it begins
	seed    uint64
	repro   string
}

// Of every season rounds, that many have the hub away; after each round of these the
// store is looked at. At the end of a season the hub takes all there is. With a backlog
// there is one season, and the hub is away.
const (
	season  = 25
	away    = 18
	longest = 120 * time.Millisecond // a run lasts, once it has acknowledged something
)

// kills is the part: tallies of the stores as they were after each kill, and of what
// the hub has in the end.
func kills(ctx context.Context, o killOptions) (all []tally, restarts []time.Duration, err error) {
	p := newPool(workers(), ramDir(), o.repro)
	var wg sync.WaitGroup
	var mu sync.Mutex // guards arrived, restarts and err
	arrived := tally{Name: "kill -9: at the hub in the end"}
	for i := range o.rigs {
		wg.Go(func() {
			why := play("", func(t testkit.T) error {
				hub := startHub(t)
				r := newKillRig(ctx, t, hub.url(), o.seed+uint64(i))
				r.hub = hub
				if o.backlog > 0 {
					var err error
					if r.early, err = fillStore(r.store, o.backlog); err != nil {
						return fmt.Errorf("fill the store: %w", err)
					}
				}
				r.run(o.kills/o.rigs, p)
				v, must := r.atHub()
				mu.Lock()
				defer mu.Unlock()
				arrived.add(&expect{Must: must}, v)
				arrived.Faults += r.kills - 1
				restarts = append(restarts, r.restarts...)
				return nil
			})
			mu.Lock()
			defer mu.Unlock()
			if why != nil {
				err = why
			}
		})
	}
	wg.Wait()
	left := p.finish()
	left.Name = "kill -9: in the store after each"
	arrived.Took = left.Took
	return []tally{left, arrived}, restarts, err
}

// killRig is one leafd that is killed again and again. Owned by one goroutine.
type killRig struct {
	ctx     context.Context
	t       testkit.T
	random  *rand.Rand
	hub     *hub
	bin     string
	conf    string
	store   string
	http    string
	sources []*source
	early   []number // the backlog

	cmd      *exec.Cmd
	done     chan struct{} // the leafd that is on has ended
	began    time.Time     // of it
	first    chan time.Time
	kills    int
	restarts []time.Duration // from the start of the process to its first acknowledgement
	log      *os.File
}

// newKillRig is a rig whose leafd does not run yet, for a hub at url.
func newKillRig(ctx context.Context, t testkit.T, url string, seed uint64) *killRig {
	dir := t.TempDir()
	r := &killRig{ctx: ctx, t: t, random: rand.New(rand.NewPCG(seed, 3)), bin: testkit.BuildLeafd(t),
		conf: filepath.Join(dir, "leafd.conf"), store: filepath.Join(dir, "store"), first: make(chan time.Time, 1)}
	mqtt, natsPort, web := testkit.Port(t), testkit.Port(t), testkit.Port(t)
	text := strings.NewReplacer("$LEAFD_NATS_PORT", fmt.Sprint(natsPort), "$LEAFD_MQTT_PORT", fmt.Sprint(mqtt), "$LEAFD_HTTP_PORT",
		fmt.Sprint(web), "$LEAFD_STORE", fmt.Sprintf("%q", r.store), "$LEAFD_HUB_URL", fmt.Sprintf("%q", url)).Replace(config)
	if err := os.WriteFile(r.conf, []byte(text), 0o600); err != nil {
		t.Fatalf("%v", err)
	}
	r.http = "http://" + testkit.Addr(web)
	r.sources = newSources(mqtt, natsPort, 1)
	for _, s := range r.sources {
		s.first = func(number) {
			select {
			case r.first <- time.Now():
			default:
			}
		}
	}
	var err error
	if r.log, err = os.Create(filepath.Join(dir, "leafd.log")); err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() { r.kill(); r.log.Close() })
	return r
}

// run kills n times, in seasons. What is in the store when the hub was away goes to p.
func (r *killRig) run(n int, p *pool) {
	for r.kills < n && r.ctx.Err() == nil {
		ctx, stop := context.WithCancel(r.ctx)
		var wg sync.WaitGroup
		for _, s := range r.sources {
			wg.Go(func() { s.run(ctx, 0) })
		}
		for round := 0; (round < season || len(r.early) > 0) && r.kills < n; round++ {
			if round == away && len(r.early) == 0 {
				r.hub.cable.Restore()
			}
			r.round()
			if round < away && len(r.early) == 0 {
				r.look(p)
			}
		}
		r.hub.cable.Restore()
		r.start()
		stop()
		wg.Wait()
		drained(r.t, r.http)
		r.hub.cable.Cut()
		r.kill()
		for _, s := range r.sources {
			s.taken = len(s.ackedSoFar())
		}
	}
}

// round starts leafd and kills it, every other time at a system call.
func (r *killRig) round() {
	calls := []string{"pwrite64", "fdatasync", "fsync", "renameat", "ftruncate", "write", "unlinkat", "openat"}
	if r.kills%2 == 1 && len(r.early) == 0 {
		at := calls[r.random.IntN(len(calls))]
		when := 1 + r.random.IntN(12)
		r.start("strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace="+at,
			"-e", fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", at, when))
	} else {
		r.start()
	}
	patience := time.NewTimer(testkit.Patience)
	defer patience.Stop()
	select {
	case at := <-r.first:
		if r.cmd.Path == r.bin {
			r.restarts = append(r.restarts, at.Sub(r.began))
		}
	case <-r.done:
	case <-patience.C:
		r.t.Fatalf("no acknowledgement for %v; its log ends with\n%s", testkit.Patience, lastOf(r.log.Name(), 2000))
	}
	t := time.NewTimer(time.Duration(r.random.Int64N(int64(longest))))
	defer t.Stop()
	select {
	case <-r.done:
	case <-t.C:
	}
	r.kill()
	r.kills++
}

func (r *killRig) start(under ...string) {
	r.kill()
	select {
	case <-r.first: // of the one before
	default:
	}
	line := slices.Concat(under, []string{r.bin, "-c", r.conf})
	r.cmd, r.done = exec.Command(line[0], line[1:]...), make(chan struct{})
	r.cmd.Stdout, r.cmd.Stderr = r.log, r.log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r.began = time.Now()
	if err := r.cmd.Start(); err != nil {
		r.t.Fatalf("start leafd: %v", err)
	}
	cmd, done := r.cmd, r.done
	go func() {
		defer close(done)
		_ = cmd.Wait() // how it ended is what is tested
	}()
}

func (r *killRig) kill() {
	if r.cmd != nil {
		_ = r.cmd.Process.Kill() // it may have been killed by strace
		<-r.done
	}
}

// acked is all that was acknowledged.
func (r *killRig) acked() []number {
	all := slices.Clone(r.early)
	for _, s := range r.sources {
		all = append(all, s.ackedSoFar()...)
	}
	return all
}

// look has a copy of the store checked: what was acknowledged since the hub had all.
func (r *killRig) look(p *pool) {
	files, err := readFiles(r.store)
	if err != nil {
		r.t.Fatalf("%v", err)
	}
	var must []number
	for _, s := range r.sources {
		acked := s.ackedSoFar()
		must = append(must, acked[s.taken:]...)
	}
	x := &expect{Must: must, What: fmt.Sprintf("kill %d of the rig", r.kills)}
	p.jobs <- job{make: files.make, expect: x, tries: 1}
}

// atHub judges what the hub has in the end.
func (r *killRig) atHub() (v verdict, must []number) {
	f := &finding{}
	for _, m := range r.hub.messages(r.t) {
		f.Records = append(f.Records, found{m.number, uint32(slices.Index(logs, m.class)), m.whole, 1, m.seq})
	}
	must = r.acked()
	return judge(&expect{Must: must}, f), must
}

// files are the regular files of a directory. Static.
type files map[string][]byte

func readFiles(dir string) (files, error) {
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil, nil
	}
	all := files{}
	for _, e := range entries {
		if e.Type().IsRegular() {
			if all[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
				return nil, err
			}
		}
	}
	return all, err
}

// make makes dir hold the files and nothing else.
func (f files) make(dir string, scratch []byte) ([]byte, error) {
	m := state{moment: &moment{names: map[string]*inode{".": {dir: true}}, data: map[*inode][]byte{}}}
	for name, b := range f {
		ino := &inode{}
		m.names[name], m.data[ino] = ino, b
	}
	return m.make(dir, scratch)
}

// fillStore makes a store with a backlog of bytes, as leafd would, faster.
func fillStore(dir string, bytes int64) (all []number, err error) {
	o := storeOptions()
	o.JournalBytes = 64 << 20
	s, err := storefwd.Open(dir, o)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	l, err := s.Log("OUT/a", retention)
	if err != nil {
		return nil, err
	}
	const source, size = 999, 1000
	subject := fmt.Appendf(nil, "crash.a.s%d", source)
	for n := uint32(0); int64(n)*size < bytes; n++ {
		m := number{source, n}
		if _, err := l.Append(&msg.Msg{Subject: subject, Data: payload(m, size)}); err != nil {
			return nil, err
		}
		if all = append(all, m); n%8192 == 8191 {
			done := make(chan error, 1)
			s.Barrier(func(err error) { done <- err })
			if err := <-done; err != nil {
				return nil, err
			}
		}
	}
	return all, s.Close()
}

// quantiles is p50, p99 and the maximum, for people.
func quantiles(d []time.Duration) string {
	if len(d) == 0 {
		return "none measured"
	}
	d = slices.Sorted(slices.Values(d))
	at := func(q float64) time.Duration {
		return d[min(len(d)-1, int(q*float64(len(d))))].Round(100 * time.Microsecond)
	}
	return fmt.Sprintf("p50 %v, p99 %v, max %v of %d", at(.5), at(.99), at(1), len(d))
}
