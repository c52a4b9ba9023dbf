package main

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/leafd/leafd/leaf"
)

// flagged is what a command line makes of a file; "" is no file.
func flagged(t *testing.T, program, file string, args ...string) (*Config, error) {
	t.Helper()
	if file != "" {
		args = append(args, "-c", write(t, "leafd.conf", file))
	}
	f, err := parseFlags(program, args)
	if err != nil {
		return nil, err
	}
	return loadWith(f.config, f)
}

func TestFlagsGoBeforeTheFile(t *testing.T) {
	for _, c := range []struct {
		program, file, args string
		get                 func(*Config) any
		want                any
	}{
		{"leafd", "", "", func(c *Config) any { return c.Listen }, "127.0.0.1:4222"},
		{"leafd", "", "-p 5000", func(c *Config) any { return c.Listen }, "127.0.0.1:5000"},
		{"leafd", "", "--port=-1 -a 0.0.0.0", func(c *Config) any { return c.Listen }, "0.0.0.0:0"},
		{"leafd", "", "-addr ::1", func(c *Config) any { return c.Listen }, "[::1]:4222"},
		{"leafd", "", "-net :: -p 7", func(c *Config) any { return c.Listen }, "[::]:7"},
		{"leafd", "", "-p 0", func(c *Config) any { return c.Listen }, "127.0.0.1:4222"},
		{"leafd", "listen: \"0.0.0.0:1\"", "-p=2", func(c *Config) any { return c.Listen }, "0.0.0.0:2"},
		{"leafd", "", "-m 8222", func(c *Config) any { return c.HTTP }, "127.0.0.1:8222"},
		{"leafd", "http: \"10.0.0.1:1\"", "-http_port 2", func(c *Config) any { return c.HTTP }, "10.0.0.1:2"},
		{"leafd", "http: 1", "-a 10.0.0.1", func(c *Config) any { return c.HTTP }, "127.0.0.1:1"},
		{"nats-server", "", "", func(c *Config) any { return c.Listen }, "0.0.0.0:4222"},
		{"nats-server", "", "-a 127.0.0.1 -p 5 -m 6", func(c *Config) any { return c.HTTP }, "127.0.0.1:6"},
		{"nats-server", "http: 7\nhost: 10.0.0.1", "", func(c *Config) any { return c.HTTP }, "10.0.0.1:7"},
		{"leafd", "server_name: a", "--name b", func(c *Config) any { return c.ServerName }, "b"},
		{"leafd", "server_name: a", "--server_name=", func(c *Config) any { return c.ServerName }, "a"},
		{"leafd", "debug: true", "-D=false", func(c *Config) any { return c.Debug }, false},
		{"leafd", "", "-DV", func(c *Config) any { return []bool{c.Debug, c.Trace} }, []bool{true, true}},
		{"leafd", "", "-DVV -sd /x", func(c *Config) any { return []bool{c.Debug, c.Trace} }, []bool{true, true}},
		{"leafd", "", "-VV", func(c *Config) any { return []bool{c.Debug, c.Trace} }, []bool{false, true}},
		{"leafd", "", "-T=false --logtime_utc=false", func(c *Config) any { return c.Log }, Log{}},
		{"leafd", "", "-l /l --log_size_limit 9 -s", func(c *Config) any { return c.Log }, Log{File: "/l", SizeLimit: 9, Time: true, UTC: true, Syslog: true}},
		{"leafd", "", "-r udp://h", func(c *Config) any { return c.Log.RemoteSyslog }, "udp://h"},
		{"leafd", "", "--max_traced_msg_len=5", func(c *Config) any { return c.MaxTracedMsgLen }, 5},
		{"leafd", "", "-P /p --ports_file_dir /d --client_advertise h:1", func(c *Config) any { return c.PidFile + c.PortsFileDir + c.ClientAdvertise }, "/p/dh:1"},
		{"leafd", "authorization { users: [ {user: a, password: b} ] }", "--user u --pass p", func(c *Config) any { return c.Auth.Users }, []leaf.User{{Name: "u", Password: "p"}}},
		{"leafd", "authorization { token: a }", "--auth b", func(c *Config) any { return c.Auth.Token }, "b"},
		{"leafd", "mqtt { port: 1883 }", "--user u --pass p", func(c *Config) any { return c.mqttAuth().Users }, []leaf.User{{Name: "u", Password: "p"}}},
		{"leafd", "", "-js=false --no_advertise=false --tls=false", func(c *Config) any { return c.Debug }, false},
	} {
		got, err := flagged(t, c.program, c.file, strings.Fields(c.args)...)
		if err != nil {
			t.Errorf("%s %s with %q: %v", c.program, c.args, c.file, err)
		} else if g := c.get(got); !equal(g, c.want) {
			t.Errorf("%s %s with %q: got %v, want %v", c.program, c.args, c.file, g, c.want)
		}
	}
}

func equal(a, b any) bool {
	switch a := a.(type) {
	case []bool:
		return slices.Equal(a, b.([]bool))
	case []leaf.User:
		return reflect.DeepEqual(a, b)
	}
	return a == b
}

// What leafd does not have is refused by name, and no value shows: it may be a secret.
func TestFlagsRefused(t *testing.T) {
	for args, want := range map[string]string{
		"-js":                           "-js: leafd has no JetStream yet",
		"--jetstream=true":              "--jetstream: leafd has no JetStream yet",
		"--cluster nats://canary@h":     "--cluster: a leaf is no member of a cluster",
		"--routes=nats://canary@h":      "--routes: a leaf is no member",
		"--no_advertise":                "--no_advertise: a leaf",
		"--connect_retries 3":           "--connect_retries: a leaf",
		"--tls":                         "--tls: leafd does not have TLS",
		"--tlscert x":                   "--tlscert: leafd does not have TLS",
		"-ms 8443":                      "-ms: leafd does not serve monitoring over TLS",
		"--profile 6000":                "--profile: leafd does not serve profiles",
		"--help_tls":                    "--help_tls: leafd",
		"-p 65536":                      "-p: port \"65536\" is out of range",
		"-p x":                          "out of range",
		"-a a/b":                        "-a: \"a/b\" is not a host",
		"-D=maybe":                      "-D: takes true or false",
		"-r http://h":                   "write udp://",
		"--log_size_limit -1":           "not a number of bytes",
		"--client_advertise h:99999":    "is not an address",
		"--nonesuch":                    "-nonesuch; -h shows all flags",
		"leafd.conf":                    "a configuration file is given with -c",
		"-c":                            "needs an argument",
		"--pass canary":                 "one is missing; give both",
		"--user canary":                 "one is missing; give both",
		"--pass canary --user u -t=yes": "-t: takes true or false",
	} {
		if _, err := flagged(t, "leafd", "", strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v does not say %q", args, err, want)
		}
	}
}

// Every flag of nats-server's usage is one of ours: taken or refused.
func TestFlagsAreAllKnown(t *testing.T) {
	var known []string
	for _, g := range optionGroups {
		for _, o := range g.options {
			known = append(known, strings.Fields(o.names)...)
			set := 0
			for _, is := range []bool{o.text != nil, o.toggle != nil, o.refuse != ""} {
				if is {
					set++
				}
			}
			if set != 1 {
				t.Errorf("%s does %d things", o.names, set)
			}
		}
	}
	for _, name := range strings.Fields(`a addr net p port n name server_name P pid m http_port ms https_port c config t sl signal
		client_advertise ports_file_dir l log T logtime logtime_utc s syslog r remote_syslog D debug V trace VV DV DVV log_size_limit
		max_traced_msg_len js jetstream sd store_dir user pass auth tls tlscert tlskey tlsverify tlscacert routes cluster cluster_name
		no_advertise cluster_advertise connect_retries cluster_listen profile h help v version help_tls`) {
		if !slices.Contains(known, name) {
			t.Errorf("there is no -%s", name)
		}
	}
	if u := usage("leafd"); !strings.Contains(u, "-p, -port <port>") || strings.Contains(u, "-cluster") {
		t.Errorf("%s", u)
	}
}

func TestRedactArgs(t *testing.T) {
	args := []string{"-p", "1", "--user", "u", "-pass=canary", "--auth=canary", "-pass", "canary", "--pass"}
	redactArgs(args)
	if got := strings.Join(args, " "); strings.Contains(got, "canary") || !strings.HasPrefix(got, "-p 1 --user [REDACTED] ") {
		t.Error(got)
	}
}

func TestSignalNamesWhatIsWrong(t *testing.T) {
	for arg, want := range map[string]string{
		"nap":           `there is no "nap"; it is one of ldm, quit, reload, reopen, stop, term`,
		"quit=/no/file": "cannot read the pid file /no/file: no such file",
		"quit=-5":       "is not a process id",
		"quit=99999999": `cannot send "quit" to process 99999999`,
		"quit":          "no leafd-that-nobody-runs is running",
	} {
		if err := sendSignal("leafd-that-nobody-runs", arg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v does not say %q", arg, err, want)
		}
	}
	if err := sendSignal("leafd", "quit="+write(t, "pid", "no number\n")); err == nil || !strings.Contains(err.Error(), "no process id in") {
		t.Error(err)
	}
}
