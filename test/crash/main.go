package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"
)

func main() {
	if os.Getenv(checkerEnv) != "" {
		os.Exit(checkerMain())
	}
	part := flag.String("part", "", "only this `part`: power, kill, backlog or flip")
	again := flag.String("repro", "", "check the violation in this `directory` again, and nothing else")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of all that is random")
	states := flag.Int("states", 120000, "of power loss, at most; 0: none but those of the controls")
	lies := flag.Int("lies", 2000, "states in each control, where syncs do nothing")
	window := flag.String("window", "", "of power loss only this `recording`: life, first start, upgrade, compaction or compaction of a rest")
	nkills := flag.Int("kills", 500, "how often leafd is killed")
	backlog := flag.Int64("backlog", 1<<30, "bytes in the store of the last kills, of which restarts are timed")
	nflips := flag.Int("flips", 3000, "damaged stores")
	out := flag.String("out", "bin/crash-repro", "`directory` for what is needed to see violations again")
	fixture := flag.String("make-fixture", "", "make testdata/`NAME`.tar.gz with the leafd of -bin, and nothing else")
	bin := flag.String("bin", "", "a leafd, for -make-fixture")
	flag.Parse()
	debug.SetGCPercent(400)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	ok := true
	switch {
	case *fixture != "":
		err = makeFixture(ctx, *bin, filepath.Join("test/crash/testdata", *fixture+".tar.gz"))
	case *again != "":
		ok, err = reproduce(*again)
	default:
		fmt.Printf("seed %d\n", *seed)
		r := &run{ctx: ctx, only: *part}
		r.do("power", func() ([]tally, error) {
			return power(ctx, powerOptions{states: *states, lies: *lies, scale: 1, window: *window, seed: *seed, repro: filepath.Join(*out, "power")})
		})
		r.do("kill", func() ([]tally, error) {
			got, restarts, err := kills(ctx, killOptions{kills: *nkills, rigs: 2, seed: *seed, repro: filepath.Join(*out, "kill")})
			fmt.Printf("restart to first acknowledgement: %s\n", quantiles(restarts))
			return got, err
		})
		r.do("backlog", func() ([]tally, error) {
			got, restarts, err := kills(ctx, killOptions{kills: 60, rigs: 1, seed: *seed, backlog: *backlog, repro: filepath.Join(*out, "backlog")})
			fmt.Printf("restart to first acknowledgement with a backlog of %d MB: %s\n", *backlog>>20, quantiles(restarts))
			return got[1:], err
		})
		r.do("flip", func() ([]tally, error) {
			return flips(ctx, flipOptions{flips: *nflips, leafds: *nflips / 30, seed: *seed, repro: filepath.Join(*out, "flip")})
		})
		fmt.Printf("\n%s", table(r.all))
		ok, err = !r.failed, r.err
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "crash:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// run goes through the parts.
type run struct {
	ctx    context.Context
	only   string // a part, or empty for all
	all    []tally
	failed bool
	err    error
}

func (r *run) do(part string, f func() ([]tally, error)) {
	if r.only != "" && r.only != part || r.ctx.Err() != nil {
		return
	}
	got, err := f()
	for _, t := range got {
		fmt.Println(t.line())
		r.failed = r.failed || !t.ok()
	}
	r.all = append(r.all, got...)
	r.err = errors.Join(r.err, err)
}

// checkerMain is the program as a checker.
func checkerMain() int {
	if err := checker(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
