package interop

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/leafd/leafd/internal/testkit"
	"github.com/leafd/leafd/test/interop/tester"

	_ "github.com/nats-io/nats.go/encoders/protobuf/testdata" // imported by the tests of nats.go, as is
	_ "github.com/synadia-io/orbit.go/ntf"                    // this
)

// suites are the packages of nats.go whose tests want a server.
var suites = []string{"github.com/nats-io/nats.go/test", "github.com/nats-io/nats.go/micro/test"}

// TestNatsGo runs nats.go's own tests against nats-server and against leafd under
// nats-server's name, and wants of leafd all that nats-server passes but for what
// notOurs names.
func TestNatsGo(t *testing.T) {
	stock := runSuites(t, testkit.NATSServer(t), "")
	leafd := filepath.Join(t.TempDir(), "nats-server")
	if err := os.Link(buildLeafd(t), leafd); err != nil {
		t.Fatal(err)
	}
	ours := runSuites(t, leafd, "")
	again := missing(stock, ours)
	if len(again) > 0 { // what fails once may be a machine out of breath
		maps.Copy(ours, runSuites(t, leafd, "^("+strings.Join(again, "|")+")$"))
	}
	passed := func(r map[string]string) (n int) {
		for _, action := range r {
			if action == "pass" {
				n++
			}
		}
		return n
	}
	t.Logf("nats-server passes %d tests, leafd %d", passed(stock), passed(ours))
	for _, name := range missing(stock, ours) {
		if notOurs[name] == "" {
			t.Errorf("%s passes with nats-server and fails with leafd", name)
		}
	}
	for name := range notOurs {
		if ours[name] == "pass" {
			t.Errorf("%s passes; take it off the list", name)
		}
	}
}

// missing are the tests that pass in want and do not in got.
func missing(want, got map[string]string) []string {
	var names []string
	for name, action := range want {
		if action == "pass" && got[name] != "pass" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// runSuites returns how each test ended, by its name.
func runSuites(t *testing.T, bin, run string) map[string]string {
	t.Helper()
	args := append([]string{"test", "-json", "-count", "1", "-p", "1", "-timeout", "20m", "-run", run}, suites...)
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "TESTER_NATS_URL="+tester.Start(t, bin).URL())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended, said := map[string]string{}, map[string]string{}
	for dec := json.NewDecoder(out); dec.More(); {
		var e struct{ Action, Test, Output string }
		if err := dec.Decode(&e); err != nil {
			t.Fatalf("go test -json: %v", err)
		}
		switch {
		case e.Action == "build-fail":
			t.Fatal("nats.go's tests do not build")
		case e.Test == "" || strings.Contains(e.Test, "/"):
		case e.Action == "output":
			said[e.Test] += e.Output
		case e.Action == "pass" || e.Action == "fail" || e.Action == "skip":
			ended[e.Test] = e.Action
		}
	}
	_ = cmd.Wait() // tests fail that want JetStream
	if len(ended) == 0 {
		t.Fatal("no test of nats.go has run")
	}
	if dir := os.Getenv("INTEROP_OUT"); dir != "" {
		for name, text := range said {
			path := filepath.Join(dir, fmt.Sprintf("%s.%s.%s", filepath.Base(filepath.Dir(bin)), ended[name], name))
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Error(err)
			}
		}
	}
	return ended
}

var notOurs = map[string]string{}
