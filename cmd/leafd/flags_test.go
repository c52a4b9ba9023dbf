package main

import (
	"crypto/x509"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/secure"
	"github.com/leafd/leafd/internal/testkit"
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

// The TLS flags stand for the certificate of the file's block and leave the rest of it.
func TestTLSFlags(t *testing.T) {
	ca := testkit.NewCA(t)
	cert, key := ca.Issue(x509.Certificate{})
	other, otherKey := ca.Issue(x509.Certificate{})
	file := fmt.Sprintf("tls { cert_file: %q, key_file: %q, timeout: 7, verify: true }\n", other, otherKey)
	pair := "--tlscert " + cert + " --tlskey " + key
	plain := &secure.Config{CertFile: cert, KeyFile: key}
	verify := &secure.Config{CertFile: cert, KeyFile: key, CAFile: ca.File, Verify: true}
	over := &secure.Config{CertFile: cert, KeyFile: key, Timeout: 7 * time.Second}
	for _, c := range []struct {
		file, args, http string
		want             *secure.Config
		https            bool
	}{
		{"", pair, "", plain, false},
		{"", "--tls " + pair, "", plain, false},
		{"", "--tlsverify --tlscacert=" + ca.File + " " + pair, "", verify, false},
		{"", pair + " -m 8222", "127.0.0.1:8222", plain, false},
		{"", pair + " -ms 8443", "127.0.0.1:8443", plain, true},
		{"", pair + " --https_port=-1", "127.0.0.1:0", plain, true},
		{"https: \"10.0.0.1:1\"\n" + file, pair + " -ms 2", "10.0.0.1:2", over, true},
		{file, pair, "", over, false},
		{file, "--tls=false " + pair + " --tlsverify", "", nil, false},
		{file, "--tlscert= --tlskey=", "", &secure.Config{CertFile: other, KeyFile: otherKey, Timeout: 7 * time.Second, Verify: true}, false},
	} {
		got, err := flagged(t, "leafd", c.file, strings.Fields(c.args)...)
		if err != nil {
			t.Errorf("%s with %q: %v", c.args, c.file, err)
		} else if !reflect.DeepEqual(got.TLS, c.want) || got.HTTP != c.http || got.HTTPS != c.https {
			t.Errorf("%s with %q: %+v, monitoring %s, over TLS: %v", c.args, c.file, got.TLS, got.HTTP, got.HTTPS)
		}
	}
	for file, args := range map[string]string{file + "https: 8443": "--tls=false", "https: 8443\n": "-m 8222 " + pair, "http: 8222\n": "-ms 8443 " + pair} {
		if _, err := flagged(t, "leafd", file, strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), `key "https": `) {
			t.Errorf("%s with %q: %v", args, file, err)
		}
	}
	c, err := flagged(t, "nats-server", "", strings.Fields("-a 10.0.0.1 -ms 8443 "+pair)...)
	if err != nil || c.HTTP != "10.0.0.1:8443" {
		t.Errorf("%v, %v", c, err)
	}
}

func TestTLSUsage(t *testing.T) {
	u := tlsUsage()
	for _, c := range curves {
		if !strings.Contains(u, "\n    "+c.String()+"\n") {
			t.Errorf("no %v in\n%s", c, u)
		}
		if _, ok := curves[strings.ToLower(c.String())]; !ok {
			t.Errorf("%v is not called so in the file", c)
		}
	}
	if !strings.Contains(u, "\n    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\n") || strings.Contains(u, "TLS_AES_128_GCM_SHA256") {
		t.Error(u) // those of TLS 1.3 cannot be chosen
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
		"--tls":                         `key "tls": --tlscert is missing; name the PEM file`,
		"--tlsverify":                   `key "tls": --tlscert is missing`,
		"--tlscert x":                   `key "tls": --tlskey is missing`,
		"--tlscert x --tlskey y":        `key "tls": --tlscert x: no such file`,
		"-ms 8443":                      `key "https": needs a certificate`,
		"-ms x":                         "out of range",
		"--profile 6000":                "--profile: leafd does not serve profiles",
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
