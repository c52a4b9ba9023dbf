package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"time"
)

// dest is where lines are written and what each begins with. Its writer is a file,
// standard error, a logFile or a syslogWriter. It belongs to whoever holds the
// logOut's mutex.
type dest struct {
	w    io.Writer
	head lineHead
}

// lineHead appends what stands before the text of a line.
type lineHead func(b []byte, level slog.Level, now time.Time) []byte

// openDest opens what the configuration asks for.
func openDest(c Log, stock bool) (*dest, error) {
	head := leafdHead(c.Time, c.UTC)
	if stock {
		head = natsHead(c.Time, c.UTC)
	}
	switch {
	case c.File != "":
		f, err := openLogFile(c.File, c.SizeLimit, c.MaxFiles)
		if err != nil {
			return nil, err
		}
		return &dest{f, head}, nil
	case c.Syslog:
		w, err := openSyslog(c.RemoteSyslog)
		if err != nil {
			return nil, err
		}
		return &dest{w, noHead}, nil
	case !stock && isJournal(os.Stderr):
		head = journalHead
	}
	return &dest{os.Stderr, head}, nil
}

// write puts a line out in one call. One that the destination does not take goes to
// standard error.
func (d *dest) write(line []byte, level slog.Level, now time.Time) error {
	b := d.head(make([]byte, 0, len(line)+48), level, now)
	b = append(append(b, line...), '\n')
	if s, ok := d.w.(*syslogWriter); ok {
		s.send(level, b)
		return nil
	}
	_, err := d.w.Write(b)
	if err != nil && d.w != io.Writer(os.Stderr) {
		os.Stderr.Write(b)
	}
	return err
}

// Close lets go of what openDest opened.
func (d *dest) Close() error {
	if c, ok := d.w.(io.Closer); ok && d.w != io.Writer(os.Stderr) {
		return c.Close()
	}
	return nil
}

// noHead is for syslog, which has the time and the level beside the text.
func noHead(b []byte, _ slog.Level, _ time.Time) []byte { return b }

// journalHead is a priority, as in syslog(3).
func journalHead(b []byte, level slog.Level, _ time.Time) []byte {
	return append(b, '<', priority(level), '>')
}

// leafdHead is "2026-11-25T09:00:00.000Z INFO ".
func leafdHead(withTime, utc bool) lineHead {
	return func(b []byte, level slog.Level, now time.Time) []byte {
		switch {
		case withTime && utc:
			b = now.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z ")
		case withTime:
			b = now.Local().AppendFormat(b, "2006-01-02T15:04:05.000-07:00 ")
		}
		return append(append(b, leafdLevels.of(level)...), ' ')
	}
}

// natsHead is "[4711] 2026/11/25 09:00:00.000000 [INF] ", as nats-server has it.
func natsHead(withTime, utc bool) lineHead {
	pid := "[" + strconv.Itoa(os.Getpid()) + "] "
	return func(b []byte, level slog.Level, now time.Time) []byte {
		b = append(b, pid...)
		if utc {
			now = now.UTC()
		}
		if withTime {
			b = now.AppendFormat(b, "2006/01/02 15:04:05.000000 ")
		}
		return append(append(append(b, '['), natsLevels.of(level)...), "] "...)
	}
}

// levelNames are what the levels are called, from trace to fatal.
type levelNames [6]string

var (
	leafdLevels = &levelNames{"TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"}
	natsLevels  = &levelNames{"TRC", "DBG", "INF", "WRN", "ERR", "FTL"}
)

func (n *levelNames) of(l slog.Level) string {
	for i, least := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError, levelFatal} {
		if l < least {
			return n[i]
		}
	}
	return n[5]
}

// priority is the level as in syslog(3).
func priority(l slog.Level) byte {
	switch {
	case l >= levelFatal:
		return '2'
	case l >= slog.LevelError:
		return '3'
	case l >= slog.LevelWarn:
		return '4'
	case l >= slog.LevelInfo:
		return '6'
	}
	return '7'
}

// logError explains why what cannot be logged to.
func logError(key, what string, err error) error {
	return fmt.Errorf("%s: cannot log to %s: %w; %s", key, what, reasonOf(err), fileRemedy(err, "choose another, or remove the key"))
}
