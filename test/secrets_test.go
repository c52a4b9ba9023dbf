package test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"testing"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/nats-io/nats.go"

	"github.com/leafd/leafd/internal/testkit"
)

// secretsConfig has a secret wherever one may be. All but the hash and the seed have
// "canary" in them.
const secretsConfig = `
server_name: edge
host: "127.0.0.1", port: $LEAFD_NATS_PORT
http: $LEAFD_HTTP_PORT
system_account: SYS
accounts {
  SYS { users: [ { user: sys, password: "canary-sys" } ] }
  A { users: [ { user: plain, password: "canary-plain" }, { user: hashed, password: "%s" }, { nkey: %s } ], exports: [ { stream: "pub.>" } ] }
  B { users: [ { user: b, password: "canary-b", permissions: { publish: "x", subscribe: "_INBOX.>" } } ], imports: [ { stream: { account: A, subject: "pub.>" } } ] }
}
mqtt {
  host: "127.0.0.1", port: $LEAFD_MQTT_PORT
  authorization { users: [ { user: device, password: "canary-device" } ] }
}
leafnodes { remotes: [ { url: "nats-leaf://edge:canary-hub@127.0.0.1:1", account: A } ] }
`

// secret is what must not be seen.
type secret []string

func (s secret) absent(t *testing.T, where, text string) {
	t.Helper()
	for _, word := range s {
		if i := strings.Index(text, word); i >= 0 {
			t.Errorf("%s shows a secret: %q", where, text[max(0, i-200):min(len(text), i+len(word))])
		}
	}
}

// Secrets of users are in no line of the log, however much it says, on no page, in no
// system event, and in nothing that a command prints.
func TestSecretsAreNotShown(t *testing.T) {
	hash := hashed(t, "canary-hashed")
	config := fmt.Sprintf(secretsConfig, hash, twinUser)
	var signatures secret
	sign := func(nonce []byte) ([]byte, error) {
		sig, err := twinKey.Sign(nonce)
		signatures = append(signatures, base64.RawURLEncoding.EncodeToString(sig))
		return sig, err
	}
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: config, Args: []string{"-DV"}})
	sys := connect(t, l.NATSURL(), nats.UserInfo("sys", "canary-sys"))
	var mu sync.Mutex
	var events bytes.Buffer
	if _, err := sys.Subscribe("$SYS.>", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(&events, "%s %s\n", m.Subject, m.Data)
	}); err != nil {
		t.Fatal(err)
	}
	sys.Flush()
	for _, o := range []nats.Option{nats.UserInfo("plain", "canary-plain"), nats.UserInfo("hashed", "canary-hashed"), nats.Nkey(twinUser, sign), nats.UserInfo("b", "canary-b")} {
		nc := connect(t, l.NATSURL(), o)
		nc.Publish("pub.x", nil)
		nc.Flush()
		if _, err := nc.Request("$SYS.REQ.USER.INFO", nil, testkit.Patience); err != nil {
			t.Error(err)
		}
	}
	for _, o := range []nats.Option{nats.UserInfo("plain", "canary-wrong"), nats.UserInfo("canary", "canary-none"), nats.Token("canary-token")} {
		if _, err := nats.Connect(l.NATSURL(), o); err == nil {
			t.Error("let in")
		}
	}
	c := dial(t, testkit.Addr(l.NATSPort)) // what is not quite a CONNECT
	fmt.Fprint(c, `CONNECT {"user":"plain","pass":"canary-plain","auth_token":5}`+"\r\nCONNECT {\"pass\":\"canary-cut\r\nPASS canary-word\r\n")
	for pass, ok := range map[string]bool{"canary-device": true, "canary-wrong": false} {
		d := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(l.MQTTURL()).SetClientID("dev").SetUsername("device").SetPassword(pass).SetAutoReconnect(false))
		token := d.Connect()
		if !token.WaitTimeout(testkit.Patience) || (token.Error() == nil) != ok {
			t.Errorf("device: %v", token.Error())
		}
		defer d.Disconnect(0)
	}
	all := append(secret{"canary-", hash, hash[29:]}, signatures...)
	m := monitored{"leafd", l.NATSURL(), l.HTTPURL()}
	for _, path := range []string{"/", "/varz", "/connz?auth=1&subs=detail&state=any", "/accountz", "/accountz?acc=A", "/accountz?acc=B", "/accountz?acc=SYS", "/accstatz?unused=1",
		"/leafz?subs=1", "/subsz?subs=1", "/uplinkz", "/metrics", "/debug/vars", "/healthz", "/stacksz"} {
		_, _, text := m.ask(t, path)
		all.absent(t, path, text)
	}
	for _, subject := range []string{"SERVER.PING", "SERVER.PING.VARZ", "SERVER.PING.CONNZ", "SERVER.PING.ACCOUNTZ", "ACCOUNT.A.INFO", "ACCOUNT.B.INFO", "ACCOUNT.A.CONNZ", "ACCOUNT.A.CONNS", "USER.INFO"} {
		answer, err := sys.Request("$SYS.REQ."+subject, []byte(`{"auth":true,"subscriptions":true,"state":2}`), testkit.Patience)
		if err != nil {
			t.Errorf("%s: %v", subject, err)
			continue
		}
		all.absent(t, subject, string(answer.Data))
	}
	l.Configure(strings.NewReplacer("canary-b", "canary-b2", "canary-hub", "canary-hub2", "canary-device", "canary-device2").Replace(config))
	reloaded := func(body string) string {
		answer, err := sys.Request("$SYS.REQ.SERVER."+sys.ConnectedServerId()+".RELOAD", []byte(body), testkit.Patience)
		if err != nil {
			t.Fatal(err)
		}
		return string(answer.Data)
	}
	if answer := reloaded(""); strings.Contains(answer, "error") {
		t.Error(answer)
	}
	for _, text := range brokenSecrets {
		l.Configure(config + text)
		answer := reloaded("")
		all.absent(t, "reload of "+text, answer)
		out, err := l.Command("-t").CombinedOutput()
		if err == nil {
			t.Errorf("%s is taken", text)
		}
		all.absent(t, "-t of "+text, string(out))
	}
	sys.Flush()
	mu.Lock()
	defer mu.Unlock()
	for _, want := range []string{".CONNECT ", ".DISCONNECT ", ".CLIENT.AUTH.ERR "} {
		if !strings.Contains(events.String(), want) {
			t.Errorf("no %s among the events", want)
		}
	}
	all.absent(t, "an event", events.String())
	log := l.Log()
	for _, want := range []string{"[CONNECT ", "configuration changed", "client refused", "Failed to reload"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in the log", want)
		}
	}
	all.absent(t, "the log", log)
}

// A token is one, too.
func TestTokensAreNotShown(t *testing.T) {
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Args: []string{"-DV"},
		Config: "host: \"127.0.0.1\", port: $LEAFD_NATS_PORT\nhttp: $LEAFD_HTTP_PORT\nauthorization { token: \"canary-token\" }\n"})
	connect(t, l.NATSURL(), nats.Token("canary-token")).Flush()
	if _, err := nats.Connect(l.NATSURL(), nats.Token("canary-wrong")); err == nil {
		t.Error("let in")
	}
	_, _, text := monitored{"leafd", l.NATSURL(), l.HTTPURL()}.ask(t, "/connz?auth=1&state=any")
	if !strings.Contains(text, "[REDACTED]") {
		t.Error(text)
	}
	secret{"canary-"}.absent(t, "/connz", text)
	l.Stop()
	secret{"canary-"}.absent(t, "the log", l.Log())
}

// brokenSecrets are wrong in the place where the secret is, or beside it.
var brokenSecrets = []string{
	`authorization { users: [ { user: x, passwrd: "canary-1" } ] }`,
	`authorization { users: [ { user: x, password: [ "canary-2" ] } ] }`,
	`authorization { users: [ { user: x, password: { a: "canary-3" } } ] }`,
	`authorization { users: [ { user: x, password: "$2a$04$canary-4" } ] }`,
	`authorization { users: [ { user: x, password: "canary-5" }, { user: x, password: "canary-6" } ] }`,
	`authorization { users: [ { user: plain, password: "canary-7" } ] }`,
	`authorization { user: x, password: "canary-8", token: "canary-9" }`,
	`authorization { password: "canary-10" }`,
	`authorization { token: "canary-11", users: [ { user: x } ] }`,
	`authorization { users: [ { user: x, password: "canary-12 } ] }`,
	`authorization { users: [ { user: x, password: canary-13"14 } ] }`,
	`authorization { users: [ { user: x, password: (canary-16) } ] }`,
	`authorization { users: [ { user: x, password: 99999999999999999999999999 }, { nkey: "SUAcanary-18" } ] }`,
	`authorization { users: [ { user: x, password: "canary-19", password: "canary-20" } ] }`,
	`authorization { users: [ "canary-21" ] }`,
	`authorization: "canary-22"`,
	`authorization { users: [ { user: x, password: "canary-23" ] }`,
	`accounts: "canary-24"`,
	`leafnodes { remotes: [ { url: "nats-leaf://u:canary-25@host:port" } ] }`,
	`leafnodes { remotes: [ { url: "nats-leaf://u:canary-26%zz@host:1" } ] }`,
	`leafnodes { remotes: [ { url: "ftp://u:canary-27@host:1" } ] }`,
	`leafnodes { remotes: [ { url: "nats-leaf://h:1", nkey: "SUAcanary-28" } ] }`,
	`leafnodes { remotes: [ { urls: [ "nats-leaf://u:canary-29@h:1", "nats-leaf://u:canary-30@h: 1" ] } ] }`,
	`authorization { users: [ { user: x, password: "canary-31\q" } ] }`,
	`authorization { users: [ { user: x, password: 'canary-32`,
	"authorization { token: canary-33\x01 }",
	`authorization { token: canary-34, timeout: "canary" }`,
	`authorization { tokn: canary-35 }`,
}
