package test

import (
	"testing"

	"github.com/leafd/leafd/internal/testkit"
)

// TestOneCoreServesWhileTheDiskWorks: on a board with one core the thread that
// syncs the journal held the only processor of Go's scheduler, so that a batch
// held one message and 100 devices got an eighth of the acknowledgements they get
// now.
func TestOneCoreServesWhileTheDiskWorks(t *testing.T) {
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Run: []string{"env", "-u", "GOMAXPROCS", "taskset", "-c", "0"},
		Config: cableConfig + "http: $LEAFD_HTTP_PORT\n", Env: map[string]string{"LEAFD_HUB_URL": "nats-leaf://127.0.0.1:9"}})
	var v struct {
		Cores int `json:"cores"`
		Procs int `json:"gomaxprocs"`
	}
	l.Get("/varz", &v)
	if v.Cores != 1 || v.Procs != 2 {
		t.Errorf("%d cores and GOMAXPROCS %d, want 1 and 2", v.Cores, v.Procs)
	}
}
