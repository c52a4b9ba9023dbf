package testkit

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Writes is what a program wrote into a directory and below.
type Writes struct {
	Calls int              // system calls that wrote or changed the size of a file
	Bytes int64            // that they wrote
	Files map[string]int64 // bytes by path
}

// tracedCalls are the ways a program can put bytes into a file or change its size.
// mmap is there to refuse to count when a file is mapped for writing, which no
// system call would show.
const tracedCalls = "write,pwrite64,writev,pwritev,pwritev2,copy_file_range,sendfile,splice," +
	"truncate,ftruncate,fallocate,mmap"

// straceLine is the command to run a program under, whose system calls then go to
// a file, one a line, written before the program goes on. The tracer is a
// grandchild (-D), so that the process that is started is the program itself: it
// gets the signals, and needs no permission to be attached to.
//
// The kernel's own count, /proc/PID/io, would not do: it does not say which file,
// and a gateway writes to sockets and to its log all the time.
func straceLine(t T, to string) []string {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatalf("count writes: %v (on Debian: apt-get install strace)", err)
	}
	return []string{strace, "-D", "-f", "--seccomp-bpf", "-y", "-qq", "-s", "0", "-A", "-o", to, "-e", "trace=" + tracedCalls}
}

// Writes returns what leafd has written into dir since it was first started, over
// all runs. It needs LeafdOptions.TraceWrites. A write that leafd could tell of, by
// an answer to somebody for instance, is counted.
func (l *Leafd) Writes(dir string) Writes {
	l.t.Helper()
	if l.trace == "" {
		l.t.Fatalf("count writes: LeafdOptions.TraceWrites was not set")
	}
	f, err := os.Open(l.trace)
	if err != nil {
		l.t.Fatalf("count writes: %v", err)
	}
	defer f.Close()
	w, mapped, err := countWrites(f, dir)
	switch {
	case err != nil:
		l.t.Fatalf("count writes: %v", err)
	case mapped != "":
		l.t.Fatalf("count writes: %s is mapped for writing, so system calls do not show what is written", mapped)
	}
	return w
}

// A line of strace -f -y: a thread, a call whose files have their path in angle
// brackets, and its result. A call that another thread's line interrupts has its
// result on a line of its own.
var (
	traceLine   = regexp.MustCompile(`^(\d+) +(\w+)\((.*)`)
	traceResume = regexp.MustCompile(`^(\d+) +<\.\.\. (\w+) resumed>`)
	traceResult = regexp.MustCompile(` = (-?\d+|0x[0-9a-f]+)(?: .*)?$`)
	tracePath   = regexp.MustCompile(`\d+<([^>]*)>`)
)

type tracedCall struct{ name, path, args string }

func countWrites(r io.Reader, dir string) (w Writes, mapped string, err error) {
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return w, "", err
	}
	w.Files = map[string]int64{}
	open := map[string]tracedCall{} // by thread
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		var thread string
		if m := traceLine.FindStringSubmatch(line); m != nil {
			thread = m[1]
			open[thread] = tracedCall{name: m[2], path: writtenPath(m[2], m[3]), args: m[3]}
		} else if m := traceResume.FindStringSubmatch(line); m != nil {
			thread = m[1]
		} else {
			continue // a signal, or the end of a thread
		}
		result := traceResult.FindStringSubmatch(line)
		if result == nil {
			continue // unfinished
		}
		call := open[thread]
		delete(open, thread)
		if call.path != dir && !strings.HasPrefix(call.path, dir+"/") {
			continue
		}
		if call.name == "mmap" {
			if strings.Contains(call.args, "PROT_WRITE") && strings.Contains(call.args, "MAP_SHARED") {
				mapped = call.path
			}
			continue
		}
		n, err := strconv.ParseInt(result[1], 0, 64)
		if err != nil || n < 0 {
			continue // it failed, or its thread was killed before strace could ask
		}
		w.Calls++
		w.Bytes += n
		w.Files[call.path] += n
	}
	return w, mapped, lines.Err()
}

// writtenPath picks the file that a call writes to from its arguments.
func writtenPath(call, args string) string {
	if call == "truncate" {
		path, _, _ := strings.Cut(strings.TrimPrefix(args, `"`), `"`)
		return path
	}
	files := tracePath.FindAllStringSubmatch(args, -1)
	switch {
	case len(files) == 0:
		return ""
	case (call == "copy_file_range" || call == "splice") && len(files) > 1:
		return strings.TrimSuffix(files[1][1], " (deleted)")
	}
	return strings.TrimSuffix(files[0][1], " (deleted)")
}
