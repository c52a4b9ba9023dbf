package test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// outbox runs "leafd outbox ARGS".
type outbox struct {
	t *testing.T
	l *testkit.Leafd
}

func (o *outbox) try(stdin string, args ...string) (stdout, stderr string, code int) {
	o.t.Helper()
	cmd := o.l.Command(append([]string{"outbox"}, args...)...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		o.t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// ok runs it, wants success, and compares what it prints with a regular expression.
func (o *outbox) ok(want, stdin string, args ...string) string {
	o.t.Helper()
	out, errOut, code := o.try(stdin, args...)
	if code != 0 || !regexp.MustCompile(want).MatchString(out) {
		o.t.Fatalf("leafd outbox %v: exit %d\n%s%s\nwant %s", args, code, out, errOut, want)
	}
	return out
}

// fails wants an exit code and an error.
func (o *outbox) fails(code int, want, stdin string, args ...string) {
	o.t.Helper()
	out, errOut, got := o.try(stdin, args...)
	if got != code || !strings.Contains(errOut, want) {
		o.t.Errorf("leafd outbox %v: exit %d\n%s%s\nwant exit %d and %s", args, got, out, errOut, code, want)
	}
}

// look is what can be done without changing anything, with five messages in "box".
func (o *outbox) look(state string) (export string) {
	o.t.Helper()
	o.ok(`(?m)^NAME +STATE +MESSAGES +BYTES +OLDEST +FIRST +LAST +LOST\nbox +`+state+` +5 +\d+ +(?:\d+[hms]+)+ +1 +5 +0$`, "", "ls")
	o.ok(`(?m)\A1  (?:\d{4}-\d\d-\d\dT\S+Z|unknown)  box\.0  zero\n2  .* box\.1  0x000102ff\n\z`, "", "peek", "box", "-n", "2")
	o.ok(`\A4  .*\n5  .*grüße\n\z`, "", "peek", "-from", "4", "box")
	o.ok(` in store\.db and \d+ in the journal are sound\n\z`, "", "verify")
	export = o.ok(`(?s)\A(\{"seq":.*\}\n){5}\z`, "", "export", "box")
	o.ok(`(?s)\A(\{"seq":[45].*\}\n){2}\z`, "", "export", "box", "-from", "4")
	o.fails(1, `there is no outbox "nope"`, "", "peek", "nope")
	o.fails(1, "nothing was dropped", "n\n", "drop", "box", "-all")
	o.fails(1, "nothing was dropped", "", "drop", "box", "-all")
	o.fails(2, "-to SEQ or -all", "", "drop", "box")
	o.fails(2, "needs the name", "", "peek")
	o.fails(2, "usage:", "", "dance")
	return export
}

// change drops two messages and takes back what was exported.
func (o *outbox) change(export string, last int) {
	o.t.Helper()
	o.ok(`^dropped 2 messages, \d+ bytes, of outbox "box"\n$`, "yes\n", "drop", "box", "-to", fmt.Sprint(last-3))
	o.ok(fmt.Sprintf(`^5 messages are safe in outbox "box", seq %d to %d\n$`, last+1, last+5), export, "import", "box")
	o.fails(1, "line 6 is not a record", export+"garbage\n", "import", "box")
	o.ok(`^dropped 5 messages`, "", "drop", "box", "-y", "-to", fmt.Sprint(last+2)) // the three left, and two
	o.fails(1, "not configured", export, "import", "nope")
}

// TestOutboxCommand looks into an outbox and changes it, while leafd runs and while
// it does not, and finds at the hub what was left.
func TestOutboxCommand(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	hub.Kill()
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: pubackConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	js, err := jetstream.New(connect(t, l.NATSURL()))
	if err != nil {
		t.Fatal(err)
	}
	for i, data := range []string{"zero", "\x00\x01\x02\xff", "two", "three", "grüße"} {
		if _, err := js.Publish(t.Context(), fmt.Sprintf("box.%d", i), []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	o := &outbox{t, l}
	export := o.look("connecting")
	if info, err := os.Stat(filepath.Join(l.StoreDir, "ctl")); err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	l.Kill()
	before := files(t, l.StoreDir)
	if got := o.look("stopped"); got != export {
		t.Errorf("stopped it exports\n%sand running it did\n%s", got, export)
	}
	if after := files(t, l.StoreDir); after != before {
		t.Errorf("looking changed the store:\n%s%s", before, after)
	}
	l.Restart()
	o.change(export, 5) // 8…10 and what came before the garbage, 11…15
	l.Stop()
	o.ok(`(?m)^box +stopped +8 `, "", "ls")
	o.ok(`^5 messages are safe in outbox "box", seq 16 to 20`, export, "import", "box")
	o.ok(`^dropped 3 messages`, "", "drop", "box", "-y", "-to", "10")
	l.Restart()
	hub.Restart()
	atHub, err := jetstream.New(connect(t, hub.ClientURL()))
	if err != nil {
		t.Fatal(err)
	}
	s, err := atHub.CreateStream(t.Context(), jetstream.StreamConfig{Name: "BOX", Subjects: []string{"box.>"}})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, func() bool { i, err := s.Info(t.Context()); return err == nil && i.State.Msgs == 11 }, "ten messages and what was dropped at the hub")
	for i := range uint64(10) {
		m, err := s.GetMsg(t.Context(), i+1)
		if err != nil || m.Subject != fmt.Sprintf("box.%d", i%5) {
			t.Errorf("%+v %v", m, err)
		}
	}
	if m, err := s.GetMsg(t.Context(), 11); err != nil || m.Subject != "box.gap" || m.Header.Get("Leafd-Gap") != "dropped_by_operator" ||
		!strings.Contains(string(m.Data), `"from":1,"to":10,"count":10`) {
		t.Errorf("%+v %v", m, err)
	}
	o.ok(`(?m)^box +live +0 +0 +- `, "", "ls")
}

// TestVerifyDamagedStore damages a stopped store.
func TestVerifyDamagedStore(t *testing.T) {
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: pubackConfig, Env: map[string]string{"LEAFD_HUB_URL": "nats-leaf://127.0.0.1:1"}})
	js, err := jetstream.New(connect(t, l.NATSURL()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "box.a", []byte("needle")); err != nil {
		t.Fatal(err)
	}
	l.Stop()
	path := filepath.Join(l.StoreDir, "store.db")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.ReplaceAll(b, []byte("needle"), []byte("noodle")), 0o600); err != nil {
		t.Fatal(err)
	}
	(&outbox{t, l}).fails(1, "1 records fail their checksum", "", "verify")
	if err := os.RemoveAll(l.StoreDir); err != nil {
		t.Fatal(err)
	}
	(&outbox{t, l}).fails(1, "there is none; -c names", "", "ls")
}

// files are the names, sizes, times and contents in a directory.
func files(t *testing.T, dir string) (s string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		var b []byte
		if info.Mode().IsRegular() {
			if b, err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
		s += fmt.Sprintf("%s %s %d %v\n", e.Name(), info.ModTime(), info.Size(), len(bytes.TrimRight(b, "\x00")))
	}
	return s
}

// TestOutboxRelease has leafd close its files, so that a file system can be unmounted under it,
// and go on when the directory is back.
func TestOutboxRelease(t *testing.T) {
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: pubackConfig, Env: map[string]string{"LEAFD_HUB_URL": "nats-leaf://127.0.0.1:1"}})
	js, err := jetstream.New(connect(t, l.NATSURL()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "box.a", []byte("before")); err != nil {
		t.Fatal(err)
	}
	o := &outbox{t, l}
	o.ok("are closed and publishers are refused", "", "release")
	var api *jetstream.APIError
	if _, err := js.Publish(t.Context(), "box.a", []byte("meanwhile")); !errors.As(err, &api) || api.Code != 503 || !strings.Contains(api.Description, "mounted again") {
		t.Errorf("a publisher is told %v", err)
	}
	for _, args := range []string{"drop box -all -y", "import box"} { // leafd would not know of it, or never take its files again
		o.fails(1, "leafd runs, and its files are only closed by leafd outbox release", `{"subject":"box.a"}`, strings.Fields(args)...)
	}
	testkit.Eventually(t, func() bool { return len(openBelow(t, l.PID(), l.StoreDir)) == 0 }, "no file is open")
	if err := os.Rename(l.StoreDir, l.StoreDir+".away"); err != nil {
		t.Fatal(err)
	}
	o.fails(1, "no leafd answers there", "", "release")
	if err := os.Rename(l.StoreDir+".away", l.StoreDir); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, func() bool {
		_, err := js.Publish(t.Context(), "box.a", []byte("after"), jetstream.WithMsgID("after"))
		return err == nil
	}, "a PubAck")
	testkit.Eventually(t, func() bool { _, _, code := o.try("", "ls"); return code == 0 }, "leafd outbox works again")
	o.ok(`(?m)\A1 .* before\n2 .* after\n\z`, "", "peek", "box")
}

// openBelow are the files below dir that a process has open or mapped.
func openBelow(t *testing.T, pid int, dir string) (all []string) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d/", pid)
	fds, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if path, err := os.Readlink(proc + "fd/" + fd.Name()); err == nil && strings.HasPrefix(path, dir) {
			all = append(all, path)
		}
	}
	for _, of := range []string{"maps", "net/unix"} { // net/unix is of all processes: the socket has gone
		if b, err := os.ReadFile(proc + of); err != nil || bytes.Contains(b, []byte(dir)) {
			all = append(all, of)
		}
	}
	return all
}
