package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"
)

// A log line is one fact: "msg key=value …". Under systemd's journal it begins
// with a priority, <6>, and the journal adds the time (sd-daemon(3)); elsewhere
// it begins with the time and the level. Whatever a client sends, a line stays
// one line.

// newLogger logs to stderr, from debug on if debug, else from info on.
func newLogger(stderr *os.File, debug bool) *slog.Logger {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	return slog.New(newLogHandler(stderr, level, isJournal(stderr)))
}

// isJournal reports whether f is the journal's own stream: JOURNAL_STREAM names
// its device and inode (systemd.exec(5)). That the variable is set is not enough,
// it is inherited by a shell whose output goes elsewhere.
func isJournal(f *os.File) bool {
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return false
	}
	return os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// repeatWindow is how long a warning or error that says the very same is counted
// in place of logged.
const (
	repeatWindow = time.Minute
	maxRepeats   = 64 // different lines remembered
)

// logHandler is a slog.Handler. Those made by WithAttrs share its logOut.
type logHandler struct {
	out    *logOut
	level  slog.Level
	prefix string // of keys: open groups, "a.b."
	attrs  string // already written, each with a space before it
}

// logOut is where lines go.
type logOut struct {
	// Static after newLogHandler.
	w       io.Writer
	journal bool

	mu      sync.Mutex
	repeats map[string]*repeat // guarded by mu; by line without its time
}

// repeat counts a line since it was last written.
type repeat struct {
	level slog.Level
	since time.Time
	count int
}

func newLogHandler(w io.Writer, level slog.Level, journal bool) *logHandler {
	return &logHandler{out: &logOut{w: w, journal: journal, repeats: make(map[string]*repeat)}, level: level}
}

func (h *logHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	b := []byte(h.attrs)
	for _, a := range attrs {
		b = appendAttr(b, h.prefix, a)
	}
	with := *h
	with.attrs = string(b)
	return &with
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	with := *h
	with.prefix += name + "."
	return &with
}

// Handle writes one line, or counts it if it was written less than a minute ago.
func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	b := appendText(nil, r.Message)
	b = append(b, h.attrs...)
	r.Attrs(func(a slog.Attr) bool {
		b = appendAttr(b, h.prefix, a)
		return true
	})
	now := r.Time
	if now.IsZero() {
		now = time.Now()
	}
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	if err := h.out.expire(now); err != nil {
		return err
	}
	if r.Level >= slog.LevelWarn && h.out.repeated(string(b), r.Level, now) {
		return nil
	}
	return h.out.write(b, r.Level, now)
}

// repeated reports whether line was written within the window, and counts it.
// With mu held.
func (o *logOut) repeated(line string, level slog.Level, now time.Time) bool {
	if r := o.repeats[line]; r != nil {
		r.count++
		return true
	}
	if len(o.repeats) < maxRepeats {
		o.repeats[line] = &repeat{level: level, since: now}
	}
	return false
}

// expire forgets lines whose window is over, and says how often they came again.
// A clock set back ends the window too. With mu held.
func (o *logOut) expire(now time.Time) error {
	var over []string
	for line, r := range o.repeats {
		if age := now.Sub(r.since); age >= repeatWindow || age < -repeatWindow {
			over = append(over, line)
		}
	}
	slices.Sort(over)
	for _, line := range over {
		r := o.repeats[line]
		delete(o.repeats, line)
		if r.count > 0 {
			b := append([]byte(line), " repeated="...)
			if err := o.write(strconv.AppendInt(b, int64(r.count), 10), r.level, now); err != nil {
				return err
			}
		}
	}
	return nil
}

// write puts a line out in one call, so that lines of two processes do not mix.
func (o *logOut) write(line []byte, level slog.Level, now time.Time) error {
	b := make([]byte, 0, len(line)+40)
	if o.journal {
		b = append(b, '<', priority(level), '>')
	} else {
		b = now.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z ")
		b = append(b, level.String()...)
		b = append(b, ' ')
	}
	b = append(b, line...)
	_, err := o.w.Write(append(b, '\n'))
	return err
}

// priority is the level as in syslog(3).
func priority(l slog.Level) byte {
	switch {
	case l >= slog.LevelError:
		return '3'
	case l >= slog.LevelWarn:
		return '4'
	case l >= slog.LevelInfo:
		return '6'
	}
	return '7'
}

// secretKeys never have their value written, whoever logs them.
var secretKeys = []string{"password", "pass", "token", "seed", "nkey", "jwt", "sig"}

func appendAttr(b []byte, prefix string, a slog.Attr) []byte {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, inner := range v.Group() {
			b = appendAttr(b, prefix, inner)
		}
		return b
	}
	if a.Key == "" && v.Kind() == slog.KindAny && v.Any() == nil {
		return b
	}
	b = append(b, ' ')
	b = appendValue(b, prefix+a.Key)
	b = append(b, '=')
	if slices.Contains(secretKeys, strings.ToLower(a.Key)) {
		return append(b, "(secret)"...)
	}
	return appendValue(b, valueText(v))
}

func valueText(v slog.Value) string {
	switch v.Kind() {
	case slog.KindTime:
		return v.Time().UTC().Format(time.RFC3339Nano)
	case slog.KindAny:
		switch x := v.Any().(type) {
		case *url.URL:
			return x.Redacted()
		case []byte:
			return string(x)
		}
	}
	return v.String()
}

// appendValue quotes what would not read as one word.
func appendValue(b []byte, s string) []byte {
	plain := func(r rune) bool {
		return r != ' ' && r != '"' && r != '=' && r != utf8.RuneError && unicode.IsPrint(r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return append(b, s...)
	}
	return strconv.AppendQuote(b, s)
}

// appendText writes a message as it is, but for what is not printable.
func appendText(b []byte, s string) []byte {
	if strings.IndexFunc(s, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }) < 0 {
		return append(b, s...)
	}
	q := strconv.Quote(s)
	return append(b, q[1:len(q)-1]...)
}
