package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestLogLine(t *testing.T) {
	u, _ := url.Parse("nats-leaf://edge:hunter2@hub:7422")
	for _, c := range []struct {
		log  func(*slog.Logger)
		want string
	}{
		{func(l *slog.Logger) { l.Info("link up", "url", u, "rtt", 3*time.Millisecond) }, "<6>link up url=nats-leaf://edge:xxxxx@hub:7422 rtt=3ms"},
		{func(l *slog.Logger) { l.Warn("no luck", "err", errors.New("a b\n<0>forged")) }, `<4>no luck err="a b\n<0>forged"`},
		{func(l *slog.Logger) { l.Error("two\nlines\x1b[2J", "n", 7) }, `<3>two\nlines\x1b[2J n=7`},
		{func(l *slog.Logger) { l.Debug("d", "on", true, "f", 1.5) }, "<7>d on=true f=1.5"},
		{func(l *slog.Logger) { l.Info("m", "a=b", "x=y", "empty", "", "quote", `"`) }, `<6>m "a=b"="x=y" empty="" quote="\""`},
		{func(l *slog.Logger) { l.Info("m", "bytes", []byte("ab"), "nil", nil, "bad", "\xff") }, `<6>m bytes=ab nil=<nil> bad="\xff"`},
		{func(l *slog.Logger) { l.With("conn", 3).WithGroup("g").With("a", 1).Info("m", "b", 2) }, "<6>m conn=3 g.a=1 g.b=2"},
		{func(l *slog.Logger) { l.WithGroup("").Info("m", slog.Group("g", "a", 1), slog.Group("", "b", 2)) }, "<6>m g.a=1 b=2"},
		{func(l *slog.Logger) { l.Info("m", "Password", "p", "token", "t", "seed", "s") }, "<6>m Password=(secret) token=(secret) seed=(secret)"},
		{func(l *slog.Logger) { l.Info("m", "at", time.Unix(0, 5e8).In(time.FixedZone("x", 3600))) }, "<6>m at=1970-01-01T00:00:00.5Z"},
		{func(l *slog.Logger) { l.Info("°C", "unit", "°C") }, "<6>°C unit=°C"},
	} {
		var out bytes.Buffer
		c.log(slog.New(newLogHandler(&out, slog.LevelDebug, true)))
		if got := out.String(); got != c.want+"\n" {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestLogLevelAndTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := slog.New(newLogHandler(&out, slog.LevelInfo, false))
		l.Debug("hidden")
		l.Info("seen")
		if got := out.String(); got != "2000-01-01T00:00:00.000Z INFO seen\n" {
			t.Errorf("%q", got)
		}
	})
}

// A fault that repeats is logged once, then counted, and the count is told when
// its minute is over.
func TestLogRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		h := newLogHandler(&out, slog.LevelInfo, true)
		l := slog.New(h)
		written := func() string {
			h.out.mu.Lock() // a timer writes, too
			defer h.out.mu.Unlock()
			defer out.Reset()
			return out.String()
		}
		for range 5 {
			l.Warn("cannot reach the hub", "err", "refused")
			l.Info("same", "n", 1)
		}
		l.Warn("cannot reach the hub", "err", "other")
		want := "<4>cannot reach the hub err=refused\n" + strings.Repeat("<6>same n=1\n", 5) + "<4>cannot reach the hub err=other\n"
		if got := written(); got != want {
			t.Fatalf("got\n%swant\n%s", got, want)
		}
		time.Sleep(repeatWindow)
		l.Info("later")
		l.Warn("cannot reach the hub", "err", "refused")
		want = "<4>cannot reach the hub err=refused repeated=4\n<6>later\n<4>cannot reach the hub err=refused\n"
		if got := written(); got != want {
			t.Fatalf("got\n%swant\n%s", got, want)
		}
	})
}

// The count is told also if no other line comes, and at the end.
func TestLogTellsTheLastRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		h := newLogHandler(&out, slog.LevelInfo, true)
		l := slog.New(h)
		for range 3 {
			l.Warn("no luck")
			time.Sleep(time.Second)
		}
		time.Sleep(repeatWindow - 3*time.Second)
		synctest.Wait()
		want := "<4>no luck\n<4>no luck repeated=2\n"
		if got := out.String(); got != want {
			t.Fatalf("got\n%swant\n%s", got, want)
		}
		l.Error("no luck again")
		l.Error("no luck again")
		if err := (&logs{out: h.out}).close(); err != nil {
			t.Fatal(err)
		}
		want += "<3>no luck again\n<3>no luck again repeated=1\n"
		if got := out.String(); got != want {
			t.Fatalf("got\n%swant\n%s", got, want)
		}
	})
}

// A fault that was over and is back is news, however soon. That of another device is not
// over with it.
func TestLogAllClear(t *testing.T) {
	var out bytes.Buffer
	l := slog.New(newLogHandler(&out, slog.LevelInfo, true))
	full := func() { l.Warn("store: no room on the disk, free some space", "dir", "/d") }
	full()
	full()
	l.Warn("store: another", "dir", "/d")
	l.Info("store: there is room again", "dir", "/d")
	full()
	l.Warn("store: another", "dir", "/d")
	a, b := l.With("device", "a"), l.With("device", "b")
	for range 2 {
		a.Warn("device is failed", "err", "EIO")
		b.Warn("device is failed", "err", "EIO")
		a.Info("device is ok")
	}
	want := "<4>store: no room on the disk, free some space dir=/d\n<4>store: another dir=/d\n" +
		"<4>store: no room on the disk, free some space dir=/d repeated=1\n<6>store: there is room again dir=/d\n" +
		"<4>store: no room on the disk, free some space dir=/d\n" +
		"<4>device is failed device=a err=EIO\n<4>device is failed device=b err=EIO\n<6>device is ok device=a\n" +
		"<4>device is failed device=a err=EIO\n<6>device is ok device=a\n"
	if got := out.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// The lines that are over and those that end them are the ones that are logged.
func TestAllClearsAreLogged(t *testing.T) {
	var source []byte
	for _, glob := range []string{"../../storefwd/*.go", "../../leaf/*.go", "../../hw/*.go"} {
		files, err := filepath.Glob(glob)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", glob, err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			source = append(source, text...)
		}
	}
	for _, c := range allClears {
		over, fault := c.over, c.fault
		if !bytes.Contains(source, []byte(`.Info("`+over+`"`)) {
			t.Errorf("nothing logs %q", over)
		}
		if !regexp.MustCompile(`\.(Warn|Error)\("` + regexp.QuoteMeta(fault)).Match(source) {
			t.Errorf("nothing logs %q", fault)
		}
	}
}

// However many different faults there are, none is lost and memory stays bounded.
func TestLogManyFaults(t *testing.T) {
	var out bytes.Buffer
	h := newLogHandler(&out, slog.LevelInfo, true)
	l := slog.New(h)
	for i := range 10 * maxRepeats {
		l.Error("fault", "n", i)
	}
	if n := strings.Count(out.String(), "\n"); n != 10*maxRepeats || len(h.out.repeats) != maxRepeats {
		t.Errorf("%d lines, %d remembered", n, len(h.out.repeats))
	}
}

func TestIsJournal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	t.Setenv("JOURNAL_STREAM", fmt.Sprintf("%d:%d", st.Dev, st.Ino))
	if !isJournal(f) {
		t.Error("the journal's stream is not recognised")
	}
	t.Setenv("JOURNAL_STREAM", "8:1")
	if isJournal(f) {
		t.Error("another stream is taken for the journal")
	}
}
