package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// tracedCalls are all calls that change files, and those that talk to clients and to
// the hub. That nothing is missing is tested: at the end of each recording the model's
// files must equal the real ones.
const tracedCalls = "openat,creat,write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,sync_file_range,sync,syncfs,msync," +
	"truncate,ftruncate,fallocate,rename,renameat,renameat2,link,linkat,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir," +
	"copy_file_range,sendfile,splice,mmap,read"

// straceLine is the command to run leafd under. The tracer is a grandchild, so that the
// process that is started is leafd itself.
func straceLine(log string, more ...string) []string {
	line := []string{"strace", "-D", "-f", "--seccomp-bpf", "-y", "-xx", "-q", "-A", "-s", "67108864",
		"-e", "signal=!urg", "-o", log, "-e", "trace=" + tracedCalls}
	return append(line, more...)
}

// call is one system call that succeeded. Lines of the log are its clock.
type call struct {
	name     string
	args     [][]byte // as strace prints them
	ret      int64
	retPath  string // of the file that was opened
	from, to int    // the lines where it begins and where it is done
	injected bool   // strace answered it, the kernel never saw it
}

// fd is the path, or the socket, of a file that is an argument.
func (c *call) fd(i int) string {
	if i >= len(c.args) {
		return ""
	}
	_, path, _ := bytes.Cut(c.args[i], []byte("<"))
	return strings.TrimSuffix(string(unhex(bytes.TrimSuffix(path, []byte(">")))), " (deleted)")
}

// text is a string argument, or all strings of an array of structures.
func (c *call) text(i int) (all []byte) {
	for rest := c.args[i]; ; {
		_, after, ok := bytes.Cut(rest, []byte(`"`))
		if !ok {
			return all
		}
		s, tail, _ := bytes.Cut(after, []byte(`"`))
		all, rest = append(all, unhex(s)...), tail
	}
}

// number is an argument that is one: the model would be wrong if it were taken for 0.
func (c *call) number(i int) int64 {
	n, err := strconv.ParseInt(string(c.args[i]), 0, 64)
	if err != nil {
		panic(failure(fmt.Sprintf("strace: %s: argument %d: %v", c.name, i, err)))
	}
	return n
}

// readTrace reads a log. Calls come in the order of the line that begins them.
func readTrace(path string) (calls []*call, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	open := map[string]*call{}  // by thread
	args := map[string][]byte{} // of these
	lines := bufio.NewReaderSize(f, 4<<20)
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		thread, rest, ok := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		rest = bytes.TrimLeft(rest, " ")
		if !ok || bytes.HasPrefix(rest, []byte("---")) || bytes.HasPrefix(rest, []byte("+++")) {
			continue
		}
		id := string(thread)
		if after, resumed := bytes.CutPrefix(rest, []byte("<... ")); resumed {
			_, after, _ = bytes.Cut(after, []byte(" resumed>"))
			rest = append(args[id], after...)
		} else {
			name, _, _ := bytes.Cut(rest, []byte("("))
			open[id] = &call{name: string(name), from: n}
			rest = slices.Clone(rest[len(name):])
		}
		if before, unfinished := bytes.CutSuffix(rest, []byte("<unfinished ...>")); unfinished {
			args[id] = slices.Clone(before)
			continue
		}
		c := open[id]
		if c == nil {
			continue
		}
		delete(open, id)
		delete(args, id)
		c.to = n
		if done, err := c.parse(rest); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		} else if done {
			calls = append(calls, c)
		}
	}
	slices.SortStableFunc(calls, func(a, b *call) int { return a.from - b.from })
	return calls, nil
}

// killed is the result strace now and then prints for a thread that is killed before it
// can be asked for one; at other times that is "?" or an errno of this number. What such a
// call did is not known, and nothing that the process did depends on it.
const killed = "18446744073709551615"

// parse reads "(args) = result". It reports whether the call is known to have succeeded.
func (c *call) parse(b []byte) (ok bool, err error) {
	at := bytes.LastIndex(b, []byte(") "))
	if at < 0 || len(b) == 0 || b[0] != '(' {
		return false, fmt.Errorf("not a call: %.100q", b)
	}
	_, result, _ := bytes.Cut(b[at:], []byte("= "))
	word, _, _ := bytes.Cut(result, []byte(" "))
	word, path, _ := bytes.Cut(word, []byte("<"))
	if string(word) == "?" || string(word) == killed {
		return false, nil
	}
	if c.ret, err = strconv.ParseInt(string(word), 0, 64); err != nil {
		return false, err
	}
	c.retPath = string(unhex(bytes.TrimSuffix(path, []byte(">"))))
	c.injected = bytes.Contains(result, []byte("(INJECTED)"))
	c.args = splitArgs(b[1:at])
	return c.ret >= 0, nil
}

// splitArgs cuts at the commas that are not within brackets.
// With -xx there is no bracket and no comma in a string.
func splitArgs(b []byte) (args [][]byte) {
	depth, start := 0, 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			i += 1 + bytes.IndexByte(b[i+1:], '"')
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		case ',':
			if depth == 0 {
				args = append(args, bytes.TrimSpace(b[start:i]))
				start = i + 1
			}
		}
	}
	if start < len(b) {
		args = append(args, bytes.TrimSpace(b[start:]))
	}
	return args
}

// unhex replaces each \xHH by its byte.
func unhex(b []byte) []byte {
	out := make([]byte, 0, len(b)/4+8)
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+3 < len(b) && b[i+1] == 'x' {
			out = append(out, nibble(b[i+2])<<4|nibble(b[i+3]))
			i += 3
			continue
		}
		out = append(out, b[i])
	}
	return out
}

func nibble(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}
