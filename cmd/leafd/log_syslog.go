package main

import (
	"fmt"
	"log/slog"
	"log/syslog"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// syslogWriter sends lines to a system log that may be slow or away. A goroutine of
// its own waits for it; while it does, up to syslogQueue lines wait, and what comes
// beyond goes to standard error. Close ends the goroutine.
type syslogWriter struct {
	network, addr string // static; empty: this machine's
	lines         chan syslogLine
	stop          chan struct{}
	done          chan struct{}
	conn          *syslog.Writer // owned by run
	retry         time.Time      // owned by run: no attempt to connect before
}

type syslogLine struct {
	level slog.Level
	text  []byte
}

const (
	syslogQueue = 256
	syslogRetry = 5 * time.Second
)

// parseSyslogURL reads udp://host:514, tcp://host:514 or unix:///path.
func parseSyslogURL(s string) (network, addr string, err error) {
	u, err := url.Parse(s)
	if err == nil {
		switch u.Scheme {
		case "udp", "tcp":
			if u.Hostname() == "" {
				break
			}
			if u.Port() == "" {
				u.Host += ":514"
			}
			return u.Scheme, u.Host, nil
		case "unix", "unixgram":
			if u.Path != "" {
				return "unixgram", u.Path, nil
			}
		}
	}
	return "", "", fmt.Errorf("it is not the URL of a system log; write udp://host:514, tcp://host:514 or unix:///dev/log")
}

// openSyslog starts a writer to the log at url, or to this machine's. A log that is
// away is no error: a gateway starts without a network.
func openSyslog(url string) (*syslogWriter, error) {
	w := &syslogWriter{lines: make(chan syslogLine, syslogQueue), stop: make(chan struct{}), done: make(chan struct{})}
	if url != "" {
		var err error
		if w.network, w.addr, err = parseSyslogURL(url); err != nil {
			return nil, fmt.Errorf("remote_syslog: %w", err)
		}
	}
	go w.run()
	return w, nil
}

// send hands a line over. It does not block.
func (w *syslogWriter) send(level slog.Level, line []byte) {
	select {
	case w.lines <- syslogLine{level, line}:
	default:
		os.Stderr.Write(line)
	}
}

// Write implements io.Writer.
func (w *syslogWriter) Write(line []byte) (int, error) {
	w.send(slog.LevelInfo, line)
	return len(line), nil
}

// run ends when Close has been called and what waits is sent.
func (w *syslogWriter) run() {
	defer close(w.done)
	for {
		select {
		case l := <-w.lines:
			w.put(l)
			continue
		case <-w.stop:
		}
		for len(w.lines) > 0 {
			w.put(<-w.lines)
		}
		if w.conn != nil {
			w.conn.Close()
		}
		return
	}
}

// put sends one line, or gives it to standard error.
func (w *syslogWriter) put(l syslogLine) {
	if w.conn == nil && time.Now().After(w.retry) {
		conn, err := syslog.Dial(w.network, w.addr, syslog.LOG_DAEMON|syslog.LOG_NOTICE, filepath.Base(os.Args[0]))
		if err != nil {
			w.retry = time.Now().Add(syslogRetry)
			fmt.Fprintf(os.Stderr, "WARN the system log is out of reach, lines come here until it is back: %v\n", reasonOf(err))
		} else {
			w.conn = conn
		}
	}
	if w.conn == nil || w.priority(l) != nil {
		os.Stderr.Write(l.text)
	}
}

func (w *syslogWriter) priority(l syslogLine) error {
	text := string(l.text)
	switch priority(l.level) {
	case '2':
		return w.conn.Crit(text)
	case '3':
		return w.conn.Err(text)
	case '4':
		return w.conn.Warning(text)
	case '6':
		return w.conn.Notice(text)
	}
	return w.conn.Debug(text)
}

// Close sends what waits, for at most a second, and ends the goroutine. It is to be
// called once.
func (w *syslogWriter) Close() error {
	close(w.stop)
	select {
	case <-w.done:
	case <-time.After(time.Second):
	}
	return nil
}
