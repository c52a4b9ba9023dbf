package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/secure"
	"github.com/leafd/leafd/internal/testkit"
	"github.com/leafd/leafd/internal/ws"
)

func TestConfigTLS(t *testing.T) {
	ca := testkit.NewCA(t)
	cert, key := ca.Issue(x509.Certificate{})
	pin := strings.Repeat("aB", 32)
	c, err := loadConfig(write(t, "leafd.conf", fmt.Sprintf(`
CERT: %q, KEY: %q, CA: %q
allow_non_tls: true
https: 8443
tls {
  cert_file: $CERT, key_file: $KEY, ca_file: $CA
  verify_and_map: true, timeout: 0.5, handshake_first: "300ms", pinned_certs: [ %q ], min_version: 1.3
  cipher_suites: [ "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" ], curve_preferences: [ "X25519", "CurveP256" ]
}
mqtt { listen: "127.0.0.1:1883", tls { cert_file: $CERT, key_file: $KEY } }
websocket {
  port: 9222, host: "127.0.0.1", tls { cert_file: $CERT, key_file: $KEY }
  same_origin: true, allowed_origins: [ "https://a.example", "http://b.example:81" ]
  compression: true, handshake_timeout: "5s", advertise: "edge.example:443"
}
`, cert, key, ca.File, pin)))
	if err != nil {
		t.Fatal(err)
	}
	plain := &secure.Config{CertFile: cert, KeyFile: key}
	want := &secure.Config{CertFile: cert, KeyFile: key, CAFile: ca.File, Map: true, Timeout: 500 * time.Millisecond, First: true, Fallback: 300 * time.Millisecond,
		Pinned: []string{strings.ToLower(pin)}, MinVersion: tls.VersionTLS13,
		CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}, Curves: []tls.CurveID{tls.X25519, tls.CurveP256}}
	if !reflect.DeepEqual(c.TLS, want) || !reflect.DeepEqual(c.MQTT.TLS, plain) || !c.AllowNonTLS || !c.HTTPS || c.HTTP != "127.0.0.1:8443" {
		t.Errorf("got %+v, MQTT %+v, allow %v, https %v %s", c.TLS, c.MQTT.TLS, c.AllowNonTLS, c.HTTPS, c.HTTP)
	}
	a, _ := ws.ParseOrigin("https://a.example")
	b, _ := ws.ParseOrigin("http://b.example:81")
	web := &WebSocket{Listen: "127.0.0.1:9222", TLS: plain, SameOrigin: true, Origins: []ws.Origin{a, b}, Compression: true,
		HandshakeTimeout: 5 * time.Second, Advertise: "edge.example:443"}
	if !reflect.DeepEqual(c.WS, web) {
		t.Errorf("got %+v, want %+v", c.WS, web)
	}
}

// In each text, PAIR is a certificate and its key.
func TestConfigTLSMistakes(t *testing.T) {
	cert, key := testkit.NewCA(t).Issue(x509.Certificate{})
	_, otherKey := testkit.NewCA(t).Issue(x509.Certificate{})
	r := strings.NewReplacer("PAIR", fmt.Sprintf("cert_file: %q, key_file: %q", cert, key), "OTHER", fmt.Sprintf("cert_file: %q, key_file: %q", cert, otherKey))
	for _, c := range []struct{ text, want string }{
		{"tls { }", `:1:1: key "tls.cert_file": is missing`},
		{"tls { cert_file: \"/nowhere\",\nkey_file: \"/nowhere\" }", `:1:7: key "tls.cert_file": /nowhere: no such file or directory; name a file`},
		{"tls { OTHER }", "does not go with"},
		{"tls { PAIR, min_version: \"1.1\" }", `must be "1.2" or "1.3"; earlier versions are not safe`},
		{"tls { PAIR, handshake_first: soon }", "is neither true, false, auto nor a duration"},
		{"tls { PAIR, pinned_certs: [ ab ] }", "is not a SHA-256 in hexadecimal"},
		{"tls { PAIR, cipher_suites: [ TLS_RSA_WITH_RC4_128_SHA ] }", "is not one of the secure ones"},
		{"tls { PAIR, curve_preferences: [ secp ] }", "is not a curve that leafd knows"},
		{"tls { PAIR, insecure: true }", "it is for links between servers"},
		{"tls { PAIR, ocsp_peer: true }", "does not have this nats-server key yet"},
		{"https: 8443", `key "https": needs a certificate; add tls`},
		{"tls { PAIR }\nhttp: 8222\nhttps: 8443", `key "https": excludes http`},
		{"mqtt { listen: 1883, tls { PAIR, handshake_first: true } }", "here clients shake hands first anyway"},
		{"websocket { }", `key "websocket.listen": is missing`},
		{"websocket { port: 8443 }", `key "websocket.tls": is missing; add it, or no_tls: true`},
		{"websocket { port: 8443, tls { } }", `key "websocket.tls.cert_file": is missing`},
		{"websocket { port: 8443, no_tls: true, allowed_origins: [ a.example ] }", `"a.example" is not the origin of a page`},
		{"websocket { port: 8443, no_tls: true, jwt_cookie: a }", `key "websocket.jwt_cookie": leafd does not have this nats-server key yet; remove it; clients log in with CONNECT`},
		{"websocket { port: 8443, no_tls: true, no_auth_user: a }", `"a" is not one of the users`},
		{"websocket { port: 8443, no_tls: true, authorization { user: a, password: b, timeout: 5 } }", "is that of authorization for WebSockets, too"},
		{"listen: 8443\nwebsocket { port: 8443, no_tls: true }", `is the address of "listen" too`},
	} {
		_, err := loadConfig(write(t, "leafd.conf", r.Replace(c.text)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v\nwant %s", c.text, err, c.want)
		}
	}
}

// A certificate that clients will refuse is no reason not to start.
func TestConfigExpiredCertificate(t *testing.T) {
	cert, key := testkit.NewCA(t).Issue(x509.Certificate{NotBefore: time.Now().AddDate(0, -2, 0), NotAfter: time.Now().AddDate(0, -1, 0)})
	c, err := loadConfig(write(t, "leafd.conf", fmt.Sprintf("tls { cert_file: %q, key_file: %q }", cert, key)))
	if err != nil || !slices.ContainsFunc(c.Warnings, func(w string) bool { return strings.Contains(w, "expired on") }) {
		t.Errorf("%v, %v", err, c)
	}
}

// Other certificates and rules are put in force by a reload; that a listener has TLS, or
// speaks WebSocket, is settled at the start.
func TestReloadTLSNamesWhatNeedsARestart(t *testing.T) {
	ca := testkit.NewCA(t)
	cert, key := ca.Issue(x509.Certificate{})
	other, otherKey := ca.Issue(x509.Certificate{})
	r := strings.NewReplacer("PAIR", fmt.Sprintf("cert_file: %q, key_file: %q", cert, key), "OTHER", fmt.Sprintf("cert_file: %q, key_file: %q", other, otherKey))
	const no = "cannot change while leafd runs: "
	for _, c := range []struct{ was, is, want string }{
		{"tls { PAIR }", "tls { OTHER, timeout: 3, verify: true }\nallow_non_tls: true", ""},
		{"mqtt { port: 1883, tls { PAIR } }", "mqtt { port: 1883, tls { OTHER } }", ""},
		{"websocket { port: 8443, tls { PAIR } }", "websocket { port: 8443, tls { OTHER } }", ""},
		{"", "tls { PAIR }", `leafd.conf:1:1: key "tls": ` + no + "a listener has TLS or not from the start; restart leafd"},
		{"tls { PAIR }", "", `key "tls": ` + no},
		{"tls { PAIR }\nhttp: 8443", "tls { PAIR }\nhttps: 8443", `leafd.conf:2:1: key "https": ` + no},
		{"mqtt { port: 1883 }", "mqtt { port: 1883, tls { PAIR } }", `leafd.conf:1:20: key "mqtt.tls": ` + no},
		{"", "mqtt { port: 1883, tls { PAIR } }", `leafd.conf:1:1: key "mqtt": ` + no},
		{"", "websocket { port: 8443, tls { PAIR } }", `leafd.conf:1:1: key "websocket": ` + no},
		{"websocket { port: 8443, no_tls: true }", "websocket { port: 8443, no_tls: true, tls { PAIR } }", `leafd.conf:1:39: key "websocket.tls": ` + no},
		{"websocket { port: 8443, no_tls: true }", "websocket { port: 8444, no_tls: true }", `leafd.conf:1:1: key "websocket": ` + no},
	} {
		a, err := load(t, r.Replace(c.was))
		if err != nil {
			t.Fatal(err)
		}
		b, err := load(t, r.Replace(c.is))
		if err != nil {
			t.Fatal(err)
		}
		changes := diff(a, b)
		err = needRestart(changes, b)
		switch {
		case len(changes) == 0:
			t.Errorf("from %s to %s: no change", c.was, c.is)
		case c.want == "" && err != nil:
			t.Errorf("from %s to %s: %v", c.was, c.is, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n")):
			t.Errorf("from %s to %s:\n got %v\nwant %s", c.was, c.is, err, c.want)
		}
	}
}

// New certificates are read as a whole, and put in force for the listeners that have TLS.
func TestSwapCertificates(t *testing.T) {
	cert, key := testkit.NewCA(t).Issue(x509.Certificate{})
	c := defaultConfig()
	c.TLS = &secure.Config{CertFile: cert, KeyFile: key}
	ids, err := loadIdentities(c)
	if err != nil || ids.nats == nil || ids.http != nil || ids.mqtt != nil || ids.ws != nil {
		t.Fatalf("%+v, %v", ids, err)
	}
	s := newSecured(ids)
	c.HTTPS = true
	if ids, err = loadIdentities(c); err != nil || ids.http == nil {
		t.Fatal(err)
	}
	if s.swap(ids); s.nats == nil || s.http != nil {
		t.Errorf("%+v", s)
	}
	c.TLS = &secure.Config{CertFile: cert, KeyFile: "/nowhere"}
	if _, err := loadIdentities(c); err == nil || !strings.Contains(err.Error(), "tls.key_file: /nowhere: no such file") {
		t.Errorf("%v", err)
	}
}
