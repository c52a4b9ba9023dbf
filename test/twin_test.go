package test

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/leafd/leafd/internal/testkit"
)

// Twins are leafd and a stock nats-server that run with the same configuration.
// What both answer to the same script must be the same, byte for byte.
type twins struct {
	t     *testing.T
	leafd *testkit.Leafd
	stock *testkit.Process
	conf  string // of the stock one
	addr  [2]string
	mqtt  [2]string // likewise, if there is a listener for devices
	more  [2]string // configuration of the one and of the other alone
}

const twinListen = "server_name: twin\nhost: \"127.0.0.1\", port: $LEAFD_NATS_PORT\n"

func startTwins(t *testing.T, config string) *twins {
	t.Helper()
	return startTwinsWith(t, config, [2]string{})
}

// startMQTTTwins starts twins that serve devices, too.
func startMQTTTwins(t *testing.T, config string) *twins {
	t.Helper()
	listen := "mqtt { host: \"127.0.0.1\", port: $LEAFD_MQTT_PORT }\n"
	return startTwinsWith(t, config, [2]string{listen, listen + fmt.Sprintf("jetstream { store_dir: %q }\n", t.TempDir())})
}

func startTwinsWith(t *testing.T, config string, more [2]string) *twins {
	t.Helper()
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: twinListen + more[0] + config})
	port, mqtt := testkit.Port(t), testkit.Port(t)
	w := &twins{t: t, leafd: l, conf: filepath.Join(t.TempDir(), "stock.conf"), more: more,
		addr: [2]string{testkit.Addr(l.NATSPort), testkit.Addr(port)}, mqtt: [2]string{testkit.Addr(l.MQTTPort), testkit.Addr(mqtt)}}
	w.write(config)
	bin := testkit.NATSServer(t)
	w.stock = testkit.Start(t, "nats-server", func() *exec.Cmd {
		cmd := exec.Command(bin, "-c", w.conf)
		cmd.Env = append(os.Environ(), fmt.Sprintf("LEAFD_NATS_PORT=%d", port), fmt.Sprintf("LEAFD_MQTT_PORT=%d", mqtt))
		return cmd
	}, func() bool {
		nc, err := net.Dial("tcp", w.addr[1])
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
	return w
}

func (w *twins) write(config string) {
	w.t.Helper()
	if err := os.WriteFile(w.conf, []byte(twinListen+w.more[1]+config), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// step is something one client says. The first step of a client connects it. Where who
// is reload, say is a configuration that is put in force.
type step struct{ who, say string }

const reload = "reload"

// reload puts a configuration in force at leafd, which is 0, or at the other, as an
// operator does: with its own --signal.
func (w *twins) reload(t *testing.T, i int, config string) {
	t.Helper()
	server, done := w.leafd.Process, "configuration reloaded"
	tell := w.leafd.Command("--signal", fmt.Sprintf("reload=%d", server.PID()))
	if i == 0 {
		w.leafd.Configure(twinListen + w.more[0] + config)
	} else {
		w.write(config)
		server, done = w.stock, "Reloaded server configuration"
		tell = exec.Command(testkit.NATSServer(t), "--signal", fmt.Sprintf("reload=%d", server.PID()))
	}
	before := strings.Count(server.Log(), done)
	if out, err := tell.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	testkit.Eventually(t, func() bool { return strings.Count(server.Log(), done) > before }, "%q once more in the log", done)
}

// run plays a script at both and compares what each client hears.
func (w *twins) run(name string, script ...step) {
	w.t.Run(name, func(t *testing.T) {
		got, want := w.play(t, 0, script), w.play(t, 1, script)
		if !slices.Equal(got, want) {
			t.Errorf("leafd:\n  %s\nnats-server:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
		}
		t.Logf("both:\n  %s", strings.Join(want, "\n  "))
	})
}

// actor is one client of a script.
type actor struct {
	name, nonce string
	nc          net.Conn
	r           *bufio.Reader
	gone        bool
}

// play returns what the clients heard, a line each, in the order of the steps:
// after each step everybody is asked with a PING, so that all has arrived.
func (w *twins) play(t *testing.T, at int, script []step) (heard []string) {
	t.Helper()
	var cast []*actor
	for _, s := range script {
		if s.who == reload {
			w.reload(t, at, s.say)
			heard = append(heard, "(reload)")
			for _, a := range cast {
				heard = append(heard, a.listen(t)...)
			}
			continue
		}
		i := slices.IndexFunc(cast, func(a *actor) bool { return a.name == s.who })
		if i < 0 {
			i = len(cast)
			cast = append(cast, newActor(t, w.addr[at], s.who))
		}
		a := cast[i]
		a.nc.Write([]byte(a.sign(s.say))) // one that was cut off may fail to
		heard = append(heard, "("+s.who+": "+strings.TrimSpace(s.say)+")")
		heard = append(heard, a.listen(t)...)
		for _, other := range cast {
			if other != a {
				heard = append(heard, other.listen(t)...)
			}
		}
	}
	return heard
}

func newActor(t *testing.T, addr, name string) *actor {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(testkit.Patience))
	a := &actor{name: name, nc: nc, r: bufio.NewReader(nc)}
	info, err := a.r.ReadString('\n')
	if err != nil {
		t.Fatalf("%s: no greeting: %v", name, err)
	}
	if m := regexp.MustCompile(`"nonce":"([^"]+)"`).FindStringSubmatch(info); m != nil {
		a.nonce = m[1]
	}
	return a
}

// sign replaces {sig} by a signature of the nonce with the key of twinUser.
func (a *actor) sign(say string) string {
	if !strings.Contains(say, "{sig}") {
		return say
	}
	sig, err := twinKey.Sign([]byte(a.nonce))
	if err != nil {
		panic(err)
	}
	return strings.ReplaceAll(say, "{sig}", base64.RawURLEncoding.EncodeToString(sig))
}

// The names that servers make up.
var madeUp = regexp.MustCompile(`_R_\.[^ ]+`)

// listen returns all that came.
func (a *actor) listen(t *testing.T) (heard []string) {
	t.Helper()
	if a.gone {
		return nil
	}
	a.nc.Write([]byte("PING\r\n"))
	for {
		line, err := a.r.ReadString('\n')
		if err != nil {
			if e, ok := err.(net.Error); ok && e.Timeout() {
				t.Fatalf("%s: heard neither a PONG nor the end after %q", a.name, heard)
			}
			a.gone = true
			return append(heard, a.name+"< the end")
		}
		switch line = strings.TrimRight(line, "\r\n"); {
		case line == "PONG":
			return heard
		case strings.HasPrefix(line, "MSG "):
			data, _ := a.r.ReadString('\n')
			heard = append(heard, a.name+"< "+madeUp.ReplaceAllString(line, "_R_")+" "+strings.TrimRight(data, "\r\n"))
			sortCopies(heard)
		case strings.HasPrefix(line, "INFO "), line == "PING": // may come at any time
		default:
			heard = append(heard, a.name+"< "+madeUp.ReplaceAllString(line, "_R_"))
		}
	}
}

// sortCopies puts the copies of one message in an order, which servers do not: those
// at the end of heard that have the same data.
func sortCopies(heard []string) {
	i := len(heard)
	data := func(s string) string { return s[strings.LastIndexByte(s, ' '):] }
	for i > 0 && strings.Contains(heard[i-1], "< MSG ") && data(heard[i-1]) == data(heard[len(heard)-1]) {
		i--
	}
	slices.Sort(heard[i:])
}

var (
	twinKey, _  = nkeys.FromRawSeed(nkeys.PrefixByteUser, []byte("a seed for the tests of leafd 32"))
	twinUser, _ = twinKey.PublicKey()
)
