package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// signalNames are the commands of --signal, with nats-server's signals.
var signalNames = map[string]syscall.Signal{
	"stop":   syscall.SIGKILL,
	"quit":   syscall.SIGINT,
	"term":   syscall.SIGTERM,
	"reopen": syscall.SIGUSR1,
	"reload": syscall.SIGHUP,
	"ldm":    syscall.SIGUSR2,
}

// sendSignal does what --signal asks for: "reload", "reload=4711" or
// "reload=/run/leafd.pid". Without a pid it is for the one process of that name.
func sendSignal(program, arg string) error {
	command, who, _ := strings.Cut(arg, "=")
	sig, ok := signalNames[command]
	if !ok {
		return fmt.Errorf("--signal: there is no %q; it is one of %s", command, strings.Join(slices.Sorted(maps.Keys(signalNames)), ", "))
	}
	pid, err := findPid(program, who)
	if err != nil {
		return fmt.Errorf("--signal: %w", err)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		return fmt.Errorf("--signal: cannot send %q to process %d: %w", command, pid, err)
	}
	return nil
}

func findPid(program, who string) (int, error) {
	if who == "" {
		return onlyProcess(program)
	}
	if pid, err := strconv.Atoi(who); err == nil {
		if pid <= 0 {
			return 0, fmt.Errorf("%d is not a process id", pid)
		}
		return pid, nil
	}
	data, err := os.ReadFile(who)
	if err != nil {
		return 0, fmt.Errorf("cannot read the pid file %s: %w", who, reasonOf(err))
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 0 {
		return 0, fmt.Errorf("there is no process id in %s", who)
	}
	return pid, nil
}

// onlyProcess finds the one other process started under the program's name.
func onlyProcess(program string) (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, fmt.Errorf("cannot look for a running %s: %w; name its pid", program, reasonOf(err))
	}
	var found []string
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err != nil || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline")) // it may have ended meanwhile
		arg0, _, _ := strings.Cut(string(line), "\x00")
		if err == nil && filepath.Base(arg0) == program {
			found = append(found, e.Name())
		}
	}
	switch len(found) {
	case 0:
		return 0, errors.New("no " + program + " is running")
	case 1:
		return strconv.Atoi(found[0])
	}
	return 0, fmt.Errorf("%s runs more than once (%s); say which, as --signal COMMAND=PID", program, strings.Join(found, ", "))
}
