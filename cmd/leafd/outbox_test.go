package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leafd/leafd/storefwd"
)

// Who asks how the command is used gets told, and it is no error.
func TestOutboxHelp(t *testing.T) {
	for _, args := range []string{"--help", "-h", "-help", "help", "ls --help", "peek -h", "drop box --help", "import --help"} {
		var out, errOut bytes.Buffer
		if code := runOutbox(strings.Fields(args), nil, &out, &errOut); code != 0 || out.String() != outboxUsage || errOut.Len() > 0 {
			t.Errorf("%s: exit %d, %q, %q", args, code, out.String(), errOut.String())
		}
	}
	for _, args := range []string{"", "dance", "ls -x", "drop box"} {
		var out, errOut bytes.Buffer
		if code := runOutbox(strings.Fields(args), nil, &out, &errOut); code != 2 || !strings.HasSuffix(errOut.String(), outboxUsage) || out.Len() > 0 {
			t.Errorf("%q: exit %d, %q, %q", args, code, out.String(), errOut.String())
		}
	}
}

// A command says what it did, and what is wrong; how the store is opened is of no interest.
func TestCommandLogsNoInfo(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l := newLogger(f)
	l.Info("store: the journal is written somehow")
	l.With("a", 1).Warn("store: closing a file failed", "err", fs.ErrClosed)
	if b, err := os.ReadFile(f.Name()); err != nil || strings.Contains(string(b), "INFO") || !strings.Contains(string(b), "WARN store: closing a file failed a=1") {
		t.Errorf("%s%v", b, err)
	}
}

// A gateway that never knew the time has no date for its messages.
func TestUnknownTime(t *testing.T) {
	known := time.Date(2026, 11, 25, 9, 0, 0, 5e6, time.UTC)
	for _, c := range []struct {
		at           time.Time
		shown, field string
	}{{known, "7  2026-11-25T09:00:00.005Z  box.a  x\n", `"time":"2026-11-25T09:00:00.005Z"`}, {time.Time{}, "7  unknown  box.a  x\n", ""}} {
		r := newBoxRecord(&storefwd.Record{Seq: 7, Time: c.at, Subject: []byte("box.a"), Data: []byte("x")})
		var out bytes.Buffer
		if err := (&outboxCmd{out: &out}).show(&r); err != nil || out.String() != c.shown {
			t.Errorf("%q, %v", out.String(), err)
		}
		line, err := json.Marshal(&r)
		if err != nil || !strings.Contains(string(line), c.field) || strings.Contains(string(line), "0001") {
			t.Errorf("%s, %v", line, err)
		}
	}
}

// An outbox was killed before its name was on the disk, and renamed in the configuration. It is
// shown by its number, which is a name for the other commands: "ls" left it out.
func TestNamelessOutbox(t *testing.T) {
	at, dir := t.TempDir(), filepath.Join(t.TempDir(), "store")
	s, err := storefwd.Open(at, storefwd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := s.Log(logPrefix+"old", storefwd.Retention{Keep: storefwd.UntilAcked})
	if err != nil {
		t.Fatal(err)
	}
	killed := &storeBoxes{store: s}
	for range 3 {
		if _, err := killed.addOne(l, &boxRecord{Subject: "box.a"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(killed.safe(), os.CopyFS(dir, os.DirFS(at))); err != nil {
		t.Fatal(err)
	}
	cfg := defaultConfig()
	cfg.Store.Dir = dir
	cfg.Outboxes = []Outbox{{Name: "new", Subjects: []string{"box.>"}}}
	b, done, err := openToLook(cfg)
	if err != nil {
		t.Fatal(err)
	}
	name := wantNameless(t, b, 3)
	if err := done(); err != nil {
		t.Error(err)
	}
	if s, err = storefwd.Open(dir, storefwd.Options{}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	running := behindSocket(t, &storeBoxes{archive: s, store: s, state: cfg.stopped})
	if h := strings.Join(s.Health(), "\n"); !strings.Contains(h, `log "`+name+`" is not configured`) || wantNameless(t, running, 3) != name {
		t.Errorf("health %q, of %s", h, name)
	}
	if n, err := running.drop(strings.TrimPrefix(name, nameless), 2); n.Messages != 2 || err != nil {
		t.Errorf("dropped %+v, %v", n, err)
	}
	wantNameless(t, running, 1)
}

// wantNameless wants one outbox, without a name and of n messages that can be exported, and says what
// it is called.
func wantNameless(t *testing.T, b boxes, n int) string {
	t.Helper()
	all, err := b.list()
	if err != nil || len(all) != 1 || all[0].State != "not configured" || all[0].Messages != int64(n) || !strings.HasPrefix(all[0].Name, nameless) {
		t.Fatalf("%+v, %v", all, err)
	}
	var out strings.Builder
	c := &outboxCmd{out: &out}
	err = c.parse([]string{"export", all[0].Name})
	if err = errors.Join(err, c.do(b, 0)); err != nil || strings.Count(out.String(), `"box.a"`) != n {
		t.Errorf("%s%v", out.String(), err)
	}
	return all[0].Name
}
