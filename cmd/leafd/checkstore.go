package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/leafd/leafd/storefwd"
)

// This file looks at the store's file in a process of its own before the gateway opens
// it: bbolt may crash over a broken one, and a gateway that crashes at each start
// is of no use to anybody.

const (
	checkStoreArg  = "-check-store" // leafd -check-store FILE, for ourselves
	checkStoreTime = 1500 * time.Millisecond
	exitDamaged    = 3
)

// checkStoreChild is the child: it returns its exit code.
func checkStoreChild(path string) int {
	switch err := storefwd.CheckFile(path); {
	case errors.Is(err, storefwd.ErrDamaged):
		fmt.Fprintln(os.Stderr, err)
		return exitDamaged
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// checkStore is the parent. A child that takes too long has found nothing wrong so
// far: the rest shows when it is read.
func checkStore(path string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkStoreTime)
	defer cancel()
	said := &head{}
	child := exec.CommandContext(ctx, self, checkStoreArg, path)
	child.Stderr = said
	err = child.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil || !errors.As(err, &exit):
		return nil
	case exit.ExitCode() == exitDamaged:
		return fmt.Errorf("%w: %s", storefwd.ErrDamaged, strings.TrimPrefix(said.line(), storefwd.ErrDamaged.Error()+": "))
	case ofBrokenFile(exit), strings.HasPrefix(said.line(), "panic:"), strings.HasPrefix(said.line(), "fatal error:"):
		return fmt.Errorf("%w: the check ended with %v", storefwd.ErrDamaged, exit)
	}
	return nil
}

// ofBrokenFile reports whether the child ended as one does over a broken file. Who stops the
// gateway, or is short of memory, may kill its child as well, and that says nothing of the file.
func ofBrokenFile(exit *exec.ExitError) bool {
	status, ok := exit.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return false
	}
	switch status.Signal() {
	case syscall.SIGBUS, syscall.SIGSEGV, syscall.SIGABRT, syscall.SIGILL, syscall.SIGFPE, syscall.SIGTRAP:
		return true
	}
	return false
}

// head keeps the first bytes that are written to it.
type head struct{ b []byte }

func (t *head) Write(b []byte) (int, error) {
	t.b = append(t.b, b[:min(len(b), 256-min(len(t.b), 256))]...)
	return len(b), nil
}

func (t *head) line() string {
	line, _, _ := strings.Cut(string(t.b), "\n")
	return line
}
