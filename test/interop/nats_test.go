package interop

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leafd/leafd/internal/testkit"
)

// server is one of the two that each command is run against.
type server struct{ name, url string }

func servers(t *testing.T) []server {
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Bin: buildLeafd(t), Config: "server_name: edge\nhost: 127.0.0.1\nport: $LEAFD_NATS_PORT\n"})
	hub := testkit.StartHub(t, testkit.HubOptions{})
	return []server{{"leafd", l.NATSURL()}, {"nats-server", hub.ClientURL()}}
}

// buildLeafd builds leafd in its own module, as it is shipped.
func buildLeafd(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "leafd")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", bin, "./cmd/leafd")
	cmd.Dir, cmd.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build leafd: %v\n%s", err, out)
	}
	return bin
}

// nats is a command of the nats tool with a home of its own. Its input is empty.
func nats(t *testing.T, s server, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, tool(t), append([]string{"-s", s.url}, args...)...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+filepath.Join(home, "config"), "NO_COLOR=1")
	return cmd
}

// tool is the nats command, built by the go command and kept in its cache.
func tool(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "tool", "-n", "github.com/nats-io/natscli/nats").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// run wants the command to succeed and to say each of the words.
func run(t *testing.T, s server, args []string, words ...string) {
	t.Helper()
	out, err := nats(t, s, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s: nats %s: %v\n%s", s.name, strings.Join(args, " "), err, out)
		return
	}
	for _, w := range words {
		if !strings.Contains(string(out), w) {
			t.Errorf("%s: nats %s does not say %q:\n%s", s.name, strings.Join(args, " "), w, out)
		}
	}
}

// background starts a command that waits for the others, and wants it to succeed and
// to have said each of the words once it has what it waited for.
func background(t *testing.T, s server, args []string, words ...string) (wait func()) {
	t.Helper()
	cmd := nats(t, s, args...)
	var out output
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: nats %s: %v\n%s", s.name, strings.Join(args, " "), err, out.String())
		}
		for _, w := range words {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%s: nats %s did not say %q:\n%s", s.name, strings.Join(args, " "), w, out.String())
			}
		}
	}
}

// until repeats a command until it succeeds and says the word: there is no other way
// to know that one in the background has subscribed.
func until(t *testing.T, s server, args []string, word string) {
	t.Helper()
	testkit.Eventually(t, func() bool {
		out, err := nats(t, s, args...).CombinedOutput()
		return err == nil && strings.Contains(string(out), word)
	}, "%s: nats %s says %q", s.name, strings.Join(args, " "), word)
}

func TestCommands(t *testing.T) {
	for _, s := range servers(t) {
		for _, tc := range []struct{ args, words string }{
			{"rtt 2", "127.0.0.1"},
			{"server check connection", "OK Connection"},
			{"server check connection --format json", `"status": "OK"`},
			{"server check connection --format prometheus", "nats_server_check_connections_status_code"},
			{"pub a hello --count 3", "Published"},
			{"pub a hello -H K:V --reply r", "Published"},
			{"account info", "$G"},
			{"bench pub x --msgs 5000 --size 128 --clients 2 --no-progress", "publisher"},
		} {
			t.Run(s.name+"/"+tc.args, func(t *testing.T) { run(t, s, strings.Fields(tc.args), tc.words) })
		}
	}
}

func TestSubscribe(t *testing.T) {
	for _, s := range servers(t) {
		wait := background(t, s, strings.Fields("sub greet.* --count 3"), "hello", `on "greet.me"`)
		done := make(chan struct{})
		go func() { defer close(done); wait() }()
		for ended := false; !ended; { // until it has seen its three
			run(t, s, strings.Fields("pub greet.me hello"), "Published")
			select {
			case <-done:
				ended = true
			default:
			}
		}
	}
}

func TestRequestReply(t *testing.T) {
	for _, s := range servers(t) {
		cmd := nats(t, s, "reply", "q.*", "pong {{1}}")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		until(t, s, strings.Fields("req q.a ping"), "pong")
		run(t, s, strings.Fields("req q.b ping --count 10"), "pong")
		run(t, s, strings.Fields("bench service request q.c --msgs 200 --no-progress"), "stats")
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // it was killed
		out, err := nats(t, s, "req", "nobody", "ping").CombinedOutput()
		if !strings.Contains(string(out), "No responders") {
			t.Errorf("%s: without responders: %v %s", s.name, err, out)
		}
	}
}

func TestBench(t *testing.T) {
	for _, s := range servers(t) {
		const msgs = 20000
		wait := background(t, s, strings.Fields(fmt.Sprintf("bench sub b --msgs %d --no-progress", msgs)), "subscriber stats")
		done := make(chan struct{})
		go func() { defer close(done); wait() }()
		for ended := false; !ended; {
			run(t, s, strings.Fields(fmt.Sprintf("bench pub b --msgs %d --no-progress", msgs)), "publisher")
			select {
			case <-done:
				ended = true
			default:
			}
		}
	}
}
