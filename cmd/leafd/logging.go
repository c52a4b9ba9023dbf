package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"
)

// A log line is one fact: "msg key=value …". Under systemd's journal it begins
// with a priority, <6>, and the journal adds the time (sd-daemon(3)); elsewhere
// it begins with the time and the level, or as nats-server's do. Whatever a client
// sends, a line stays one line.

// levelFatal is of the line that says why the program ends.
const levelFatal = slog.LevelError + 4

// logs is where the program's log goes. A reload changes it under its loggers.
type logs struct {
	out *logOut
}

// newLogs opens what c asks for.
func newLogs(c *Config, stock bool) (*logs, error) {
	l := &logs{out: &logOut{repeats: make(map[string]*repeat)}}
	next, err := openDest(c.Log, stock)
	if err != nil {
		return nil, err
	}
	return l, l.use(next, c)
}

// use lets lines go to d from now on, and closes what they went to before.
func (l *logs) use(d *dest, c *Config) error {
	l.out.mu.Lock()
	old := l.out.dest
	l.out.dest = d
	l.out.mu.Unlock()
	l.out.debug.Store(c.Debug)
	l.out.trace.Store(c.Trace)
	if old == nil || old == d {
		return nil
	}
	return old.Close()
}

func (l *logs) logger() *slog.Logger { return slog.New(&logHandler{out: l.out}) }

// reopen lets a log file that was moved away go, and begins it anew.
func (l *logs) reopen() error {
	l.out.mu.Lock()
	defer l.out.mu.Unlock()
	if f, ok := l.out.dest.w.(*logFile); ok {
		return f.reopen()
	}
	return errors.New("the log is not a file")
}

func (l *logs) close() error {
	l.out.mu.Lock()
	defer l.out.mu.Unlock()
	return errors.Join(l.out.tell(time.Now(), func(string, *repeat) bool { return true }), l.out.dest.Close())
}

// newLogger logs what is wrong to stderr, for a command that is not the daemon and
// says itself what it did.
func newLogger(stderr *os.File) *slog.Logger {
	return slog.New(newLogHandler(stderr, slog.LevelWarn, isJournal(stderr)))
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

// allClear is a line that says that a fault is over, and how the lines of that fault
// begin: when it comes again, it is news.
type allClear struct{ over, fault string }

var allClears = []allClear{
	{"store: there is room again", "store: no room "},
	{"store: the disk works again, acknowledging goes on", "store: nothing is acknowledged until the disk works again"},
	{"link to the hub is up", "no link to the hub"},
	{"device is ok", "device is "},
}

// logHandler is a slog.Handler. Those made by WithAttrs share its logOut.
type logHandler struct {
	out    *logOut
	prefix string // of keys: open groups, "a.b."
	attrs  string // already written, each with a space before it
}

// logOut is where lines go.
type logOut struct {
	quiet        bool        // info is not logged; static
	debug, trace atomic.Bool // which levels below info are logged

	mu      sync.Mutex
	dest    *dest              // guarded by mu
	repeats map[string]*repeat // guarded by mu; by line without its time
}

// repeat counts a line since it was last written.
type repeat struct {
	level slog.Level
	since time.Time
	count int
}

func newLogHandler(w io.Writer, level slog.Level, journal bool) *logHandler {
	d := &dest{w: w, head: leafdHead(true, true)}
	if journal {
		d.head = journalHead
	}
	out := &logOut{dest: d, repeats: make(map[string]*repeat), quiet: level > slog.LevelInfo}
	out.debug.Store(level <= slog.LevelDebug)
	return &logHandler{out: out}
}

func (h *logHandler) Enabled(_ context.Context, l slog.Level) bool {
	switch {
	case l >= slog.LevelInfo:
		return l > slog.LevelInfo || !h.out.quiet
	case l >= slog.LevelDebug:
		return h.out.debug.Load()
	}
	return h.out.trace.Load()
}

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

// Handle writes one line, or counts it if it was written less than a minute ago and what it
// says has not been over since.
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
	ends := slices.IndexFunc(allClears, func(c allClear) bool { return c.over == r.Message && r.Level == slog.LevelInfo })
	err := h.out.tell(now, func(line string, r *repeat) bool {
		return r.over(now) || ends >= 0 && strings.HasPrefix(line, allClears[ends].fault) && strings.Contains(line, h.attrs)
	})
	if err != nil {
		return err
	}
	if r.Level >= slog.LevelWarn && h.out.repeated(string(b), r.Level, now) {
		return nil
	}
	return h.out.write(b, r.Level, now)
}

// over says that a line's window has passed. A clock set back ends it, too.
func (r *repeat) over(now time.Time) bool {
	age := now.Sub(r.since)
	return age >= repeatWindow || age < -repeatWindow
}

// repeated reports whether line was written within the window, and counts it.
// With mu held.
func (o *logOut) repeated(line string, level slog.Level, now time.Time) bool {
	if r := o.repeats[line]; r != nil {
		if r.count++; r.count == 1 {
			time.AfterFunc(repeatWindow-now.Sub(r.since), o.expire)
		}
		return true
	}
	if len(o.repeats) < maxRepeats {
		o.repeats[line] = &repeat{level: level, since: now}
	}
	return false
}

// expire tells the counts whose window is over, if no other line comes that would.
func (o *logOut) expire() {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	_ = o.tell(now, func(_ string, r *repeat) bool { return r.over(now) }) // there is nobody to tell
}

// tell forgets lines that are over, and says how often they came again. With mu held.
func (o *logOut) tell(now time.Time, isOver func(line string, r *repeat) bool) error {
	var over []string
	for line, r := range o.repeats {
		if isOver(line, r) {
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
// With mu held.
func (o *logOut) write(line []byte, level slog.Level, now time.Time) error {
	return o.dest.write(line, level, now)
}

// secretKeys never have their value written, whoever logs them.
var secretKeys = []string{"password", "pass", "token", "auth_token", "seed", "nkey", "jwt", "sig"}

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
