package testkit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// built remembers, for the life of the test binary, what BuildLeafd made.
var built struct {
	sync.Mutex
	leafd map[string]string // path by environment
}

// NATSServer returns the path of the stock nats-server, of the version that
// go.mod pins, or the one that LEAFD_TEST_HUB names, to try another version by hand. The go command
// builds it the first time (20 to 30 s) and keeps it in its cache, safe against other test processes that
// ask at once.
func NATSServer(t T) string {
	t.Helper()
	if path := os.Getenv("LEAFD_TEST_HUB"); path != "" {
		return path
	}
	return strings.TrimSpace(goCommand(t, nil, "tool", "-n", "github.com/nats-io/nats-server/v2"))
}

// BuildLeafd builds cmd/leafd as it is shipped, static and stripped, and returns
// its path. The environment can choose another target: "GOARCH=arm", "GOARM=6"; and
// "TAGS=…" adds build tags, which GOFLAGS could not beside those of the shipped one.
// For this machine it has the race detector if the test has it. One test process
// builds each target once.
func BuildLeafd(t T, env ...string) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	key := strings.Join(env, "-")
	if path, ok := built.leafd[key]; ok {
		return path
	}
	root, err := moduleRoot()
	if err != nil {
		t.Fatalf("build leafd: %v", err)
	}
	tags := "nethttpomithttp2"
	for _, e := range env {
		if more, ok := strings.CutPrefix(e, "TAGS="); ok {
			tags += "," + more
		}
	}
	args := []string{"build", "-trimpath", "-buildvcs=false", "-tags=" + tags, "-ldflags=-s -w"}
	name := "leafd"
	if key != "" {
		name += "-" + strings.ReplaceAll(key, "=", "-") // a name with = in it is a variable to env(1)
	}
	if RaceEnabled && len(env) == 0 {
		args, name = append(args, "-race"), name+"-race"
	} else {
		env = append(env, "CGO_ENABLED=0")
	}
	dir := filepath.Join(root, "bin", "test")
	unlock, err := lockDir(dir)
	if err != nil {
		t.Fatalf("build leafd: %v", err)
	}
	defer unlock()
	// The go command leaves a file alone that is already what it would build, and
	// replaces one that is not, so that a program running from it is not disturbed.
	path := filepath.Join(dir, name)
	goCommand(t, env, append(args, "-o", path, "github.com/leafd/leafd/cmd/leafd")...)
	if built.leafd == nil {
		built.leafd = map[string]string{}
	}
	built.leafd[key] = path
	return path
}

// goCommand runs the go command in the module's root and returns what it prints.
func goCommand(t T, env []string, args ...string) string {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatalf("go %s: %v", args[0], err)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

// moduleRoot is the nearest directory above the working directory with a go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("no go.mod in %s or above: run it inside the module", dir)
		}
	}
}

// lockDir makes dir and takes it for this process, waiting for others.
func lockDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for err = syscall.EINTR; errors.Is(err, syscall.EINTR); {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return func() { _ = f.Close() }, nil // closing unlocks
}
