package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/leafd/leafd/internal/testkit"
)

// TestMain is the FUSE server, too, when a test starts it as that.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "serve-fuse" {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestNothingAcknowledgedIsLostWhenSyncsFail lets fdatasync fail under load and work
// again, starts leafd anew, and compares what was acknowledged with what the hub gets.
func TestNothingAcknowledgedIsLostWhenSyncsFail(t *testing.T) {
	if !syncsFail(t, "strace", testkit.LeafdOptions{Run: failingSyncs(t)}, nil) {
		return
	}
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "test/faults: no FUSE disk without root and /dev/fuse; failing syncs were tried with strace alone")
		return
	}
	d := newFUSE(t, trouble{Sync: syscall.EIO})
	syncsFail(t, "FUSE", testkit.LeafdOptions{Env: map[string]string{"LEAFD_STORE": d.Dir()}}, d)
}

// failingSyncs is a command to run leafd under: on each thread some syncs fail,
// beginning with the fortieth.
func failingSyncs(t *testing.T) []string {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatalf("%v (on Debian: apt-get install strace)", err)
	}
	return []string{strace, "-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync",
		"-e", "inject=fdatasync:error=EIO:when=40..45"}
}

func syncsFail(t *testing.T, how string, o testkit.LeafdOptions, d disk) bool {
	return t.Run(how, func(t *testing.T) {
		hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
		makeStream(t, hub)
		hub.Kill()
		o.Config = config
		if o.Env == nil {
			o.Env = map[string]string{}
		}
		o.Env["LEAFD_HUB_URL"] = hub.LeafURL()
		l := testkit.StartLeafd(t, o)
		led := newLedger(mqttDevices + natsClients)
		stop := load(t, l, led, &pair{url: l.NATSURL()})
		if d != nil {
			acksReach(t, led, 100)
			if err := d.Break(); err != nil {
				t.Fatal(err)
			}
		}
		testkit.Eventually(t, func() bool { return led.told.Load() > 0 }, "a publisher is told that the disk fails")
		if d != nil {
			if _, err := d.Mend(); err != nil {
				t.Fatal(err)
			}
			acksReach(t, led, led.acks()+20) // in the same process
		}
		l.Kill()
		l.Restart()
		acksReach(t, led, led.acks()+20)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		hub.Restart()
		var found outcome
		found.verify(t, hub, led)
		if found.checked == 0 || len(found.problems) > 0 {
			t.Errorf("%d acknowledged messages checked: %v", found.checked, found.problems)
		}
	})
}
