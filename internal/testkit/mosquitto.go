package testkit

import (
	"bufio"
	"encoding/hex"
	"io"
	"os/exec"
	"strconv"
	"strings"
)

// MosquittoPub runs the stock mosquitto_pub against a port of 127.0.0.1 and returns
// once it has ended, which at QoS 1 is after the acknowledgement.
func MosquittoPub(t T, port int, args ...string) {
	t.Helper()
	cmd := mosquitto(t, "mosquitto_pub", port, args)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
}

// MQTTMessage is one that mosquitto_sub received.
type MQTTMessage struct {
	Topic, Payload string
	QoS            int
	Retained       bool
}

// MosquittoSub runs the stock mosquitto_sub against a port of 127.0.0.1, returns
// once its subscription is acknowledged, and sends what it receives to the channel,
// which closes when it has ended: by itself, by stop, or with the test.
func MosquittoSub(t T, port int, args ...string) (got <-chan MQTTMessage, stop func()) {
	t.Helper()
	// stdbuf, so that what it prints does not wait for a full buffer.
	args = append([]string{"-d", "-F", "MSG %q %r %x %t"}, args...)
	cmd := mosquitto(t, "mosquitto_sub", port, args)
	cmd = exec.Command("stdbuf", append([]string{"-oL"}, cmd.Args...)...)
	r, w := io.Pipe()
	cmd.Stdout = w
	messages := make(chan MQTTMessage, 1<<16) // a test that does not look must not stop it
	subscribed := make(chan struct{})
	go readMosquitto(r, messages, subscribed)
	p := Start(t, "mosquitto_sub", func() *exec.Cmd { return cmd }, func() bool { return isClosed(subscribed) })
	go func() {
		<-p.Done()
		_ = w.Close()
	}()
	return messages, p.Stop
}

// readMosquitto reads what mosquitto_sub -d -F "MSG %q %r %x %t" prints.
func readMosquitto(r io.Reader, got chan<- MQTTMessage, subscribed chan<- struct{}) {
	defer close(got)
	for lines := bufio.NewScanner(r); lines.Scan(); {
		line := lines.Text()
		if strings.HasPrefix(line, "Subscribed ") {
			close(subscribed)
			continue
		}
		rest, ok := strings.CutPrefix(line, "MSG ")
		f := strings.SplitN(rest, " ", 4)
		if !ok || len(f) < 4 {
			continue
		}
		qos, _ := strconv.Atoi(f[0])
		payload, err := hex.DecodeString(f[2])
		if err == nil {
			got <- MQTTMessage{Topic: f[3], Payload: string(payload), QoS: qos, Retained: f[1] == "1"}
		}
	}
}

func mosquitto(t T, program string, port int, args []string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%v (on Debian: apt-get install mosquitto-clients)", err)
	}
	return exec.Command(path, append([]string{"-h", "127.0.0.1", "-p", strconv.Itoa(port)}, args...)...)
}
