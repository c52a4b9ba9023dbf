package ws

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/leafd/leafd/internal/secure"
	"github.com/leafd/leafd/internal/testkit"
)

// pipes is a listener of connections in memory.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case nc := <-p.conns:
		return nc, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

func (p *pipes) dial() net.Conn {
	a, b := testkit.Pipe(64 << 10)
	p.conns <- a
	return b
}

// start runs a server until the test ends.
func start(t testing.TB, o Options) (*Server, *pipes) {
	t.Helper()
	s, ln := New(o), &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, ln
}

const request = "GET /any HTTP/1.1\r\nHost: leafd\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

// open upgrades a connection, and returns both its ends.
func open(t testing.TB, s *Server, ln *pipes) (client *websocket.Conn, server net.Conn) {
	t.Helper()
	got := make(chan net.Conn, 1)
	go func() {
		nc, _ := s.NATS().Accept()
		got <- nc
	}()
	mode := websocket.CompressionDisabled
	if s.opts.Compression {
		mode = websocket.CompressionNoContextTakeover
	}
	c, _, err := websocket.Dial(context.Background(), "ws://leafd/", &websocket.DialOptions{CompressionMode: mode, CompressionThreshold: 1,
		HTTPClient: &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return ln.dial(), nil }}}})
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(-1)
	server = <-got
	t.Cleanup(func() { c.CloseNow(); server.Close() })
	return c, server
}

func TestStream(t *testing.T) {
	for _, compression := range []bool{false, true} {
		s, ln := start(t, Options{Compression: compression})
		client, server := open(t, s, ln)
		ctx := context.Background()
		for _, m := range []struct {
			kind websocket.MessageType
			text string
		}{{websocket.MessageText, "PING\r"}, {websocket.MessageBinary, ""}, {websocket.MessageBinary, "\nPUB a 1"}} {
			if err := client.Write(ctx, m.kind, []byte(m.text)); err != nil {
				t.Fatal(err)
			}
		}
		got := make([]byte, len("PING\r\nPUB a 1"))
		if _, err := io.ReadFull(server, got); err != nil || string(got) != "PING\r\nPUB a 1" {
			t.Fatalf("%q, %v", got, err)
		}
		big := strings.Repeat("x", 200<<10)
		go server.Write([]byte(big))
		if kind, b, err := client.Read(ctx); kind != websocket.MessageBinary || string(b) != big || err != nil {
			t.Fatalf("%v %d bytes, %v", kind, len(b), err)
		}
		go client.Close(websocket.StatusNormalClosure, "") // waits for the answer
		if _, err := server.Read(got); err != io.EOF {
			t.Errorf("after a good-bye: %v", err)
		}
	}
}

func TestServerSaysGoodbye(t *testing.T) {
	s, ln := start(t, Options{})
	client, server := open(t, s, ln)
	server.Close()
	if _, _, err := client.Read(context.Background()); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("%v", err)
	}
}

// A message may be of any length: it is handed on as it comes, compressed or not, and no faster
// than it is read.
func TestLongMessage(t *testing.T) {
	const size = 10 << 20
	for _, compression := range []bool{false, true} {
		s, ln := start(t, Options{Compression: compression})
		client, server := open(t, s, ln)
		sent := make(chan error, 1)
		go func() { sent <- client.Write(context.Background(), websocket.MessageBinary, make([]byte, size)) }()
		if _, err := io.CopyN(io.Discard, server, size); err != nil {
			t.Fatalf("compression %v: %v", compression, err)
		}
		if err := <-sent; err != nil {
			t.Errorf("compression %v: %v", compression, err)
		}
		go client.Write(context.Background(), websocket.MessageBinary, []byte("PING\r\n"))
		got := make([]byte, 6)
		if _, err := io.ReadFull(server, got); err != nil || string(got) != "PING\r\n" {
			t.Errorf("compression %v: then came %q, %v", compression, got, err)
		}
	}
}

func TestDeadlineEndsRead(t *testing.T) {
	s, ln := start(t, Options{})
	_, server := open(t, s, ln)
	server.SetReadDeadline(time.Unix(1, 0))
	if _, err := server.Read(make([]byte, 1)); err == nil {
		t.Error("read something")
	}
}

// What has come of a frame that is cut off is not handed on: it may be masked still.
func TestFrameIsCutOff(t *testing.T) {
	for _, compression := range []bool{false, true} {
		s, ln := start(t, Options{Compression: compression})
		raw, server := openRaw(t, s, ln)
		frame := masked(bytes.Repeat([]byte("whole "), 50), compression)
		raw.Write(frame)
		got := make([]byte, 300)
		if _, err := io.ReadFull(server, got); err != nil || string(got) != strings.Repeat("whole ", 50) {
			t.Fatalf("%q, %v", got, err)
		}
		raw.Write(frame[:len(frame)-3])
		raw.Close()
		if n, err := server.Read(got); n != 0 || err == nil {
			t.Errorf("compression %v: %q of a frame that was cut off, %v", compression, got[:n], err)
		}
	}
}

// A frame that comes together with the end of the connection is whole: TLS 1.2 gives both at once.
func TestFrameBeforeTheEnd(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cert, key := testkit.NewCA(t).Issue(x509.Certificate{DNSNames: []string{"leafd"}})
		id, _, err := secure.Load(secure.Config{CertFile: cert, KeyFile: key}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		s, ln := start(t, Options{TLS: secure.NewSource(id)})
		client, server := upgrade(t, s, tls.Client(ln.dial(), &tls.Config{InsecureSkipVerify: true, MaxVersion: version}), "")
		client.Write(masked([]byte("whole"), false))
		client.Close()
		got, err := io.ReadAll(server)
		if string(got) != "whole" {
			t.Errorf("%s: %q, %v", tls.VersionName(version), got, err)
		}
	}
}

// A close frame is a good-bye, whatever it says.
func TestCloseCodes(t *testing.T) {
	for _, code := range []websocket.StatusCode{1000, 1001, 1011, 1012, 3000, 4000} {
		s, ln := start(t, Options{})
		client, server := open(t, s, ln)
		go client.Close(code, "")
		if _, err := server.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%d: %v", code, err)
		}
	}
}

// A frame that comes bit by bit is no silence.
func TestQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ln := start(t, Options{})
		raw, server := openRaw(t, s, ln)
		done := make(chan struct{})
		go func() {
			server.Read(make([]byte, 300))
			close(done)
		}()
		for _, b := range masked(bytes.Repeat([]byte("x"), 300), false) {
			time.Sleep(time.Second)
			synctest.Wait()
			if q := server.(*Conn).Quiet(); q > 2*time.Second {
				t.Fatalf("quiet for %v, though a byte comes each second", q)
			}
			raw.Write([]byte{b})
		}
		<-done
		time.Sleep(time.Minute)
		if q := server.(*Conn).Quiet(); q != time.Minute {
			t.Errorf("quiet for %v after a minute", q)
		}
	})
}

// openRaw upgrades a connection, and returns what is beneath it at the client.
func openRaw(t *testing.T, s *Server, ln *pipes) (client, server net.Conn) {
	t.Helper()
	extensions := ""
	if s.opts.Compression {
		extensions = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; server_no_context_takeover\r\n"
	}
	return upgrade(t, s, ln.dial(), extensions)
}

func upgrade(t *testing.T, s *Server, nc net.Conn, extensions string) (client, server net.Conn) {
	t.Helper()
	got := make(chan net.Conn, 1)
	go func() {
		nc, _ := s.NATS().Accept()
		got <- nc
	}()
	io.WriteString(nc, request+extensions+"\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	server = <-got
	t.Cleanup(func() { nc.Close(); server.Close() })
	return nc, server
}

// masked is one message in one frame as a client sends it. [RFC 6455 5.2, RFC 7692 7.2.1]
func masked(b []byte, compressed bool) []byte {
	first, mask := byte(0x82), []byte{1, 2, 3, 4}
	if compressed { // whose beginning has to look right without the mask
		mask = make([]byte, 4)
		var z bytes.Buffer
		w, _ := flate.NewWriter(&z, flate.NoCompression)
		w.Write(b)
		w.Flush()
		b, first = bytes.TrimSuffix(z.Bytes(), []byte{0, 0, 0xff, 0xff}), 0xc2
	}
	frame := []byte{first, 0x80 | 126, byte(len(b) >> 8), byte(len(b))}
	frame = append(frame, mask...)
	for i, c := range b {
		frame = append(frame, c^mask[i&3])
	}
	return frame
}

func TestRequests(t *testing.T) {
	for _, c := range []struct {
		name, request string
		o             Options
		status        int
	}{
		{"no upgrade", "GET / HTTP/1.1\r\nHost: leafd\r\n\r\n", Options{}, http.StatusUpgradeRequired},
		{"no key", strings.Replace(request, "Sec-WebSocket-Key", "X", 1) + "\r\n", Options{}, http.StatusBadRequest},
		{"POST", strings.Replace(request, "GET", "POST", 1) + "Content-Length: 0\r\n\r\n", Options{}, http.StatusMethodNotAllowed},
		{"MQTT where there is none", strings.Replace(request, "/any", "/mqtt", 1) + "\r\n", Options{}, http.StatusNotFound},
		{"another origin", request + "Origin: http://evil.example\r\n\r\n", Options{SameOrigin: true}, http.StatusForbidden},
		{"headers without end", request + "X: " + strings.Repeat("x", 20<<10) + "\r\n\r\n", Options{}, http.StatusRequestHeaderFieldsTooLarge},
		{"not HTTP", "CONNECT {}\r\nPING\r\n\r\n", Options{}, http.StatusBadRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, ln := start(t, c.o)
			nc := ln.dial()
			defer nc.Close()
			go nc.Write([]byte(c.request))
			r := bufio.NewReader(nc)
			resp, err := http.ReadResponse(r, nil)
			if err != nil || resp.StatusCode != c.status {
				t.Fatalf("%v, %v; want %d", resp, err, c.status)
			}
			if _, err := io.Copy(io.Discard, r); err != nil {
				t.Errorf("the connection stays open: %v", err)
			}
		})
	}
}

// MQTT clients have a path and a listener of their own.
func TestMQTT(t *testing.T) {
	s, ln := start(t, Options{MQTT: true})
	nc := ln.dial()
	defer nc.Close()
	go nc.Write([]byte(strings.Replace(request, "/any", "/mqtt", 1) + "Sec-WebSocket-Protocol: mqtt\r\n\r\n"))
	server, err := s.MQTT().Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Protocol") != "mqtt" {
		t.Errorf("%v, %v", resp, err)
	}
}

// One who never finishes a request is cut off.
func TestSlowRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ln := start(t, Options{HandshakeTimeout: 3 * time.Second})
		nc := ln.dial()
		began := time.Now()
		var dripping sync.WaitGroup
		dripping.Go(func() {
			for err := error(nil); err == nil; _, err = nc.Write([]byte("G")) {
				<-time.After(time.Second)
			}
		})
		io.Copy(io.Discard, nc)
		if d := time.Since(began); d > 4*time.Second {
			t.Errorf("cut off after %v", d)
		}
		nc.Close()
		dripping.Wait()
	})
}

// Connections on their way to the upgrade are few for one address, and small.
func TestHalfOpen(t *testing.T) {
	_, ln := start(t, Options{HandshakeTimeout: time.Hour})
	var socks []net.Conn
	before := inUse()
	for range maxUpgrades {
		nc := ln.dial()
		nc.Write([]byte(request)) // and no end
		socks = append(socks, nc)
	}
	one := ln.dial()
	if _, err := one.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("one too many: %v", err)
	}
	if each := (inUse() - before) / maxUpgrades; each > 32<<10 { // 16 KiB, and both ends of the pipe
		t.Errorf("%d bytes each", each)
	}
	for _, nc := range socks {
		nc.Close()
	}
	testkit.Eventually(t, func() bool { // and room for others once they have gone
		nc := ln.dial()
		defer nc.Close()
		go nc.Write([]byte("GET / HTTP/1.1\r\nHost: leafd\r\n\r\n"))
		n, _ := nc.Read(make([]byte, 1))
		return n == 1
	}, "no room again")
}

func inUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

func TestOrigins(t *testing.T) {
	list := func(s ...string) (out []Origin) {
		for _, s := range s {
			o, err := ParseOrigin(s)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, o)
		}
		return out
	}
	for _, c := range []struct {
		o      Options
		origin string
		ok     bool
	}{
		{Options{}, "http://evil.example", true},
		{Options{SameOrigin: true}, "", true},
		{Options{SameOrigin: true}, "http://leafd.example:8080", true},
		{Options{SameOrigin: true}, "http://LEAFD.example:8080", true},
		{Options{SameOrigin: true}, "https://leafd.example:8080", false},
		{Options{SameOrigin: true}, "http://leafd.example", false},
		{Options{SameOrigin: true}, "http://leafd.example.evil:8080", false},
		{Options{SameOrigin: true}, "null", false},
		{Options{SameOrigin: true, TLS: &secure.Source{}}, "https://leafd.example:8080", true},
		{Options{Origins: list("https://a.example", "http://b.example:81")}, "https://a.example:443", true},
		{Options{Origins: list("https://a.example", "http://b.example:81")}, "http://b.example:81", true},
		{Options{Origins: list("https://a.example", "http://b.example:81")}, "http://a.example", false},
		{Options{Origins: list("https://a.example", "http://b.example:81")}, "", true},
		{Options{SameOrigin: true, Origins: list("https://a.example")}, "http://leafd.example:8080", false},
		{Options{SameOrigin: true, Origins: list("https://a.example")}, "https://a.example", false},
	} {
		r := httptest.NewRequest("GET", "http://leafd.example:8080/", nil)
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		if err := New(c.o).checkOrigin(r); (err == nil) != c.ok {
			t.Errorf("%+v, origin %q: %v", c.o, c.origin, err)
		}
	}
	for _, s := range []string{"", "a.example", "ftp://a", "https://", "https://:80", "null"} {
		if _, err := ParseOrigin(s); err == nil {
			t.Errorf("%q is an origin", s)
		}
	}
}

// FuzzOrigin reads what browsers, and others, say of where they come from. An origin that
// is read is one of a scheme, a host and a port, and reads the same again.
func FuzzOrigin(f *testing.F) {
	for _, s := range []string{"https://a.example", "http://[::1]:80", "HTTP://A:8080/x?y#z", "https://u:p@h", "null", "http://a:", "http://[::1", "http://%41", "https://a:b:c", "http://]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o, err := ParseOrigin(s)
		if err != nil {
			return
		}
		if o.scheme != "http" && o.scheme != "https" || o.host == "" || o.port == "" {
			t.Fatalf("%q is %+v", s, o)
		}
		again, err := ParseOrigin(o.String())
		if err != nil || again != o {
			t.Errorf("%q is %+v, and that is %+v, %v", s, o, again, err)
		}
	})
}

// FuzzFrames gives the listener any bytes after an upgrade. Whatever they are, what comes
// out is bounded, the reader ends when the peer does, and a connection after it is served.
func FuzzFrames(f *testing.F) {
	frame := func(head ...byte) []byte { return head }
	f.Add(false, frame(0x82, 0x84, 1, 2, 3, 4, 'P'^1, 'I'^2, 'N'^3, 'G'^4))              // binary
	f.Add(false, frame(0x01, 0x81, 0, 0, 0, 0, 'a', 0x80, 0x81, 0, 0, 0, 0, 'b'))        // text in two fragments
	f.Add(false, frame(0x82, 0x01, 'a'))                                                 // not masked
	f.Add(false, frame(0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff))      // a length below 0
	f.Add(false, frame(0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0))   // the longest
	f.Add(false, frame(0x82, 0xfe, 0xff, 0xff, 0, 0, 0, 0, 'a'))                         // 64 KB that do not come
	f.Add(false, frame(0x89, 0x80, 0, 0, 0, 0, 0x8a, 0x80, 0, 0, 0, 0))                  // ping, pong
	f.Add(false, frame(0x89, 0xfe, 0, 126, 0, 0, 0, 0))                                  // a ping too long
	f.Add(false, frame(0x09, 0x80, 0, 0, 0, 0))                                          // a ping in fragments
	f.Add(false, frame(0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8))                              // good-bye
	f.Add(false, frame(0x88, 0x81, 0, 0, 0, 0, 0x03))                                    // half a good-bye
	f.Add(false, frame(0x80, 0x80, 0, 0, 0, 0))                                          // continues nothing
	f.Add(false, frame(0xf2, 0x80, 0, 0, 0, 0))                                          // reserved bits
	f.Add(false, frame(0x83, 0x80, 0, 0, 0, 0))                                          // no such opcode
	f.Add(true, frame(0xc2, 0x87, 0, 0, 0, 0, 0x4a, 0x4c, 0x4a, 0x06, 0, 0, 0, 0, 0, 0)) // compressed
	f.Add(true, frame(0xc2, 0x84, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff))                   // compressed, and damaged
	f.Fuzz(func(t *testing.T, compression bool, b []byte) {
		most := 1 // bytes that one becomes
		if compression {
			most = 1032
		}
		s, ln := start(t, Options{Compression: compression})
		for i, sent := range [][]byte{b, {0x82, 0x81, 0, 0, 0, 0, 'x'}} {
			nc := ln.dial()
			go nc.Write([]byte(request + "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; server_no_context_takeover\r\n\r\n"))
			server, err := s.NATS().Accept()
			if err != nil {
				t.Fatal(err)
			}
			go io.Copy(io.Discard, nc)
			go func() {
				nc.Write(sent)
				nc.Close()
			}()
			n, _ := io.Copy(io.Discard, server)
			if n > int64(most*len(sent)) {
				t.Errorf("%d bytes became %d", len(sent), n)
			}
			if i == 1 && n != 1 {
				t.Errorf("the next connection got %d bytes", n)
			}
			server.Close()
		}
	})
}
