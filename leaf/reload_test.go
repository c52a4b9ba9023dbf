package leaf

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

// lines is a slog.Handler that keeps messages.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Enabled(context.Context, slog.Level) bool { return true }
func (l *lines) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *lines) WithGroup(string) slog.Handler            { return l }
func (l *lines) Handle(_ context.Context, r slog.Record) error {
	if r.Level == LevelTrace {
		l.mu.Lock()
		l.all = append(l.all, r.Message)
		l.mu.Unlock()
	}
	return nil
}

// take empties it, without who each line is about.
func (l *lines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.all
	l.all = nil
	for i, s := range out {
		if _, text, ok := strings.Cut(s, " - cid:"); ok {
			_, out[i], _ = strings.Cut(text, " - ")
		}
	}
	return out
}

func in(lines []string) (out []string) {
	for _, l := range lines {
		if strings.HasPrefix(l, "<<-") {
			out = append(out, l)
		}
	}
	return out
}

func TestTrace(t *testing.T) {
	var log lines
	_, addr := startServer(t, Options{Trace: true, Logger: slog.New(&log)})
	dial(t, addr, `{"user":"u","pass":"canary","PASS":"canary","auth_token":"canary","jwt":"canary","sig":"canary","headers":true,"verbose":false,"pedantic":false}`).
		expect("SUB a.b 1\r\nPUB a.b r 5\r\nhel\r\n\r\nHPUB x 12 14\r\nNATS/1.0\r\n\r\nhi\r\nUNSUB 1 5\r\n", "MSG a.b 1 r 5\r\nhel\r\n\r\n")
	want := []string{
		`<<- [CONNECT {"PASS":"[REDACTED]","auth_token":"[REDACTED]","headers":true,"jwt":"[REDACTED]","pass":"[REDACTED]","pedantic":false,"sig":"[REDACTED]","user":"u","verbose":false}]`,
		`<<- [SUB a.b 1]`, `<<- [PUB a.b r 5]`, `<<- MSG_PAYLOAD: ["hel\r\n"]`,
		`<<- [HPUB x 12 14]`, `<<- MSG_PAYLOAD: ["NATS/1.0\r\n\r\nhi"]`, `<<- [UNSUB 1 5]`, `<<- [PING]`,
		`->> [MSG a.b 1 r 5]`, `->> MSG_PAYLOAD: ["hel\r\n"]`, `->> [PONG]`,
	}
	var got []string
	testkit.Eventually(t, func() bool { got = append(got, log.take()...); return len(got) >= len(want) }, "%d lines", len(want))
	if fmt.Sprintf("%q", append(in(got), notBy(got, "<<-")...)) != fmt.Sprintf("%q", want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func notBy(lines []string, prefix string) (out []string) {
	for _, l := range lines {
		if !strings.HasPrefix(l, prefix) {
			out = append(out, l)
		}
	}
	return out
}

// However a stream is cut into reads, the same operations are shown; and what is not
// one, a secret perhaps, is not.
func TestTraceSplitAnywhere(t *testing.T) {
	const stream = "SUB a 1\r\nPUB a 4\r\nPUB \r\nHPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\nCONNEKT canary\r\nCONNECT {\"pass\":\"canary\"\r\nPING\r\n"
	want := `["<<- [SUB a 1]" "<<- [PUB a 4]" "<<- MSG_PAYLOAD: [\"PUB \"]" "<<- [HPUB a 12 12]" "<<- MSG_PAYLOAD: [\"NATS/1.0\\r\\n\\r\\n\"]"` +
		` "<<- [unknown operation, 16 bytes]" "<<- [CONNECT (not JSON)]" "<<- [PING]"]`
	for i := range stream {
		var log lines
		tr := &tracer{log: slog.New(&log), who: "x - cid:1", dir: "<<-"}
		tr.read([]byte(stream[:i]))
		for _, b := range []byte(stream[i:min(i+7, len(stream))]) {
			tr.read([]byte{b})
		}
		tr.read([]byte(stream[min(i+7, len(stream)):]))
		if got := fmt.Sprintf("%q", log.take()); got != want {
			t.Fatalf("split at %d:\n got %s\nwant %s", i, got, want)
		}
	}
}

func TestTraceLimits(t *testing.T) {
	var log lines
	tr := &tracer{log: slog.New(&log), who: "x - cid:1", dir: "<<-", max: 3}
	tr.read([]byte("PUB a 5\r\nhello\r\n"))
	tr.max, tr.heads = 0, true
	tr.read([]byte("HPUB a 18 20\r\nNATS/1.0\r\nA: b\r\n\r\nhi\r\nPUB a 5\r\nhello\r\n"))
	want := `["<<- [PUB a 5]" "<<- MSG_PAYLOAD: [\"hel...\"]" "<<- [HPUB a 18 20]" "<<- MSG_PAYLOAD: [\"NATS/1.0\\r\\nA: b\"]" "<<- [PUB a 5]"]`
	if got := fmt.Sprintf("%q", log.take()); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	tr.read([]byte(strings.Repeat("x", 3*maxTracedLine)))
	if len(tr.buf) > maxTracedLine {
		t.Errorf("it keeps %d bytes of a line without an end", len(tr.buf))
	}
}

// FuzzTrace: whatever comes is shown without a panic, and kept within bounds.
func FuzzTrace(f *testing.F) {
	f.Add([]byte("PUB a 3\r\nabc\r\n"), 4)
	f.Add([]byte("HPUB a 99999999999999 -1\r\n\r\n\r\nMSG  \r\n"), 1)
	f.Add([]byte("CONNECT {\"pass\":\"x\"}\r\n-ERR 'x'\r\nPUB\r\n"), 9)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		var log lines
		tr := &tracer{log: slog.New(&log), max: 10}
		cut = min(max(cut, 0), len(b))
		tr.read(b[:cut])
		tr.read(b[cut:])
		if len(tr.buf) > len(b) {
			t.Fatal("it keeps more than there was")
		}
	})
}

// A client that is connected follows a reload: its limits, what INFO says, and the
// trace, which begins with an operation and not within one.
func TestReloadFollowsClients(t *testing.T) {
	var log lines
	s, addr := startServer(t, Options{Logger: slog.New(&log)})
	c := dial(t, addr, `{"protocol":1}`)
	old := dial(t, addr, `{}`)
	old.expect("", "")
	c.expect("SUB a 1\r\nPUB a 20\r\nxxxxxxxxxxxxxxxxxxxx\r\n", "MSG a 1 20\r\nxxxxxxxxxxxxxxxxxxxx\r\n")
	s.Reload(Options{MaxPayload: 10, MaxSubs: 2, Trace: true, AdvertiseHost: "gw", AdvertisePort: 7, MaxControlLine: 512})
	var info clientInfo
	if line := c.line(); json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info) != nil || info.MaxPayload != 10 || info.Host != "gw" || info.Port != 7 {
		t.Errorf("told %s", line)
	}
	old.expect("", "") // one that knows no INFO out of turn gets none
	c.expect("SUB b 2\r\nSUB c 3\r\n", "-ERR 'maximum subscriptions exceeded'\r\n")
	log.take()
	s.Reload(Options{MaxPayload: 10, MaxControlLine: 512, AdvertiseHost: "gw", AdvertisePort: 7})
	c.expect("PUB zz 0\r\n\r\n", "")
	if got := log.take(); len(got) > 0 {
		t.Errorf("traced when it was off: %q", got)
	}
	c.cutOff("PUB a 11\r\n", "Maximum Payload Violation")
}

// A trace that is switched on within a message begins after it.
func TestTraceBeginsWithAnOperation(t *testing.T) {
	a, b := testkit.Pipe(1 << 10)
	defer a.Close()
	defer b.Close()
	s := New(Options{}, NewRouter())
	c := newConn(s, a, 1)
	c.parser = c.newParser()
	on := &Options{Trace: true}
	read := func(text string) {
		for len(text) > 0 {
			n, _, err := c.parser.next([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			text = text[n:]
		}
	}
	for _, part := range []string{"PU", "B x 12\r\n", "PUB q 1\r\n"} {
		c.news.Store(false)
		if read(part); c.inTap(on) != nil || !c.news.Load() {
			t.Errorf("after %q a trace begins", part)
		}
	}
	if read("abc\r\n"); c.inTap(on) == nil {
		t.Error("after the message no trace begins")
	}
}

// Of too many clients the last go, and the port takes no more.
func TestReloadOfMaxConns(t *testing.T) {
	s, addr := startServer(t, Options{})
	first := dial(t, addr, `{}`)
	first.expect("", "")
	second := dial(t, addr, `{}`)
	second.expect("", "")
	s.Reload(Options{MaxConns: 1})
	second.cutOff("", "maximum connections exceeded")
	first.expect("", "")
}

func TestNoHeaders(t *testing.T) {
	_, addr := startServer(t, Options{NoHeaders: true})
	c := dial(t, addr, `{"headers":true}`)
	c.expect("SUB a 1\r\n", "")
	c.cutOff("HPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n", "message headers not supported")
}

// A lame duck tells its clients, closes them after the grace one after another, and
// ends.
func TestLameDuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{}, NewRouter())
		dial := serveInMemory(t, s)
		s.LameDuck(t.Context(), time.Hour, time.Hour) // nobody is there to wait for
		s.lame.Store(false)
		clients := []*client{dial(`{"protocol":1}`), dial(`{"protocol":1}`), dial(`{}`)}
		for _, c := range clients {
			c.expect("SUB a 1\r\n", "")
		}
		start, done := time.Now(), make(chan struct{})
		go func() {
			defer close(done)
			s.LameDuck(t.Context(), 10*time.Second, 11*time.Second)
		}()
		for _, c := range clients[:2] {
			if line := c.line(); !strings.Contains(line, `"ldm":true`) {
				t.Errorf("told %s", line)
			}
		}
		<-time.After(10*time.Second - 1)
		clients[1].send("PUB a 2\r\nhi\r\n") // it is served until its turn comes
		if line := clients[0].line(); line != "MSG a 1 2" {
			t.Errorf("got %q", line)
		}
		<-done
		if took := time.Since(start); took <= 10*time.Second || took > 11*time.Second {
			t.Errorf("the last is closed after %v", took)
		}
		synctest.Wait()
		if n := s.Conns(); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
}

func TestLameDuckStops(t *testing.T) {
	s, addr := startServer(t, Options{})
	c := dial(t, addr, `{}`)
	c.expect("", "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.LameDuck(ctx, time.Hour, time.Hour)
	c.expect("", "")
}
