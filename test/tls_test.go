package test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/nats-io/nats.go"

	"github.com/leafd/leafd/internal/testkit"
)

// tlsFiles are an authority, the server's certificate and a client's.
type tlsFiles struct {
	ca                           *testkit.CA
	cert, key, clientCert, clKey string
}

func newTLSFiles(t *testing.T) *tlsFiles {
	f := &tlsFiles{ca: testkit.NewCA(t)}
	f.cert, f.key = f.ca.Issue(x509.Certificate{Subject: pkix.Name{CommonName: "leafd"}})
	f.clientCert, f.clKey = f.ca.Issue(x509.Certificate{Subject: pkix.Name{CommonName: "sensor", Organization: []string{"leafd"}},
		EmailAddresses: []string{"sensor@example.com"}})
	return f
}

// block is a tls block with more keys in it.
func (f *tlsFiles) block(more string) string {
	if !strings.Contains(more, "timeout") {
		more += "\ntimeout: 30"
	}
	return fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q\n%s }\n", f.cert, f.key, f.ca.File, more)
}

// root trusts the authority, and is patient.
func (f *tlsFiles) root() nats.Option {
	return func(o *nats.Options) error {
		o.Timeout = testkit.Patience
		return nats.RootCAs(f.ca.File)(o)
	}
}
func (f *tlsFiles) own() nats.Option { return nats.ClientCert(f.clientCert, f.clKey) }

const (
	natsPort  = "host: \"127.0.0.1\", port: $LEAFD_NATS_PORT\n"
	webSocket = "websocket { host: \"127.0.0.1\", port: $LEAFD_WS_PORT, "
)

// roundTrip asks through one connection.
func roundTrip(t *testing.T, nc *nats.Conn) {
	t.Helper()
	sub, err := nc.Subscribe("tls.echo", func(m *nats.Msg) { m.Respond(m.Data) })
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	for _, n := range []int{0, 10, 5000, 900_000} { // smaller and larger than a TLS record
		m, err := nc.Request("tls.echo", make([]byte, n), testkit.Patience)
		if err != nil || len(m.Data) != n {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

func TestTLSWithNATSClient(t *testing.T) {
	f := newTLSFiles(t)
	for _, c := range []struct {
		name, conf string
		opts       []nats.Option
		fails      bool
	}{
		{"root CA", f.block(""), []nats.Option{f.root()}, false},
		{"unknown CA", f.block(""), nil, true},
		{"verify", f.block("verify: true"), []nats.Option{f.root(), f.own()}, false},
		{"verify, and no certificate", f.block("verify: true"), []nats.Option{f.root()}, true},
		{"handshake first", f.block("handshake_first: true"), []nats.Option{f.root(), nats.TLSHandshakeFirst()}, false},
		{"handshake first, and the client waits", f.block("handshake_first: true"), []nats.Option{f.root()}, true},
		{"handshake first, auto", f.block("handshake_first: auto"), []nats.Option{f.root()}, false},
		{"handshake first, auto, and the client does", f.block("handshake_first: \"10s\", timeout: 20"), []nats.Option{f.root(), nats.TLSHandshakeFirst()}, false},
		{"TLS 1.3", f.block("min_version: 1.3"), []nats.Option{f.root()}, false},
		{"TLS 1.2 where 1.3 is needed", f.block("min_version: 1.3"), []nats.Option{nats.Secure(&tls.Config{RootCAs: f.ca.Pool, MaxVersion: tls.VersionTLS12})}, true},
		{"allow_non_tls, in clear", f.block("") + "allow_non_tls: true", nil, false},
		{"allow_non_tls, secured", f.block("") + "allow_non_tls: true", []nats.Option{nats.Secure(&tls.Config{RootCAs: f.ca.Pool})}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: natsPort + c.conf})
			nc, err := nats.Connect(l.NATSURL(), append(c.opts, nats.Timeout(testkit.Patience/5))...)
			if c.fails {
				if err == nil {
					nc.Close()
					t.Error("connected")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			roundTrip(t, nc)
		})
	}
}

// Who a certificate names is who the client is, over NATS, WebSocket and MQTT.
func TestTLSVerifyAndMap(t *testing.T) {
	f := newTLSFiles(t)
	stranger, strangerKey := f.ca.Issue(x509.Certificate{Subject: pkix.Name{CommonName: "stranger"}})
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: natsPort + f.block("verify_and_map: true") + `
authorization { users: [
  { user: "sensor@example.com", permissions { publish: "mine.>", subscribe: ">" } }
  { user: "other", password: "p" }
] }
` + webSocket + f.block("verify_and_map: true") + ` }
mqtt { host: "127.0.0.1", port: $LEAFD_MQTT_PORT, ` + f.block("verify_and_map: true") + ` }
`})
	for _, url := range []string{l.NATSURL(), "wss://" + testkit.Addr(l.WSPort)} {
		refused := make(chan error, 1)
		nc, err := nats.Connect(url, f.root(), f.own(), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
		if err != nil {
			t.Fatalf("%s: %v", url, err)
		}
		defer nc.Close()
		if err := nc.Publish("theirs.x", nil); err != nil {
			t.Fatal(err)
		}
		if err := <-refused; !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("%s: %v", url, err)
		}
		_, err = nats.Connect(url, f.root(), nats.ClientCert(stranger, strangerKey), nats.UserInfo("other", "p"))
		if !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("%s: a stranger: %v", url, err)
		}
	}
	for who, ok := range map[[2]string]bool{{f.clientCert, f.clKey}: true, {stranger, strangerKey}: false} {
		o := mqtt.NewClientOptions().AddBroker("ssl://" + testkit.Addr(l.MQTTPort)).SetTLSConfig(f.ca.Client(who[0], who[1])).SetClientID("c").SetProtocolVersion(4)
		c := mqtt.NewClient(o)
		tok := c.Connect()
		tok.Wait()
		if (tok.Error() == nil) != ok {
			t.Errorf("MQTT: %v", tok.Error())
		}
		if ok {
			c.Disconnect(0)
		}
	}
}

// paho connects, subscribes, and hears itself.
func mqttRoundTrip(t *testing.T, o *mqtt.ClientOptions) {
	t.Helper()
	c := mqtt.NewClient(o.SetClientID("leafd-test").SetProtocolVersion(4).SetConnectTimeout(testkit.Patience))
	if tok := c.Connect(); tok.Wait() && tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	defer c.Disconnect(0)
	got := make(chan int, 3)
	if tok := c.Subscribe("a/b", 1, func(_ mqtt.Client, m mqtt.Message) { got <- len(m.Payload()) }); tok.Wait() && tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	for qos, n := range []int{10, 100_000, 900_000} {
		if tok := c.Publish("a/b", byte(qos), false, make([]byte, n)); tok.Wait() && tok.Error() != nil {
			t.Fatal(tok.Error())
		}
		select {
		case g := <-got:
			if g != n {
				t.Fatalf("%d bytes, want %d", g, n)
			}
		case <-time.After(testkit.Patience):
			t.Fatal("nothing came")
		}
	}
}

func TestMQTTOverTLS(t *testing.T) {
	f := newTLSFiles(t)
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: natsPort + "mqtt { host: \"127.0.0.1\", port: $LEAFD_MQTT_PORT, " + f.block("verify: true") + " }"})
	mqttRoundTrip(t, mqtt.NewClientOptions().AddBroker("ssl://"+testkit.Addr(l.MQTTPort)).SetTLSConfig(f.ca.Client(f.clientCert, f.clKey)))
	tok := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("ssl://" + testkit.Addr(l.MQTTPort)).SetTLSConfig(f.ca.Client("", "")).SetProtocolVersion(4)).Connect()
	if tok.Wait(); tok.Error() == nil {
		t.Error("connected without a certificate")
	}
}

func TestMonitoringOverTLS(t *testing.T) {
	f := newTLSFiles(t)
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: natsPort + "https_port: $LEAFD_HTTP_PORT\n" + f.block("verify: true")})
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: f.ca.Client("", "")}}
	defer hc.CloseIdleConnections()
	resp, err := hc.Get("https://" + testkit.Addr(l.HTTPPort) + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%d %s %v", resp.StatusCode, b, err)
	}
}

func TestWebSocketWithNATSClient(t *testing.T) {
	f := newTLSFiles(t)
	for _, c := range []struct {
		scheme, conf string
		opts         []nats.Option
	}{
		{"ws", "no_tls: true", nil},
		{"ws", "no_tls: true, compression: true", []nats.Option{nats.Compression(true)}},
		{"wss", f.block(""), []nats.Option{f.root()}},
		{"wss", f.block("verify: true"), []nats.Option{f.root(), f.own()}},
	} {
		t.Run(c.scheme, func(t *testing.T) {
			l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: natsPort + webSocket + c.conf + "\n authorization { user: w, password: s } }"})
			url := c.scheme + "://" + testkit.Addr(l.WSPort)
			nc, err := nats.Connect(url, append(c.opts, nats.UserInfo("w", "s"))...)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			roundTrip(t, nc)
			plain, err := nats.Connect(l.NATSURL()) // the NATS listener asks for nothing
			if err != nil {
				t.Fatal(err)
			}
			defer plain.Close()
			if _, err := plain.Subscribe("cross", func(m *nats.Msg) { m.Respond(m.Data) }); err != nil {
				t.Fatal(err)
			}
			if err := plain.Flush(); err != nil {
				t.Fatal(err)
			}
			if m, err := nc.Request("cross", []byte("x"), testkit.Patience); err != nil || string(m.Data) != "x" {
				t.Errorf("from WebSocket to TCP: %v", err)
			}
			if _, err := nats.Connect(url, append(c.opts, nats.UserInfo("w", "wrong"))...); !errors.Is(err, nats.ErrAuthorization) {
				t.Errorf("a wrong password: %v", err)
			}
		})
	}
}

func TestMQTTOverWebSocket(t *testing.T) {
	f := newTLSFiles(t)
	for scheme, conf := range map[string]string{"ws": "no_tls: true", "wss": f.block("")} {
		l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: natsPort + "mqtt { host: \"127.0.0.1\", port: $LEAFD_MQTT_PORT }\n" + webSocket + conf + " }"})
		mqttRoundTrip(t, mqtt.NewClientOptions().AddBroker(scheme+"://"+testkit.Addr(l.WSPort)+"/mqtt").SetTLSConfig(f.ca.Client("", "")))
	}
}

// Certificates are read again at a reload: for whoever connects from then on, while those
// who are there stay. What is wrong with them leaves the old ones in force.
func TestTLSReload(t *testing.T) {
	f := newTLSFiles(t)
	log := filepath.Join(t.TempDir(), "log")
	conf := natsPort + "log_file: $LEAFD_LOG\n" + f.block("") + webSocket + f.block("") + "}\nmax_payload: 1KB\n"
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: conf, Env: map[string]string{"LEAFD_LOG": log}})
	r := &reloader{t: t, l: l, log: log}
	web := "wss://" + testkit.Addr(l.WSPort)
	early := []*nats.Conn{connect(t, l.NATSURL(), f.root(), nats.NoReconnect()), connect(t, web, f.root(), nats.NoReconnect())}

	other := newTLSFiles(t)
	swap := func(from, to string) {
		t.Helper()
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	swap(other.cert, f.cert)
	r.reload("a certificate without its key", conf, "does not go with")
	for _, url := range []string{l.NATSURL(), web} {
		connect(t, url, f.root()).Close()
	}
	swap(other.key, f.key)
	r.reload("other certificates", strings.Replace(conf, "1KB", "2MB", 1), "configuration reloaded")
	for _, url := range []string{l.NATSURL(), web} {
		if nc, err := nats.Connect(url, f.root()); err == nil {
			nc.Close()
			t.Errorf("%s: the old certificate is still shown", url)
		}
		roundTrip(t, connect(t, url, other.root()))
	}
	for _, nc := range early {
		testkit.Eventually(t, func() bool { return nc.MaxPayload() == 2<<20 }, "INFO with the new max_payload")
		roundTrip(t, nc)
	}
	r.reload("no TLS", natsPort+"log_file: $LEAFD_LOG\n"+webSocket+f.block("")+"}\nmax_payload: 2MB\n", "a listener has TLS or not from the start")
}

// The TLS flags are nats-server's, as its harnesses give them.
func TestTLSFlags(t *testing.T) {
	f := newTLSFiles(t)
	conf := filepath.Join(t.TempDir(), "conf")
	if err := os.WriteFile(conf, []byte(newTLSFiles(t).block("")), 0o600); err != nil { // of which the timeout stays
		t.Fatal(err)
	}
	p, ports, _ := startStock(t, "-c", conf, "--tlscert", f.cert, "--tlskey="+f.key, "--tlscacert", f.ca.File, "--tlsverify", "-ms", "-1")
	url := ports["nats"][0]
	roundTrip(t, connect(t, url, f.root(), f.own()))
	if nc, err := nats.Connect(url, f.root()); err == nil {
		nc.Close()
		t.Error("connected without a certificate")
	}
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: f.ca.Client("", "")}}
	defer hc.CloseIdleConnections()
	resp, err := hc.Get(ports["monitoring"][0] + "/varz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if addr := strings.TrimPrefix(ports["monitoring"][0], "https://"); !strings.Contains(p.Log(), "[INF] Starting https monitor on "+addr) {
		t.Errorf("the log does not tell of %s:\n%s", addr, p.Log())
	}
}

// A lame duck tells WebSocket clients, too.
func TestWebSocketLameDuck(t *testing.T) {
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: natsPort + webSocket + "no_tls: true }\nlame_duck_duration: \"1s\", lame_duck_grace_period: \"500ms\"\n"})
	told, closed := make(chan struct{}), make(chan struct{})
	connect(t, "ws://"+testkit.Addr(l.WSPort), nats.NoReconnect(), nats.LameDuckModeHandler(func(*nats.Conn) { close(told) }),
		nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	l.Signal(syscall.SIGUSR2)
	<-told
	if nc, err := nats.Connect("ws://" + testkit.Addr(l.WSPort)); err == nil {
		nc.Close()
		t.Error("a lame duck lets a client in")
	}
	<-closed
	<-l.Done()
	if l.ExitCode() != 0 {
		t.Errorf("exit code %d", l.ExitCode())
	}
}

// What INFO says of TLS, and what one hears who does not speak it, is as from
// nats-server; but that leafd tells such a one why.
func TestTLSTwins(t *testing.T) {
	f := newTLSFiles(t)
	for _, conf := range []string{f.block(""), f.block("verify: true"), f.block("handshake_first: auto"), f.block("") + "allow_non_tls: true\n"} {
		w := startTwins(t, conf)
		var heard [2]string
		for i, addr := range w.addr {
			heard[i] = tlsTalk(t, addr)
		}
		if heard[0] != heard[1] {
			t.Errorf("%s: leafd:\n%s\nnats-server:\n%s", conf, heard[0], heard[1])
		}
	}
}

// tlsTalk is what a client hears that waits for INFO and then speaks in clear.
func tlsTalk(t *testing.T, addr string) string {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(testkit.Patience))
	r := bufio.NewReader(nc)
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	info := map[string]any{}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info); err != nil {
		t.Fatal(err)
	}
	said := fmt.Sprint(info["tls_required"], info["tls_verify"], info["tls_available"], info["auth_required"])
	nc.Write([]byte("CONNECT {\"verbose\":false}\r\nPING\r\n"))
	for {
		line, err := r.ReadString('\n')
		switch {
		case err != nil:
			return said + " gone"
		case strings.HasPrefix(line, "PONG"):
			return said + " served"
		case strings.HasPrefix(line, "-ERR 'Secure Connection - TLS Required'"):
		default:
			said += " " + strings.TrimSpace(line)
		}
	}
}

// What monitoring shows of TLS and WebSockets is what nats-server shows.
func TestMonitoringOfTLS(t *testing.T) {
	f := newTLSFiles(t)
	conf := `authorization { users: [ { user: "sensor@example.com" } ] }
` + f.block("verify_and_map: true, handshake_first: true, timeout: 3") + `
websocket { host: "127.0.0.1", port: WS, compression: true, same_origin: true, allowed_origins: [ "https://a.example", "http://b.example:81" ], ` + f.block("verify_and_map: true") + ` }
`
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: natsPort + "http: $LEAFD_HTTP_PORT\n" + strings.Replace(conf, "WS", "$LEAFD_WS_PORT", 1)})
	web := testkit.Port(t)
	all := [2]monitored{{"leafd", l.NATSURL(), l.HTTPURL()}, startNATSServer(t, strings.Replace(conf, "WS", fmt.Sprint(web), 1))}
	var shown [2]string
	for i, wss := range []string{testkit.Addr(l.WSPort), testkit.Addr(web)} {
		connect(t, all[i].nats, f.root(), f.own(), nats.TLSHandshakeFirst())
		connect(t, "wss://"+wss, f.root(), f.own(), nats.UserInfo("another", ""))
		v, c := all[i].get(t, "/varz"), all[i].get(t, "/connz?auth=1&sort=cid")
		w := v["websocket"].(map[string]any)
		for _, key := range []string{"port", "handshake_timeout", "auth_timeout"} { // of the last two nats-server does not show the defaults
			delete(w, key)
		}
		shown[i] = fmt.Sprintln(v["tls_required"], v["tls_verify"], v["tls_timeout"], v["tls_cert_not_after"], w)
		bad, err := net.Dial("tcp", strings.TrimPrefix(all[i].nats, "nats://"))
		if err != nil {
			t.Fatal(err)
		}
		bad.Write([]byte("CONNECT {}\r\n"))
		io.Copy(io.Discard, bad) // until it is cut off
		bad.Close()
		testkit.Eventually(t, func() bool {
			for _, e := range all[i].get(t, "/connz?state=closed")["connections"].([]any) {
				if e := e.(map[string]any); int(number(e["port"])) == bad.LocalAddr().(*net.TCPAddr).Port {
					shown[i] += fmt.Sprintln("closed:", e["reason"])
					return true
				}
			}
			return false
		}, "the one that does not speak TLS among the closed")
		for _, e := range c["connections"].([]any) {
			e := e.(map[string]any)
			shown[i] += fmt.Sprintln(e["type"], e["tls_version"], e["tls_cipher_suite"], e["tls_first"], e["authorized_user"])
		}
	}
	if shown[0] != shown[1] {
		t.Errorf("leafd shows\n%s\nnats-server\n%s", shown[0], shown[1])
	}
}
