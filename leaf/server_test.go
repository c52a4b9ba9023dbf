package leaf

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// startServer serves on a loopback port until the test ends.
func startServer(t testing.TB, o Options) (*Server, string) {
	t.Helper()
	return serve(t, New(o, NewRouter()))
}

func serve(t testing.TB, s *Server) (*Server, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, s, ln)
	return s, ln.Addr().String()
}

// serveInMemory serves clients that are in memory, for a synctest bubble: what depends
// on time depends on nothing else.
func serveInMemory(t testing.TB, s *Server) (dial func(connect string) *client) {
	t.Helper()
	ln := testkit.NewPipeListener()
	serveOn(t, s, ln)
	return func(connect string) *client {
		t.Helper()
		return greet(t, ln.Dial(64<<10), connect)
	}
}

func serveOn(t testing.TB, s *Server, ln net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// client speaks raw bytes.
type client struct {
	net.Conn
	t testing.TB
	r *bufio.Reader
}

// quiet is the CONNECT of a client that wants neither +OK nor to be told of odd subjects, if
// it does not say otherwise, as those of all official clients.
func quiet(connect string) string {
	const off = `{"verbose":false,"pedantic":false`
	if connect == "{}" {
		return off + "}"
	}
	return off + "," + strings.TrimPrefix(connect, "{")
}

// dial connects, reads INFO and, if connect is not empty, sends it as CONNECT, made quiet.
func dial(t testing.TB, addr, connect string) *client {
	t.Helper()
	return dialFrom(t, addr, "127.0.0.1", connect)
}

// dialFrom is dial from another address of this machine.
func dialFrom(t testing.TB, addr, from, connect string) *client {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	nc, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return greet(t, nc, connect)
}

// greet is dial for a connection that there is.
func greet(t testing.TB, nc net.Conn, connect string) *client {
	t.Helper()
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(4 * testkit.Patience)) // for all that it does
	c := &client{nc, t, bufio.NewReader(nc)}
	if line := c.line(); !strings.HasPrefix(line, "INFO {") {
		t.Fatalf("greeted with %q", line)
	}
	if connect != "" {
		c.send("CONNECT " + quiet(connect) + "\r\n")
	}
	if strings.Contains(connect, `"protocol":1`) {
		c.expect("", "")
		c.where()
	}
	return c
}

// where reads the INFO that follows the first PONG.
func (c *client) where() (info clientInfo) {
	c.t.Helper()
	line := c.line()
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info); err != nil || !info.ConnectInfo {
		c.t.Fatalf("behind the first PONG comes %q", line)
	}
	return info
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) line() string {
	c.t.Helper()
	s, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("after %q: %v", s, err)
	}
	return strings.TrimRight(s, "\r\n")
}

// expect sends s and a PING, and wants these bytes before the PONG.
func (c *client) expect(s, want string) {
	c.t.Helper()
	c.send(s + "PING\r\n")
	var got strings.Builder
	for {
		l, err := c.r.ReadString('\n')
		if err != nil {
			c.t.Fatalf("sent %q, got %q, then %v", s, got.String(), err)
		}
		if l == "PONG\r\n" {
			break
		}
		got.WriteString(l)
	}
	if got.String() != want {
		c.t.Errorf("sent %q\n got %q\nwant %q", s, got.String(), want)
	}
}

// cutOff sends s and wants an -ERR with this text and then the end.
func (c *client) cutOff(s, text string) {
	c.t.Helper()
	c.send(s)
	if got, want := c.line(), "-ERR '"+text+"'"; got != want {
		c.t.Errorf("sent %.80q, got %q, want %q", s, got, want)
	}
	if b, err := c.r.ReadByte(); err == nil {
		c.t.Errorf("sent %.80q: %q after the error", s, b)
	}
}

func TestProtocol(t *testing.T) {
	_, addr := startServer(t, Options{})
	for _, tc := range []struct{ name, connect, send, want string }{
		{"publish before connect", "", "SUB a 1\r\nPUB a 2\r\nhi\r\n", "+OK\r\n+OK\r\nMSG a 1 2\r\nhi\r\n"},
		{"empty payload", `{}`, "SUB a 1\r\nPUB a 0\r\n\r\n", "MSG a 1 0\r\n\r\n"},
		{"reply", `{}`, "SUB a 1\r\nPUB a r.1 1\r\nx\r\n", "MSG a 1 r.1 1\r\nx\r\n"},
		{"lower case, tabs, LF", `{}`, "sub\ta  1\npub a\t1\r\nx\r\n", "MSG a 1 1\r\nx\r\n"},
		{"each subscription", `{}`, "SUB a 1\r\nSUB * 2\r\nSUB > 3\r\nPUB a 0\r\n\r\n", "MSG a 3 0\r\n\r\nMSG a 2 0\r\n\r\nMSG a 1 0\r\n\r\n"},
		{"headers", `{"headers":true}`, "SUB a 1\r\nHPUB a 12 14\r\nNATS/1.0\r\n\r\nhi\r\n", "HMSG a 1 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"},
		{"headers not asked for are cut", `{"headers":true}`, "SUB a 1\r\nHPUB a 12 14\r\nNATS/1.0\r\n\r\nhi\r\nCONNECT {\"verbose\":false}\r\nUNSUB 1\r\n", "HMSG a 1 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"},
		{"echo off", `{"echo":false}`, "SUB a 1\r\nPUB a 0\r\n\r\n", ""},
		{"echo off, queue", `{"echo":false}`, "SUB a q 1\r\nPUB a 0\r\n\r\n", ""},
		{"unsub", `{}`, "SUB a 1\r\nUNSUB 1\r\nPUB a 0\r\n\r\n", ""},
		{"unsub max", `{}`, "SUB a 1\r\nUNSUB 1 2\r\nPUB a 0\r\n\r\nPUB a 0\r\n\r\nPUB a 0\r\n\r\n", "MSG a 1 0\r\n\r\nMSG a 1 0\r\n\r\n"},
		{"unsub max already reached", `{}`, "SUB a 1\r\nPUB a 0\r\n\r\nUNSUB 1 1\r\nPUB a 0\r\n\r\n", "MSG a 1 0\r\n\r\n"},
		{"sid free again after unsub max", `{}`, "SUB a 1\r\nUNSUB 1 1\r\nPUB a 0\r\n\r\nSUB b 1\r\nPUB b 0\r\n\r\n", "MSG a 1 0\r\n\r\nMSG b 1 0\r\n\r\n"},
		{"repeated sid", `{}`, "SUB a 1\r\nSUB b 1\r\nPUB b 0\r\n\r\nPUB a 0\r\n\r\n", "MSG a 1 0\r\n\r\n"},
		{"unknown sid", `{}`, "UNSUB 7\r\n", ""},
		{"queue of one", `{}`, "SUB one q 1\r\nSUB one q 2\r\nUNSUB 2\r\nPUB one 0\r\n\r\n", "MSG one 1 0\r\n\r\n"},
		{"no responders", `{"headers":true,"no_responders":true}`, "SUB r.* 1\r\nPUB nobody r.x 0\r\n\r\n", "HMSG r.x 1 38 38\r\nNATS/1.0 503\r\nNats-Subject: nobody\r\n\r\n\r\n"},
		{"no responders not asked for", `{"headers":true}`, "SUB r.* 1\r\nPUB nobody r.x 0\r\n\r\n", ""},
		{"verbose", `{"verbose":true}`, "SUB a 1\r\nPUB b 0\r\n\r\nUNSUB 1\r\n", "+OK\r\n+OK\r\n+OK\r\n+OK\r\n"},
		{"pedantic", `{"pedantic":true}`, "PUB a.* 0\r\n\r\nPUB a..b 0\r\n\r\n", "-ERR 'Invalid Publish Subject'\r\n-ERR 'Invalid Publish Subject'\r\n"},
		{"literal wildcard in a published subject", `{}`, "SUB a.* 1\r\nPUB a.* 0\r\n\r\n", "MSG a.* 1 0\r\n\r\n"},
		{"empty token matches nothing", `{}`, "SUB > 1\r\nPUB a..b 0\r\n\r\n", ""},
		{"bad subjects", `{}`, "SUB a..b 1\r\nSUB a.>.b 2\r\nSUB .a 3\r\n", "-ERR 'Invalid Subject'\r\n-ERR 'Invalid Subject'\r\n-ERR 'Invalid Subject'\r\n"},
		{"any legal byte", `{}`, "SUB ä/$\\\"'{}.> 1\r\nPUB ä/$\\\"'{}.x 0\r\n\r\n", "MSG ä/$\\\"'{}.x 1 0\r\n\r\n"},
	} {
		t.Run(tc.name, func(t *testing.T) { dial(t, addr, tc.connect).expect(tc.send, tc.want) })
	}
}

func TestProtocolViolations(t *testing.T) {
	s, addr := startServer(t, Options{MaxPayload: 1000})
	for _, tc := range []struct{ name, send, text string }{
		{"unknown verb", "HELO\r\n", "Unknown Protocol Operation"},
		{"a server's verb", "MSG a 1 0\r\n\r\n", "Unknown Protocol Operation"},
		{"empty line", "\r\n", "Unknown Protocol Operation"},
		{"long verb", "PUBLISHED a 0\r\n\r\n", "Unknown Protocol Operation"},
		{"PUB without size", "PUB a\r\n", "Parser Error"},
		{"PUB of four words", "PUB a b c 0\r\n\r\n", "Parser Error"},
		{"negative size", "PUB a -1\r\n", "Parser Error"},
		{"signed size", "PUB a +1\r\n", "Parser Error"},
		{"hexadecimal size", "PUB a 0x1\r\n", "Parser Error"},
		{"size over any integer", "PUB a 99999999999999999999\r\n", "Parser Error"},
		{"payload longer than said", "PUB a 1\r\nxyz\r\n", "Unknown Protocol Operation"},
		{"over max_payload", "PUB a 1001\r\n", "Maximum Payload Violation"},
		{"header longer than all", "CONNECT {\"verbose\":false,\"headers\":true}\r\nHPUB a 20 10\r\n", "Parser Error"},
		{"headers unasked", "CONNECT {\"verbose\":false}\r\nHPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n", "message headers not supported"},
		{"SUB of one word", "SUB a\r\n", "Parser Error"},
		{"UNSUB of none", "UNSUB\r\n", "Unknown Protocol Operation"},
		{"bad CONNECT", "CONNECT {\"verbose\":1}\r\n", "Parser Error"},
		{"no_responders without headers", "CONNECT {\"no_responders\":true}\r\n", "no responders requires headers support"},
		{"endless line", "PUB " + strings.Repeat("x", 5000), "maximum control line exceeded"},
	} {
		t.Run(tc.name, func(t *testing.T) { dial(t, addr, "").cutOff(tc.send, tc.text) })
	}
	if n := s.Counters().ProtocolErrors.Load(); n != 19 {
		t.Errorf("counted %d protocol errors", n)
	}
}

// Whatever the kernel makes of the stream, the operations are the same.
func TestEveryByteAlone(t *testing.T) {
	_, addr := startServer(t, Options{})
	c := dial(t, addr, "")
	c.Conn.(*net.TCPConn).SetNoDelay(true)
	for _, b := range "CONNECT {\"verbose\":false,\"headers\":true}\r\nSUB a 1\r\nHPUB a r 12 17\r\nNATS/1.0\r\n\r\nhello\r\nPUB a 3\r\n\r\n!\r\n" {
		c.send(string(b))
	}
	c.expect("", "HMSG a 1 r 12 17\r\nNATS/1.0\r\n\r\nhello\r\nMSG a 1 3\r\n\r\n!\r\n")
}

// startAuth is startServer with a configuration of who may connect, and all the time to do so.
func startAuth(t testing.TB, cfg AuthConfig, o Options) (*Server, string) {
	t.Helper()
	cfg.Timeout = testkit.Patience
	return serve(t, newAuthServer(t, cfg, o))
}

func newAuthServer(t testing.TB, cfg AuthConfig, o Options) *Server {
	t.Helper()
	r := NewRouter()
	auth, err := NewAuth(cfg, r)
	if err != nil {
		t.Fatal(err)
	}
	o.Auth = auth
	return New(o, r)
}

func TestAuthentication(t *testing.T) {
	s, addr := startAuth(t, AuthConfig{Credentials: Credentials{Users: []User{{Name: "u", Password: "p"}}}}, Options{})
	dial(t, addr, `{"user":"u","pass":"p"}`).expect("SUB a 1\r\nPUB a 0\r\n\r\n", "MSG a 1 0\r\n\r\n")
	dial(t, addr, "").cutOff("CONNECT {\"user\":\"v\",\"pass\":\"p\"}\r\n", "Authorization Violation")
	dial(t, addr, "").cutOff("CONNECT {\"user\":\"u\",\"pass\":\"x\"}\r\n", "Authorization Violation")
	dial(t, addr, "").cutOff("CONNECT {}\r\n", "Authorization Violation")
	dial(t, addr, "").cutOff("SUB a 1\r\n", "Authorization Violation")
	dial(t, addr, "").cutOff("PUB a 100000\r\n", "Authorization Violation")
	if n := s.Counters().AuthErrors.Load(); n != 3 {
		t.Errorf("counted %d refused logins", n)
	}
}

// Who does not log in is sent away after the time for it, whatever they have begun to say.
func TestAuthenticationTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := serveInMemory(t, newAuthServer(t, AuthConfig{Credentials: Credentials{Token: "t"}, Timeout: 3 * time.Second}, Options{}))
		start, in := time.Now(), dial(`{"auth_token":"t"}`)
		dial("").cutOff("CONN", "Authentication Timeout")
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("sent away after %v", took)
		}
		in.expect("", "")
	})
}

// A peer that has not said who it is must not make the server remember much.
func TestMemoryBeforeLogin(t *testing.T) {
	s, addr := startAuth(t, AuthConfig{Credentials: Credentials{Token: "t"}}, Options{})
	const conns = 200
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range conns {
		dialFrom(t, addr, fmt.Sprintf("127.0.1.%d", 1+i/maxHalfOpen), "").send("CONNECT {\"user\":\"" + strings.Repeat("x", 4000))
	}
	testkit.Eventually(t, func() bool { return s.Conns() == conns }, "all connected")
	runtime.GC()
	runtime.ReadMemStats(&after)
	// The clients' own buffers (4 KiB each) are counted here too.
	if per := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / conns; per > 16<<10 {
		t.Errorf("%d bytes for a connection before login", per)
	} else {
		t.Logf("%d bytes for a connection before login, both ends", per)
	}
}

func TestLimits(t *testing.T) {
	s, addr := startServer(t, Options{MaxConns: 2, MaxSubs: 2})
	a := dial(t, addr, `{}`)
	a.expect("SUB a 1\r\nSUB b 2\r\nSUB c 3\r\n", "-ERR 'maximum subscriptions exceeded'\r\n")
	dial(t, addr, `{}`).expect("", "")
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(testkit.Patience))
	c := &client{nc, t, bufio.NewReader(nc)}
	if got := c.line(); got != "-ERR 'maximum connections exceeded'" {
		t.Errorf("third connection: %q", got)
	}
	if n := s.Counters().Refused.Load(); n != 1 {
		t.Errorf("counted %d refused", n)
	}
}

func TestSlowConsumerIsCutOffAlone(t *testing.T) {
	s, addr := startServer(t, Options{Outbound: OutboundOptions{MaxPending: 256 << 10}})
	slow := dial(t, addr, `{}`)
	slow.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	slow.expect("SUB a 1\r\n", "")
	good := dial(t, addr, `{}`)
	good.expect("SUB b 1\r\n", "")
	pub := dial(t, addr, `{}`)
	payload := strings.Repeat("x", 8<<10)
	one := fmt.Sprintf("PUB a %d\r\n%s\r\n", len(payload), payload)
	for s.Counters().SlowConsumers.Load() == 0 {
		pub.expect(one, "")
	}
	testkit.Eventually(t, func() bool { return s.Conns() == 2 }, "the slow consumer gone")
	pub.expect("PUB b 0\r\n\r\n", "")
	if got := good.line(); got != "MSG b 1 0" {
		t.Errorf("the other consumer got %q", got)
	}
	if n := s.Router().Stats().Drops[msg.SlowConsumer].Load(); n == 0 {
		t.Error("the drop is not counted")
	}
}

func TestStaleConnection(t *testing.T) {
	_, addr := startServer(t, Options{PingInterval: 20 * time.Millisecond, PingMax: 2})
	c := dial(t, addr, "")
	for _, want := range []string{"PING", "PING", "-ERR 'Stale Connection'"} {
		if got := c.line(); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// As often as a client answers, it stays, and no longer.
func TestPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := serveInMemory(t, New(Options{PingInterval: 4 * time.Second, PingMax: 2}, NewRouter()))
		c := dial(`{}`)
		for range 6 {
			if got := c.line(); got != "PING" {
				t.Fatalf("got %q", got)
			}
			c.send("PONG\r\n")
		}
		answered := time.Now()
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Error(err)
		}
		if took := time.Since(answered); took != 12*time.Second {
			t.Errorf("a silent client stays for %v", took)
		}
	})
}

func TestQueueGroupSharesAndSkipsTheGone(t *testing.T) {
	_, addr := startServer(t, Options{})
	var members []*client
	for range 3 {
		m := dial(t, addr, `{}`)
		m.expect("SUB jobs q 1\r\n", "")
		members = append(members, m)
	}
	pub := dial(t, addr, `{}`)
	const n = 300
	pub.expect(strings.Repeat("PUB jobs 0\r\n\r\n", n), "")
	total := 0
	for i, m := range members {
		got := 0
		m.send("PING\r\n")
		for l := m.line(); l != "PONG"; l = m.line() {
			if l == "MSG jobs 1 0" {
				got++
			}
		}
		if got < n/10 {
			t.Errorf("member %d got %d of %d", i, got, n)
		}
		total += got
	}
	if total != n {
		t.Errorf("%d deliveries of %d messages", total, n)
	}
}

func TestShutdownWritesWhatWaits(t *testing.T) {
	testkit.CheckGoroutines(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{}, NewRouter())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	c := dial(t, ln.Addr().String(), `{}`)
	c.expect("SUB a 1\r\n", "")
	p := s.Router().Attach("test", nil, EachSub)
	p.Publish(&msg.Msg{Subject: []byte("a"), Data: []byte("last")})
	cancel()
	if got := c.line() + c.line(); got != "MSG a 1 4last" {
		t.Errorf("got %q", got)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
