package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// natsStyle are files as people write them for nats-server, which takes each of them
// (tried with nats-server -t, 2.15.2), and so does leafd.
var natsStyle = map[string]string{
	"every separator":           "port: 4333\nhost = \"127.0.0.1\"\nserver_name edge\n",
	"brace on the next line":    "authorization\n{\n  user: a\n  pass: b\n}\n",
	"users on lines, no commas": "authorization {\n  users = [\n    {user: alice, password: 'pw1'}\n    {user: bob, password: \"pw2\"}\n  ]\n}\n",
	"all on one line":           "authorization: {users:[{user:a,password:b},{user:c,password:d}]}",
	"a list with a last comma":  "authorization {\n  users = [ {user: a, pass: b},\n {user: c, pass: d}, ]\n}\n",
	"JSON":                      `{"port": 4333, "authorization": {"user": "a", "password": "b"}, "server_tags": ["a", "b"]}`,
	"quoted keys":               "\"port\": 4333\n'host': '127.0.0.1';\n",
	"bare words in a list":      "server_tags: [ \"a\", 'b', c , \"d e\",]\n",
	"words on lines":            "server_tags: [\n a\n b # c\n // d\n]\n",
	"booleans":                  "debug: on, trace: yes; logtime: false\nsyslog: no\n",
	"sizes":                     "max_payload: 1MB\nmax_pending: 64MB\nmax_connections: 1K\nmax_control_line: 1KB\n",
	"durations":                 "ping_interval: \"30s\"\nwrite_deadline: \"2s\"\nlame_duck_duration: \"4m\"\nlame_duck_grace_period: \"5s\"\n",
	"comments":                  "# one\n// two\nport: 4222 # three\nhost: localhost // four\n",
	"variables":                 "P=4333\nport=$P\nPASS: \"s3cret word\"\nauthorization: { user: \"x\", pass: $PASS }\n",
	"CR LF":                     "port: 4222\r\nauthorization {\r\n  token: t\r\n}\r\n",
	"tabs":                      "authorization\t{\n\tuser:\ta\n\tpass:\tb\n}\n",
	"no JetStream":              "jetstream: false\n",
	"JetStream disabled":        "jetstream { enabled: false }\n",
	"any free port":             "listen: localhost:-1\nhttp: localhost:-1\n",
	"an empty file":             "",
	"all that tells of itself":  "pid_file = /tmp/x.pid\nlogfile: \"/tmp/x.log\"\nports_file_dir: /tmp\nclient_advertise: \"h:1\"\nserver_tags: a\n",
	"WebSockets, in clear":      "websocket {\n  port: 9222\n  no_tls: true\n  same_origin: true\n  allowed_origins: [ \"http://a.example\" ]\n  compression: true\n  handshake_timeout: \"2s\"\n}\n",
	"logging":                   "debug: false\ntrace: false\nlogtime: true\nlogfile_size_limit: 1GB\nlogfile_max_num: 3\nremote_syslog: \"udp://127.0.0.1:514\"\n",
}

func TestConfigTakesNATSServersFiles(t *testing.T) {
	for name, text := range natsStyle {
		if _, err := load(t, text); err != nil {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
}

// corpus54 are the bad configurations that a fleet meets, by what is wrong with
// them, and the error each must give.
var corpus54 = []struct{ name, text, want string }{
	{"unknown key", "lissen: 4222", `:1:1: key "lissen": unknown key; did you mean "listen"?`},
	{"unknown key in a block", "mqtt {\n  port: 1883\n  ports: 1\n}", `:3:3: key "mqtt.ports": unknown key; did you mean "port"?`},
	{"wrong type: text for a number", "max_connections: many", `:1:1: key "max_connections": must be a whole number, not text`},
	{"wrong type: a number for text", "server_name: 7", `:1:1: key "server_name": must be text, not a number; put it in quotes`},
	{"wrong type: a list for a block", "mqtt: [ a ]", `:1:1: key "mqtt": must be a block { … }, not a list`},
	{"duplicate key", "port: 1\n\nport: 2", `:3:1: key "port": set twice, first at `},
	{"duplicate key in other words", "max_conn: 1\nmax_connections: 2", `says the same as`},
	{"include loop", "include leafd.conf", "includes itself"},
	{"include missing", "include missing.conf", "missing.conf: no such file"},
	{"include a directory", "include \".\"", "it is not a regular file; name the file itself"},
	{"environment variable unset", "port: $LEAFD_TEST_UNSET", `:1:1: key "$LEAFD_TEST_UNSET": is set neither in this file before here nor in the environment`},
	{"environment variable refers to itself", "port: $LEAFD_TEST_SELF", ":1:1: "},
	{"unit 1e9", "max_payload: 1e9", "is not a number with a unit"},
	{"unit -1", "max_payload: -1", "-1 is out of range"},
	{"unit unknown", "max_payload: 1KQ", "is not a number with a unit"},
	{"unit too large", "max_pending: 9999999999999999999", "is out of range"},
	{"port 0", "port: 0", "port 0 is out of range; use 1 to 65535, or -1 for any free port"},
	{"port 65536", "listen: \"127.0.0.1:65536\"", "port 65536 is out of range"},
	{"duplicate listeners", "port: 4222\nhttp: 4222", `is the address of "listen" too`},
	{"duplicate listeners, one on every interface", "listen: \"10.0.0.1:4222\"\nmqtt { port: 4222 }", `is the address of "listen" too`},
	{"byte order mark", "\ufeffport: 4222", "byte order mark; save it as UTF-8 without one"},
	{"a lone CR", "port: 4222\rhost: x", "a carriage return inside a line"},
	{"NUL", "port: 42\x0022", "a control byte (0x00)"},
	{"10 MiB", strings.Repeat("# x\n", 10<<18), "larger than 1024 KiB"},
	{"deep blocks", strings.Repeat("a {\n", 1e5), "nested deeper than 32"},
	{"deep lists", "a: " + strings.Repeat("[", 1e5), "nested deeper than 32"},
	{"half-written block", "mqtt {\n  port: 1883\n", "the file ends inside the block opened on line 1"},
	{"half-written text", "server_name: \"ed", "does not end"},
	{"credentials that are not there", hubWith("credentials: \"/nonexistent/x.creds\""), ""},
	{"store that is no absolute path", "store { dir: here }", "is not an absolute path"},
	{"a remote without a host", "leafnodes { remotes: [ { url: \"nats-leaf://\" } ] }", "is not the URL of a hub"},
	{"lame duck shorter than its grace", "lame_duck_duration: \"5s\"", "is not less than lame_duck_duration"},
	{"remote_syslog that is no URL", "remote_syslog: \"localhost\"", "write udp://host:514"},
	{"client_advertise that is no address", "client_advertise: \"a b\"", "is not an address"},
	{"jetstream", "jetstream { store_dir: x }", "the hub keeps streams"},
	{"operator mode", "operator: x", "leafd knows users with passwords"},
	{"cluster", "cluster { port: 6222 }", `key "cluster": leafd does not have this nats-server key yet`},
	{"tls without a certificate", "tls {\n  timeout: 2\n}", `:1:1: key "tls.cert_file": is missing`},
	{"tls with a file that is not there", "tls {\n  cert_file: \"/nowhere/c.pem\"\n  key_file: \"/nowhere/k.pem\"\n}", `:2:3: key "tls.cert_file": /nowhere/c.pem: no such file`},
	{"https without a certificate", "https: 8443", `:1:1: key "https": needs a certificate`},
	{"websocket without tls", "websocket { port: 8443 }", `:1:1: key "websocket.tls": is missing; add it, or no_tls: true`},
	{"a key that only tunes nats-server", "no_sublist_cache: true", "leafd's cache of matches is small"},
}

func hubWith(more string) string {
	return "leafnodes { remotes: [ { url: \"nats://hub\", " + more + " } ] }\n"
}

func TestConfigCorpus(t *testing.T) {
	t.Setenv("LEAFD_TEST_SELF", "$LEAFD_TEST_SELF")
	for _, c := range corpus54 {
		_, err := load(t, c.text)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s:\n got %.300v\nwant %s", c.name, err, c.want)
		}
	}
}

// What only the machine can say is wrong stops the start with the path and a remedy.
func TestStartNamesWhatTheMachineRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ text, want string }{
		"credentials missing":   {hubWith("credentials: \"" + dir + "/x.creds\""), "cannot use credentials " + dir + "/x.creds: no such file"},
		"credentials empty":     {hubWith("credentials: \"" + file + "\""), "there is no user JWT in it"},
		"store in a file":       {hub + "outbox { a { subjects: \"a.>\" } }\nstore { dir: \"" + file + "/store\" }", "cannot open the store in " + file + "/store: it cannot be made: not a directory"},
		"a host that is none":   {"listen: \"nowhere.invalid:4222\"", "cannot listen on nowhere.invalid:4222 for NATS clients"},
		"another's address":     {"listen: \"203.0.113.1:4222\"", "cannot assign requested address"},
		"log to a directory":    {"log_file: \"" + dir + "\"", "log_file: cannot log to " + dir + ": is a directory"},
		"pid file in a file":    {"port: -1\npid_file: \"" + file + "/pid\"", "pid_file: cannot write " + file + "/pid: not a directory"},
		"monitoring port taken": {"port: -1\nhttp: \"203.0.113.1:1\"", "cannot listen on 203.0.113.1:1 for monitoring"},
	} {
		if err := start(t, c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s:\n got %v\nwant %s", name, err, c.want)
		}
	}
}

// start does what the program does before it serves.
func start(t *testing.T, text string) error {
	t.Helper()
	c, err := load(t, text)
	if err != nil {
		return err
	}
	logs, err := newLogs(c, false)
	if err != nil {
		return err
	}
	defer logs.close()
	d, err := newDaemon("leafd", c, &flags{}, logs)
	if err != nil {
		return err
	}
	err = writePid(c.PidFile)
	if err == nil {
		err = fmt.Errorf("it starts")
	}
	d.closeListeners()
	d.closeStore()
	return err
}

// A store behind a symbolic link is where the link points.
func TestStoreBehindALink(t *testing.T) {
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	if err := os.Mkdir(real, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	text := hub + "listen: \"127.0.0.1:-1\"\noutbox { a { subjects: \"a.>\" } }\nstore { dir: \"" + link + "\" }"
	if err := start(t, text); err == nil || err.Error() != "it starts" {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(real, "store.db")); err != nil {
		t.Error(err)
	}
}

// A store that a restart or a network may take is used, and people are told.
func TestWarnsOfAStoreThatDoesNotKeep(t *testing.T) {
	for magic, want := range map[uint32]string{
		unix.TMPFS_MAGIC: "in memory", unix.RAMFS_MAGIC: "in memory",
		unix.NFS_SUPER_MAGIC: "on another machine", unix.CIFS_SUPER_MAGIC: "on another machine", unix.SMB2_SUPER_MAGIC: "on another machine",
		unix.EXT4_SUPER_MAGIC: "", unix.F2FS_SUPER_MAGIC: "", unix.BTRFS_SUPER_MAGIC: "", unix.OVERLAYFS_SUPER_MAGIC: "",
	} {
		if w := fsWarning(magic); want == "" && w != "" || !strings.Contains(w, want) || w != "" && !strings.Contains(w, "set store.dir") {
			t.Errorf("%x: %q", magic, w)
		}
	}
	if w := storeWarning("/proc/self"); w != "" {
		t.Error(w)
	}
}

// Credentials that others may read are used, and people are told.
func TestWarnsOfOpenCredentials(t *testing.T) {
	path := write(t, "x.creds", "")
	if w := credsWarning(path); w != "" {
		t.Error(w)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if w := credsWarning(path); !strings.Contains(w, "mode 0644") || !strings.Contains(w, "chmod 600") {
		t.Error(w)
	}
}
