package testkit

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// LeafdOptions describe a leafd to start.
type LeafdOptions struct {
	// Config is the text of its configuration file. It refers to what testkit
	// chooses by the variables of the configuration language, without quotes:
	//
	//	$LEAFD_NATS_PORT $LEAFD_MQTT_PORT $LEAFD_HTTP_PORT $LEAFD_WS_PORT   ports of 127.0.0.1 that stay the same over a restart
	//	$LEAFD_STORE                                                        a directory of this leafd that outlives a restart
	//
	// StartLeafd waits until those of the four ports that it names accept.
	Config string

	NATSPort, MQTTPort, HTTPPort int // preferred, if free; 0 lets the kernel choose

	Env         map[string]string // more variables, such as the hub's URL
	Args        []string          // after -c FILE
	Bin         string            // default: BuildLeafd
	Run         []string          // a command to run Bin under, such as an emulator
	TraceWrites bool              // count what it writes, see Leafd.Writes
}

// Leafd is a leafd in a subprocess. Killed and restarted it has the same ports, the
// same store and, if [Leafd.Configure] was not called, the same configuration.
type Leafd struct {
	*Process
	NATSPort, MQTTPort, HTTPPort, WSPort int
	StoreDir                             string

	bin   string
	env   []string
	conf  string // its path
	trace string // where strace writes; empty without TraceWrites
}

// StartLeafd starts a leafd and returns once its listeners accept.
func StartLeafd(t T, o LeafdOptions) *Leafd {
	t.Helper()
	dir := t.TempDir()
	l := &Leafd{NATSPort: Port(t, o.NATSPort), MQTTPort: Port(t, o.MQTTPort), HTTPPort: Port(t, o.HTTPPort), WSPort: Port(t),
		StoreDir: filepath.Join(dir, "store"), conf: filepath.Join(dir, "leafd.conf")}
	if err := os.WriteFile(l.conf, []byte(o.Config), 0o600); err != nil {
		t.Fatalf("start leafd: %v", err)
	}
	bin := o.Bin
	if bin == "" {
		bin = BuildLeafd(t)
	}
	line := append(o.Run, bin, "-c", l.conf)
	line = append(line, o.Args...)
	if o.TraceWrites {
		l.trace = filepath.Join(dir, "trace")
		line = append(straceLine(t, l.trace), line...)
	}
	env := l.environ(o.Env)
	l.bin, l.env = bin, env
	l.Process = Start(t, "leafd",
		func() *exec.Cmd {
			cmd := exec.Command(line[0], line[1:]...)
			cmd.Env = append(os.Environ(), env...)
			return cmd
		},
		func() bool {
			for name, port := range l.ports() {
				if l.uses(name) && !listening(Addr(port)) {
					return false
				}
			}
			return true
		})
	return l
}

func (l *Leafd) ports() map[string]int {
	return map[string]int{"LEAFD_NATS_PORT": l.NATSPort, "LEAFD_MQTT_PORT": l.MQTTPort, "LEAFD_HTTP_PORT": l.HTTPPort, "LEAFD_WS_PORT": l.WSPort}
}

// uses reports whether the configuration of the run to come names a variable.
func (l *Leafd) uses(name string) bool {
	conf, err := os.ReadFile(l.conf)
	return err == nil && strings.Contains(string(conf), "$"+name)
}

func (l *Leafd) environ(more map[string]string) []string {
	env := []string{fmt.Sprintf("LEAFD_STORE=%q", l.StoreDir)}
	for name, port := range l.ports() {
		env = append(env, fmt.Sprintf("%s=%d", name, port))
	}
	for name, value := range maps.All(more) {
		env = append(env, fmt.Sprintf("%s=%q", name, value))
	}
	return env
}

// Configure replaces the configuration file, for the next Restart or reload.
func (l *Leafd) Configure(config string) {
	l.t.Helper()
	if err := os.WriteFile(l.conf, []byte(config), 0o600); err != nil {
		l.t.Fatalf("configure leafd: %v", err)
	}
}

// Command is another run of the same program, "leafd ARGS -c FILE", with the
// configuration and the environment of this one. It is not started.
func (l *Leafd) Command(args ...string) *exec.Cmd {
	cmd := exec.Command(l.bin, append(args, "-c", l.conf)...)
	cmd.Env = append(os.Environ(), l.env...)
	return cmd
}

// NATSURL is for NATS clients.
func (l *Leafd) NATSURL() string { return "nats://" + Addr(l.NATSPort) }

// MQTTURL is for MQTT clients.
func (l *Leafd) MQTTURL() string { return "tcp://" + Addr(l.MQTTPort) }

// HTTPURL is the monitoring endpoint, without a path.
func (l *Leafd) HTTPURL() string { return "http://" + Addr(l.HTTPPort) }

// Get reads the JSON answer of a monitoring path, such as "/uplinkz", into v.
func (l *Leafd) Get(path string, v any) {
	l.t.Helper()
	if err := getJSON(l.HTTPURL()+path, v); err != nil {
		l.t.Fatalf("leafd: %v", err)
	}
}
