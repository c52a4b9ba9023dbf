package testkit

import (
	"errors"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Process is a program that can be killed and started again. It dies with the
// test, and with the test binary if that is killed; what it printed is logged if
// the test fails.
type Process struct {
	// Static after Start.
	t       T
	name    string
	command func() *exec.Cmd // a new one for each run
	ready   func() bool      // asked until it says yes; nil if running is enough

	out tail // both outputs of all runs

	// Of the run that is on, or was last.
	cmd  *exec.Cmd
	done chan struct{} // closed once it has been waited for
}

// Start runs the program that command describes, and again for each Restart,
// and returns once ready says yes (nil: at once).
func Start(t T, name string, command func() *exec.Cmd, ready func() bool) *Process {
	t.Helper()
	p := &Process{t: t, name: name, command: command, ready: ready}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("--- output of %s\n%s", name, p.Log())
		}
	})
	p.run()
	return p
}

func (p *Process) run() {
	p.t.Helper()
	cmd := p.command()
	if cmd.Stdout == nil {
		cmd.Stdout = &p.out
	}
	cmd.Stderr = &p.out
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		Setpgid:   true, // a Ctrl-C at the terminal is for us to pass on
	}
	cmd.WaitDelay = time.Second // for a child of its own that holds the outputs
	if err := cmd.Start(); err != nil {
		p.t.Fatalf("start %s: %v", p.name, err)
	}
	done := make(chan struct{})
	p.cmd, p.done = cmd, done
	go func() {
		defer close(done)
		_ = cmd.Wait() // the state is in cmd.ProcessState
	}()
	if p.ready == nil {
		return
	}
	up := false
	poll(Patience, func() bool { up = p.ready(); return up || !p.Running() })
	switch {
	case up:
	case p.Running():
		p.t.Fatalf("%s is not ready after %s", p.name, Patience)
	default:
		p.t.Fatalf("%s ended instead of getting ready: %s\n%s", p.name, cmd.ProcessState, p.Log())
	}
}

// Running reports whether the program has not ended yet.
func (p *Process) Running() bool {
	if p.cmd == nil {
		return false // the start itself failed
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Done is closed once the run that is on now has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// PID is the process id of the run that is on now.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// ExitCode is how the last run ended: -1 by a signal, or not yet.
func (p *Process) ExitCode() int {
	if p.Running() {
		return -1
	}
	return p.cmd.ProcessState.ExitCode()
}

// Log is what the program printed, in all its runs; the end of it if that is a lot.
func (p *Process) Log() string { return p.out.String() }

// Kill ends the program as a power cut would, with SIGKILL, and waits for it.
func (p *Process) Kill() {
	if p.Running() {
		_ = p.cmd.Process.Kill() // fails only if it has just ended
		<-p.done
	}
}

// Signal sends a signal, which may find the program gone.
func (p *Process) Signal(sig os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatalf("signal %s: %v", p.name, err)
	}
}

// Stop asks the program to end, with SIGTERM, and waits for it.
func (p *Process) Stop() {
	p.t.Helper()
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(Patience):
		p.t.Fatalf("%s still runs %s after SIGTERM", p.name, Patience)
	}
}

// Restart starts the program once more, after Kill if it still runs.
func (p *Process) Restart() {
	p.t.Helper()
	p.Kill()
	p.run()
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
	cut bool
}

const tailSize = 256 << 10

func (o *tail) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf = append(o.buf, b...)
	if extra := len(o.buf) - tailSize; extra > tailSize {
		o.buf = append(o.buf[:0], o.buf[extra:]...)
		o.cut = true
	}
	return len(b), nil
}

func (o *tail) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cut {
		return "[...] " + string(o.buf)
	}
	return string(o.buf)
}
