package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

// faults are all that can be tried, with a disk of its own each.
var faults = []fault{
	{name: "EIO on each write", lasts: 4 * time.Second, disk: fuseWith(trouble{Write: syscall.EIO})},
	{name: "EIO on each fsync, half of the data forgotten", lasts: 4 * time.Second, disk: fuseWith(trouble{Sync: syscall.EIO})},
	{name: "EIO on 3 % of writes and fsyncs, for 15 s", lasts: 15 * time.Second, answers: true,
		disk: fuseWith(trouble{Write: syscall.EIO, Sync: syscall.EIO, Share: 0.03})},
	{name: "EIO on each fsync, hub there", lasts: 4 * time.Second, hub: true, answers: true, disk: fuseWith(trouble{Sync: syscall.EIO})},
	{name: "no space (every write)", lasts: 4 * time.Second,
		disk: fuseWith(trouble{Write: syscall.ENOSPC, Make: syscall.ENOSPC})},
	{name: "no space (ext4 filled up)", lasts: 12 * time.Second, disk: ext4With((*loop).fill, (*loop).free)},
	{name: "read-only", lasts: 4 * time.Second,
		disk: fuseWith(trouble{Write: syscall.EROFS, Sync: syscall.EROFS, Make: syscall.EROFS})},
	{name: "read-only (ext4 after an error), unmount, fsck", lasts: 4 * time.Second, disk: ext4With((*loop).breakFS, (*loop).check)},
	{name: "stall: 5 s per fsync", lasts: 14 * time.Second, answers: true, disk: fuseWith(trouble{Delay: 5 * time.Second})},
	{name: "slow: 100 ms per fsync", lasts: 6 * time.Second, answers: true, disk: fuseWith(trouble{Delay: 100 * time.Millisecond})},
}

func fuseWith(tr trouble) func(testkit.T) disk {
	return func(t testkit.T) disk { return newFUSE(t, tr) }
}

func ext4With(breakIt, mend func(*loop) error) func(testkit.T) disk {
	return func(t testkit.T) disk { return newLoop(t, 16<<20, breakIt, mend) }
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == "serve-fuse" {
		if err := serveFUSE(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, "faults: serve FUSE:", err)
			os.Exit(1)
		}
		return
	}
	only := flag.String("run", "", "only faults whose name contains this")
	rounds := flag.Int("rounds", 1, "how often to try each")
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "faults: run this as root: it mounts file systems of its own")
		os.Exit(2)
	}
	var all []outcome
	broken, untried := 0, 0
	for range *rounds {
		for _, f := range faults {
			if !strings.Contains(f.name, *only) {
				continue
			}
			o, err := try(f)
			if err != nil {
				fmt.Fprintf(os.Stderr, "%-50s NOT TRIED TO THE END: %v\n", f.name, err)
				untried++
				continue
			}
			fmt.Fprintln(os.Stderr, o)
			if len(o.problems) > 0 {
				broken++
			}
			all = append(all, o)
		}
	}
	report(all)
	switch {
	case broken > 0:
		os.Exit(1)
	case untried > 0:
		os.Exit(2)
	}
}

// try runs one fault and undoes all it did to the machine.
func try(f fault) (o outcome, err error) {
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
	return run(t, f), nil
}

// oneRun is the testkit.T of one fault: Fatalf ends it.
type oneRun struct {
	cleanups []func()
	failure  string
}

func (t *oneRun) Helper()             {}
func (t *oneRun) Logf(string, ...any) {} // the logs of hub and leafd; what failed quotes leafd's
func (t *oneRun) Failed() bool        { return t.failure != "" }
func (t *oneRun) Cleanup(f func())    { t.cleanups = append(t.cleanups, f) }

func (t *oneRun) Fatalf(format string, args ...any) {
	t.failure = fmt.Sprintf(format, args...)
	panic(t.failure)
}

func (t *oneRun) TempDir() string {
	dir, err := os.MkdirTemp("", "leafd-faults-")
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (o outcome) String() string {
	s := fmt.Sprintf("%-50s %d faults, %d acked checked, %d lost, %d duplicated, %d wrong; %d acked and %d errors to publishers meanwhile; NATS p99 %s (%s before); first ack after %s; %.0f MB",
		o.name, o.tried, o.checked, o.lost, o.duplicated, o.wrong, o.during, o.told, ms(o.p99), ms(o.before99), ms(o.recovery), o.rssMB)
	for _, p := range o.problems {
		s += "\n    BROKEN: " + p
	}
	return s
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

// report prints the record.
func report(all []outcome) {
	fmt.Printf("%s, %d cores. Load: %d MQTT devices at QoS 1 and %d NATS clients that ask for an acknowledgement, %d messages of %d bytes a second each;\n",
		time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), mqttDevices, natsClients, perSecond, payloadSize)
	fmt.Println("beside them two NATS clients that talk to each other, 500 messages a second. *Errors* are connections closed and error replies while the fault lasted.")
	fmt.Println()
	fmt.Println("| fault | faults tried | acked checked | lost | duplicated | silently wrong | acked, errors meanwhile | NATS p99 meanwhile (before) | first ack after it ended | max RSS |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|")
	var sum outcome
	for _, o := range all {
		fmt.Printf("| %s | %d | %d | %d | %d | %d | %d, %d | %s (%s) | %s | %.0f MB |\n", o.name, o.tried, o.checked, o.lost,
			o.duplicated, o.wrong, o.during, o.told, ms(o.p99), ms(o.before99), ms(o.recovery), o.rssMB)
		sum.tried, sum.checked = sum.tried+o.tried, sum.checked+o.checked
		sum.lost, sum.duplicated, sum.wrong = sum.lost+o.lost, sum.duplicated+o.duplicated, sum.wrong+o.wrong
	}
	fmt.Printf("| **all** | %d | %d | %d | %d | %d | | | | |\n", sum.tried, sum.checked, sum.lost, sum.duplicated, sum.wrong)
}
