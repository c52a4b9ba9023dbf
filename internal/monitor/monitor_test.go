package monitor

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// get asks h for path and returns what it answered.
func get(t *testing.T, h http.Handler, method, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, nil))
	return w
}

func TestIndex(t *testing.T) {
	h := New(Options{})
	w := get(t, h, "GET", "/")
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
		t.Errorf("%d %s", w.Code, w.Header())
	}
	for _, page := range []string{"/healthz", "/varz", "/uplinkz", "/metrics"} {
		if !strings.Contains(w.Body.String(), `"`+page+`"`) || get(t, h, "GET", page).Code != 200 {
			t.Errorf("%s is not linked or not there", page)
		}
	}
	if w := get(t, h, "GET", "/nope"); w.Code != 404 {
		t.Errorf("/nope: %d", w.Code)
	}
}

func TestHealthz(t *testing.T) {
	var reasons []string
	h := New(Options{Health: func() []string { return reasons }})
	w := get(t, h, "GET", "/healthz")
	if got := strings.Join(strings.Fields(w.Body.String()), ""); w.Code != 200 || got != `{"status":"ok"}` {
		t.Errorf("%d %s", w.Code, got)
	}
	reasons = []string{"the store is full", "output pump is missing"}
	w = get(t, h, "GET", "/healthz")
	var answer health
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	if w.Code != 503 || answer.Status != "unavailable" || len(answer.Reasons) != 2 || answer.Error != "the store is full; output pump is missing" {
		t.Errorf("%d %+v", w.Code, answer)
	}
}

func TestVarz(t *testing.T) {
	h := New(Options{Varz: func() Varz {
		return Varz{ServerID: "ND", ServerName: "edge", Version: "1", Host: "127.0.0.1", Port: 4222, MaxPayload: 1 << 20,
			PingInterval: 2 * time.Minute, Connections: 2, InMsgs: 7, SlowConsumers: 1,
			Leafd: Leafd{Drops: map[string]uint64{"slow_consumer": 3}, Hardware: []Device{{Name: "air", State: "ok"}}}}
	}})
	w := get(t, h, "GET", "/varz?unknown=1")
	var got map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("%d %s %v", w.Code, w.Header(), err)
	}
	// What nats-top and the exporters read is there, with their types.
	for _, key := range []string{"cpu", "mem", "in_msgs", "out_msgs", "in_bytes", "out_bytes", "slow_consumers", "cores", "gomaxprocs",
		"connections", "total_connections", "leafnodes", "subscriptions", "max_payload", "max_connections", "ping_interval", "port"} {
		if _, isNumber := got[key].(float64); !isNumber {
			t.Errorf("%s is %v", key, got[key])
		}
	}
	for _, key := range []string{"server_id", "server_name", "version", "go", "host", "start", "now", "uptime"} {
		if _, isText := got[key].(string); !isText {
			t.Errorf("%s is %v", key, got[key])
		}
	}
	leafd := got["leafd"].(map[string]any)
	if got["in_msgs"] != 7.0 || got["ping_interval"] != 120e9 || leafd["drops"].(map[string]any)["slow_consumer"] != 3.0 ||
		leafd["hardware"].([]any)[0].(map[string]any)["state"] != "ok" || leafd["mqtt"] != nil {
		t.Errorf("%s", w.Body)
	}
	if got["mem"].(float64) < 1<<20 {
		t.Errorf("%v bytes resident", got["mem"])
	}
}

func TestUplinkz(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	h := New(Options{Uplinkz: func() Uplinkz {
		return Uplinkz{
			ServerName: "edge",
			Remotes:    []Remote{{URL: "nats-leaf://hub:7422", State: "up", Since: since, RTT: Duration(1500 * time.Microsecond)}},
			Outboxes:   []Outbox{{Class: "telemetry", State: "draining", Messages: 12, OldestAge: Duration(90 * time.Second), Dropped: map[string]uint64{"full": 2}}},
			Store:      &Store{Dir: "/var/lib/leafd", State: "ok", Written: map[string]uint64{"journal": 4096}},
		}
	}})
	w := get(t, h, "GET", "/uplinkz")
	text := strings.Join(strings.Fields(w.Body.String()), "")
	for _, want := range []string{`"url":"nats-leaf://hub:7422"`, `"since":"2026-01-02T03:04:05Z"`, `"rtt":0.0015`, `"class":"telemetry"`,
		`"messages":12`, `"oldest_age":90`, `"dropped":{"full":2}`, `"written_bytes":{"journal":4096}`} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not in %s", want, text)
		}
	}
	if strings.Contains(text, "last_error") {
		t.Errorf("an error that did not happen: %s", text)
	}
}

func TestCallback(t *testing.T) {
	h := New(Options{})
	for callback, ok := range map[string]bool{
		"f": true, "jQuery.cb_1": true, "$": true, "_a.$b9": true,
		"": false, "1a": false, "a.": false, ".a": false, "a..b": false, "a-b": false, "alert(1)//": false,
		"a%3Cscript%3E": false, "a%0A": false, "ä": false, strings.Repeat("a", 65): false,
	} {
		w := get(t, h, "GET", "/healthz?callback="+callback)
		body := w.Body.String()
		switch {
		case ok && (w.Code != 200 || !strings.HasSuffix(body, ");\n") || w.Header().Get("Content-Type") != "application/javascript"):
			t.Errorf("%q: %d %s", callback, w.Code, body)
		case !ok && (w.Code != 400 || strings.Contains(body, "status")):
			t.Errorf("%q: %d %s", callback, w.Code, body)
		}
	}
}

func TestOnlyReads(t *testing.T) {
	h := New(Options{})
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"} {
		if w := get(t, h, method, "/varz"); w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %d", method, w.Code)
		}
	}
	w := get(t, h, "HEAD", "/healthz")
	if w.Code != 200 || w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%d %s", w.Code, w.Header())
	}
}

func TestCPU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spent := time.Duration(0)
		p := &process{start: time.Now(), last: time.Now(), getCPU: func() time.Duration { return spent }}
		spent = 250 * time.Millisecond
		time.Sleep(time.Second)
		if s := p.sample(); s.CPU != 25 || s.Uptime != "1s" {
			t.Errorf("%v%% after %s", s.CPU, s.Uptime)
		}
		spent += time.Second
		time.Sleep(minCPUSpan / 2)
		if got := p.sample().CPU; got != 25 {
			t.Errorf("asked too soon, it says %v%%", got)
		}
		time.Sleep(2*time.Second - minCPUSpan/2)
		if got := p.sample().CPU; got != 50 {
			t.Errorf("%v%%", got)
		}
	})
}

func TestUptime(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m1s", time.Hour: "1h0m0s",
		25*time.Hour + 3*time.Second: "1d1h0m3s", 366 * 24 * time.Hour: "1y1d0h0m0s",
	} {
		if got := uptime(d); got != want {
			t.Errorf("%v: %s, not %s", d, got, want)
		}
	}
}
