package test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/nats-io/nats.go"

	"github.com/leafd/leafd/internal/testkit"
)

// monitored is a server under one workload: leafd, or nats-server with a
// configuration that says the same.
type monitored struct {
	name, nats, http string
}

// startPair starts leafd and nats-server, each with a link to a hub of its own.
func startPair(t *testing.T) (leafd, peer monitored) {
	conf := func() string {
		hub := testkit.StartHub(t, testkit.HubOptions{})
		return fmt.Sprintf("server_name: edge\nmax_pending: 8MB\nmax_connections: 4096\nleafnodes { remotes: [ { url: %q, deny_exports: [\"secret.>\"] } ] }\n", hub.LeafURL())
	}
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: "host: 127.0.0.1\nport: $LEAFD_NATS_PORT\nhttp: $LEAFD_HTTP_PORT\n" + conf()})
	leafd = monitored{"leafd", l.NATSURL(), l.HTTPURL()}
	peer = startNATSServer(t, conf())
	for _, m := range []monitored{leafd, peer} {
		testkit.Eventually(t, func() bool { return number(m.get(t, "/varz")["leafnodes"]) == 1 }, "the link of %s up", m.name)
	}
	return leafd, peer
}

func startNATSServer(t *testing.T, conf string) monitored {
	nats, web := testkit.Port(t), testkit.Port(t)
	path := filepath.Join(t.TempDir(), "peer.conf")
	text := fmt.Sprintf("listen: 127.0.0.1:%d\nhttp: 127.0.0.1:%d\n%s", nats, web, conf)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	bin := testkit.NATSServer(t)
	m := monitored{"nats-server", "nats://" + testkit.Addr(nats), "http://" + testkit.Addr(web)}
	testkit.Start(t, "peer", func() *exec.Cmd { return exec.Command(bin, "-c", path) }, func() bool {
		res, err := http.Get(m.http + "/healthz")
		if err == nil {
			_ = res.Body.Close()
		}
		return err == nil && res.StatusCode == http.StatusOK
	})
	return m
}

// ask returns the status, the type and the text of an answer.
func (m monitored) ask(t *testing.T, path string) (status int, contentType, body string) {
	t.Helper()
	res, err := http.Get(m.http + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header.Get("Content-Type"), string(b)
}

func (m monitored) get(t *testing.T, path string) (v map[string]any) {
	t.Helper()
	status, _, body := m.ask(t, path)
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%s %s: %d %v\n%s", m.name, path, status, err, body)
	}
	return v
}

func number(v any) float64 {
	f, _ := v.(float64)
	return f
}

// work is the workload: a requester, a replier with subscriptions of all kinds, and
// one who has left.
func work(t *testing.T, m monitored) (cids []uint64) {
	t.Helper()
	connect := func(name string) *nats.Conn {
		nc, err := nats.Connect(m.nats, nats.Timeout(testkit.Patience), nats.Name(name), nats.UserInfo("u", "p"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		cid, err := nc.GetClientID()
		if err != nil {
			t.Fatal(err)
		}
		cids = append(cids, cid)
		return nc
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	one, two, gone := connect("one"), connect("two"), connect("gone")
	_, err := two.Subscribe("req.*", func(m *nats.Msg) { must(m.Respond([]byte("pong"))) })
	must(err)
	_, err = two.QueueSubscribe("jobs", "workers", func(*nats.Msg) {})
	must(err)
	limited, err := two.SubscribeSync("limited")
	must(err)
	must(limited.AutoUnsubscribe(5))
	must(two.Flush())
	_, err = gone.SubscribeSync("left")
	must(err)
	for range 10 {
		_, err := one.Request("req.a", []byte("ping"), testkit.Patience)
		must(err)
	}
	must(one.PublishMsg(&nats.Msg{Subject: "jobs", Header: nats.Header{"K": {"v"}}, Data: make([]byte, 100)}))
	must(one.Publish("limited", []byte("x")))
	must(one.Publish("nobody", nil))
	must(one.Flush())
	must(gone.Flush())
	gone.Close()
	testkit.Eventually(t, func() bool { return number(m.get(t, "/connz?state=closed&user=u")["num_connections"]) == 1 }, "one connection closed at %s", m.name)
	for range 2 { // the first asks for the round trips
		m.get(t, "/connz")
	}
	must(one.Flush())
	must(two.Flush())
	return cids
}

// pages are asked of both servers, $1 to $3 being the connections of work.
var pages = []string{
	"/varz", "/connz", "/connz?subs=1&auth=1", "/connz?subs=detail", "/connz?state=closed&auth=1&subs=detail", "/connz?state=any",
	"/connz?cid=$1", "/connz?cid=$3&state=closed", "/connz?acc=$G&user=u", "/routez", "/gatewayz", "/leafz", "/leafz?subs=1", "/leafz?acc=nope",
	"/subsz", "/subsz?subs=1", "/subsz?subs=1&test=req.x&acc=$G", "/subscriptionsz?subs=1&limit=100&offset=0", "/accountz", "/accountz?acc=$G",
	"/accstatz", "/accstatz?unused=1", "/jsz", "/jsz?accounts=1&streams=1", "/healthz", "/healthz?js-server-only=true", "/healthz?details=1",
	"/ipqueuesz", "/debug/vars",
}

// shape lists each field of an answer with its type; elements of lists are one.
func shape(v any, path string, into map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		into[path] = "object"
		for k, e := range v {
			shape(e, path+"."+k, into)
		}
	case []any:
		into[path] = "list"
		for _, e := range v {
			shape(e, path+"[]", into)
		}
	case nil:
		into[path] = "null"
	default:
		into[path] = fmt.Sprintf("%T", v)
	}
}

// Every field that nats-server shows is there, with its type, but for those that
// docs/CONFORMANCE.md lists.
func TestMonitoringShape(t *testing.T) {
	leafd, peer := startPair(t)
	ours, theirs := work(t, leafd), work(t, peer)
	absent := listedAbsent(t)
	found := map[string]bool{}
	for _, page := range pages {
		a, b := map[string]string{}, map[string]string{}
		shape(leafd.get(t, fill(page, ours)), "", a)
		shape(peer.get(t, fill(page, theirs)), "", b)
		path, _, _ := strings.Cut(page, "?")
		for field, kind := range b {
			switch have, ok := a[field]; {
			case strings.Contains(field, "http_req_stats."): // one for each page that was asked for
			case !ok:
				found["`"+path+"` `"+strings.TrimPrefix(field, ".")+"`"] = true
			case have != kind:
				t.Errorf("%s%s is %s, with nats-server %s", page, field, have, kind)
			}
		}
	}
	for _, what := range sortedKeys(found) {
		if !absent[what] {
			t.Errorf("%s is absent, and docs/CONFORMANCE.md does not say so", what)
		}
	}
	for _, what := range sortedKeys(absent) {
		if !found[what] {
			t.Errorf("%s is listed in docs/CONFORMANCE.md as absent, and is there", what)
		}
	}
}

func fill(page string, cids []uint64) string {
	for i, cid := range cids {
		page = strings.ReplaceAll(page, fmt.Sprintf("$%d", i+1), fmt.Sprint(cid))
	}
	return page
}

func sortedKeys(m map[string]bool) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// listedAbsent reads the rows "| `/page` | `field` | why |".
func listedAbsent(t *testing.T) map[string]bool {
	text, err := os.ReadFile("../docs/CONFORMANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`/[a-z/]+`) \\| (`[^`]+`) \\|").FindAllStringSubmatch(string(text), -1) {
		listed[row[1]+" "+row[2]] = true
	}
	return listed
}

// After the same work both servers count the same.
func TestMonitoringCounts(t *testing.T) {
	leafd, peer := startPair(t)
	counts := map[string]string{}
	for _, m := range []monitored{leafd, peer} {
		cids := work(t, m)
		v := m.get(t, "/varz")
		var b strings.Builder
		for _, k := range []string{"connections", "leafnodes", "routes", "in_client_msgs", "in_client_bytes", "out_client_msgs", "out_client_bytes",
			"slow_consumers", "stale_connections", "max_payload", "max_connections", "max_control_line", "max_pending", "ping_interval", "ping_max", "auth_timeout",
			"write_deadline", "tls_timeout", "version", "proto", "server_name"} {
			fmt.Fprintf(&b, "%s %v\n", k, v[k])
		}
		for i, state := range []string{"open", "open", "closed"} {
			z := m.get(t, fmt.Sprintf("/connz?auth=1&subs=detail&state=%s&cid=%d", state, cids[i]))
			fmt.Fprintln(&b, z["num_connections"], z["offset"], z["limit"])
			c := z["connections"].([]any)[0].(map[string]any)
			for _, k := range []string{"kind", "type", "ip", "name", "lang", "version", "authorized_user", "name_tag", "account", "reason", "in_msgs", "in_bytes", "out_msgs", "out_bytes", "subscriptions"} { // pending_bytes may lag behind a write
				fmt.Fprintf(&b, "%d %s %v\n", i, k, c[k])
			}
			b.WriteString(subList(c["subscriptions_list_detail"]))
		}
		for _, sort := range []string{"cid", "start", "subs", "pending", "msgs_to", "msgs_from", "bytes_to", "bytes_from", "last", "uptime"} {
			for _, c := range m.get(t, "/connz?acc=$G&sort="+sort)["connections"].([]any) {
				if c := c.(map[string]any); c["kind"] == "Client" && sort != "pending" && sort != "last" && sort != "uptime" {
					fmt.Fprintf(&b, "%s %v\n", sort, c["name"])
				}
			}
		}
		z := m.get(t, "/subsz?subs=1&test=req.a")
		fmt.Fprintln(&b, "subsz", z["total"], subList(z["subscriptions_list"]))
		counts[m.name] = b.String()
	}
	if counts["leafd"] != counts["nats-server"] {
		t.Errorf("leafd\n%s\nnats-server\n%s", counts["leafd"], counts["nats-server"])
	}
}

func subList(v any) string {
	list, _ := v.([]any)
	var out []string
	for _, e := range list {
		m := e.(map[string]any)
		out = append(out, fmt.Sprintf("  %v %v %v %v %v\n", m["subject"], m["qgroup"], m["msgs"], m["max"], m["account"]))
	}
	slices.Sort(out)
	return regexp.MustCompile(`_INBOX\.\S+`).ReplaceAllString(strings.Join(out, ""), "_INBOX")
}

// A wrong parameter is answered with the status and the words of nats-server.
func TestMonitoringBadParameters(t *testing.T) {
	leafd, peer := startPair(t)
	for _, path := range []string{
		"/connz?auth=x", "/connz?subs=x", "/connz?offset=x", "/connz?limit=1.5", "/connz?limit=99999999999999999999", "/connz?cid=-1", "/connz?state=x", "/connz?sort=x",
		"/connz?sort=stop", "/connz?sort=reason&state=any", "/connz?auth=x&sort=y&state=z", "/connz?cid=99999999999999999999999",
		"/subsz?subs=2", "/subsz?offset=x", "/subsz?limit=x", "/subsz?test=a.*", "/subsz?test=a..b", "/subsz?test=>", "/leafz?subs=x", "/routez?subs=x", "/gatewayz?subs=x", "/gatewayz?accs=x",
		"/accountz?acc=nope", "/accstatz?unused=x", "/jsz?accounts=x", "/jsz?streams=x", "/jsz?consumers=x", "/jsz?direct-consumers=x", "/jsz?config=x", "/jsz?offset=x", "/jsz?limit=x",
		"/jsz?leader-only=x", "/jsz?leader-only=1", "/jsz?raft=x", "/jsz?stream-leader-only=x", "/healthz?js-enabled=x", "/healthz?js-enabled-only=x", "/healthz?js-server-only=x",
		"/healthz?js-meta-only=x", "/healthz?details=x", "/healthz?stream=a", "/healthz?consumer=a&account=b", "/healthz?stream=a&details=1", "/ipqueuesz?all=x", "/raftz",
	} {
		status, kind, text := leafd.ask(t, path)
		wantStatus, wantKind, wantText := peer.ask(t, path)
		if strings.HasPrefix(wantKind, "application/json") {
			text, wantText = compact(t, text), compact(t, wantText)
		}
		if status != wantStatus || kind != wantKind || strings.TrimSpace(text) != strings.TrimSpace(wantText) {
			t.Errorf("%s\n got %d %s %s\nwant %d %s %s", path, status, kind, text, wantStatus, wantKind, wantText)
		}
	}
}

func compact(t *testing.T, text string) string {
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// MQTT devices are in /connz as nats-server shows its own.
func TestMonitoringMQTT(t *testing.T) {
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: "host: 127.0.0.1\nport: $LEAFD_NATS_PORT\nhttp: $LEAFD_HTTP_PORT\nmqtt { host: 127.0.0.1, port: $LEAFD_MQTT_PORT }\n"})
	port := testkit.Port(t)
	peer := startNATSServer(t, fmt.Sprintf("server_name: peer\njetstream { store_dir: %q }\nmqtt { host: 127.0.0.1, port: %d }\n", t.TempDir(), port))
	leafd := monitored{"leafd", l.NATSURL(), l.HTTPURL()}
	shown := map[string]string{}
	shapes := map[string]map[string]string{}
	for m, url := range map[monitored]string{leafd: l.MQTTURL(), peer: "tcp://" + testkit.Addr(port)} {
		device := mqttDevice(t, url, "dev")
		wait(t, device.Subscribe("a/+", 0, nil))
		for range 3 {
			wait(t, device.Publish("a/b", 0, false, "21.5"))
		}
		var c map[string]any
		testkit.Eventually(t, func() bool {
			list := m.get(t, "/connz?mqtt_client=dev&subs=1&auth=1")["connections"].([]any)
			if len(list) == 1 {
				c = list[0].(map[string]any)
			}
			delivered := number(c["out_msgs"]) == 3 || m == peer // which does not count them
			return len(list) == 1 && number(c["in_msgs"]) == 3 && delivered
		}, "the device in /connz of %s with its messages", m.name)
		for _, k := range []string{"kind", "type", "mqtt_client", "ip", "subscriptions", "subscriptions_list", "in_msgs", "authorized_user", "name", "lang", "version", "name_tag"} {
			shown[m.name] += fmt.Sprintf("%s %v\n", k, c[k])
		}
		shapes[m.name] = map[string]string{}
		shape(c, "", shapes[m.name])
		device.Disconnect(uint(testkit.Patience.Milliseconds())) // with 0 a DISCONNECT may stay unsent
		testkit.Eventually(t, func() bool {
			list := m.get(t, "/connz?state=closed&mqtt_client=dev")["connections"].([]any)
			return len(list) == 1 && list[0].(map[string]any)["reason"] == "Client Closed"
		}, "the device gone from %s", m.name)
	}
	if shown["leafd"] != shown["nats-server"] {
		t.Errorf("leafd\n%s\nnats-server\n%s", shown["leafd"], shown["nats-server"])
	}
	for field, kind := range shapes["nats-server"] {
		if shapes["leafd"][field] != kind {
			t.Errorf("%s is %q, with nats-server %q", field, shapes["leafd"][field], kind)
		}
	}
}

func mqttDevice(t *testing.T, url, id string) mqtt.Client {
	t.Helper()
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(url).SetClientID(id).SetAutoReconnect(false))
	wait(t, c.Connect())
	t.Cleanup(func() { c.Disconnect(0) })
	return c
}

func wait(t *testing.T, token mqtt.Token) {
	t.Helper()
	if !token.WaitTimeout(testkit.Patience) || token.Error() != nil {
		t.Fatal("MQTT: ", token.Error())
	}
}
