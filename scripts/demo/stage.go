package main

import (
	"fmt"
	"os"
	"slices"
)

// stage is a testkit.T for a program that is not a test.
type stage struct {
	cleanups []func()
	failed   bool
}

// failure is what Fatalf ends the play with.
type failure string

func (s *stage) Helper()                         {}
func (s *stage) Failed() bool                    { return s.failed }
func (s *stage) Cleanup(f func())                { s.cleanups = append(s.cleanups, f) }
func (s *stage) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func (s *stage) Fatalf(format string, args ...any) {
	s.failed = true
	panic(failure(fmt.Sprintf(format, args...)))
}

func (s *stage) TempDir() string {
	dir, err := os.MkdirTemp("", "leafd-demo-")
	if err != nil {
		s.Fatalf("make a directory: %v", err)
	}
	s.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			s.Logf("remove %s: %v", dir, err)
		}
	})
	return dir
}

// play runs f and then everything that was to be cleaned up, the last first, and
// returns the exit code.
func (s *stage) play(f func() (code int)) (code int) {
	defer func() {
		for _, clean := range slices.Backward(s.cleanups) {
			clean()
		}
	}()
	defer func() {
		switch why := recover().(type) {
		case nil:
		case failure:
			fmt.Fprintln(os.Stderr, "demo:", why)
			code = 1
		default:
			panic(why)
		}
	}()
	return f()
}
