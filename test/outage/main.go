package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

func main() {
	msgs := flag.Int("msgs", 200_000, "messages in each scenario")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of all that is left to chance")
	only := flag.String("only", "", "only scenarios whose name contains this")
	long := flag.Bool("long", false, "also those that outlast a duplicate window of 2 minutes")
	flag.Parse()
	fmt.Printf("outage: %d messages a scenario, seed %d\n", *msgs, *seed)
	var all []outcome
	bad := 0
	for _, s := range scenarios {
		if !strings.Contains(s.name, *only) || s.long && !*long {
			continue
		}
		o, err := try(s, *msgs, *seed)
		if err != nil {
			fmt.Printf("%-38s FAILED: %v\n", s.name, err)
			bad++
			continue
		}
		fmt.Println(o)
		if !o.held() {
			bad++
		}
		all = append(all, o)
	}
	table(all)
	if bad > 0 {
		os.Exit(1)
	}
}

// try runs one scenario and ends all that it started.
func try(s scenario, msgs int, seed uint64) (o outcome, err error) {
	t := &oneRun{}
	defer func() {
		if r := recover(); r != nil {
			if t.failure == "" {
				panic(r)
			}
			err = fmt.Errorf("%s", t.failure)
		}
		for _, c := range slices.Backward(t.cleanups) {
			c()
		}
	}()
	return s.play(t, msgs, rand.New(rand.NewPCG(seed, uint64(len(s.name))))), nil
}

// oneRun is the testkit.T of one scenario: Fatalf ends it.
type oneRun struct {
	cleanups []func()
	failure  string
}

func (t *oneRun) Helper()                     {}
func (t *oneRun) Logf(f string, args ...any)  { fmt.Fprintf(os.Stderr, f+"\n", args...) }
func (t *oneRun) Failed() bool                { return t.failure != "" }
func (t *oneRun) Cleanup(f func())            { t.cleanups = append(t.cleanups, f) }
func (t *oneRun) Fatalf(f string, arg ...any) { t.failure = fmt.Sprintf(f, arg...); panic(t.failure) }

func (t *oneRun) TempDir() string {
	dir, err := os.MkdirTemp("", "leafd-outage-")
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// outcome is what came of one scenario.
type outcome struct {
	name                                               string
	faults, acked, lost, duplicated, disordered, wrong int
	again                                              int    // stored again since a publisher sent again
	declared, overstated                               int    // by gap markers, as missing; more than are missing
	expired                                            int    // no sooner than they might; counts for none of the others
	said                                               uplink // what leafd says of itself
	mayReorder, mayRepeat, lastOnly, drops             bool
	rows                                               int // ascending rows that a publisher's messages may come in
	took                                               time.Duration
}

// held reports whether the promise was kept: nothing is missing but what is declared. Where others write to the stream, what
// the hub lost is filled in behind, and leafd must have said so. Where there is no
// stream, a cut costs duplicates.
func (o outcome) held() bool {
	return o.lost+o.wrong+o.overstated == 0 && o.faults > 0 && (o.duplicated == 0 || o.mayRepeat) && (o.disordered == 0 || o.mayReorder && o.said.Reordered > 0)
}

func (o outcome) String() string {
	verdict := "held"
	if !o.held() {
		verdict = "BROKEN"
	}
	return fmt.Sprintf("%-38s %s: %d faults, %d acked checked, %d lost, %d duplicated, %d out of order, %d wrong; resumed %s, the hub set back %d times, %d recognised by it, %d filled behind, %d sent again by publishers, %d expired, %d declared lost, %d too many; %.0f s",
		o.name, verdict, o.faults, o.acked, o.lost, o.duplicated, o.disordered, o.wrong, o.said.Resume, o.said.WentBack, o.said.Duplicates,
		o.said.Reordered, o.again, o.expired, o.declared, o.overstated, o.took.Seconds())
}

// hubVersion is what the hub says of itself: it may be another one than go.mod names.
func hubVersion() string {
	v, err := exec.Command(testkit.NATSServer(&oneRun{}), "-v").Output()
	if err != nil {
		return "nats-server: " + err.Error()
	}
	return strings.TrimSpace(string(v))
}

func table(all []outcome) {
	fmt.Printf("\n%s, %d cores, %s\n\n", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), hubVersion())
	fmt.Println("| scenario | faults tried | acked checked | lost | duplicated | out of order | silently wrong | resumed by |")
	fmt.Println("|---|---|---|---|---|---|---|---|")
	var sum outcome
	for _, o := range all {
		fmt.Printf("| %s | %d | %d | %d | %d | %d | %d | %s |\n", o.name, o.faults, o.acked, o.lost, o.duplicated, o.disordered, o.wrong, o.said.Resume)
		sum.faults, sum.acked, sum.lost, sum.duplicated = sum.faults+o.faults, sum.acked+o.acked, sum.lost+o.lost, sum.duplicated+o.duplicated
		sum.disordered, sum.wrong = sum.disordered+o.disordered, sum.wrong+o.wrong
	}
	fmt.Printf("| **all** | %d | %d | %d | %d | %d | %d | |\n", sum.faults, sum.acked, sum.lost, sum.duplicated, sum.disordered, sum.wrong)
}
