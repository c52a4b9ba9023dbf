package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leafd/leafd/hw"
	"github.com/leafd/leafd/internal/secure"
	"github.com/leafd/leafd/internal/testkit"
	"github.com/leafd/leafd/leaf"
	"github.com/leafd/leafd/storefwd"
	"github.com/nats-io/nats-server/v2/conf"
	"github.com/nats-io/nkeys"
)

// testSeed is the seed of a user of these tests' own.
var testSeed = func() string {
	kp, _ := nkeys.FromRawSeed(nkeys.PrefixByteUser, []byte("a seed for the tests of leafd 32"))
	seed, _ := kp.Seed()
	return string(seed)
}()

// testUser is its public key.
var testUser = func() string {
	kp, _ := nkeys.FromSeed([]byte(testSeed))
	key, _ := kp.PublicKey()
	return key
}()

// write puts files into one directory and returns the path of the first.
func write(t testing.TB, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		if err := os.WriteFile(filepath.Join(dir, files[i]), []byte(files[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, files[0])
}

func load(t testing.TB, text string) (*Config, error) {
	t.Helper()
	return loadConfig(write(t, "leafd.conf", text))
}

func TestConfigEmptyIsDefault(t *testing.T) {
	for _, text := range []string{"", "\n", "# nothing\n", "// nothing", "{}", "{\n}\n"} {
		c, err := load(t, text)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		c.File, c.places = "", nil
		if !reflect.DeepEqual(c, defaultConfig()) {
			t.Errorf("%q: %+v is not the default", text, c)
		}
	}
}

func TestConfigReadsEveryKey(t *testing.T) {
	c, err := load(t, `
server_name: edge-7, listen = "0.0.0.0:4333"
max_payload 2MB; max_control_line: 8k
max_pending: "16MB"
max_connections: 100
max_subs: 50
ping_interval: "30s", ping_max: 3
write_deadline: 5
pid_file: /run/leafd.pid
http_port: 8222
debug: yes
authorization { users: [ { user: a, password: 'x y' }, { username: b, pass: "12" } ], timeout: 1.5 }
leafnodes {
  reconnect_delay: "2s"
  remotes: [
    { urls: ["nats-leaf://u:p@hub1:7000", "nats://hub2" ]
      nkey: `+testSeed+`
      account: "$G"
      no_randomize: true, compression: off
      first_info_timeout: "3s", deny_imports: "x.>", deny_exports: [a.b, c.*] } ]
}
mqtt {
  host: 10.0.0.1
  port: 1884
  max_packet: 64KB
  max_pending_bytes: 1MB
  max_connections: 10
  max_subs: 9
  write_deadline: "1s"
  authorization { user: m, pass: n, timeout: 3 }
}
store { dir: /data/leafd, journal_size: 4MB, spill_after: "1s", commit_interval: "500ms", max_size: 100MB, reserve: 2MB }
clock { trust: never }
outbox {
  telemetry { subjects: [ "t.>", "u.*" ], max_bytes: 1GB, max_msgs: 1000, full: refuse, window: 10, max_age: "72h", gap_subject: "t.lost", durability: interval, commit_interval: "3s", conflate: true
              priority: 9, drain_rate: 64KB, daily_bytes: 10MB, live_share: "20%"
              stream: T, domain: hub, ack_timeout: "7s", grace: "1m", grace_bytes: 1MB, grace_on_disk: true, duplicate_window: "30s" }
  alarms { subject: "alarm.>", confirm: flush, order: newest }
}
hardware { devices {
  air { driver: simulated, subject: "lab.air", interval: "2s" }
} }
`)
	if err != nil {
		t.Fatal(err)
	}
	want := defaultConfig()
	want.File, want.Warnings, want.places = c.File, c.Warnings, c.places
	want.ServerName, want.Listen, want.HTTP, want.PidFile, want.Debug = "edge-7", "0.0.0.0:4333", "127.0.0.1:8222", "/run/leafd.pid", true
	want.MaxPayload, want.MaxControlLine, want.MaxPending = 2<<20, 8000, 16<<20
	want.MaxConnections, want.MaxSubs, want.PingMax = 100, 50, 3
	want.PingInterval, want.WriteDeadline = 30*time.Second, 5*time.Second
	want.Auth = leaf.AuthConfig{Credentials: leaf.Credentials{Users: []leaf.User{{Name: "a", Password: "x y"}, {Name: "b", Password: "12"}}},
		MQTT: &leaf.Credentials{Users: []leaf.User{{Name: "m", Password: "n"}}}, Timeout: 1500 * time.Millisecond}
	want.MQTT = &MQTT{Listen: "10.0.0.1:1884",
		MaxPacket: 64 << 10, MaxPending: 1 << 20, MaxConns: 10, MaxSubs: 9, WriteDeadline: time.Second, ConnectTimeout: 3 * time.Second}
	want.Store = Store{"/data/leafd", 4 << 20, time.Second, 500 * time.Millisecond, 100 << 20, 2 << 20}
	want.Clock = "never"
	alarms := defaultOutbox("alarms")
	alarms.Subjects, alarms.GapSubject = []string{"alarm.>"}, "alarm.gap"
	alarms.Newest, alarms.Flush, alarms.Grace, alarms.GraceBytes = true, true, 0, 0
	want.Outboxes = []Outbox{alarms, {
		Name: "telemetry", Subjects: []string{"t.>", "u.*"}, MaxBytes: 1 << 30, MaxMsgs: 1000, MaxAge: 72 * time.Hour, GapSubject: "t.lost", Full: storefwd.Refuse, Interval: 3 * time.Second, Conflate: true,
		Grace: time.Minute, GraceBytes: 1 << 20, GraceDisk: true,
		Window: 10, Priority: 9, DrainRate: 64 << 10, DailyBytes: 10 << 20, LiveShare: 20, Stream: "T", Domain: "hub", AckTimeout: 7 * time.Second, DuplicateWindow: 30 * time.Second,
	}}
	want.Devices = []hw.Device{{Name: "air", Driver: "simulated", Subject: "lab.air", Interval: 2 * time.Second, Params: map[string]any{}}}
	remote := c.Remote
	c.Remote = nil
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	if got := fmt.Sprint(remote.URLs); got != "[nats-leaf://u:p@hub1:7000 nats-leaf://hub2:7422]" {
		t.Errorf("urls %s", got)
	}
	remote.URLs = nil
	if want := (&Remote{NKey: testSeed, Account: "$G", KeepOrder: true, FirstInfoTimeout: 3 * time.Second, Reconnect: 2 * time.Second,
		DenyImports: []string{"x.>"}, DenyExports: []string{"a.b", "c.*"}}); !reflect.DeepEqual(remote, want) {
		t.Errorf("got  %+v\nwant %+v", remote, want)
	}
}

// importing is a configuration of an account B that imports from A.
func importing(what string) string {
	return "accounts { A { exports: [ { stream: a.* }, { service: s } ] }, B { imports: [ { " + what + " } ] } }"
}

func TestConfigAccounts(t *testing.T) {
	c, err := load(t, `
system_account: SYS
accounts {
  SYS { users: [ { user: admin, password: x } ] }
  A {
    default_permissions { publish: d }
    users: [ { user: a, password: x }, { nkey: `+testUser+`, permissions { publish: e } } ]
    exports: [ { stream: "t.>" }, { stream: "p.*", accounts: [ B ] }, { service: s, response_type: chunked, threshold: "5s" }, { service: "r.*", response: stream } ]
    limits { max_connections: 5, max_subs: -1, max_payload: 1000, max_leafnodes: 1 }
  }
  B {
    imports: [ { stream: { account: A, subject: "t.>" }, prefix: "from.a." }, { stream: { account: A, subject: "p.*" }, to: "q.$1" }, { service: { account: A, subject: s }, to: local } ]
  }
}
no_auth_user: a
leafnodes { remotes: [ { url: "nats://hub", account: A } ] }`)
	if err != nil {
		t.Fatal(err)
	}
	perms := func(s string) *leaf.Permissions {
		return &leaf.Permissions{Publish: leaf.SubjectList{Allow: []string{s}}}
	}
	want := leaf.AuthConfig{Timeout: 2 * time.Second, SystemAccount: "SYS",
		Credentials: leaf.Credentials{NoAuthUser: "a", Users: []leaf.User{{Name: "a", Password: "x", Account: "A", Permissions: perms("d")},
			{NKey: testUser, Account: "A", Permissions: perms("e")}, {Name: "admin", Password: "x", Account: "SYS"}}},
		Accounts: []leaf.AccountConfig{
			{Name: "A", Limits: leaf.Limits{MaxConns: 5, MaxPayload: 1000}, Exports: []leaf.Export{{Subject: "t.>"}, {Subject: "p.*", Accounts: []string{"B"}},
				{Subject: "s", Service: true, Response: leaf.Chunked, Threshold: 5 * time.Second}, {Subject: "r.*", Service: true, Response: leaf.Streamed}}},
			{Name: "B", Imports: []leaf.Import{{Account: "A", Subject: "t.>", Prefix: "from.a"}, {Account: "A", Subject: "p.*", To: "q.$1"}, {Account: "A", Subject: "s", Service: true, To: "local"}}},
			{Name: "SYS"},
		}}
	if !reflect.DeepEqual(c.Auth, want) || c.Remote.Account != "A" {
		t.Errorf("got  %+v\nwant %+v", c.Auth, want)
	}
	if c, err = load(t, "accounts: [ A, B ]"); err != nil || len(c.Auth.Accounts) != 2 || !c.Auth.Anyone() {
		t.Errorf("%+v, %v", c, err)
	}
}

// userWith is a configuration of one user with permissions.
func userWith(permissions string) string {
	return "authorization { users: [ { user: a, password: b, permissions: { " + permissions + " } } ] }"
}

func TestConfigPermissions(t *testing.T) {
	for _, c := range []struct {
		text string
		want *leaf.Permissions
	}{
		{"", &leaf.Permissions{}},
		{"publish: a.>", &leaf.Permissions{Publish: leaf.SubjectList{Allow: []string{"a.>"}}}},
		{"pub: [a, b], sub: c", &leaf.Permissions{Publish: leaf.SubjectList{Allow: []string{"a", "b"}}, Subscribe: leaf.SubjectList{Allow: []string{"c"}}}},
		{"export: { deny: [\"a q*\", \"b *\"], allow: \">\" }", &leaf.Permissions{Subscribe: leaf.SubjectList{Allow: []string{">"}, Deny: []string{"a q*", "b *"}}}},
		{"allow_responses: true", &leaf.Permissions{Responses: &leaf.Responses{Max: 1, Expires: 2 * time.Minute}}},
		{"allow_responses: false", &leaf.Permissions{}},
		{"publish_allow_responses: { max: -1, ttl: \"5s\" }", &leaf.Permissions{Responses: &leaf.Responses{Max: -1, Expires: 5 * time.Second}}},
	} {
		cfg, err := load(t, userWith(c.text))
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if got := cfg.Auth.Users[0].Permissions; !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v", c.text, got)
		}
	}
	cfg, err := load(t, `authorization { default_permissions: { publish: d }, users: [ { user: a, password: b }, { user: c, password: d, permission: { publish: e } } ] }`)
	if err != nil {
		t.Fatal(err)
	}
	if u := cfg.Auth.Users; u[0].Permissions.Publish.Allow[0] != "d" || u[1].Permissions.Publish.Allow[0] != "e" {
		t.Errorf("%+v", u)
	}
}

// A listener without an authorization of its own has that of the NATS listener,
// and may have another user for those who show nothing.
func TestConfigMQTTNoAuthUser(t *testing.T) {
	c, err := load(t, `authorization { users: [ { user: a, password: b }, { nkey: `+testUser+`, clients: mqtt } ] }
no_auth_user: a
mqtt { listen: 1883, no_auth_user: `+testUser+` }`)
	if err != nil {
		t.Fatal(err)
	}
	want := leaf.Credentials{Users: []leaf.User{{Name: "a", Password: "b"}, {NKey: testUser, Types: []leaf.ConnType{leaf.MQTT}}}, NoAuthUser: "a"}
	if !reflect.DeepEqual(c.Auth.Credentials, want) {
		t.Errorf("%+v", c.Auth)
	}
	if want.NoAuthUser = testUser; !reflect.DeepEqual(*c.Auth.MQTT, want) {
		t.Errorf("%+v", c.Auth.MQTT)
	}
}

// What may wait for one connection is no less than one message, unless it is set.
func TestConfigPendingFollowsPayload(t *testing.T) {
	for _, c := range []struct {
		text          string
		pending, mqtt int
	}{
		{"max_payload: 16MB\nmqtt { port: 1883 }", 16 << 20, 16<<20 + mqttOverhead},
		{"max_pending: 20MB\nmax_payload: 2MB\nmqtt { port: 1883 }", 20 << 20, 8 << 20},
	} {
		got, err := load(t, c.text)
		if err != nil || got.MaxPending != c.pending || got.MQTT.MaxPending != c.mqtt {
			t.Errorf("%s: %+v %v", c.text, got, err)
		}
	}
}

func TestConfigMQTTInheritsAuthorization(t *testing.T) {
	c, err := load(t, "mqtt { listen: 1883 }\nauthorization { token: s3cret }")
	if err != nil {
		t.Fatal(err)
	}
	if c.MQTT.Listen != "0.0.0.0:1883" || c.mqttAuth().Token != "s3cret" {
		t.Errorf("got %+v", c.MQTT)
	}
}

func TestConfigListenForms(t *testing.T) {
	for text, want := range map[string]string{
		"":                             "127.0.0.1:4222",
		"port: 4333":                   "0.0.0.0:4333",
		"port: -1":                     "0.0.0.0:0",
		"host: ::1":                    "[::1]:4222",
		"net: 10.1.2.3\nport: 4000":    "10.1.2.3:4000",
		"listen: 4000":                 "0.0.0.0:4000",
		"listen: \"4000\"":             "0.0.0.0:4000",
		"listen: \":4000\"":            "0.0.0.0:4000",
		"listen: localhost:-1":         "localhost:0",
		"listen: 127.0.0.1:4000":       "127.0.0.1:4000",
		"listen: \"[fe80::1]:4000\"":   "[fe80::1]:4000",
		"P: 4001\nlisten: $P":          "0.0.0.0:4001",
		"'listen' \"127.0.0.1:4002\";": "127.0.0.1:4002",
	} {
		c, err := load(t, text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if c.Listen != want {
			t.Errorf("%q: %s, not %s", text, c.Listen, want)
		}
	}
}

func TestConfigVariables(t *testing.T) {
	t.Setenv("LEAFD_TEST_PORT", "4555")
	t.Setenv("LEAFD_TEST_LOOP", "$LEAFD_TEST_LOOP")
	c, err := load(t, "port: $LEAFD_TEST_PORT\nTOP: edge\nserver_name: $TOP\n")
	if err != nil || c.Listen != "0.0.0.0:4555" || c.ServerName != "edge" {
		t.Fatalf("%+v, %v", c, err)
	}
	for text, want := range map[string]string{
		"port: $LEAFD_TEST_UNSET\n":        `leafd.conf:1:1: key "$LEAFD_TEST_UNSET": is set neither`,
		"\n\nport: $LEAFD_TEST_LOOP\n":     "leafd.conf:3:1: ",
		"TOP: edge\nserver_name: edge\n":   `key "TOP": unknown key`,
		"cluster: 4222\nport: $cluster\n":  `key "cluster": leafd does not have this nats-server key yet`,
		"A: [ 1, 2 ]\nserver_name: $A\n":   `key "server_name": must be text, not a list`,
		"SIZE: {a: 1}\nmax_payload: $SIZE": `must be a size such as 8MB, not a block`,
	} {
		if _, err := load(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v does not say %q", text, err, want)
		}
	}
}

// Each line of the file is one mistake; each must be named with its place.
func TestConfigReportsEverything(t *testing.T) {
	path := write(t, "leafd.conf", `lisen: 4222
max_payload: 0
cluster { name: x }
jetstream: enabled
mqtt {
  listen: 1883
  tls { cert_file: /nowhere, key_file: /nowhere }
  max_pendng_bytes: 1MB
}
`)
	_, err := loadConfig(path)
	var es configErrors
	if !errors.As(err, &es) {
		t.Fatal(err)
	}
	want := []string{
		`:1:1: key "lisen": unknown key; did you mean "listen"?`,
		`:2:1: key "max_payload": 0 is out of range; use 1 to 64MB`,
		`:3:1: key "cluster": leafd does not have this nats-server key yet; remove it`,
		`:4:1: key "jetstream": leafd does not have this nats-server key yet; remove it; the hub keeps streams, and an outbox block keeps messages for it`,
		`:7:9: key "mqtt.tls.cert_file": /nowhere: no such file or directory; name a file that this user may read; paths are relative to the working directory`,
		`:8:3: key "mqtt.max_pendng_bytes": unknown key; did you mean "max_pending_bytes"?`,
	}
	for i := range want {
		want[i] = path + want[i]
	}
	if got := configProblems(err); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

const hub = `leafnodes { remotes: [ { url: "nats://hub" } ] }` + "\n"

// badConfigs are texts and a part of the error each must give.
var badConfigs = []struct{ text, want string }{
	{"port: 0", "port 0 is out of range"},
	{"mqtt {/ port: 1883 }", "a key begins with a slash"},
	{"port: 65536", "port 65536 is out of range"},
	{"port: x", `key "port": must be a number, not text`},
	{"listen: nowhere", `"nowhere" is not an address`},
	{"listen: 4222\nport: 4222", `key "port": says the same as "listen"`},
	{"host: a\nnet: b", "keep one of them"},
	{"Port: 1\nport: 2", `says the same as`},
	{"max_payload: -1", "-1 is out of range"},
	{"max_payload: 1GB", "1GB is out of range; use 1 to 64MB"},
	{"max_payload: 9KiB\nmax_payload: 1KB", "set twice, first at"},
	{"max_pending: 99999999999GB", "is out of range"},
	{"max_payload: 1e9", "is not a number with a unit"},
	{"max_payload: 5bb", "is not a number with a unit"},
	{"max_payload: 5kii", "has an unknown unit"},
	{"max_pending: 100KB", "less than max_payload"},
	{"ping_interval: 2m", `with quotes "2m" is minutes`},
	{"ping_interval: soon", "is not a duration"},
	{"ping_interval: \"-5s\"", "-5s is out of range"},
	{"debug: 1", "must be true or false, not a number"},
	{"server_name: 12", "must be text, not a number; put it in quotes"},
	{"server_name: \"a b\"", "must be one word"},
	{"server_name: \"\"", "is empty"},
	{"authorization: x", "must be a block"},
	{"authorization {}", "names neither users nor a token"},
	{"authorization { user: x }", "needs both user and password"},
	{"authorization { user: x, password: 1234 }", "must be text, not a number; put it in quotes"},
	{"authorization { token: x, user: u, password: p }", "exclude one another"},
	{"authorization { users: [ {user: a, password: b}, {user: a, password: c} ] }", `user "a" is there twice`},
	{"authorization { users: [ a, b ] }", `key "authorization.users[0]": must be a block`},
	{"authorization { user: a, password: $2a$11$abc }", "bcrypt"},
	{"authorization { users: [ {nkey: U} ] }", "is not the public key of a user"},
	{"authorization { users: [ {nkey: " + testUser + ", user: a} ] }", "has both an nkey and a user"},
	{"authorization { users: [ {password: a} ] }", "names neither a user nor an nkey"},
	{"authorization { users: [ {nkey: " + testUser + "}, {nkey: " + testUser + "} ] }", "is there twice"},
	{"authorization { users: [ {user: a, password: b, clients: [STANDARD, LEAFNODE] } ] }", `no listener for "LEAFNODE"`},
	{"authorization { users: [ {user: a, password: b, account: A } ] }", "leafd does not have this nats-server key yet"},
	{"authorization { users: [ {user: a, password: b} ] }\nno_auth_user: c", `"c" is not one of the users`},
	{"authorization { user: a, password: b, permissions: { publish: a } }", "does not apply these to a single user"},
	{userWith("publish: [ a..b ]"), `"a..b" is not a subject`},
	{userWith("publish: [ \"a q\" ]"), "names a queue group, which publishers have none of"},
	{userWith("subscribe: [ \"a q r\" ]"), `"a q r" is not a subject`},
	{userWith("subscribe: { allow: [] }"), "is empty"},
	{userWith("subscribe: { permit: a }"), `unknown key`},
	{userWith("pub: a, publish: b"), "says the same as"},
	{userWith("allow_responses: 5"), "must be a block"},
	{userWith("allow_responses: { max: 1, expires: soon }"), "is not a duration"},
	{"no_auth_user: c", `"c" is not one of the users`},
	{"mqtt { listen: 1883, no_auth_user: c }", `key "mqtt.no_auth_user": "c" is not one of the users`},
	{"leafnodes { listen: 7422 }", "takes no leafnodes itself"},
	{"leafnodes { }", "names no hub"},
	{"leafnodes { remotes: [ { url: \"nats://a\" }, { url: \"nats://b\" } ] }", "names 2 hubs"},
	{"leafnodes { remotes: [ { url: \"tls://a\" } ] }", "does not have tls:// links yet"},
	{"leafnodes { remotes: [ { url: \"wss://a\" } ] }", "does not have wss:// links yet"},
	{"leafnodes { remotes: [ { url: \"http://a\" } ] }", `scheme "http"`},
	{"leafnodes { remotes: [ { url: \"hub:7422\" } ] }", "is not the URL of a hub"},
	{"leafnodes { remotes: [ { url: \"nats://hub:99999\" } ] }", "out of range"},
	{"leafnodes { remotes: [ { url: \"nats://hub/x\" } ] }", "something after the port"},
	{"leafnodes { remotes: [ { account: \"$G\" } ] }", `key "leafnodes.remotes[0].url": is missing`},
	{"leafnodes { remotes: [ { url: \"nats://a\", account: EDGE } ] }", `"EDGE" is not one of the accounts`},
	{"accounts { E { limits { max_leafnodes: 0 } } }\nleafnodes { remotes: [ { url: \"nats://a\", local: E } ] }", "has max_leafnodes: 0"},
	{"accounts { E { } }\nleafnodes { remotes: [ { url: \"nats://a\", local: E } ] }\noutbox { t { subject: a } }", "outboxes are in the global account"},
	{"leafnodes { remotes: [ { url: \"nats://a\", deny_exports: [\"t.secret\"] } ] }\noutbox { t { subjects: [\"t.>\"] } }", `"t.>" overlaps "t.secret" of deny_exports`},
	{"accounts { $G { } }", "cannot be the name of an account"},
	{"accounts { A: 1 }", "must be a block"},
	{"accounts { A { mappings: { a: b } } }", "does not have this nats-server key yet; remove it; publish on"},
	{"accounts { A { jetstream: enabled } }", "the hub keeps streams"},
	{"accounts { A { limits { max_connections: 0 } } }", "0 lets nothing in"},
	{"accounts { A { users: [ {user: a, password: b} ] }, B { users: [ {user: a, password: b} ] } }", `user "a" is there twice`},
	{"authorization { user: a, password: b }\naccounts { B { users: [ {user: c, password: b} ] } }", "exclude one another"},
	{"authorization { token: a }\naccounts { B { users: [ {user: c, password: b} ] } }", "exclude one another"},
	{"accounts { A { exports: [ { } ] } }", "must have either stream or service"},
	{"accounts { A { exports: [ { stream: a, response: single } ] } }", "is for a service"},
	{"accounts { A { exports: [ { service: a, response: many } ] } }", "must be one of"},
	{"accounts { A { exports: [ { service: a, latency: b } ] } }", "does not have this nats-server key yet"},
	{"accounts { A { exports: [ { stream: a, accounts: [ X ] } ] } }", `there is no account "X"`},
	{"accounts { A { imports: [ { stream: a } ] } }", "must be a block"},
	{"accounts { A { imports: [ { stream: { account: B } } ] } }", "needs account and subject"},
	{"accounts { A { imports: [ { stream: { account: B, subject: a } } ] } }", "there is no such account"},
	{importing("stream: { account: A, subject: b }"), "does not export it"},
	{importing("service: { account: A, subject: a.1 }"), "does not export it"},
	{importing("stream: { account: A, subject: a.> }"), "does not export it"},
	{importing("stream: { account: A, subject: a.* }, to: b"), "each wildcard must be used once"},
	{importing("stream: { account: A, subject: a.* }, to: b.*.*"), "each wildcard must be used once"},
	{importing("stream: { account: A, subject: a.* }, prefix: c, to: b"), `is for a stream without "to"`},
	{importing("stream: { account: A, subject: a.* }, prefix: \"c.*\""), "is not a subject without wildcards"},
	{importing("service: { account: A, subject: s }, share: true"), "does not have this nats-server key yet"},
	{"accounts { A { exports: [ {stream: a} ], imports: [ {stream: {account: B, subject: a}} ] }, B { exports: [ {stream: a} ], imports: [ {stream: {account: A, subject: a}} ] } }", "import forms a cycle"},
	{"accounts { A { exports: [ {service: a} ], imports: [ {service: {account: B, subject: a}} ] }, B { exports: [ {service: a} ], imports: [ {service: {account: A, subject: a}} ] } }", "import forms a cycle"},
	{"system_account: S", `"S" is not one of the accounts`},
	{"operator: x", "does not have this nats-server key yet"}, {"resolver: MEMORY", "does not have this nats-server key yet"},
	{"mappings { a: b }", "does not have this nats-server key yet"},
	{"leafnodes { remotes: [ { url: \"nats://a\", nkey: SUAXYZ } ] }", "is not the seed of a user"},
	{"leafnodes { remotes: [ { url: \"nats://a\", nkey: " + testSeed + ", creds: x } ] }", "excludes credentials"},
	{"leafnodes { remotes: [ { url: \"nats://a\", compression: s2_auto } ] }", "does not have compression yet"},
	{"leafnodes { remotes: [ { url: \"nats://a\", deny_imports: \"a..b\" } ] }", "is not a subject"},
	{"leafnodes { remotes: [ { url: \"nats://a\", ws_compression: true } ] }", "leafd does not have this nats-server key yet"},
	{"mqtt { }", `key "mqtt.listen": is missing`},
	{"mqtt: true", "must be a block"},
	{"mqtt { port: 1883, max_ack_pending: 10 }", "it counts messages"},
	{"max_pending: 1MB\nmqtt { port: 1883, max_pending_bytes: 64KB }", "less than max_packet"},
	{"mqtt { listen: \"127.0.0.1:4222\" }", `is the address of "listen" too`},
	{"http: \"127.0.0.1:4222\"", `is the address of "listen" too`},
	{"mqtt { port: 8222 }\nhttp: 8222", `is the address of "mqtt.listen" too`},
	{"store { dir: relative }", "is not an absolute path"},
	{"store { journal_size: 1 }", "use 256KB to 1GB"},
	{"outbox { a { subjects: x } }", "an outbox needs a hub"},
	{hub + "outbox { a { } }", `key "outbox.a.subjects": is missing`},
	{hub + "outbox { }", "names no outbox"},
	{hub + "outbox { \"a b\" { subjects: x } }", "is not a name for an outbox"},
	{hub + "outbox { a: x }", `key "outbox.a": must be a block`},
	{hub + "outbox { a { subjects: [] } }", "is empty"},
	{hub + "outbox { a { subjects: [ 1 ] } }", "must be text"},
	{hub + "outbox { a { subjects: \"x..y\" } }", "is not a subject"},
	{hub + "outbox { a { subjects: \"$JS.x\" } }", "is reserved for NATS itself"},
	{hub + "outbox { a { subjects: \"_INBOX.>\" } }", "is reserved for NATS itself"},
	{hub + "outbox { a { subjects: \">\" } }", "takes replies"},
	{hub + "outbox { a { subjects: \"barn/#\" } }", `"barn/#" is a topic filter of MQTT, not a subject; write "barn.>"; topic a/b is subject a.b`},
	{hub + "outbox { a { subjects: [\"x.>\", \"spBv1.0/+//DDATA/#\"] } }", `write "spBv1//0.*./.DDATA.>"`},
	{hub + "outbox { a { subjects: \"+/x\" } }", `write "*.x"`},
	{hub + "outbox { a { subjects: \"#\" } }", `write ">"`},
	{hub + "outbox { a { subjects: \"a.x*.b\" } }", `"a.x*.b" has a wildcard inside the word "x*", where it stands for itself; "*" is a whole word`},
	{hub + "outbox { a { subjects: \"a.>b\" } }", `inside the word ">b"`},
	{hub + "outbox { a { subjects: x, max_msgs: 10KB } }", `is a number of messages, and 10KB is a size; write the number alone, such as 10240`},
	{hub + "outbox { a {\n \"subjects\": x, \"max_msgs\" : 5k\n} }", `and 5k is a size`},
	{hub + "outbox { a { subjects: x, max_msgs: \"10KB\" } }", `must be a number of messages, not text`},
	{hub + "outbox { a { subjects: x, max_msgs: -1 } }", `-1 is out of range; use 0 to 1000000000000 messages`},
	{hub + "outbox { a { subjects: [x, x] } }", `"x" and "x" overlap`},
	{hub + "outbox { a { subjects: \"x.>\" }, b { subjects: \"x.*.z\" } }", `overlaps "x.>" of outbox "a"`},
	{hub + "outbox { a { subjects: x, order: new } }", `key "outbox.a.order": must be one of "oldest", "newest"`},
	{hub + "outbox { a { subjects: x, live_share: 101 } }", `key "outbox.a.live_share": 101 is not a share`},
	{hub + "outbox { a { subjects: x, live_share: some } }", "some is not a share"},
	{hub + "outbox { a { subjects: x, order: newest, live_share: 10 } }", `is for order: "oldest"`},
	{hub + "outbox { a { subjects: x, full: newest } }", `must be one of "old", "new", "refuse"`},
	{hub + "outbox { a { subjects: x, commit_interval: \"2s\" } }", `is for durability: "interval"`},
	{hub + "outbox { a { subjects: x, grace: \"0s\", grace_on_disk: true } }", `has nothing to write with grace`},
	{`store { dir: "/s", spill_after: "0s" }`, `0s is out of range; use 1ms to 1m0s`},
	{hub + "outbox { a { subjects: x, max_bytes: 100KB } }", "less than max_payload"},
	{hub + "outbox { a { subjects: x, stream: a.b } }", "is not a stream name"},
	{hub + "outbox { a { subjects: x, confirm: ping } }", `must be one of "stream", "flush"`},
	{hub + "outbox { a { subjects: x, confirm: flush, grace: \"1m\" } }", `key "outbox.a.grace": is for confirm: "stream"`},
	{hub + "outbox { a { subjects: x, confirm: flush, stream: T } }", `key "outbox.a.stream": is for confirm: "stream"`},
	{"mqtt { port: 1883, max_packet: 2MB }", "lets in messages larger than max_payload"},
	{"hardware { }", `key "hardware.devices": names no device`},
	{"hardware { devices { a: x } }", `key "hardware.devices.a": must be a block`},
	{"hardware { devices { a.b { } } }", "is not a name for a device"},
	{"hardware { devices { a { } } }", `key "hardware.devices.a.driver": is missing; add one of `},
	{"hardware { devices { a { driver: simulated } } }", `key "hardware.devices.a.subject": is missing`},
	{"hardware { devices { a { driver: simulate, subject: x, foo: 1 } } }", `key "hardware.devices.a.driver": there is no driver "simulate"; the drivers are`},
	{"hardware { devices { a { driver: simulated, subject: \"x.*\" } } }", `key "hardware.devices.a.subject": "x.*" is not a subject`},
	{"hardware { devices { a { driver: simulated, subject: x, interval: 0 } } }", "out of range; use 10ms to 24h0m0s"},
	{"hardware { devices { a { driver: simulated, subject: x, pins: [ 1 , 2 ] } } }", `key "hardware.devices.a.pins": unknown key`},
	{"hardware { devices { a { driver: simulated, subject: x }, b { driver: simulated, subject: x } } }", `key "hardware.devices.b.subject": device "a" has "x" already`},
	{hub + "outbox { a { subjects: x, max_years: 1 } }", `key "outbox.a.max_years": unknown key`},
	{hub + "outbox { a { subjects: \"x.>\", gap_subject: y } }", `"y" is not a subject of this outbox`},
	{"clock { trust: maybe }", `must be one of "auto", "always", "never"`},

	// The text itself.
	{"\ufeffport: 4222", "byte order mark"},
	{"port: 4222\x00", "a control byte (0x00)"},
	{"port: 4222\rhost: x", "a carriage return inside a line"},
	{"server_name: \"\xff\"", "not UTF-8"},
	{"mqtt {\n  port: 1883\n", "the file ends inside the block opened on line 1"},
	{"a: [ 1,", "the file ends inside the list opened on line 1"},
	{"port: 4222\n}\n", `:2:1: this "}" closes nothing`},
	{"{ port: 4222 } debug: true", "text after"},
	{"mqtt{ port: 1883 }", `'{' inside a key; put a space before it`},
	{"port:\n", `key "port": has no value`},
	{"port\nhost: x", `key "port": has no value`},
	{"port: # none\n", `key "port": has no value`},
	{"a: [1]", `the number 1 touches ']'; put a space between them`},
	{"a: [1 2]", "something follows the value in this list"},
	{"a: b c", "something follows the value on this line"},
	{"a: 'b", "does not end"},
	{"a: \"b\n\"", "does not end on its line"},
	{"a: \"b", "does not end"},
	{"a: it's", "put the value in quotes"},
	{"a: -", "put it in quotes"},
	{"a: \"\\q\"", "Invalid escape character"},
	{"a: 1.5s", "leafd.conf:1:1: Parse error"},
	{"port\u00a0: 4222", "a space that is not the plain one"},
	{"include", `key "include": has no value`},
	{"include 'x", "does not end on its line"},
	{"include \"missing.conf\"", "missing.conf: no such file"},
	{"include \".\"", "it is not a regular file"},
	{"include \"leafd.conf\"", "includes itself"},
	{"x { include leafd.conf }", "includes itself"},
	{strings.Repeat("a {", 100000), "nested deeper than 32"},
	{strings.Repeat("{", 100000), `'{' inside a key`},
	{"a: " + strings.Repeat("[", 100000), "nested deeper than 32"},
	{strings.Repeat("#", 10<<20), "larger than 1024 KiB"},
}

func TestConfigRefusesByName(t *testing.T) {
	for _, c := range badConfigs {
		_, err := load(t, c.text)
		shown := c.text[:min(len(c.text), 80)]
		if err == nil {
			t.Errorf("%q is accepted", shown)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q:\n got %v\nwant %s", shown, err, c.want)
		}
		for _, line := range configProblems(err) {
			if !strings.Contains(line, "leafd.conf") || strings.Contains(line, "SUAXYZ") {
				t.Errorf("%q: %s", shown, line)
			}
		}
	}
}

// Letters that MQTT has uses for are letters of a subject all the same.
func TestConfigTakesUnusualSubjects(t *testing.T) {
	for _, s := range []string{"a/b", "a//.>", "spBv1//0.>", "/.a.*", "a.+", "a.#b", "a#.*.+b", "a/b#"} {
		if _, err := load(t, fmt.Sprintf("leafnodes { remotes: [ { url: \"nats://a\" } ] }\noutbox { a { subjects: %q } }", s)); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestConfigIncludes(t *testing.T) {
	c, err := loadConfig(write(t,
		"leafd.conf", "include port.conf\nmqtt { include 'mqtt.conf'; max_subs: 7 }\n",
		"port.conf", "port: 4777 // here\n", "mqtt.conf", "{ \"listen\": \"127.0.0.1:1999\" }"))
	if err != nil || c.Listen != "0.0.0.0:4777" || c.MQTT.Listen != "127.0.0.1:1999" || c.MQTT.MaxSubs != 7 {
		t.Fatalf("%+v, %v", c, err)
	}
	for _, bad := range []struct {
		files []string
		want  string
	}{
		{[]string{"a.conf", "include b.conf", "b.conf", "\n\ninclude a.conf"}, "b.conf:3:1: "},
		{[]string{"a.conf", "port: 1\ninclude b.conf", "b.conf", "debug: on, port: 2"}, `b.conf:1:12: key "port": set twice, first at `},
		{[]string{"a.conf", "include b.conf", "b.conf", "\nprt: 2"}, `b.conf:2:1: key "prt": unknown key; did you mean "port"?`},
		{[]string{"a.conf", "include b.conf", "b.conf", "\nport: $LEAFD_TEST_NONE"}, `b.conf:2:1: key "$LEAFD_TEST_NONE"`},
		{[]string{"a.conf", strings.Repeat("x { include b.conf }\n", 70), "b.conf", ""}, "more than 64 files"},
	} {
		if _, err := loadConfig(write(t, bad.files...)); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%q: %v does not say %s", bad.files, err, bad.want)
		}
	}
}

func TestConfigNeverShowsSecrets(t *testing.T) {
	const canary = "canary-secret"
	for _, text := range []string{
		`authorization { user: u, password: "canary-secret", token: "canary-secret" }`,
		`authorization { user: u, password: [ "canary-secret" ] }`,
		`leafnodes { remotes: [ { url: "nats://u:canary-secret@hub/x" } ] }`,
		`leafnodes { remotes: [ { url: "nats://u:canary-secret@hub:x" } ] }`,
		`leafnodes { remotes: [ { url: "nope://u:canary-secret@hub:1" } ] }`,
		`leafnodes { remotes: [ { url: "nats://a", nkey: "canary-secret" } ] }`,
	} {
		_, err := load(t, text)
		if err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestConfigWarnsOfOpenListeners(t *testing.T) {
	c, err := load(t, "port: 4222\nmqtt { port: 1883 }\nhttp: \"0.0.0.0:8222\"")
	if err != nil || len(c.Warnings) != 3 {
		t.Fatalf("%v, %v", c, err)
	}
	c, err = load(t, "port: 4222\nmqtt { port: 1883 }\nhttp: 8222\nauthorization { token: x }")
	if err != nil || len(c.Warnings) != 0 {
		t.Fatalf("%v, %v", c.Warnings, err)
	}
}

func TestCheckConfig(t *testing.T) {
	path := write(t, "leafd.conf", "port: 4222\n")
	said, err := checkConfig(&flags{config: path})
	if err != nil || !strings.Contains(said, "configuration file "+path+" is valid (sha256:") || !strings.HasPrefix(said, "warning: ") {
		t.Errorf("%q, %v", said, err)
	}
	path = write(t, "leafd.conf", `leafnodes { remotes: [ { url: "nats://a", creds: "/nonexistent/x.creds" } ] }`)
	if _, err := checkConfig(&flags{config: path}); err == nil || !strings.Contains(err.Error(), "/nonexistent/x.creds: no such file") {
		t.Errorf("%v", err)
	}
}

// demoEnv sets what the demo sets for its configuration.
func demoEnv(t testing.TB) {
	for k, v := range map[string]string{"LEAFD_NATS_PORT": "14222", "LEAFD_MQTT_PORT": "11883", "LEAFD_HTTP_PORT": "18222",
		"LEAFD_HUB_URL": "nats-leaf://127.0.0.1:17422", "LEAFD_STORE": "/tmp/leafd-demo"} {
		t.Setenv(k, v)
	}
}

func TestDemoConfig(t *testing.T) {
	demoEnv(t)
	c, err := loadConfig("../../scripts/demo/leafd.conf")
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:14222" || c.MQTT.Listen != "127.0.0.1:11883" || c.HTTP != "127.0.0.1:18222" || len(c.Warnings) > 0 ||
		c.Remote.URLs[0].String() != "nats-leaf://127.0.0.1:17422" || c.Store.Dir != "/tmp/leafd-demo" || len(c.Outboxes) != 1 || len(c.Devices) != 3 {
		t.Errorf("%+v", c)
	}
}

// The file that is installed changes nothing as it is. With its comment marks taken
// away it is valid, and what it does not call an example is the default.
func TestDeployConfigShowsDefaults(t *testing.T) {
	const path = "../../deploy/leafd.conf"
	c, err := loadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	c.File, c.places = "", nil
	if !reflect.DeepEqual(c, defaultConfig()) {
		t.Errorf("%s is not the default: %+v", path, c)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		if len(line) > 1 && line[0] == '#' && (line[1] != ' ' || strings.HasPrefix(line, "#  ")) {
			lines[i] = line[1:]
		}
	}
	ca := testkit.NewCA(t)
	cert, key := ca.Issue(x509.Certificate{})
	files := strings.NewReplacer("/etc/leafd/cert.pem", cert, "/etc/leafd/key.pem", key, "/etc/leafd/ca.pem", ca.File)
	if c, err = load(t, files.Replace(strings.Join(lines, "\n"))); err != nil {
		t.Fatal(err)
	}
	if c.TLS == nil || c.WS == nil || c.Remote == nil || c.MQTT == nil || len(c.Outboxes) != 1 || len(c.Devices) != 3 {
		t.Fatalf("%s does not show every block: %+v", path, c)
	}
	want := defaultConfig()
	want.File, want.Warnings, want.Devices, want.places = c.File, c.Warnings, c.Devices, c.places
	want.ClientAdvertise, want.ServerTags, want.PortsFileDir = c.ClientAdvertise, c.ServerTags, c.PortsFileDir
	want.Log.File, want.Log.RemoteSyslog, want.Log.Syslog = c.Log.File, c.Log.RemoteSyslog, true
	want.ServerName, want.HTTP, want.PidFile, want.Auth.Users = c.ServerName, c.HTTP, c.PidFile, c.Auth.Users
	want.MaxMemory = c.MaxMemory
	want.Auth.MQTT, want.Auth.NoAuthUser = c.Auth.MQTT, c.Auth.NoAuthUser
	want.Auth.Accounts, want.Auth.SystemAccount = c.Auth.Accounts, "$SYS"
	want.MQTT = defaultMQTT(want.MaxPayload)
	want.MQTT.Listen, want.MQTT.TLS = c.MQTT.Listen, c.MQTT.TLS
	want.TLS = &secure.Config{CertFile: cert, KeyFile: key, CAFile: ca.File, Verify: true, Timeout: 2 * time.Second, Pinned: c.TLS.Pinned,
		MinVersion: tls.VersionTLS12, CipherSuites: c.TLS.CipherSuites, Curves: c.TLS.Curves}
	want.WS = &WebSocket{Listen: c.WS.Listen, TLS: c.WS.TLS, Origins: c.WS.Origins, HandshakeTimeout: 2 * time.Second, Advertise: c.WS.Advertise}
	want.Auth.WebSocket = c.Auth.WebSocket
	want.Remote = defaultRemote()
	want.Remote.URLs, want.Remote.Credentials = c.Remote.URLs, c.Remote.Credentials
	want.Remote.DenyImports, want.Remote.DenyExports = c.Remote.DenyImports, c.Remote.DenyExports
	box := defaultOutbox(c.Outboxes[0].Name)
	box.GapSubject = "telemetry.gap"
	box.Subjects, box.Stream, box.Domain = c.Outboxes[0].Subjects, c.Outboxes[0].Stream, c.Outboxes[0].Domain
	want.Outboxes = []Outbox{box}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("%s shows\n%+v\nthe defaults are\n%+v", path, c, want)
	}
}

// Every key that the reader asks for is in the installed file, in one spelling.
func TestDeployConfigShowsEveryKey(t *testing.T) {
	text, err := os.ReadFile("../../deploy/leafd.conf")
	if err != nil {
		t.Fatal(err)
	}
	keys := strings.Fields(`users user password nkey allowed_connection_types permissions publish subscribe allow deny allow_responses
		default_permissions token exports imports limits cert_file key_file ca_file verify verify_and_map handshake_first pinned_certs
		min_version cipher_suites curve_preferences reconnect remotes urls account no_randomize credentials first_info_timeout disabled
		deny_imports deny_exports no_tls same_origin allowed_origins compression handshake_timeout advertise driver subject interval bus
		address chip line pull edge debounce active_low initial safe`)
	for _, s := range settings {
		keys = append(keys, strings.Split(strings.ReplaceAll(s.key, "[0]", ""), ".")...)
	}
	for _, s := range outboxSettings {
		keys = append(keys, s.key)
	}
	for _, key := range keys {
		if !regexp.MustCompile(`[#{ ]` + key + `(:| \{)`).Match(text) {
			t.Errorf("key %q is not shown", key)
		}
	}
}

// structure is the keys of a parsed file, for comparison with the scanner's.
func structure(v any) any {
	if t, ok := v.(token); ok {
		v = t.Value()
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil
	}
	out := make(map[string]any)
	for k, v := range m {
		out[k] = structure(v)
	}
	return out
}

// FuzzConfig reads any text as a configuration: no crash, no hang, an error for
// people or a Config; and what the scanner lets through, conf reads with the same
// keys at the top.
func FuzzConfig(f *testing.F) {
	for _, c := range badConfigs {
		if len(c.text) < 1000 {
			f.Add(c.text)
		}
	}
	demoEnv(f)
	for _, path := range []string{"../../deploy/leafd.conf", "../../scripts/demo/leafd.conf"} {
		if text, err := os.ReadFile(path); err == nil {
			f.Add(string(text))
		}
	}
	f.Add("a 'b'; c [ \"d\\\"\", {e: f}, ( ]\n")
	f.Add("{\"a\": {\"b\": [1 , 2.5, -3k , true, 2020-01-01T00:00:00Z]}}\n")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(strings.ToLower(text), "include") {
			return // would read files of this machine; TestConfigIncludes has them
		}
		s := &scan{stack: []string{"fuzz.conf"}, units: make(unitSet)}
		keys := make(keySet)
		s.run("fuzz.conf", text, keys)
		if len(s.errs) > 0 {
			return
		}
		m, err := parseConf("fuzz.conf", func() (map[string]any, error) { return conf.ParseWithChecks(text) })
		if err != nil {
			if strings.Contains(err.Error(), "parser failed") {
				t.Fatal(err)
			}
			return
		}
		got, want := slices.Sorted(maps.Keys(keys)), slices.Sorted(maps.Keys(structure(m).(map[string]any)))
		if !slices.Equal(got, want) {
			t.Fatalf("%q: the scanner sees the keys %q, conf %q", text, got, want)
		}
		if _, err := readConfig("fuzz.conf", m, s.units, nil); err != nil && len(configProblems(err)) == 0 {
			t.Fatal("an error that says nothing")
		}
	})
}
