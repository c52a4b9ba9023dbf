package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leafd/leafd/storefwd"
)

// openTarget is a store with an outbox "box" on "box.>" and "t.*.x".
func openTarget(t *testing.T, r storefwd.Retention) *storeBoxes {
	t.Helper()
	s, err := storefwd.Open(t.TempDir(), storefwd.Options{Clock: storefwd.SystemClock("always")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	l, err := s.Log(logPrefix+"box", r)
	if err != nil {
		t.Fatal(err)
	}
	return &storeBoxes{archive: s, store: s, logs: map[string]target{"box": {log: l, subjects: []string{"box.>", "t.*.x"}}},
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
		} {
			_, err := runImport(`{"subject":"box.a"}` + "\n\n\n" + `{"subject":"` + c.subject + `"}` + "\n")
			wantError(t, err, c.says)
		}
		// The last is what a device that publishes to topic "box/*" has in an export.
		if _, err := runImport(`{"subject":"box.b.c"}` + "\n" + `{"subject":"t.a.x"}` + "\n" + `{"subject":"box.*"}`); err != nil {
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

// lines are n records of an export.
func lines(n int) string { return strings.Repeat(`{"subject":"box.a","data":"eA=="}`+"\n", n) }

// What was put in before an import failed is told, and where to go on: a second try with the
// whole file would store it twice.
func TestImportSaysWhereToGoOn(t *testing.T) {
	full := storefwd.Retention{MaxMsgs: 2 * addBatch, Full: storefwd.Refuse}
	eachWay(t, full, func(t *testing.T, l *storefwd.Log, runImport func(string) (string, error)) {
		_, err := runImport("garbage\n" + lines(3))
		wantError(t, err, "line 1 is not a record", "no message was put in")
		_, err = runImport(lines(3) + "\n" + "garbage\n" + lines(3))
		wantError(t, err, "line 5 is not a record", "; 3 messages are safe, seq 1 to 3; go on from line 4")
		_, err = runImport(lines(1) + `{"subject":"box`)
		wantError(t, err, "line 2 is not a record", "; 1 messages are safe, seq 4 to 4; go on from line 2")
		_, err = runImport(lines(addBatch) + `{"subject":"barn"}`)
		wantError(t, err, "; 512 messages are safe, seq 5 to 516; go on from line 513")
		_, err = runImport(lines(2 * addBatch))
		wantError(t, err, `line 509 ("box.a"): log is full`, "; 508 messages are safe, seq 517 to 1024; go on from line 509")
		if st := l.Stats(); st.Msgs != 2*addBatch {
			t.Errorf("%+v", st)
		}
	})
}

// A message does not begin its life anew because it was carried from one gateway to another.
func TestImportTakesOffWhatHasPassed(t *testing.T) {
	line := func(header string, at time.Time) string {
		b, err := json.Marshal(boxRecord{Subject: "box.a", Header: []byte(header), Time: at})
		if err != nil {
			t.Fatal(err)
		}
		return string(b) + "\n"
	}
	hour := time.Now().Add(-time.Hour)
	const other = "NATS/1.0\r\nA: 1\r\n\r\n"
	eachWay(t, storefwd.Retention{}, func(t *testing.T, l *storefwd.Log, runImport func(string) (string, error)) {
		in := line("NATS/1.0\r\nNats-TTL: 2h\r\nA: 1\r\n\r\n", hour) +
			line("NATS/1.0\r\nNats-TTL: 7200\r\n\r\n", time.Time{}) + line("NATS/1.0\r\nNats-TTL: never\r\n\r\n", hour) + line(other, hour)
		if _, err := runImport(in); err != nil {
			t.Fatal(err)
		}
		recs, err := l.Read(make([]storefwd.Record, 0, 8), 0)
		if err != nil || len(recs) != 4 {
			t.Fatal(len(recs), err)
		}
		left := string(recs[0].Header)
		if ttl := recs[0].TTL; ttl > time.Hour || ttl < 59*time.Minute || !strings.HasSuffix(left, "\r\nA: 1\r\n\r\n") || strings.Count(left, "Nats-TTL") != 1 {
			t.Errorf("%v left, %q", ttl, left)
		}
		if recs[1].TTL < 119*time.Minute || recs[2].TTL != 0 || string(recs[3].Header) != other {
			t.Errorf("%v, %v, %q", recs[1].TTL, recs[2].TTL, recs[3].Header)
		}
	})
}

func TestImportOfNothing(t *testing.T) {
	eachWay(t, storefwd.Retention{}, func(t *testing.T, _ *storefwd.Log, runImport func(string) (string, error)) {
		if out, err := runImport("\n"); err != nil || out != "there was no message to import into outbox \"box\"\n" {
			t.Errorf("%q, %v", out, err)
		}
	})
}

// What a full outbox gives up while it is filled is no success.
func TestImportSaysWhatItCost(t *testing.T) {
	for _, c := range []struct {
		full storefwd.Full
		says string
	}{{storefwd.DropNewest, "newest_dropped 6"}, {storefwd.DropOldest, "oldest_dropped 6"}} {
		eachWay(t, storefwd.Retention{MaxMsgs: 10, Full: c.full}, func(t *testing.T, l *storefwd.Log, runImport func(string) (string, error)) {
			if out, err := runImport(lines(4)); err != nil || out != "4 messages are safe in outbox \"box\", seq 1 to 4\n" {
				t.Errorf("%q, %v", out, err)
			}
			out, err := runImport(lines(12))
			wantError(t, err, "12 messages were put in, seq 5 to 16", "lost 6 messages", c.says, "raise its max_bytes")
			if out != "" {
				t.Errorf("%q", out)
			}
			if _, err := runImport(lines(1) + "garbage\n"); err == nil || !strings.Contains(err.Error(), "1 messages were put in, seq 17 to 17; go on from line 2; meanwhile") {
				t.Error(err)
			}
			if n := l.Stats().Msgs; n != 10 {
				t.Errorf("%d messages", n)
			}
		})
	}
}

// A batch that the disk did not confirm is neither called safe nor left unmentioned.
func TestImportSaysWhatIsUnsure(t *testing.T) {
	b := openTarget(t, storefwd.Retention{})
	next, n := recordLines(strings.NewReader(lines(addBatch+3)), maxLine), 0
	done, err := b.add("box", func() (*boxRecord, error) {
		if n++; n == addBatch+4 {
			b.store.Close()
		}
		return next()
	})
	c := &outboxCmd{name: "box"}
	wantError(t, c.imported(done, err), "; 512 messages are safe, seq 1 to 512; go on from line 513; another 3 may be safe or not", "peek box -from 513")
	wantError(t, c.imported(added{unknown: true}, errors.New("EOF")), "not known", "leafd outbox ls")
}

// Of a gateway that does not run no forwarder knows what the hub takes. A message above max_payload, which no device could
// have published, was taken all the same, and given up by the next start.
func TestImportTakesNoMoreThanMaxPayload(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "leafd.conf")
	text := fmt.Sprintf("max_payload: 1000\nserver_name: n\nleafnodes { remotes: [ { url: \"nats-leaf://hub:7422\" } ] }\nstore { dir: %q }\noutbox { box { subjects: [\"box.>\"] } }\n", t.TempDir())
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	line := func(n int) string {
		header := "NATS/1.0\r\n\r\n"
		return fmt.Sprintf("{\"subject\":\"box.a\",\"header\":%q,\"data\":%q}\n", base64.StdEncoding.EncodeToString([]byte(header)),
			base64.StdEncoding.EncodeToString(make([]byte, n-len(header))))
	}
	var out, errOut strings.Builder
	if code := runOutbox([]string{"import", "box", "-c", conf}, strings.NewReader(line(1000)+line(1001)+line(20)), &out, &errOut); code != 1 {
		t.Errorf("exit %d, %s", code, out.String())
	}
	wantError(t, errors.New(errOut.String()), "line 2: header and data have more than max_payload, 1000", "; 1 messages are safe, seq 1 to 1; go on from line 2")
}
