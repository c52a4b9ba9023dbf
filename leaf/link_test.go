package leaf

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// fakeHub is the hub's end of what a link dials.
type fakeHub struct {
	t     testing.TB
	conns chan net.Conn
	dials chan string // addresses, if not nil
	size  int
}

// startLink runs a link whose dials reach a fakeHub, until the test ends.
func startLink(t testing.TB, o LinkOptions) (*Link, *fakeHub) {
	t.Helper()
	h := &fakeHub{t: t, conns: make(chan net.Conn), size: 1 << 20}
	l := newTestLink(t, o)
	l.dial = h.dial
	runLink(t, l)
	return l, h
}

func newTestLink(t testing.TB, o LinkOptions) *Link {
	t.Helper()
	if o.URLs == nil {
		o.URLs = []string{"nats-leaf://hub"}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l, err := NewLink(o, NewRouter())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// runLink runs l until the test ends, or until the returned function is called.
func runLink(t testing.TB, l *Link) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := l.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

func (h *fakeHub) dial(ctx context.Context, addr string) (net.Conn, error) {
	if h.dials != nil {
		h.dials <- addr
	}
	a, b := testkit.Pipe(h.size)
	select {
	case h.conns <- b:
		return a, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// accept takes the link's next connection.
func (h *fakeHub) accept() *hubConn {
	h.t.Helper()
	nc := <-h.conns
	h.t.Cleanup(func() { nc.Close() })
	return &hubConn{client{nc, h.t, bufio.NewReader(nc)}}
}

const (
	info1 = `INFO {"server_id":"ID","server_name":"hub","version":"2.15.2","headers":true,"max_payload":1000,"client_id":5,"nonce":"abc","domain":"dom","info_on_connect":true,"leafnode_urls":["hub:7422"]}` + "\r\n"
	info2 = `INFO {"server_id":"ID","server_name":"hub","max_payload":1000,"client_id":5,"domain":"dom","connect_info":true,"info_on_connect":true}` + "\r\n"
)

// hubConn speaks raw bytes to a link.
type hubConn struct{ client }

// connect greets the link and returns its CONNECT.
func (c *hubConn) connect(info string) (m map[string]any) {
	c.t.Helper()
	c.send(info)
	arg, ok := strings.CutPrefix(c.line(), "CONNECT ")
	if err := json.Unmarshal([]byte(arg), &m); !ok || err != nil {
		c.t.Fatalf("CONNECT %q: %v", arg, err)
	}
	return m
}

// join goes through the handshake and returns what the link announced, its mark
// left out.
func (c *hubConn) join() []string {
	c.t.Helper()
	c.connect(info1)
	c.send(info2)
	return c.announced()
}

// announced reads up to the PING that follows the first interest.
func (c *hubConn) announced() (subs []string) {
	c.t.Helper()
	mark := false
	for {
		switch l := c.line(); {
		case strings.HasPrefix(l, "LS+ $LDS."):
			mark = true
		case l == "PING":
			if !mark {
				c.t.Fatalf("announced %q and no mark", subs)
			}
			return subs
		default:
			subs = append(subs, l)
		}
	}
}

// sees sends s and a PING, and wants these lines before the PONG.
func (c *hubConn) sees(s string, want ...string) {
	c.t.Helper()
	c.expect(s, strings.Join(append(want, ""), "\r\n"))
}

// rest reads what comes until the link closes.
func (c *hubConn) rest() string {
	c.t.Helper()
	b, err := io.ReadAll(c.r)
	if err != nil {
		c.t.Fatalf("after %q: %v", b, err)
	}
	return string(b)
}

func waitUp(t testing.TB, l *Link) {
	t.Helper()
	select {
	case <-l.Up():
	case <-time.After(testkit.Patience):
		t.Fatalf("the link is not up: %+v", l.Status())
	}
}

func text(s string) *msg.Msg { return &msg.Msg{Subject: []byte(s), Data: []byte("hi")} }

func TestNewLinkChecksItsOptions(t *testing.T) {
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	hub := []string{"nats-leaf://hub"}
	for _, tc := range []struct {
		name string
		o    LinkOptions
		want string
	}{
		{"no hub", LinkOptions{}, "no hub URL"},
		{"not a URL", LinkOptions{URLs: []string{"::"}}, "hub URL is not one"},
		{"WebSocket", LinkOptions{URLs: []string{"ws://u:secret@hub"}}, "leafd has no such links"},
		{"both keys", LinkOptions{URLs: hub, CredsFile: "x", NKeySeed: string(seed)}, "exclude each other"},
		{"bad seed", LinkOptions{URLs: hub, NKeySeed: "secret"}, "not the seed"},
		{"bad deny", LinkOptions{URLs: hub, DenyImports: []string{"a..b"}}, `deny "a..b"`},
	} {
		_, err := NewLink(tc.o, NewRouter())
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	if _, err := NewLink(LinkOptions{URLs: hub, NKeySeed: string(seed)}, NewRouter()); err != nil {
		t.Error(err)
	}
}

func TestLinkHandshake(t *testing.T) {
	testkit.CheckGoroutines(t)
	l, h := startLink(t, LinkOptions{URLs: []string{"nats-leaf://u:p@hub"}, ServerName: "edge", ServerID: "NX", DenyImports: []string{"x.>"}})
	if st := l.Status(); isDown(l) == false || st.Reconnects != 0 {
		t.Errorf("before: %+v", st)
	}
	local := l.router.Attach("local", &testkit.Sink{}, EachSub)
	for _, s := range []*msg.Sub{{Subject: "a"}, {Subject: "a"}, {Subject: "b.>"}, {Subject: "a", Queue: "q"}, {Subject: "a", Queue: "q"}, {Subject: "x.y"}, {Subject: "$KV.>"}} {
		if err := local.Subscribe(s); err != nil {
			t.Fatal(err)
		}
	}
	c := h.accept()
	got := c.connect(info1)
	want := map[string]any{"version": ProtocolVersion, "user": "u", "pass": "p", "server_id": "NX", "name": "edge", "headers": true, "jetstream": false,
		"deny_pub": []any{"x.>"}, "compress_mode": "off", "remote_account": "$G", "protocol": 2.0}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("CONNECT\n got %v\nwant %v", got, want)
	}
	if !isDown(l) {
		t.Error("up before the hub let it in")
	}
	c.send(info2)
	subs := map[string]bool{}
	for _, s := range c.announced() {
		subs[s] = true
	}
	if fmt.Sprint(subs) != fmt.Sprint(map[string]bool{"LS+ a": true, "LS+ b.>": true, "LS+ a q 2": true}) {
		t.Errorf("announced %v", subs)
	}
	waitUp(t, l)
	c.send("PONG\r\n")
	c.sees("")
	st := l.Status()
	if st.State != LinkUp || st.URL != "nats-leaf://hub:7422" || st.HubName != "hub" || st.HubVersion != "2.15.2" || st.LocalInterest != 3 || st.RTT <= 0 {
		t.Errorf("status %+v", st)
	}
	if domain, most := l.Hub(); domain != "dom" || most != 1000 {
		t.Errorf("hub %q %d", domain, most)
	}
	down := l.Down()
	c.Close()
	<-down
	h.accept().join()
	waitUp(t, l)
	if st := l.Status(); st.Reconnects != 1 || st.LastError != "the hub closed the connection" {
		t.Errorf("status %+v", st)
	}
}

func isDown(l *Link) bool {
	select {
	case <-l.Down():
		return true
	default:
		return false
	}
}

// A username alone may be a token; the hub decides.
func TestLinkToken(t *testing.T) {
	_, h := startLink(t, LinkOptions{URLs: []string{"nats-leaf://t%40ken@hub"}})
	got := h.accept().connect(info1)
	if got["user"] != "t@ken" || got["auth_token"] != "t@ken" || got["pass"] != nil {
		t.Errorf("CONNECT %v", got)
	}
}

// An old hub does not answer CONNECT, and may not know headers.
func TestLinkToOldHub(t *testing.T) {
	l, h := startLink(t, LinkOptions{})
	c := h.accept()
	c.connect(`INFO {"server_id":"ID","client_id":5,"leafnode_urls":["hub:7422"]}` + "\r\n")
	c.announced()
	waitUp(t, l)
	c.sees("LS+ a\r\n")
	p := l.router.Attach("local", &testkit.Sink{}, EachSub)
	p.Publish(&msg.Msg{Subject: []byte("a"), Header: []byte("NATS/1.0\r\n\r\n"), Data: []byte("hi")})
	if err := l.Send(&msg.Msg{Subject: []byte("b"), Reply: []byte("r"), Header: []byte("NATS/1.0\r\n\r\n"), Data: []byte("hi")}); err != nil {
		t.Error(err)
	}
	c.sees("", "LMSG a 2", "hi", "LMSG b r 2", "hi")
	if st := l.Status(); st.HubName != "ID" {
		t.Errorf("status %+v", st)
	}
}

// What a hub may do wrong before the link is up, and what a person is told.
func TestLinkRefusesHub(t *testing.T) {
	wrongPort := "this is not a leafnode port"
	for _, tc := range []struct{ name, bytes, want string }{
		{"client port", `INFO {"server_id":"ID","client_id":5,"client_ip":"127.0.0.1"}` + "\r\n", wrongPort},
		{"route port", `INFO {"server_id":"ID","info_on_connect":true}` + "\r\n", wrongPort},
		{"TLS", `INFO {"client_id":5,"info_on_connect":true,"tls_required":true}` + "\r\n", "leafd does not have TLS on links yet"},
		{"an HTTP server", "HTTP/1.1 400 Bad Request\r\n", "does not speak the leafnode protocol"},
		{"INFO is not JSON", "INFO {\r\n", "INFO: unexpected end of JSON"},
		{"INFO of wrong types", `INFO {"client_id":"x"}` + "\r\n", "INFO: json"},
		{"deep INFO", "INFO " + strings.Repeat("[", 20000) + "\r\n", "INFO: "},
		{"endless INFO", "INFO " + strings.Repeat("x", 70000), "maximum control line exceeded"},
		{"messages first", "LMSG a 2\r\nhi\r\n", "Unknown Protocol Operation"},
		{"interest before it let us in", info1 + "LS+ a\r\n", "Unknown Protocol Operation"},
		{"refused", info1 + "-ERR 'Authorization Violation'\r\n", "the hub said: Authorization Violation; correct the user"},
		{"closes", "", "the hub closed the connection"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, h := startLink(t, LinkOptions{ReconnectMin: time.Hour, ReconnectMax: time.Hour}) // or it tries again before it is looked at
			c := h.accept()
			go c.Write([]byte(tc.bytes)) // the link may close before it has all
			if tc.bytes == "" || strings.Contains(tc.name, "refused") {
				testkit.Eventually(t, func() bool { return tc.bytes == "" || l.Status().Complaints == 1 }, "the complaint is read")
				c.Close()
			}
			testkit.Eventually(t, func() bool { return l.Status().State == LinkBackingOff }, "it gave up")
			if st := l.Status(); !strings.Contains(st.LastError, tc.want) || !isDown(l) {
				t.Errorf("last error %q, want %q", st.LastError, tc.want)
			}
		})
	}
}

// What a hub may do wrong while the link is up.
func TestLinkEndsOnViolation(t *testing.T) {
	for _, tc := range []struct{ name, bytes, said, want string }{
		{"LS+ without a subject", "LS+\r\n", "Parser Error", "LS+"},
		{"LS+ of two", "LS+ a q\r\n", "Parser Error", "LS+"},
		{"LS+ of five", "LS+ a q 1 2 3\r\n", "Parser Error", "LS+"},
		{"negative weight", "LS+ a q -1\r\n", "Parser Error", "LS+"},
		{"LS- without a subject", "LS-\r\n", "Parser Error", "LS-"},
		{"LMSG without size", "LMSG a\r\n", "Parser Error", "LMSG"},
		{"negative size", "LMSG a -1\r\n", "Parser Error", "LMSG"},
		{"huge size", "LMSG a 99999999999999999999\r\n", "Parser Error", "LMSG"},
		{"no such form", "LMSG a b c 0\r\n", "Parser Error", "LMSG"},
		{"header over all", "HMSG a 20 10\r\n", "Parser Error", "HMSG"},
		{"no header", "HMSG a 0 10\r\n", "Parser Error", "HMSG"},
		{"payload too long", "LMSG a 1\r\nxyz\r\n", "Unknown Protocol Operation", "CR LF"},
		{"a client's verb", "PUB a 0\r\n\r\n", "Unknown Protocol Operation", "leafnode protocol"},
		{"a route's verb", "RMSG $G a 0\r\n\r\n", "Unknown Protocol Operation", "leafnode protocol"},
		{"bad INFO", "INFO 1\r\n", "Parser Error", "INFO"},
		{"too many interests", "LS+ a\r\nLS+ b\r\nLS+ c\r\nLS+ d\r\n", "maximum subscriptions exceeded", "more subscriptions than this gateway holds"},
		{"too long interests", "LS+ " + strings.Repeat("x", 5000) + "\r\n", "maximum subscriptions exceeded", "more subscriptions than this gateway holds"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, h := startLink(t, LinkOptions{MaxInterest: 3})
			c := h.accept()
			c.join()
			c.send(tc.bytes)
			if got := c.rest(); got != "-ERR '"+tc.said+"'\r\n" {
				t.Errorf("the hub is told %q", got)
			}
			testkit.Eventually(t, func() bool { return l.Status().State == LinkBackingOff }, "it gave up")
			if st := l.Status(); !strings.Contains(st.LastError, tc.want) {
				t.Errorf("last error %q, want %q", st.LastError, tc.want)
			}
			if n := l.router.Subscriptions(); n != 0 || watchers(l.router) != 0 {
				t.Errorf("%d subscriptions and %d watchers are left", n, watchers(l.router))
			}
		})
	}
}

func watchers(r *Router) int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.watchers)
}

// What changes nothing.
func TestLinkToleratesHub(t *testing.T) {
	l, h := startLink(t, LinkOptions{})
	c := h.accept()
	c.join()
	c.sees("+OK\r\n" + info1 + info2 + "PONG\r\nLS- never\r\nLS- never q\r\nLS+ a 	\r\nLS+ a\r\nLS+ $LDS.OTHER\r\n" +
		"-ERR 'maximum subscriptions exceeded'\r\n-ERR 'Invalid Subscription'\r\n-ERR\r\nPONG\r\nLS+ a q 0\r\nLMSG a | 1\r\nx\r\nLMSG a + r 1\r\nx\r\n" +
		"LMSG a..b 0\r\n\r\nLMSG $KV.x 0\r\n\r\nls+\ta\n")
	if st := l.Status(); st.Complaints != 3 || st.HubInterest != 2 || st.InMsgs != 4 || st.Refused != 1 {
		t.Errorf("status %+v", st)
	}
}

func TestHubComplaints(t *testing.T) {
	for text, want := range map[string]cause{
		"Authorization Violation": refused, "User Authentication Expired": refused, "Account Authentication Expired": refused,
		"User Authentication Revoked": refused, "Authentication Timeout": transient,
		`Permissions Violation for Publish to "x"`: forbidden, `Permissions Violation for Subscription to "x"`: forbidden,
		`Loop detected for leafnode account="$G". Delaying attempt to reconnect for 30s`: looping,
		"remote leafnode has same cluster name":                                          looping,
		`connection rejected since minimum version required is "9.0.0"`:                  refused,
		"Duplicate Remote LeafNode Connection":                                           refused,
		"attempted to connect to leaf node port":                                         refused,
		"maximum account active connections exceeded":                                    refused,
		"Maximum Payload Violation":                                                      transient, "Stale Connection": transient, "Server Shutdown": transient, "news": transient,
		"maximum subscriptions exceeded": tolerated, "Invalid Subscription": tolerated,
	} {
		if f := hubFault(text); f.cause != want || !strings.Contains(f.Error(), text) {
			t.Errorf("%q: %+v", text, f)
		}
	}
}

func TestLinkInterest(t *testing.T) {
	l, h := startLink(t, LinkOptions{})
	c := h.accept()
	c.join()
	waitUp(t, l)
	local := l.router.Attach("local", &testkit.Sink{}, EachSub)
	plain := []*msg.Sub{{Subject: "a"}, {Subject: "a"}}
	group := []*msg.Sub{{Subject: "a", Queue: "q"}, {Subject: "a", Queue: "q"}, {Subject: "a", Queue: "q"}}
	for _, s := range append(plain, group...) {
		if err := local.Subscribe(s); err != nil {
			t.Fatal(err)
		}
	}
	c.sees("", "LS+ a", "LS+ a q 1", "LS+ a q 2", "LS+ a q 3")
	for _, s := range append(plain, group...) {
		local.Unsubscribe(s)
	}
	c.sees("", "LS- a", "LS+ a q 2", "LS+ a q 1", "LS- a q")

	for _, tc := range []struct {
		send   string
		subs   int
		weight int // of all together
	}{
		{"LS+ b\r\nLS+ b\r\n", 1, 1}, {"LS+ b q 2\r\n", 2, 3}, {"LS+ b q 5\r\n", 2, 6}, {"LS+ b q 5\r\n", 2, 6}, {"LS+ b q2 0\r\n", 3, 7}, {"LS- c\r\n", 3, 7},
		{"LS- b q\r\n", 2, 2}, {"LS- b\r\nLS- b\r\n", 1, 1}, {"LS+ b q2 999999999\r\n", 1, maxWeight}, {"LS- b q2\r\n", 0, 0},
	} {
		c.sees(tc.send)
		if n := l.router.Subscriptions(); n != tc.subs || l.Status().HubInterest != n {
			t.Errorf("after %q: %d subscriptions, status %d", tc.send, n, l.Status().HubInterest)
		}
		if n := hubWeight(l); n != tc.weight {
			t.Errorf("after %q: weight %d, want %d", tc.send, n, tc.weight)
		}
	}
	c.sees("LS+ b..c\r\n", "-ERR 'Invalid Subscription'")
}

// hubWeight adds up what the router has subscribed for the hub.
func hubWeight(l *Link) (sum int) {
	l.router.mu.RLock()
	defer l.router.mu.RUnlock()
	for _, sub := range l.live.Load().port.subs.Keys() {
		sum += int(sub.Weight)
	}
	return sum
}

// While the link is down nothing is subscribed for the hub.
func TestLinkDownHasNoInterest(t *testing.T) {
	l, h := startLink(t, LinkOptions{})
	c := h.accept()
	c.join()
	c.sees("LS+ >\r\nLS+ > q 1\r\n")
	local := l.router.Attach("local", &testkit.Sink{}, EachSub)
	if rc := local.Publish(text("a")); rc.Taken != 1 {
		t.Errorf("%d took it", rc.Taken)
	}
	local.Flush()
	c.sees("", "LMSG a | q 2", "hi")
	down := l.Down()
	c.Close()
	<-down
	testkit.Eventually(t, func() bool { return l.router.Subscriptions() == 0 }, "nothing subscribed")
	if rc := local.Publish(text("a")); rc.Taken != 0 {
		t.Errorf("%d took it", rc.Taken)
	}
	if err := l.Send(text("a")); err != ErrLinkDown {
		t.Errorf("sent: %v", err)
	}
	l.Flush()
}

func TestLinkDelivers(t *testing.T) {
	l, h := startLink(t, LinkOptions{})
	c := h.accept()
	c.join()
	c.sees("LS+ plain\r\nLS+ both\r\nLS+ both q1 1\r\nLS+ both q2 1\r\nLS+ group q1 1\r\nLS+ here q1 1\r\n")
	sink := &testkit.Sink{}
	local := l.router.Attach("local", sink, EachSub)
	if err := local.Subscribe(&msg.Sub{Subject: "here", Queue: "q1"}); err != nil {
		t.Fatal(err)
	}
	c.sees("", "LS+ here q1 1")
	head := []byte("NATS/1.0\r\n\r\n")
	for _, tc := range []struct {
		subject, reply string
		header         []byte
		want           []string
	}{
		{"plain", "", nil, []string{"LMSG plain 2", "hi"}},
		{"plain", "r", nil, []string{"LMSG plain r 2", "hi"}},
		{"plain", "+", nil, []string{"LMSG plain + 2", "hi"}},
		{"plain", "", head, []string{"HMSG plain 12 14", "NATS/1.0", "", "hi"}},
		{"plain", "r", head, []string{"HMSG plain r 12 14", "NATS/1.0", "", "hi"}},
		{"group", "", nil, []string{"LMSG group | q1 2", "hi"}},
		{"group", "r", nil, []string{"LMSG group + r q1 2", "hi"}},
		{"group", "r", head, []string{"HMSG group + r q1 12 14", "NATS/1.0", "", "hi"}},
		{"both", "", nil, []string{"LMSG both | q1 q2 2", "hi"}},
		{"here", "", nil, nil}, // a local member takes it
		{"none", "", nil, nil},
	} {
		local.Publish(&msg.Msg{Subject: []byte(tc.subject), Reply: []byte(tc.reply), Header: tc.header, Data: []byte("hi")})
		local.Flush()
		got := strings.Builder{}
		c.send("PING\r\n")
		for line := c.line(); line != "PONG"; line = c.line() {
			got.WriteString(line + "\r\n")
		}
		want := strings.Join(append(tc.want, ""), "\r\n")
		if tc.subject == "both" && strings.Contains(got.String(), "q2 q1") {
			want = strings.Replace(want, "q1 q2", "q2 q1", 1)
		}
		if got.String() != want {
			t.Errorf("%s %q: got %q, want %q", tc.subject, tc.reply, got.String(), want)
		}
	}
	if n := len(sink.Got()); n != 1 {
		t.Errorf("%d local deliveries", n)
	}
	if st := l.Status(); st.OutMsgs != 9 || st.OutBytes != 9*2+3*12 {
		t.Errorf("status %+v", st)
	}
}

// What a device published at QoS 1 or 2 crosses at 0: MQTT subscribers of a stock hub that asked
// for more would not get it. The same header of a NATS client is its own affair.
func TestLinkDeliversAtQoS0(t *testing.T) {
	l, h := startLink(t, LinkOptions{})
	c := h.accept()
	c.join()
	c.sees("LS+ a\r\n")
	local := l.router.Attach("local", &testkit.Sink{}, EachSub)
	for _, tc := range []struct {
		qos          uint8
		header, want string
	}{
		{0, "Nmqtt-Pub:1\r\n", "Nmqtt-Pub:1\r\n"},
		{1, "Nmqtt-Pub:1\r\n", "Nmqtt-Pub:0\r\n"},
		{2, "Nats-Msg-Id: n.1.1\r\nNmqtt-Pub:2\r\n", "Nats-Msg-Id: n.1.1\r\nNmqtt-Pub:0\r\n"},
		{1, "Leafd-Gap: expired\r\n", "Leafd-Gap: expired\r\n"},
		{1, "", ""},
	} {
		before := []byte("NATS/1.0\r\n" + tc.header + "\r\n")
		m := &msg.Msg{Subject: []byte("a"), Header: slices.Clone(before), Data: []byte("\r\nNmqtt-Pub:2"), QoS: tc.qos}
		local.Publish(m)
		if string(m.Header) != string(before) {
			t.Errorf("the publisher's own header became %q", m.Header)
		}
		if err := l.Send(m); err != nil { // what comes out of an outbox
			t.Fatal(err)
		}
		local.Flush()
		c.send("PING\r\n")
		got := strings.Builder{}
		for line := c.line(); line != "PONG"; line = c.line() {
			got.WriteString(line + "\r\n")
		}
		want := fmt.Sprintf("HMSG a %d %d\r\nNATS/1.0\r\n%s\r\n\r\nNmqtt-Pub:2\r\n", len(before), len(before)+len(m.Data), tc.want)
		if got.String() != want+want {
			t.Errorf("QoS %d: got %q, want %q twice", tc.qos, got.String(), want)
		}
	}
}

func TestLinkBringsMessages(t *testing.T) {
	l, h := startLink(t, LinkOptions{})
	sink := &testkit.Sink{}
	local := l.router.Attach("local", sink, EachSub)
	outbox := &testkit.Sink{}
	for _, s := range []*msg.Sub{{Subject: "a"}, {Subject: "g", Queue: "q"}, {Subject: "g", Queue: "p"}, {Subject: ">"}} {
		if err := local.Subscribe(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.router.Attach("outbox", outbox, Outbox).Subscribe(&msg.Sub{Subject: ">"}); err != nil {
		t.Fatal(err)
	}
	c := h.accept()
	c.join()
	c.sees("LS+ >\r\n" + // nothing comes back
		"LMSG a 2\r\nhi\r\nLMSG g | q 2\r\nhi\r\nLMSG g + r p 2\r\nhi\r\nHMSG g + r p q 12 14\r\nNATS/1.0\r\n\r\nhi\r\nLMSG g 2\r\nhi\r\n")
	got := map[string]int{}
	for _, d := range sink.Got() {
		got[fmt.Sprintf("%s>%s/%s %s %d %s", d.Subject, d.Sub.Subject, d.Sub.Queue, d.Reply, len(d.Header), d.Data)]++
	}
	want := map[string]int{
		"a>a/  0 hi": 1, "a>>/  0 hi": 1,
		"g>g/q  0 hi": 1, "g>>/  0 hi": 2,
		"g>g/p r 0 hi": 1, "g>>/ r 0 hi": 1,
		"g>g/p r 12 hi": 1, "g>g/q r 12 hi": 1, "g>>/ r 12 hi": 1,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	if n := len(outbox.Got()); n != 0 {
		t.Errorf("an outbox for the hub took %d messages of the hub", n)
	}
	if st := l.Status(); st.InMsgs != 5 || st.InBytes != 22 {
		t.Errorf("status %+v", st)
	}
}

func TestLinkSend(t *testing.T) {
	l, h := startLink(t, LinkOptions{DenyExports: []string{"no.>"}})
	if err := l.Send(text("a")); err != ErrLinkDown {
		t.Errorf("sent: %v", err)
	}
	c := h.accept()
	c.join()
	waitUp(t, l)
	big := func(n int) *msg.Msg { return &msg.Msg{Subject: []byte("a"), Data: make([]byte, n)} }
	for _, tc := range []struct {
		m    *msg.Msg
		want error
	}{
		{text("a"), nil}, {text("$JS.API.STREAM.NAMES"), nil}, {text("no.x"), ErrDenied}, {text("a..b"), ErrBadSubject}, {text("a b"), ErrBadSubject},
		{&msg.Msg{Subject: []byte("a"), Reply: []byte("r\rx")}, ErrBadSubject}, {big(1001), ErrTooLarge}, {text(strings.Repeat("x", 1<<16)), ErrTooLarge},
		{&msg.Msg{Subject: []byte("a"), Header: []byte("NATS/1.0\r\n\r\n"), Data: make([]byte, 989)}, ErrTooLarge},
	} {
		if err := l.Send(tc.m); !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) {
			t.Errorf("send %.20q: %v, want %v", tc.m.Subject, err, tc.want)
		}
	}
	l.Flush()
	c.sees("", "LMSG a 2", "hi", "LMSG $JS.API.STREAM.NAMES 2", "hi")
}

// A hub sends more than its max_payload: an answer of JetStream that has a message in base64 is
// taken, anything larger passed over.
func TestLinkTakesAnswersOverMaxPayload(t *testing.T) {
	var log lockedBuilder
	l, h := startLink(t, LinkOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	sink := &testkit.Sink{}
	if err := l.router.Attach("local", sink, EachSub).Subscribe(&msg.Sub{Subject: "a"}); err != nil {
		t.Fatal(err)
	}
	c := h.accept()
	c.join()
	const most = 1000 // of info1
	for _, n := range []int{most + most/3 + 300, 1 << 20, 1 << 20, most} {
		c.sees(fmt.Sprintf("LMSG a %d\r\n%s\r\n", n, strings.Repeat("x", n)))
	}
	got := sink.Got()
	if len(got) != 2 || len(got[0].Data) != most+most/3+300 || len(got[1].Data) != most || l.Status().Refused != 2 {
		t.Errorf("%d messages, %+v", len(got), l.Status())
	}
	if n := strings.Count(log.String(), "more than its max_payload"); n != 1 {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
}

// The hub lowers its limit while messages of the old size are under way.
func TestLinkFollowsMaxPayload(t *testing.T) {
	l, h := startLink(t, LinkOptions{})
	c := h.accept()
	c.join()
	c.sees(`INFO {"max_payload":1}` + "\r\n")
	if err := l.Send(text("a")); !errors.Is(err, ErrTooLarge) {
		t.Errorf("send: %v", err)
	}
	if _, most := l.Hub(); most != 1 {
		t.Errorf("max payload %d", most)
	}
}

func TestLinkPermissions(t *testing.T) {
	l, h := startLink(t, LinkOptions{DenyImports: []string{"in.not.here"}, DenyExports: []string{"out.not.here"}})
	sink := &testkit.Sink{}
	local := l.router.Attach("local", sink, EachSub)
	for _, s := range []string{"in.>", "in.not.here", "in.no", "elsewhere", "$JS.API.>"} {
		if err := local.Subscribe(&msg.Sub{Subject: s}); err != nil {
			t.Fatal(err)
		}
	}
	c := h.accept()
	c.connect(info1)
	c.send(`INFO {"connect_info":true,"export":{"allow":["out.>","$JS.>"],"deny":["out.no"]},"import":{"allow":["in.>","in.x q"],"deny":["in.no"]}}` + "\r\n")
	if got := c.announced(); fmt.Sprint(got) != "[LS+ in.>]" {
		t.Errorf("announced %q", got)
	}
	c.sees("LS+ >\r\nLMSG in.a 0\r\n\r\nLMSG in.no 0\r\n\r\nLMSG in.not.here 0\r\n\r\nLMSG elsewhere 0\r\n\r\nLMSG $JS.API.X 0\r\n\r\n")
	if got := sink.Subjects(); fmt.Sprint(got) != "[in.a]" {
		t.Errorf("brought %q", got)
	}
	if n := l.Status().Refused; n != 4 {
		t.Errorf("counted %d refused", n)
	}
	for _, s := range []string{"out.a", "out.no", "out.not.here", "elsewhere", "$JS.API.INFO", "$JS.dom.API.INFO", "$KV.b.k"} {
		local.Publish(text(s))
	}
	local.Flush()
	c.sees("", "LMSG out.a 2", "hi", "LMSG $JS.dom.API.INFO 2", "hi")
	if n := l.router.Stats().Drops[msg.Denied].Load(); n != 5 {
		t.Errorf("counted %d denied", n)
	}
	for s, want := range map[string]error{"$JS.API.INFO": nil, "out.no": ErrDenied, "out.not.here": ErrDenied, "elsewhere": ErrDenied} {
		if err := l.Send(text(s)); !errors.Is(err, want) {
			t.Errorf("send %s: %v", s, err)
		}
	}
	l.Flush()
	c.sees("", "LMSG $JS.API.INFO 2", "hi")
	// The hub changes its mind.
	c.send(`INFO {"export":{"deny":["out.a"]},"import":{"allow":["elsewhere"]}}` + "\r\n")
	got := map[string]bool{c.line(): true, c.line(): true}
	if !got["LS- in.>"] || !got["LS+ elsewhere"] {
		t.Errorf("announced %v", got)
	}
	testkit.Eventually(t, func() bool { return watchers(l.router) == 1 }, "the old watcher of interest stays") // it goes once the new one has told
	local.Publish(text("out.a"))
	local.Publish(text("out.no"))
	local.Flush()
	c.sees("", "LMSG out.no 2", "hi")
}

// The hub cuts the link off for a subject that its INFO allowed: it is left out.
func TestLinkLeavesOutForbiddenSubjects(t *testing.T) {
	l, h := startLink(t, LinkOptions{})
	local := l.router.Attach("local", &testkit.Sink{}, EachSub)
	if err := local.Subscribe(&msg.Sub{Subject: "secret.in"}); err != nil {
		t.Fatal(err)
	}
	c := h.accept()
	if got := c.join(); fmt.Sprint(got) != "[LS+ secret.in]" {
		t.Errorf("announced %q", got)
	}
	c.sees("LS+ >\r\n-ERR 'Permissions Violation for Subscription to \"secret.in\"'\r\n-ERR 'Permissions Violation for Publish to \"secret.out\"'\r\n", "LS- secret.in")
	c.Close()
	c = h.accept()
	if got := c.join(); len(got) != 0 {
		t.Errorf("announced %q again", got)
	}
	if st := l.Status(); !strings.Contains(st.LastError, `"secret.out" is left out for 5m0s; correct the permissions`) {
		t.Errorf("last error %q", st.LastError)
	}
	waitUp(t, l)
	if err := l.Send(text("secret.out")); !errors.Is(err, ErrDenied) {
		t.Errorf("send: %v", err)
	}
}

func TestLinkSlowHub(t *testing.T) {
	l := newTestLink(t, LinkOptions{Outbound: OutboundOptions{MaxPending: 64 << 10, WriteDeadline: time.Hour}})
	h := &fakeHub{t: t, conns: make(chan net.Conn), size: 1}
	l.dial = h.dial
	runLink(t, l)
	c := h.accept()
	c.join()
	c.sees("LS+ a\r\n")
	local := l.router.Attach("local", &testkit.Sink{}, EachSub)
	m := &msg.Msg{Subject: []byte("a"), Data: make([]byte, 1000)}
	taken := 0
	for l.router.Stats().Drops[msg.SlowConsumer].Load() == 0 { // the hub reads nothing
		rc := local.Publish(m)
		local.Flush()
		taken += rc.Taken
	}
	sent := 0
	for ; l.Send(m) == nil; sent++ {
	}
	if err := l.Send(m); !errors.Is(err, ErrLinkBusy) {
		t.Errorf("send: %v", err)
	}
	if taken < 40 || sent < 5 || isDown(l) {
		t.Errorf("%d live, %d sent before the hub was too slow; down: %v", taken, sent, isDown(l))
	}
	for range taken + sent {
		if got := c.line(); got != "LMSG a 1000" {
			t.Fatalf("got %q", got)
		}
		c.r.Discard(1002)
	}
	if err := l.Send(text("a")); err != nil {
		t.Error(err)
	}
}

func TestLinkLoop(t *testing.T) {
	l, h := startLink(t, LinkOptions{})
	c := h.accept()
	c.connect(info1)
	c.send(info2)
	mark := c.line()
	if !strings.HasPrefix(mark, "LS+ $LDS.") {
		t.Fatalf("first %q", mark)
	}
	c.line()
	c.send(mark + "\r\n")
	if got := c.rest(); !strings.HasPrefix(got, "-ERR 'Loop detected for leafnode account=") {
		t.Errorf("the hub is told %q", got)
	}
	testkit.Eventually(t, func() bool { return l.Status().State == LinkBackingOff }, "it waits")
	if st := l.Status(); !strings.Contains(st.LastError, "loop detected") {
		t.Errorf("last error %q", st.LastError)
	}
}

func TestLinkRunsOnce(t *testing.T) {
	l, h := startLink(t, LinkOptions{})
	h.accept()
	if err := l.Run(t.Context()); err == nil {
		t.Error("it runs twice")
	}
}

// What was sent before the end still leaves.
func TestLinkStops(t *testing.T) {
	testkit.CheckGoroutines(t)
	l := newTestLink(t, LinkOptions{})
	h := &fakeHub{t: t, conns: make(chan net.Conn), size: 1 << 20}
	l.dial = h.dial
	stop := runLink(t, l)
	c := h.accept()
	c.join()
	waitUp(t, l)
	if err := l.Send(text("last")); err != nil {
		t.Fatal(err)
	}
	stop()
	if got := c.rest(); got != "LMSG last 2\r\nhi\r\n" {
		t.Errorf("got %q", got)
	}
	if st := l.Status(); st.State != LinkStopped || !isDown(l) {
		t.Errorf("status %+v", st)
	}
}
