package main

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/leafd/leafd/storefwd"
)

// openTarget is a store with an outbox "box" on "box.>" and "t.*.x".
func openTarget(t *testing.T, r storefwd.Retention) *storeBoxes {
	t.Helper()
	s, err := storefwd.Open(t.TempDir(), storefwd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	l, err := s.Log(logPrefix+"box", r)
	if err != nil {
		t.Fatal(err)
	}
	return &storeBoxes{archive: s, store: s, logs: map[string]target{"box": {l, []string{"box.>", "t.*.x"}}},
		state: func(string) (string, bool) { return "stopped", true }}
}

// behindSocket is b as a leafd has it that runs.
func behindSocket(t *testing.T, b *storeBoxes) boxes {
	t.Helper()
	dir := t.TempDir()
	ln, err := listenCtl(dir)
	if err != nil {
		t.Fatal(err)
	}
	cfg := defaultConfig()
	srv := &http.Server{Handler: ctlHandler(b, nil, cfg.importLine())}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() {
		srv.Close()
		<-served
	})
	return &ctlBoxes{dir}
}

// eachWay runs fn on an outbox of a leafd that does not run and of one that does; runImport
// is "leafd outbox import box".
func eachWay(t *testing.T, r storefwd.Retention, fn func(t *testing.T, l *storefwd.Log, runImport func(in string) (out string, err error))) {
	for _, name := range []string{"stopped", "running"} {
		t.Run(name, func(t *testing.T) {
			store := openTarget(t, r)
			var b boxes = store
			if name == "running" {
				b = behindSocket(t, store)
			}
			fn(t, store.logs["box"].log, func(in string) (string, error) {
				var out strings.Builder
				c := &outboxCmd{verb: "import", name: "box", in: strings.NewReader(in), out: &out}
				cfg := defaultConfig()
				err := c.do(b, cfg.importLine())
				return out.String(), err
			})
		})
	}
}

// wantError wants each of says in the error.
func wantError(t *testing.T, err error, says ...string) {
	t.Helper()
	for _, s := range says {
		if err == nil || !strings.Contains(err.Error(), s) {
			t.Errorf("%v; want %q", err, s)
		}
	}
}

// A message that the hub's stream would refuse for its subject must not stand in front of
// all others, and the file says in which line it is, empty ones counted.
func TestImportTakesSubjectsOfTheOutbox(t *testing.T) {
	eachWay(t, storefwd.Retention{}, func(t *testing.T, l *storefwd.Log, runImport func(string) (string, error)) {
		for _, c := range []struct{ subject, says string }{
			{"barn.a", `line 4: outbox "box" takes "box.>", "t.*.x", and not "barn.a"; import the line into`},
			{"box", `and not "box"`},
			{"t.a", `and not "t.a"`},
			{"$JS.API.STREAM.PURGE.X", "and not"},
			{"box..a", `line 4: "box..a" is not a subject; correct it`},
			{"box.*", "is not a subject"},
		} {
			_, err := runImport(`{"subject":"box.a"}` + "\n\n\n" + `{"subject":"` + c.subject + `"}` + "\n")
			wantError(t, err, c.says)
		}
		if _, err := runImport(`{"subject":"box.b.c"}` + "\n" + `{"subject":"t.a.x"}`); err != nil {
			t.Error(err)
		}
		if n := l.Stats().Last; n != 8 {
			t.Errorf("%d messages were taken", n)
		}
	})
}

func TestImportTakesHeaders(t *testing.T) {
	eachWay(t, storefwd.Retention{}, func(t *testing.T, l *storefwd.Log, runImport func(string) (string, error)) {
		for _, c := range []struct {
			header string
			good   bool
		}{
			{"", true}, {"NATS/1.0\r\n\r\n", true}, {"NATS/1.0 503 no\r\n\r\n", true}, {"NATS/1.0\r\nA: b\r\nNmqtt-Pub:1\r\nC:\r\n\r\n", true},
			{"x", false}, {"NATS/1.0", false}, {"NATS/1.0\r\n", false}, {"NATS/1.0\n\n", false}, {"NATS/1.01\r\n\r\n", false},
			{"NATS/1.0\r\nA: b\r\n", false}, {"NATS/1.0\r\nA: b\n\r\n\r\n", false}, {"NATS/1.0\r\nA\r\n\r\n", false}, {"NATS/1.0\r\n: b\r\n\r\n", false},
			{"NATS/1.0\r\n\r\nA: b\r\n\r\n", false}, {"A: b\r\n\r\n", false}, {"\r\n\r\n", false},
		} {
			_, err := runImport(`{"subject":"box.a","header":"` + base64.StdEncoding.EncodeToString([]byte(c.header)) + `"}`)
			if c.good && err != nil {
				t.Errorf("%q: %v", c.header, err)
			}
			if !c.good {
				wantError(t, err, "line 1: its header, in base64, is not one of NATS", "correct it")
			}
		}
		if n := l.Stats().Last; n != 4 {
			t.Errorf("%d messages were taken", n)
		}
	})
}
