package testkit

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"
)

// T is the part of testing.TB that testkit needs.
type T interface {
	Helper()
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
	Failed() bool
	Cleanup(func())
	TempDir() string
}

// Patience is how long [Eventually] and all that starts a program wait before
// they give up. It is long because it is only ever spent by a test that fails.
const Patience = 30 * time.Second

// Eventually returns once cond holds, and fails the test with the message if it
// does not within [Patience]. cond runs on the caller's goroutine.
func Eventually(t T, cond func() bool, format string, args ...any) {
	t.Helper()
	if !poll(Patience, cond) {
		t.Fatalf("after %s still not so: %s", Patience, fmt.Sprintf(format, args...))
	}
}

// poll asks cond every few milliseconds until it says yes or limit has passed.
func poll(limit time.Duration, cond func() bool) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); ; <-tick.C {
		if cond() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// CheckGoroutines fails the test if a goroutine that started after this call is
// still there when the test and its later cleanups have ended. Call it first. It
// sees the whole process, so it is not for tests that run in parallel.
func CheckGoroutines(t T) {
	before := goroutines()
	t.Cleanup(func() {
		if t.Failed() {
			return // its goroutines are the lesser news
		}
		var left map[string]string
		gone := poll(Patience/3, func() bool {
			left = goroutines()
			maps.DeleteFunc(left, func(id, _ string) bool { _, old := before[id]; return old })
			return len(left) == 0
		})
		if !gone {
			t.Fatalf("%d goroutines outlive the test:\n\n%s", len(left), strings.Join(slices.Sorted(maps.Values(left)), "\n\n"))
		}
	})
}

// goroutines returns the stack of each goroutine by its number, leaving out those
// that the runtime or the testing package starts when it pleases.
func goroutines() map[string]string {
	buf := make([]byte, 64<<10)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	all := map[string]string{}
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		id, _, _ := strings.Cut(strings.TrimPrefix(stack, "goroutine "), " ")
		if !strings.Contains(stack, "testing.(*T).Run") && !strings.Contains(stack, "created by testing.") &&
			!strings.Contains(stack, "created by os/signal.") && !strings.Contains(stack, "testkit.goroutines(") {
			all[id] = stack
		}
	}
	return all
}
