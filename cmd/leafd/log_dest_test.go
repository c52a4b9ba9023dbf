package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/leafd/leafd/internal/testkit"
	"github.com/leafd/leafd/leaf"
)

// logTo is a logger as c asks for, and its logs.
func logTo(t *testing.T, c *Config, stock bool) (*slog.Logger, *logs) {
	t.Helper()
	l, err := newLogs(c, stock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.close() })
	return l.logger(), l
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestLogFormats(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	pid := fmt.Sprintf(`^\[%d\] `, os.Getpid())
	for _, c := range []struct {
		stock, time, utc bool
		want             string
	}{
		{true, true, true, pid + `\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} \[INF\] a b=1\n` + pid[1:] + `\S+ \S+ \[FTL\] end\n$`},
		{true, false, false, pid + `\[INF\] a b=1\n` + pid[1:] + `\[FTL\] end\n$`},
		{false, true, true, `^\d{4}-\d\d-\d\dT[0-9:.]{12}Z INFO a b=1\n\S+ FATAL end\n$`},
		{false, true, false, `^\d{4}-\d\d-\d\dT[0-9:.]{12}[+-]\d\d:\d\d INFO a b=1\n\S+ FATAL end\n$`},
		{false, false, false, `^INFO a b=1\nFATAL end\n$`},
	} {
		os.Remove(path)
		cfg := &Config{Log: Log{File: path, Time: c.time, UTC: c.utc}}
		log, _ := logTo(t, cfg, c.stock)
		log.Info("a", "b", 1)
		log.Debug("hidden")
		log.Log(t.Context(), levelFatal, "end")
		if got := readFile(t, path); !regexp.MustCompile(c.want).MatchString(got) {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

// Debug and trace are switched apart from one another, and while the program runs.
func TestLogLevels(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	cfg := &Config{Log: Log{File: path}, Trace: true}
	log, l := logTo(t, cfg, true)
	write := func() {
		log.Debug("d")
		log.Log(t.Context(), leaf.LevelTrace, "t")
	}
	write()
	cfg.Debug, cfg.Trace = true, false
	l.use(l.out.dest, cfg)
	write()
	if got := readFile(t, path); !regexp.MustCompile(`^\S+ \[TRC\] t\n\S+ \[DBG\] d\n$`).MatchString(got) {
		t.Errorf("%q", got)
	}
}

func TestLogFileRotates(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	log, _ := logTo(t, &Config{Log: Log{File: path, SizeLimit: 100, MaxFiles: 3}}, false)
	for i := range 20 {
		log.Info(fmt.Sprintf("line %02d of forty-two bytes, more or less", i))
	}
	files, _ := filepath.Glob(path + "*")
	if len(files) != 3 {
		t.Fatalf("%q", files)
	}
	var all string
	for _, f := range append(files[1:], files[0]) {
		text := readFile(t, f)
		if len(text) > 100 {
			t.Errorf("%s is %d bytes", f, len(text))
		}
		all += text
	}
	if strings.Count(all, "\n") != 6 || !strings.HasSuffix(all, "line 19 of forty-two bytes, more or less\n") || !strings.HasPrefix(all, "INFO line 14") {
		t.Errorf("%s", all)
	}
}

// A file that logrotate moved away is let go of by SIGUSR1, and nothing is lost.
func TestLogFileReopens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	log, l := logTo(t, &Config{Log: Log{File: path}}, false)
	log.Info("one")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	log.Info("two")
	if err := l.reopen(); err != nil {
		t.Fatal(err)
	}
	log.Info("three")
	if a, b := readFile(t, path+".1"), readFile(t, path); a != "INFO one\nINFO two\n" || b != "INFO three\n" {
		t.Errorf("%q %q", a, b)
	}
}

func TestLogRefusesWhatItCannotOpen(t *testing.T) {
	_, err := newLogs(&Config{Log: Log{File: "/nonexistent/log"}}, false)
	if err == nil || !strings.Contains(err.Error(), "log_file: cannot log to /nonexistent/log: no such file") {
		t.Error(err)
	}
	_, l := logTo(t, &Config{}, false)
	if err := l.reopen(); err == nil {
		t.Error("standard error was reopened")
	}
}

func TestSyslogURL(t *testing.T) {
	for url, want := range map[string]string{
		"udp://h": "udp h:514", "udp://h:1": "udp h:1", "tcp://[::1]:2": "tcp [::1]:2", "unix:///dev/log": "unixgram /dev/log",
		"h:514": "", "http://h": "", "udp://": "", "unix://": "", "": "",
	} {
		network, addr, err := parseSyslogURL(url)
		if got := strings.TrimSpace(network + " " + addr); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", url, got, err)
		}
	}
}

func TestRemoteSyslog(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	log, l := logTo(t, &Config{Log: Log{Syslog: true, RemoteSyslog: "udp://" + pc.LocalAddr().String()}}, true)
	log.Warn("two\nlines", "n", 1)
	buf := make([]byte, 2048)
	n, _, err := pc.ReadFrom(buf)
	// 28: facility daemon, warning.
	if got := string(buf[:n]); err != nil || !strings.HasPrefix(got, "<28>") || !strings.HasSuffix(got, `]: two\nlines n=1`+"\n") {
		t.Errorf("%q %v", got, err)
	}
	w := l.out.dest.w.(*syslogWriter)
	testkit.Eventually(t, func() bool { return len(w.lines) == 0 }, "the queue to be empty")
}

// A system log that is away neither stops the start nor holds anyone up.
func TestSyslogAway(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	w, err := openSyslog("tcp://" + ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for range 10 * syslogQueue {
		w.send(slog.LevelDebug, nil)
	}
	if err := errors.Join(w.Close()); err != nil {
		t.Error(err)
	}
	<-w.done
}
