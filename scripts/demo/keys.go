package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// key is what a person or the script asks for.
type key byte

const (
	cut  key = 'c'
	plug key = 'p'
	quit key = 'q'
)

// keyboard sends the keys pressed, without waiting for Enter if the standard input
// is a terminal, and returns how to leave the terminal as it was.
func keyboard(keys chan<- key) (restore func(), terminal bool) {
	restore = func() {}
	fd := int(os.Stdin.Fd())
	if old, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil {
		raw := *old
		raw.Lflag &^= unix.ICANON | unix.ECHO
		raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
		if unix.IoctlSetTermios(fd, unix.TCSETS, &raw) == nil {
			terminal = true
			restore = func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, old) }
		}
	}
	go func() { // ends with the program: a read of a terminal cannot be called back
		var b [1]byte
		for {
			n, err := os.Stdin.Read(b[:])
			if err != nil || n == 0 {
				return // unattended: the script, -for or Ctrl-C will do
			}
			switch k := key(b[0]); k {
			case cut, plug, quit:
				keys <- k
			}
		}
	}()
	return restore, terminal
}

// step is a key of the script and when it is pressed.
type step struct {
	key key
	at  time.Duration
}

var stepNames = map[string]key{"cut": cut, "plug": plug, "quit": quit}

// parseScript reads "cut@5s,plug@15s,quit@20s".
func parseScript(script string) ([]step, error) {
	var steps []step
	if script == "" {
		return nil, nil
	}
	for word := range strings.SplitSeq(script, ",") {
		name, at, ok := strings.Cut(strings.TrimSpace(word), "@")
		k, known := stepNames[name]
		d, err := time.ParseDuration(at)
		if !ok || !known || err != nil || d < 0 {
			return nil, fmt.Errorf("-script: %q is not a step; write cut, plug or quit and when, as cut@5s", word)
		}
		steps = append(steps, step{k, d})
	}
	return steps, nil
}

// follow presses the keys of the script, from now.
func follow(steps []step, keys chan<- key) {
	for _, s := range steps {
		time.AfterFunc(s.at, func() { keys <- s.key })
	}
}
