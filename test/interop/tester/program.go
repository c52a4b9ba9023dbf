package tester

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

// Program is nats-server, or one that stands in for it under that name: one run
// after the other on the same port. Not for concurrent use.
type Program struct {
	Bin  string   // its path, which ends in nats-server
	Dir  string   // for its log, ports file and pid file
	Port int      // of 127.0.0.1, for clients
	Args []string // more flags, such as -c FILE

	cmd  *exec.Cmd     // nil: not running
	gone chan struct{} // closed when it has ended
}

// URL is for NATS clients.
func (p *Program) URL() string { return "nats://" + testkit.Addr(p.Port) }

// PidFile is there while the program runs.
func (p *Program) PidFile() string { return filepath.Join(p.Dir, "server.pid") }

func (p *Program) logPath() string { return filepath.Join(p.Dir, "server.log") }

// Start returns once the program has written its ports file, which is when all its
// listeners accept, or with the end of what it said if it has ended.
func (p *Program) Start() error {
	if p.cmd != nil {
		return errors.New("server already running")
	}
	log, err := os.Create(p.logPath())
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{"-a", "127.0.0.1", "-p", fmt.Sprint(p.Port), "--ports_file_dir", p.Dir, "-P", p.PidFile()}
	cmd := exec.Command(p.Bin, append(args, p.Args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	gone := make(chan struct{})
	p.cmd, p.gone = cmd, gone
	go func() {
		_ = cmd.Wait() // the log says why
		close(gone)
	}()
	ports := filepath.Join(p.Dir, fmt.Sprintf("%s_%d.ports", filepath.Base(p.Bin), cmd.Process.Pid))
	err = p.until("written "+filepath.Base(ports), func() bool {
		_, err := os.Stat(ports)
		return err == nil
	})
	if err != nil {
		p.Stop()
	}
	return err
}

// until polls for something that the running program does.
func (p *Program) until(what string, done func() bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(testkit.Patience); time.Now().Before(end); <-tick.C {
		if done() {
			return nil
		}
		select {
		case <-p.gone:
			return fmt.Errorf("the server ended: %s", p.lastWords())
		default:
		}
	}
	return fmt.Errorf("the server has not %s: %s", what, p.lastWords())
}

func (p *Program) lastWords() string {
	log, err := os.ReadFile(p.logPath())
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(log[max(0, len(log)-2000):]))
}

func (p *Program) signal(s syscall.Signal) error {
	if p.cmd == nil {
		return errors.New("server not running")
	}
	return p.cmd.Process.Signal(s)
}

// Stop ends the program as an operator would, and is content if it has ended.
func (p *Program) Stop() {
	if p.cmd == nil {
		return
	}
	_ = p.signal(syscall.SIGINT)
	select {
	case <-p.gone:
	case <-time.After(testkit.Patience):
		_ = p.signal(syscall.SIGKILL)
		<-p.gone
	}
	p.cmd = nil
}

// Reload returns once the program says that it has read its configuration again.
func (p *Program) Reload() error {
	before := p.reloads()
	if err := p.signal(syscall.SIGHUP); err != nil {
		return err
	}
	return p.until("reloaded", func() bool { return p.reloads() > before })
}

func (p *Program) reloads() int {
	log, _ := os.ReadFile(p.logPath())
	return bytes.Count(log, []byte("Reloaded server configuration"))
}
