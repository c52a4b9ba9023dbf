package test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leafd/leafd/internal/testkit"
)

const reloadBase = `
server_name: edge
host: "127.0.0.1", port: $LEAFD_NATS_PORT
http: $LEAFD_HTTP_PORT
log_file: $LEAFD_LOG
`

// reloads are configurations that come in turn, and what the log says of each.
var reloads = []struct{ name, text, says string }{
	{"limits", reloadBase + "max_payload: 64KB\nmax_pending: 4MB\n", "configuration reloaded"},
	{"other limits", reloadBase + "ping_interval: \"30s\", write_deadline: \"5s\", max_subscriptions: 500, server_tags: [ a ]\n", "configuration reloaded"},
	{"unknown key", reloadBase + "max_paylod: 64KB\n", "unknown key; did you mean"},
	{"wrong type", reloadBase + "debug: 1\n", "must be true or false"},
	{"half-written", reloadBase + "authorization { users: [ { user: a, pass", "has no value"},
	{"half-written list", reloadBase + "server_tags: [ a,\n", "the file ends inside the list"},
	{"empty", "", "is empty"},
	{"include loop", reloadBase + "include \"leafd.conf\"\n", "includes itself"},
	{"missing include", reloadBase + "include \"missing.conf\"\n", "no such file"},
	{"unset variable", reloadBase + "max_payload: $LEAFD_NOT_SET\n", "is set neither"},
	{"duplicate listeners", reloadBase + "mqtt { host: \"127.0.0.1\", port: $LEAFD_NATS_PORT }\n", "give each listener a port of its own"},
	{"taken port", strings.Replace(reloadBase, `host: "127.0.0.1", port: $LEAFD_NATS_PORT`, "listen: $LEAFD_TAKEN", 1), "another program has this port"},
	{"duplicate key", reloadBase + "debug: true\ndebug: false\n", "set twice"},
	{"port out of range", reloadBase + "mqtt { port: 65536 }\n", "out of range"},
	{"unit unknown", reloadBase + "max_payload: 1e9\n", "is not a number with a unit"},
	{"variable of itself", reloadBase + "max_payload: $LEAFD_SELF\n", "is not a number with a unit"},
	{"include a directory", reloadBase + "include \".\"\n", "is not a regular file"},
	{"too large", reloadBase + strings.Repeat("# x\n", 1<<19), "larger than 1024 KiB"},
	{"too deep", reloadBase + strings.Repeat("a {\n", 1e4), "nested deeper than 32"},
	{"certificate that is not there", reloadBase + "tls { cert_file: \"/nowhere/c.pem\", key_file: \"/nowhere/k.pem\" }\n", "no such file"},
	{"store that cannot be", reloadBase + "store { dir: here }\n", "is not an absolute path"},
	{"needs a restart", strings.Replace(reloadBase, "edge", "other", 1), "cannot change while leafd runs"},
	{"byte order mark", "\ufeff" + reloadBase, "byte order mark"},
	{"a control byte", reloadBase + "debug: true\x00\n", "a control byte"},
	{"moved listener", strings.Replace(reloadBase, "127.0.0.1", "127.0.0.2", 1), "configuration reloaded"},
	{"traced", reloadBase + "trace: true\nmax_traced_msg_len: 8\n", "configuration reloaded"},
	{"a hub that is away", reloadBase + "leafnodes { remotes: [ { url: \"nats-leaf://127.0.0.1:1\" } ] }\n", "configuration reloaded"},
}

// Two hundred reloads, most of them of files that cannot be, lose no message of a
// client that they do not concern, keep its connection, and leave nothing behind.
func TestReloadUnderTraffic(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	log := filepath.Join(t.TempDir(), "log")
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: reloadBase, Env: map[string]string{"LEAFD_LOG": log, "LEAFD_TAKEN": busy.Addr().String(), "LEAFD_SELF": "$LEAFD_SELF"}})
	tr := startTraffic(t, l.NATSURL())
	rounds := 200
	if testkit.RaceEnabled {
		rounds = 72
	}
	r := &reloader{t: t, l: l, log: log}
	var files, threads int
	for i := range rounds {
		if i%len(reloads) == 0 && i == len(reloads) {
			files, threads = descriptors(t, l.PID()), goroutines(l)
		}
		r.reload(reloads[i%len(reloads)].name, reloads[i%len(reloads)].text, reloads[i%len(reloads)].says)
	}
	r.reload("end", reloads[len(reloads)-1].text, "configuration reloaded") // as it was when they were counted
	tr.stop()
	testkit.Eventually(t, func() bool { return descriptors(t, l.PID()) <= files }, "%d descriptors or fewer", files)
	testkit.Eventually(t, func() bool { return goroutines(l) <= threads }, "%d goroutines or fewer", threads)
	l.Stop()
	if l.ExitCode() != 0 {
		t.Errorf("exit code %d", l.ExitCode())
	}
}

// reloader changes the configuration of a running leafd.
type reloader struct {
	t   *testing.T
	l   *testkit.Leafd
	log string
	n   int
}

// reload puts text in the file, sends SIGHUP and waits for what the log says of it.
func (r *reloader) reload(name, text, says string) {
	r.t.Helper()
	r.l.Configure(text)
	r.l.Signal(syscall.SIGHUP)
	r.n++
	var lines []string
	defer func() {
		if r.t.Failed() {
			r.t.Logf("reload %d, %s, was answered with %q", r.n, name, lines)
		}
	}()
	testkit.Eventually(r.t, func() bool {
		all, err := os.ReadFile(r.log)
		lines = nil
		for _, line := range strings.Split(string(all), "\n") {
			if strings.Contains(line+" ", fmt.Sprintf(" reload=%d ", r.n)) {
				lines = append(lines, line)
			}
		}
		return err == nil && strings.Contains(strings.Join(lines, "\n"), says)
	}, "reload %d, %s, answered with %q", r.n, name, says)
}

// traffic is one publisher and one subscriber whose messages are numbered.
type traffic struct {
	pub, sub *nats.Conn

	sent chan int // the number of messages, once it is known
	quit chan struct{}
	done chan struct{}
}

func startTraffic(t *testing.T, url string) *traffic {
	t.Helper()
	lost := nats.ClosedHandler(func(nc *nats.Conn) {
		if err := nc.LastError(); err != nil {
			t.Errorf("a client that nothing concerns lost its connection: %v", err)
		}
	})
	pub, sub := connect(t, url, nats.NoReconnect(), lost), connect(t, url, nats.NoReconnect(), lost)
	s, err := sub.SubscribeSync("n")
	if err != nil {
		t.Fatal(err)
	}
	sub.Flush()
	tr := &traffic{pub: pub, sub: sub, sent: make(chan int, 1), quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-tr.quit:
				pub.Publish("n", []byte("end"))
				pub.Flush()
				tr.sent <- n
				return
			case <-tick.C:
				for range 9 {
					pub.Publish("n", strconv.AppendInt(nil, int64(n), 10))
					n++
				}
				pub.Publish("n", strconv.AppendInt(nil, int64(n), 10))
			}
		}
	}()
	go func() {
		defer close(tr.done)
		for n := 0; ; n++ {
			m, err := s.NextMsg(testkit.Patience)
			if err != nil {
				t.Errorf("message %d: %v", n, err)
				return
			}
			if string(m.Data) == "end" {
				if sent := <-tr.sent; sent != n {
					t.Errorf("%d messages of %d came", n, sent)
				}
				return
			}
			if string(m.Data) != strconv.Itoa(n) {
				t.Errorf("message %s came in place of %d", m.Data, n)
				return
			}
		}
	}()
	return tr
}

// stop ends it and checks that everything came.
func (tr *traffic) stop() {
	close(tr.quit)
	<-tr.done
	tr.pub.Close()
	tr.sub.Close()
}

// descriptors counts the open files of a process.
func descriptors(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func goroutines(l *testkit.Leafd) int {
	var v struct {
		Leafd struct {
			Process struct {
				Goroutines int `json:"goroutines"`
			} `json:"process"`
			Goroutines int `json:"goroutines"`
		} `json:"leafd"`
		Goroutines int `json:"goroutines"`
	}
	l.Get("/varz", &v)
	return max(v.Goroutines, v.Leafd.Goroutines, v.Leafd.Process.Goroutines)
}

// What a reload puts in force is in force for clients that were there and for those
// that come.
func TestReloadApplies(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: reloadBase, Env: map[string]string{"LEAFD_LOG": log}})
	r := &reloader{t: t, l: l, log: log}
	nc := connect(t, l.NATSURL(), nats.NoReconnect())
	if _, err := nc.SubscribeSync("a"); err != nil {
		t.Fatal(err)
	}
	r.reload("max_payload", reloadBase+"max_payload: 100\n", "changes=1")
	testkit.Eventually(t, func() bool { return nc.MaxPayload() == 100 }, "a client that knows the new max_payload")
	r.reload("server_tags", reloadBase+"max_payload: 100\nserver_tags: [ barn ]\n", "changes=1")
	var v struct{ Tags []string }
	if l.Get("/varz", &v); len(v.Tags) != 1 || v.Tags[0] != "barn" {
		t.Errorf("/varz has the tags %q", v.Tags)
	}
	r.reload("authorization", reloadBase+"authorization { user: u, password: canary }\n", "changes=3")
	if _, err := nats.Connect(l.NATSURL()); err == nil {
		t.Error("a client without a password is let in")
	}
	connect(t, l.NATSURL(), nats.UserInfo("u", "canary"))
	moved := strings.Replace(reloadBase, "127.0.0.1", "127.0.0.3", 1)
	r.reload("listen", moved, "configuration reloaded")
	connect(t, strings.Replace(l.NATSURL(), "127.0.0.1", "127.0.0.3", 1))
	if _, err := nats.Connect(l.NATSURL()); err == nil {
		t.Error("the old address is still open")
	}
	hub := testkit.StartHub(t, testkit.HubOptions{})
	r.reload("remotes", moved+"leafnodes { remotes: [ { url: \""+hub.LeafURL()+"\" } ] }\n", "changes=1")
	testkit.Eventually(t, func() bool { return len(hub.Leafz()) == 1 }, "the link up")
	r.reload("disabled", moved+"leafnodes { remotes: [ { url: \""+hub.LeafURL()+"\", disabled: true } ] }\n", "changes=1")
	testkit.Eventually(t, func() bool { return len(hub.Leafz()) == 0 }, "the link down")
	text, err := os.ReadFile(log)
	if err != nil || strings.Contains(string(text), "canary") {
		t.Errorf("%v: %s", err, text)
	}
}
