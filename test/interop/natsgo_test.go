package interop

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
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
// nats-server's name, and wants of leafd all that nats-server passes but for those
// whose configuration has keys that leafd does not have, and refuses.
func TestNatsGo(t *testing.T) {
	stock, leafd, suites := testkit.NATSServer(t), asNATSServer(t), buildSuites(t)
	theirs, ours := runSuites(t, suites, stock, *suiteRun), runSuites(t, suites, leafd, *suiteRun)
	for range 4 { // what fails may have measured milliseconds on a machine out of breath
		maps.Copy(theirs, runSuites(t, suites, stock, exactly(failed(theirs))))
		maps.Copy(ours, runSuites(t, suites, leafd, exactly(failed(ours))))
	}
	t.Logf("of %d tests nats-server passes %d and fails %d, leafd passes %d and fails %d; the others want what no leaf has",
		len(theirs), passed(theirs), len(failed(theirs)), passed(ours), len(failed(ours)))
	excused := map[string]int{}
	for _, name := range missing(theirs, ours) {
		if key := refusedKey(ours[name].said); key != "" {
			excused[key]++
			t.Logf("%s fails with leafd: %s", name, notOurs[key])
		} else {
			t.Errorf("%s passes with nats-server and fails with leafd:\n%s", name, ours[name].said)
		}
	}
	for key := range notOurs {
		if excused[key] == 0 && *suiteRun == "" {
			t.Errorf("no test fails for the key %q; take it off the list", key)
		}
	}
	if both := failed(theirs); len(both) > 0 {
		t.Logf("with nats-server fail %s", strings.Join(both, ", "))
	}
}

// notOurs are keys of nats-server's configuration that leafd refuses, and what they
// are for.
var notOurs = map[string]string{
	"trusted_keys": "operators and JWTs",
}

// refusedKey is the key of notOurs because of which leafd did not start; "" for none.
func refusedKey(said string) string {
	for key := range notOurs {
		if strings.Contains(said, fmt.Sprintf("key %q: leafd does not have", key)) {
			return key
		}
	}
	return ""
}

// suiteRun limits the tests as -run does, while one looks into some of them.
var suiteRun = flag.String("suite.run", "", "run only the tests of nats.go that match `regexp`")

// result is how a test ended and what it said.
type result struct{ action, said string }

func passed(results map[string]result) (n int) {
	for _, r := range results {
		if r.action == "pass" {
			n++
		}
	}
	return n
}

// failed are the tests that failed, but for those that the tester did not serve.
func failed(results map[string]result) []string {
	var names []string
	for name, r := range results {
		if r.action == "fail" && !strings.Contains(r.said, tester.Refusal) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// missing are the tests that pass in want and do not in got.
func missing(want, got map[string]result) []string {
	var names []string
	for name, r := range want {
		if r.action == "pass" && got[name].action != "pass" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// exactly is the expression for -run that names tests, which may be none.
func exactly(names []string) string { return "^(" + strings.Join(names, "|") + ")$" }

// suite is a package of tests, built.
type suite struct{ bin, dir string }

func buildSuites(t *testing.T) (built []suite) {
	t.Helper()
	for i, pkg := range suites {
		s := suite{bin: filepath.Join(t.TempDir(), fmt.Sprintf("suite%d.test", i))}
		if out, err := exec.Command("go", "test", "-c", "-o", s.bin, pkg).CombinedOutput(); err != nil {
			t.Fatalf("build the tests of %s: %v\n%s", pkg, err, out)
		}
		dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", pkg).Output()
		if err != nil {
			t.Fatal(err)
		}
		s.dir = strings.TrimSpace(string(dir)) // its test data is there
		built = append(built, s)
	}
	return built
}

// runSuites returns how each test that run matches ended, by its name.
func runSuites(t *testing.T, suites []suite, bin, run string) map[string]result {
	t.Helper()
	results := map[string]result{}
	if run == exactly(nil) {
		return results
	}
	url := tester.Start(t, bin).URL()
	for _, s := range suites {
		cmd := exec.Command("go", "tool", "test2json", s.bin, "-test.v=test2json", "-test.timeout=20m", "-test.run="+run)
		cmd.Dir, cmd.Stderr = s.dir, os.Stderr
		cmd.Env = append(os.Environ(), "TESTER_NATS_URL="+url)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		readResults(t, out, results)
		_ = cmd.Wait() // some fail, which is what results say
	}
	return results
}

// readResults takes what "go test -json" prints.
func readResults(t *testing.T, out io.Reader, results map[string]result) {
	t.Helper()
	for dec := json.NewDecoder(out); dec.More(); {
		var e struct{ Action, Test, Output string }
		if err := dec.Decode(&e); err != nil {
			t.Fatalf("results of a suite: %v", err)
		}
		name, _, sub := strings.Cut(e.Test, "/")
		r := results[name]
		switch {
		case name == "":
			continue
		case e.Action == "output":
			r.said += e.Output
		case !sub && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip"):
			r.action = e.Action
		}
		results[name] = r
	}
}
