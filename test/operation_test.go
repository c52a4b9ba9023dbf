package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/leafd/leafd/internal/testkit"
)

// stock is leafd under the name of the server whose place it takes.
func stock(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nats-server")
	if err := os.Symlink(testkit.BuildLeafd(t), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// startStock starts it with these flags, as a harness does, and returns it once the
// ports file is there.
func startStock(t *testing.T, args ...string) (p *testkit.Process, ports map[string][]string, dir string) {
	t.Helper()
	bin, dir := stock(t), t.TempDir()
	args = append([]string{"-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", dir}, args...)
	p = testkit.Start(t, "nats-server", func() *exec.Cmd { return exec.Command(bin, args...) }, nil)
	testkit.Eventually(t, func() bool {
		data, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("nats-server_%d.ports", p.PID())))
		return err == nil && json.Unmarshal(data, &ports) == nil
	}, "the ports file")
	return p, ports, dir
}

// What a program that starts nats-server waits for is there: the ports file, the log
// lines, the pid file; and after a stop the files are gone and the port is free.
func TestInNatsServersPlace(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	p, ports, dir := startStock(t, "-m=-1", "--pid", pid, "-DV", "-sd", t.TempDir())
	if len(ports) != 2 || len(ports["nats"]) != 1 || len(ports["monitoring"]) != 1 {
		t.Fatalf("%v", ports)
	}
	url := ports["nats"][0]
	nc := connect(t, url, nats.Name("me"))
	sub, _ := nc.SubscribeSync("greet.*")
	nc.Publish("greet.you", []byte("hello"))
	if _, err := sub.NextMsg(testkit.Patience); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	if data, err := os.ReadFile(pid); err != nil || string(data) != fmt.Sprint(p.PID()) {
		t.Errorf("%q %v", data, err)
	}
	port := url[strings.LastIndex(url, ":"):]
	line := fmt.Sprintf(`(?m)^\[%d\] \d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} `, p.PID())
	for _, want := range []string{`\[INF\] Starting nats-server$`, `\[INF\]   Version:  2\.15\.2$`,
		`\[INF\] Listening for client connections on 127\.0\.0\.1` + port + `$`, `\[INF\] Server is ready$`,
		`\[TRC\] 127\.0\.0\.1:\d+ - cid:\d+ - <<- \[SUB greet\.\* +1\]$`, `\[TRC\] .* - ->> \[MSG greet\.you 1 5\]$`, `\[TRC\] .* MSG_PAYLOAD: \["hello"\]$`} {
		testkit.Eventually(t, func() bool { return regexp.MustCompile(line + want).MatchString(p.Log()) }, "the line %s", want)
	}
	p.Stop()
	if p.ExitCode() != 0 {
		t.Errorf("exit code %d", p.ExitCode())
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if _, err := os.Stat(pid); err == nil {
		t.Error("the pid file is left")
	}
	ln, err := net.Listen("tcp", strings.TrimPrefix(url, "nats://"))
	if err != nil {
		t.Fatalf("the port is not free: %v", err)
	}
	ln.Close()
}

func TestNatsServersVersionAndFailures(t *testing.T) {
	bin := stock(t)
	bad := filepath.Join(t.TempDir(), "bad.conf")
	if err := os.WriteFile(bad, []byte("listen: 127.0.0.1:-1\nlisten_to: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args, want string
		code       int
	}{
		{"-v", `^nats-server: v2\.15\.2\n$`, 0},
		{"--version", `^nats-server: v2\.15\.2\n$`, 0},
		{"-a 999.1.2.3 -p -1", `\[FTL\] cannot listen on 999\.1\.2\.3:0 for NATS clients`, 1},
		{"-c " + bad, `^nats-server: \S*bad\.conf:2:1: key "listen_to": unknown key`, 1},
		{"-c " + bad + " -t", `unknown key`, 1},
		{"-c /nonexistent", `cannot read /nonexistent: no such file`, 1},
		{"-js", `-js: leafd has no JetStream yet`, 2},
		{"-P /nonexistent/pid -p -1 -a 127.0.0.1", `\[FTL\] pid_file: cannot write /nonexistent/pid`, 1},
	} {
		out, err := exec.Command(bin, strings.Fields(c.args)...).CombinedOutput()
		code := 0
		if e, ok := err.(*exec.ExitError); ok {
			code = e.ExitCode()
		}
		if code != c.code || !regexp.MustCompile(c.want).Match(out) {
			t.Errorf("%s: %d %s", c.args, code, out)
		}
	}
}

// --signal finds the process by its pid file, and each command does its part.
func TestSignals(t *testing.T) {
	dir := t.TempDir()
	pid, log, conf := filepath.Join(dir, "pid"), filepath.Join(dir, "log"), filepath.Join(dir, "conf")
	if err := os.WriteFile(conf, []byte("debug: false\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, _, _ := startStock(t, "-P", pid, "-l", log, "-c", conf)
	send := func(command string) {
		t.Helper()
		if out, err := exec.Command(testkit.BuildLeafd(t), "--signal", command+"="+pid).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v %s", command, err, out)
		}
	}
	said := func(file, want string) {
		t.Helper()
		testkit.Eventually(t, func() bool {
			b, err := os.ReadFile(file)
			return err == nil && bytes.Contains(b, []byte(want))
		}, "%s to say %q", file, want)
	}
	said(log, "Server is ready")
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	send("reopen")
	said(log, "log reopened")
	if err := os.WriteFile(conf, []byte("debug: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	send("reload")
	said(log, "Reloaded: debug = true")
	said(log, "Reloaded server configuration")
	send("quit")
	<-p.Done()
	if p.ExitCode() != 0 {
		t.Errorf("exit code %d", p.ExitCode())
	}
}

// A lame duck takes nobody in, tells its clients and closes them; then it ends.
func TestLameDuck(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "conf")
	if err := os.WriteFile(conf, []byte("lame_duck_duration: \"1s\", lame_duck_grace_period: \"500ms\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, ports, dir := startStock(t, "-c", conf)
	told, closed := make(chan struct{}), make(chan struct{})
	nc := connect(t, ports["nats"][0], nats.LameDuckModeHandler(func(*nats.Conn) { close(told) }), nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	p.Signal(syscall.SIGUSR2)
	<-told
	if _, err := nats.Connect(ports["nats"][0]); err == nil {
		t.Error("a lame duck lets a client in")
	}
	<-closed
	<-p.Done()
	if left, _ := os.ReadDir(dir); len(left) > 0 || p.ExitCode() != 0 {
		t.Errorf("left %v, exit code %d", left, p.ExitCode())
	}
}

// No secret shows in a log, a trace, an error or a page, whoever sends it and however
// wrong it is.
func TestNoSecretShows(t *testing.T) {
	const canary = "canary-7f3a"
	log := filepath.Join(t.TempDir(), "log")
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Env: map[string]string{"LEAFD_LOG": log}, Args: []string{"-DV", "--user", "u", "--pass", canary}, Config: reloadBase + `
mqtt { host: "127.0.0.1", port: $LEAFD_MQTT_PORT, authorization { user: m, password: "` + canary + `" } }
leafnodes { remotes: [ { url: "nats-leaf://u:` + canary + `@127.0.0.1:1" } ] }
`})
	connect(t, l.NATSURL(), nats.UserInfo("u", canary)).Flush()
	for _, text := range []string{
		`CONNECT {"user":"u","pass":"` + canary + `x"}`, `CONNECT {"Pass":"` + canary + `","auth_token":"` + canary + `"}`,
		`CONNECT {"pass":"` + canary, `CONNECT "` + canary + `"`, `CONECT {"pass":"` + canary + `"}`,
		`CONNECT {"jwt":"` + canary + `","sig":"` + canary + `","pass":["` + canary + `"]}`,
	} {
		c, err := net.Dial("tcp", testkit.Addr(l.NATSPort))
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte(text + "\r\nPING\r\n"))
		for buf := make([]byte, 1024); ; {
			n, err := c.Read(buf)
			if bytes.Contains(buf[:n], []byte(canary)) {
				t.Errorf("%s is answered with %s", text, buf[:n])
			}
			if err != nil {
				break
			}
		}
		c.Close()
	}
	if out, err := exec.Command("mosquitto_pub", "-p", fmt.Sprint(l.MQTTPort), "-u", "m", "-P", canary+"x", "-t", "a", "-m", "b").CombinedOutput(); err == nil {
		t.Errorf("a wrong password is let in: %s", out)
	}
	r := &reloader{t: t, l: l, log: log}
	r.reload("bad secrets", reloadBase+"authorization { user: \""+canary+"\", password: 7, token: \""+canary+"\" }\nleafnodes { remotes: [ { url: \"nope://u:"+canary+"@h\" } ] }\n", "exclude")
	for _, page := range []string{"/", "/varz", "/connz?subs=detail&auth=1", "/leafz", "/uplinkz", "/subsz?subs=1", "/metrics", "/healthz", "/debug/vars", "/stacksz", "/accountz", "/nonesuch"} {
		resp, err := http.Get(l.HTTPURL() + page)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || bytes.Contains(text, []byte(canary)) {
			t.Errorf("%s: %v shows %s", page, err, text)
		}
	}
	l.Stop()
	text, err := os.ReadFile(log)
	if err != nil || bytes.Contains(text, []byte(canary)) || strings.Contains(l.Log(), canary) || !bytes.Contains(text, []byte("TRACE")) {
		t.Errorf("%v: %s\n%s", err, text, l.Log())
	}
}
