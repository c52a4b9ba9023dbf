package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// rotatedStamp is what a full log file's name gets at its end, as in nats-server.
const rotatedStamp = "2006.01.02.15.04.05.000000000"

// logFile is a log file that is begun anew when it is full or was moved away. It
// belongs to whoever holds the logOut's mutex.
type logFile struct {
	path  string
	limit int64 // bytes; 0: none
	keep  int   // files, the current one included; 0: all
	f     *os.File
	size  int64
}

func openLogFile(path string, limit int64, keep int) (*logFile, error) {
	l := &logFile{path: path, limit: limit, keep: keep}
	if err := l.reopen(); err != nil {
		return nil, logError("log_file", path, err)
	}
	return l, nil
}

// reopen opens the file at the path, which may be another than it was. If that
// fails the old one stays in use.
func (l *logFile) reopen() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	if l.f != nil {
		l.f.Close()
	}
	l.f, l.size = f, st.Size()
	return nil
}

// Write appends one line.
func (l *logFile) Write(line []byte) (int, error) {
	if l.limit > 0 && l.size > 0 && l.size+int64(len(line)) > l.limit {
		if err := l.rotate(); err != nil {
			l.note(slog.LevelError, fmt.Sprintf("the log file is over its limit and stays in use: %v", err))
		}
	}
	n, err := l.f.Write(line)
	l.size += int64(n)
	return n, err
}

func (l *logFile) Close() error { return l.f.Close() }

// rotate moves the full file away, begins a new one and removes the oldest.
func (l *logFile) rotate() error {
	full := l.path + "." + time.Now().Format(rotatedStamp)
	if err := os.Rename(l.path, full); err != nil {
		l.size = 0 // the next attempt is a whole limit away
		return err
	}
	if err := l.reopen(); err != nil {
		l.size = 0
		return err
	}
	return l.purge()
}

// purge removes the oldest of the files that rotate moved away.
func (l *logFile) purge() error {
	if l.keep == 0 {
		return nil
	}
	entries, err := os.ReadDir(filepath.Dir(l.path))
	if err != nil {
		return err
	}
	var old []string // sorted, as ReadDir's are
	for _, e := range entries {
		stamp, ok := strings.CutPrefix(e.Name(), filepath.Base(l.path)+".")
		if _, err := time.Parse(rotatedStamp, stamp); ok && err == nil {
			old = append(old, e.Name())
		}
	}
	for len(old) > 0 && len(old) > l.keep-1 {
		if err := os.Remove(filepath.Join(filepath.Dir(l.path), old[0])); err != nil {
			return err
		}
		old = old[1:]
	}
	return nil
}

// note writes a line of the log's own to standard error, where the file's troubles
// belong.
func (l *logFile) note(level slog.Level, text string) {
	fmt.Fprintf(os.Stderr, "%s log_file %s: %s\n", cmp.Or(level, slog.LevelError), l.path, text)
}
