package test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

const diskConfig = `
host: "127.0.0.1", port: $LEAFD_NATS_PORT
http: $LEAFD_HTTP_PORT
mqtt { host: "127.0.0.1", port: $LEAFD_MQTT_PORT }
leafnodes { remotes: [ { url: "nats-leaf://127.0.0.1:1" } ] }
store { dir: $LEAFD_STORE, journal_size: 1MB, max_size: 16MB }
outbox { box { subjects: ["box.>"], max_bytes: 1GB, full: refuse } }
`

// told is what publishers are told.
type told struct {
	t  *testing.T
	l  *testkit.Leafd
	nc *nats.Conn
	js jetstream.JetStream
}

func newTold(t *testing.T, l *testkit.Leafd) *told {
	nc := connect(t, l.NATSURL())
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return &told{t, l, nc, js}
}

// refused wants a JetStream error with 503 and the reason, for NATS, and the end of the
// connection in place of a PUBACK, for MQTT; and that what is not kept goes on.
func (w *told) refused(reason, id string, data []byte) {
	w.t.Helper()
	var api *jetstream.APIError
	_, err := w.js.Publish(w.t.Context(), "box.nats", data, jetstream.WithMsgID(id))
	if !errors.As(err, &api) || api.Code != 503 || api.ErrorCode != 10077 || !strings.HasPrefix(api.Description, "outbox box: ") || !strings.Contains(api.Description, reason) {
		w.t.Errorf("NATS: %v; want 503 and %q", err, reason)
	}
	if err := w.device("box/mqtt", data); err == nil {
		w.t.Error("MQTT: a PUBACK")
	}
	if err := w.device("core/mqtt", data); err != nil {
		w.t.Errorf("MQTT, not kept: %v", err)
	}
	sub, err := w.nc.SubscribeSync("core.nats")
	if err == nil {
		err = w.nc.Publish("core.nats", nil)
	}
	if err == nil {
		_, err = sub.NextMsg(testkit.Patience)
	}
	if err != nil {
		w.t.Errorf("NATS, not kept: %v", err)
	}
}

// device publishes once at QoS 1 over a connection of its own and waits for the PUBACK, or
// for the end of the connection.
func (w *told) device(topic string, data []byte) error {
	lost := make(chan error, 1)
	o := mqtt.NewClientOptions().AddBroker(w.l.MQTTURL()).SetClientID("dev").SetAutoReconnect(false).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { lost <- err })
	c := mqtt.NewClient(o)
	if tok := c.Connect(); !tok.WaitTimeout(testkit.Patience) || tok.Error() != nil {
		w.t.Fatalf("connect: %v", tok.Error())
	}
	defer c.Disconnect(100)
	tok := c.Publish(topic, 1, false, data)
	select {
	case <-tok.Done():
		return tok.Error()
	case err := <-lost:
		return err
	case <-time.After(testkit.Patience):
		w.t.Fatal("neither a PUBACK nor the end of the connection")
	}
	return nil
}

// accepted wants both to be acknowledged, by the same process, once the store says that it
// works.
func (w *told) accepted(id string, data []byte) {
	w.t.Helper()
	testkit.Eventually(w.t, func() bool { return w.uplink().Store.State == "ok" }, "the store works")
	if _, err := w.js.Publish(w.t.Context(), "box.nats", data, jetstream.WithMsgID(id)); err != nil {
		w.t.Errorf("NATS, afterwards: %v", err)
	}
	if err := w.device("box/mqtt", data); err != nil {
		w.t.Errorf("MQTT, afterwards: %v", err)
	}
}

type toldUplink struct {
	Outboxes []struct{ Messages int }
	Store    struct{ State string }
}

func (w *told) uplink() (u toldUplink) {
	w.l.Get("/uplinkz", &u)
	return u
}

// TestToldWhileSyncsFail has each sync fail from the start on, and then none: both kinds of
// publisher are told so each time, and acknowledged once the disk works.
func TestToldWhileSyncsFail(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatalf("%v (on Debian: apt-get install strace)", err)
	}
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: diskConfig, Run: []string{strace, "-D", "-f", "-I", "2", "-qq", "-o", "/dev/null",
		"-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO"}})
	w := newTold(t, l)
	for i := range 3 {
		w.refused("input/output error", fmt.Sprint(i), []byte("x"))
	}
	untrace(t, l.PID())
	w.accepted("0", []byte("x"))
	w.accepted("new", []byte("x"))
	if n := w.uplink().Outboxes[0].Messages; n != 4 {
		t.Errorf("%d messages were acknowledged, and it holds %d", 4, n)
	}
}

var tracer = regexp.MustCompile(`TracerPid:\s+(\d+)`)

// untrace ends the strace on a process, which goes on without.
func untrace(t *testing.T, pid int) {
	t.Helper()
	by := func() int {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if m := tracer.FindSubmatch(b); m != nil {
			n, err := strconv.Atoi(string(m[1]))
			if err == nil {
				return n
			}
		}
		t.Fatalf("who traces %d? %v", pid, err)
		return 0
	}
	if err := syscall.Kill(by(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, func() bool { return by() == 0 }, "strace has ended")
}

// TestToldAtMaxSize fills store.db up to store.max_size. Room is made by an operator who
// drops the backlog.
func TestToldAtMaxSize(t *testing.T) {
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: diskConfig})
	w := newTold(t, l)
	data := make([]byte, 100<<10)
	rand.NewChaCha8([32]byte{}).Read(data) // what compresses would not fill it
	full := 0
	for ; full < 400; full++ {
		if _, err := w.js.Publish(t.Context(), "box.nats", data); err != nil {
			break
		}
	}
	if full < 100 || full == 400 {
		t.Fatalf("16 MB are full after %d messages of 100 KB", full)
	}
	w.refused("max_size", "late", data)
	o := &outbox{t, l}
	o.ok(`^dropped \d+ messages`, "", "drop", "box", "-all", "-y")
	w.accepted("new", []byte("x"))
}
