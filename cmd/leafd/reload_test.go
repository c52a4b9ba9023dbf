package main

import (
	"crypto/tls"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/secure"
	"github.com/leafd/leafd/internal/ws"
	"github.com/leafd/leafd/leaf"
)

// full is a configuration in which no field is its zero value.
func full(t *testing.T) *Config {
	t.Helper()
	c, err := load(t, hub+`server_name: a
mqtt { port: 1883 }
http: 8222
outbox { x { subjects: "x.>" } }
hardware { devices { air { driver: simulated, subject: "lab.air" } } }`)
	if err != nil {
		t.Fatal(err)
	}
	c.Auth.MQTT, c.Auth.WebSocket = &leaf.Credentials{}, &leaf.Credentials{}
	c.TLS, c.MQTT.TLS, c.WS = &secure.Config{}, &secure.Config{}, &WebSocket{TLS: &secure.Config{}}
	return c
}

// notCompared are fields that say nothing of how the gateway runs.
var notCompared = []string{"File", "Warnings", "httpHost", "flagUser", "places"}

// No key can change without a reload noticing: each field of the configuration, and
// of its blocks, is compared.
func TestDiffSeesEveryField(t *testing.T) {
	var walk func(path string, v reflect.Value, a, b *Config)
	walk = func(path string, v reflect.Value, a, b *Config) {
		if v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		if v.Kind() == reflect.Slice && v.Len() > 0 && strings.HasSuffix(path, ".Outboxes") {
			v = v.Index(0)
		}
		if v.Kind() == reflect.Struct {
			for i := range v.NumField() {
				name := v.Type().Field(i).Name
				if !v.Type().Field(i).IsExported() || path == "" && contains(notCompared, name) || strings.HasSuffix(path, ".Outboxes") && name == "Name" {
					continue
				}
				walk(path+"."+name, v.Field(i), a, b)
			}
			return
		}
		was := reflect.ValueOf(v.Interface())
		alter(t, path, v)
		if len(diff(a, b)) == 0 {
			t.Errorf("a change of %s is not seen", path)
		}
		v.Set(was)
	}
	a, b := full(t), full(t)
	if ch := diff(a, b); len(ch) > 0 {
		t.Fatalf("%+v", ch)
	}
	walk("", reflect.ValueOf(b), a, b)
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// alter sets v to something else.
func alter(t *testing.T, path string, v reflect.Value) {
	switch {
	case v.Kind() == reflect.String:
		v.SetString(v.String() + "x")
	case v.Kind() == reflect.Bool:
		v.SetBool(!v.Bool())
	case v.CanInt():
		v.SetInt(v.Int() + 1)
	case v.CanUint():
		v.SetUint(v.Uint() + 1)
	case v.Type() == reflect.TypeFor[[]string]():
		v.Set(reflect.ValueOf([]string{"x"}))
	case v.Type() == reflect.TypeFor[[]uint16]():
		v.Set(reflect.ValueOf([]uint16{1}))
	case v.Type() == reflect.TypeFor[[]tls.CurveID]():
		v.Set(reflect.ValueOf([]tls.CurveID{tls.X25519}))
	case v.Type() == reflect.TypeFor[[]ws.Origin]():
		v.Set(reflect.ValueOf([]ws.Origin{{}}))
	case v.Type() == reflect.TypeFor[[]leaf.User]():
		v.Set(reflect.ValueOf([]leaf.User{{Name: "x", Password: "y"}}))
	case v.Type() == reflect.TypeFor[[]leaf.AccountConfig]():
		v.Set(reflect.ValueOf([]leaf.AccountConfig{{Name: "x"}}))
	case v.Type() == reflect.TypeFor[[]*url.URL]():
		v.Set(reflect.ValueOf([]*url.URL{{Host: "x"}}))
	case v.Kind() == reflect.Slice:
		v.Set(reflect.Zero(v.Type()))
	default:
		t.Fatalf("%s: this test does not know %v", path, v.Type())
	}
}

// What needs a restart refuses the reload, naming the line, the key and the reason.
func TestReloadNamesWhatNeedsARestart(t *testing.T) {
	const base = hub + "outbox { x { subjects: \"x.>\" }, y { subjects: \"y.>\" } }\n"
	a, err := load(t, base)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		base + "server_name: other":               `leafd.conf:3:1: key "server_name": cannot change while leafd runs: the hub and the message ids know it; restart leafd, or undo the change`,
		base + "store { reserve: 2MB }":           `leafd.conf:3:9: key "store.reserve": cannot change`,
		base + "clock { trust: never }":           `key "clock.trust": cannot change`,
		base + "mqtt { port: 1883 }":              `leafd.conf:3:1: key "mqtt": cannot change`,
		base + "accounts: [S], system_account: S": `key "system_account": cannot change`,
		base + "http: 8222":                       `key "http": cannot change`,
		hub + "outbox { x { subjects: x } }":      `key "outbox.y": cannot change`,
		hub + "outbox { x { subjects: \"x.>\", max_bytes: 2MB }, y { subjects: \"y.>\" } }": `leafd.conf:2:31: key "outbox.x.max_bytes": cannot change while leafd runs: the store is open with it`,
	} {
		b, err := load(t, text)
		if err != nil {
			t.Fatal(err)
		}
		if err := needRestart(diff(a, b), b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n got %v\nwant %s", text, err, want)
		}
	}
}

func TestChangesShowValuesAndNoSecrets(t *testing.T) {
	a, b := full(t), full(t)
	b.PingInterval, b.ServerTags, b.Debug = time.Second, []string{"a", "b"}, true
	b.Auth.Users = []leaf.User{{Name: "u", Password: "canary"}}
	b.Remote.NKey = "canary"
	b.Outboxes[0].DrainRate = 7
	got := map[string]string{}
	for _, c := range diff(a, b) {
		got[c.key] = c.old + " " + c.new
		if c.restart != "" || strings.Contains(c.old+c.new, "canary") {
			t.Errorf("%+v", c)
		}
	}
	want := map[string]string{"ping_interval": "2m0s 1s", "server_tags": " a,b", "debug": "false true", "authorization": "(old) (new)",
		"leafnodes.remotes": "(old) (new)", "outbox.x.drain_rate": "0 7"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
