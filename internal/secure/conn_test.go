package secure

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

const hello = "INFO {}\r\n"

// pair is a server's connection and its client's socket; the result of Open with hello
// as greeting comes out of opened.
func pair(t *testing.T, ca *testkit.CA, c Config) (server *Conn, client net.Conn, opened chan error) {
	t.Helper()
	if c.CertFile == "" {
		c.CertFile, c.KeyFile = ca.Issue(x509.Certificate{})
	}
	id, _, err := Load(c, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a, b := testkit.Pipe(256 << 10)
	server, opened = NewSource(id).Server(a), make(chan error, 1)
	t.Cleanup(func() { server.Close(); b.Close() })
	go func() { opened <- server.Open(func() []byte { return []byte(hello) }) }()
	return server, b, opened
}

func hear(t *testing.T, r io.Reader, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(r, b); err != nil || string(b) != want {
		t.Fatalf("got %q, %v; want %q", b, err, want)
	}
}

// exchange sends a word both ways.
func exchange(t *testing.T, server *Conn, client net.Conn) {
	t.Helper()
	go client.Write([]byte("ping"))
	hear(t, server, "ping")
	go server.Write([]byte("pong"))
	hear(t, client, "pong")
}

func TestGreetingThenTLS(t *testing.T) {
	ca := testkit.NewCA(t)
	server, sock, opened := pair(t, ca, Config{})
	hear(t, sock, hello)
	client := tls.Client(sock, ca.Client("", ""))
	exchange(t, server, client)
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	if required, available, verify := server.Offer(); !required || available || verify {
		t.Error("INFO does not say that TLS is required, and only that")
	}
}

func TestHandshakeFirst(t *testing.T) {
	ca := testkit.NewCA(t)
	for _, wait := range []time.Duration{0, time.Minute} {
		server, sock, _ := pair(t, ca, Config{First: true, Fallback: wait, Timeout: time.Minute})
		client := tls.Client(sock, ca.Client("", ""))
		hear(t, client, hello)
		exchange(t, server, client)
		if st, first, ok := server.State(); !ok || !first || st.Version != tls.VersionTLS13 {
			t.Errorf("%v, handshake first: %v, %+v", ok, first, st)
		}
	}
}

// A client that waits for INFO is greeted in clear once the fallback is over.
func TestHandshakeFirstFallsBack(t *testing.T) {
	ca := testkit.NewCA(t)
	cert, key := ca.Issue(x509.Certificate{})
	synctest.Test(t, func(t *testing.T) {
		server, sock, _ := pair(t, ca, Config{CertFile: cert, KeyFile: key, First: true, Fallback: AutoFallback})
		start := time.Now()
		hear(t, sock, hello)
		if d := time.Since(start); d != AutoFallback {
			t.Errorf("greeted after %v", d)
		}
		c := ca.Client("", "")
		c.Time = func() time.Time { return time.Now().AddDate(30, 0, 0) } // the bubble's clock begins in 2000
		c.InsecureSkipVerify = true
		exchange(t, server, tls.Client(sock, c))
	})
}

func TestInClearWhereItMay(t *testing.T) {
	server, sock, opened := pair(t, testkit.NewCA(t), Config{AllowNon: true})
	hear(t, sock, hello)
	exchange(t, server, sock)
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	if _, _, secured := server.State(); secured {
		t.Error("says it is TLS")
	}
}

func TestInClearWhereItMayNot(t *testing.T) {
	_, sock, opened := pair(t, testkit.NewCA(t), Config{})
	hear(t, sock, hello)
	sock.Write([]byte("CONNECT {}\r\n"))
	var he *HandshakeError
	if err := <-opened; !errors.As(err, &he) {
		t.Errorf("opened: %v", err)
	}
	hear(t, sock, "-ERR 'Secure Connection - TLS Required'\r\n")
	if _, err := sock.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the connection is still there: %v", err)
	}
}

// A peer that says nothing, or one byte a second, does not outlast the timeout.
func TestHandshakeTimeout(t *testing.T) {
	ca := testkit.NewCA(t)
	cert, key := ca.Issue(x509.Certificate{})
	for name, drip := range map[string]bool{"silent": false, "slow": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				_, sock, opened := pair(t, ca, Config{CertFile: cert, KeyFile: key, Timeout: 3 * time.Second})
				hear(t, sock, hello)
				var dripping sync.WaitGroup
				if drip {
					dripping.Go(func() {
						for err := error(nil); err == nil; _, err = sock.Write([]byte{recordHandshake}) {
							<-time.After(time.Second)
						}
					})
				}
				var he *HandshakeError
				if err := <-opened; !errors.As(err, &he) || !strings.Contains(he.Reason, "not done within 3s") {
					t.Errorf("opened: %v", err)
				}
				if d := time.Since(start); d < 3*time.Second || d > 3*time.Second+2*sayTime {
					t.Errorf("ended after %v", d)
				}
				sock.Close()
				dripping.Wait()
			})
		})
	}
}

// What a peer can make the server read before the handshake is done is bounded.
func TestHandshakeSize(t *testing.T) {
	_, sock, opened := pair(t, testkit.NewCA(t), Config{Timeout: time.Minute})
	hear(t, sock, hello)
	record := append([]byte{recordHandshake, 3, 1, 0x40, 0}, bytes.Repeat([]byte{0}, 1<<14)...)
	copy(record[5:], []byte{1, 0, 0xff, 0xff}) // a client hello of 64 KB, in records of 16
	go func() {
		sock.Write(record)
		for range 3 {
			sock.Write(append(record[:5:5], make([]byte, 1<<14)...))
		}
	}()
	if err := <-opened; err == nil || !strings.Contains(err.Error(), errHandshakeBig.Error()) {
		t.Errorf("opened: %v", err)
	}
}

func TestClientCertificates(t *testing.T) {
	ca, other := testkit.NewCA(t), testkit.NewCA(t)
	good, goodKey := ca.Issue(x509.Certificate{EmailAddresses: []string{"a@b"}})
	bad, badKey := other.Issue(x509.Certificate{})
	for _, c := range []struct {
		name      string
		cert, key string
		ok        bool
	}{{"signed by the CA", good, goodKey, true}, {"by another", bad, badKey, false}, {"none", "", "", false}} {
		t.Run(c.name, func(t *testing.T) {
			server, sock, opened := pair(t, ca, Config{CAFile: ca.File, Map: true})
			hear(t, sock, hello)
			go tls.Client(sock, ca.Client(c.cert, c.key)).Handshake()
			if err := <-opened; (err == nil) != c.ok {
				t.Fatalf("opened: %v", err)
			}
			if cert, mapped := server.Certificate(); mapped != c.ok || (cert != nil) != c.ok {
				t.Errorf("certificate %v, mapped %v", cert, mapped)
			}
		})
	}
}

func TestPinnedCertificates(t *testing.T) {
	ca := testkit.NewCA(t)
	cert, key := ca.Issue(x509.Certificate{})
	_, sock, opened := pair(t, ca, Config{CAFile: ca.File, Verify: true, Pinned: []string{strings.Repeat("0", 64)}})
	hear(t, sock, hello)
	go tls.Client(sock, ca.Client(cert, key)).Handshake()
	if err := <-opened; err == nil || !strings.Contains(err.Error(), errNotPinned.Error()) {
		t.Errorf("opened: %v", err)
	}
}

func TestMinimumVersion(t *testing.T) {
	ca := testkit.NewCA(t)
	_, sock, opened := pair(t, ca, Config{})
	hear(t, sock, hello)
	c := ca.Client("", "")
	c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	go tls.Client(sock, c).Handshake()
	if err := <-opened; err == nil {
		t.Error("TLS 1.1 was accepted")
	}
}

// A swap is for connections that come after it.
func TestSwap(t *testing.T) {
	ca := testkit.NewCA(t)
	load := func(name string) *Identity {
		cert, key := ca.Issue(x509.Certificate{DNSNames: []string{name}})
		id, _, err := Load(Config{CertFile: cert, KeyFile: key}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	shown := func(c *Conn, sock net.Conn) string {
		go c.Open(nil)
		client := tls.Client(sock, &tls.Config{InsecureSkipVerify: true})
		if err := client.Handshake(); err != nil {
			t.Fatal(err)
		}
		return client.ConnectionState().PeerCertificates[0].DNSNames[0]
	}
	s := NewSource(load("old"))
	a, b := testkit.Pipe(64 << 10)
	early := s.Server(a)
	s.Swap(load("new"))
	s.Swap(nil)
	c, d := testkit.Pipe(64 << 10)
	if got := shown(early, b); got != "old" {
		t.Errorf("the earlier connection shows %s", got)
	}
	if got := shown(s.Server(c), d); got != "new" {
		t.Errorf("the later connection shows %s", got)
	}
	for _, nc := range []net.Conn{a, b, c, d} {
		nc.Close()
	}
}

// A deadline that comes before that of the handshake ends it, as a server does that stops.
func TestDeadlineEndsHandshake(t *testing.T) {
	server, sock, opened := pair(t, testkit.NewCA(t), Config{Timeout: time.Hour})
	hear(t, sock, hello)
	server.SetReadDeadline(time.Unix(1, 0))
	if err := <-opened; err == nil {
		t.Error("opened")
	}
}

func TestTurnedAwayInClear(t *testing.T) {
	cert, key := testkit.NewCA(t).Issue(x509.Certificate{})
	id, _, err := Load(Config{CertFile: cert, KeyFile: key}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a, b := testkit.Pipe(1 << 10)
	defer b.Close()
	c := NewSource(id).Server(a)
	c.InClear()
	c.Write([]byte("-ERR\r\n"))
	c.Close()
	if got, err := io.ReadAll(b); string(got) != "-ERR\r\n" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// FuzzOpen shakes hands with any bytes. They open nothing, unless they may be in
// clear; then they are heard as they are.
func FuzzOpen(f *testing.F) {
	f.Add(byte(0), []byte("CONNECT {}\r\nPING\r\n"))
	f.Add(byte(1), []byte{recordHandshake, 3, 1, 0, 4, 1, 0, 0, 0})
	f.Add(byte(2), []byte{recordHandshake, 3, 3, 0x40, 1})
	f.Add(byte(3), []byte{recordHandshake, 3, 1, 0, 0, recordHandshake, 3, 1, 0, 0})
	f.Add(byte(4), []byte{})
	ca := testkit.NewCA(f)
	cert, key := ca.Issue(x509.Certificate{})
	f.Fuzz(func(t *testing.T, how byte, b []byte) {
		c := Config{CertFile: cert, KeyFile: key, First: how&1 != 0, AllowNon: how&2 != 0}
		if how&4 != 0 {
			c.Fallback = time.Minute
		}
		id, _, err := Load(c, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		a, peer := testkit.Pipe(256 << 10)
		server := NewSource(id).Server(a)
		defer server.Close()
		go func() {
			if !c.First {
				io.ReadFull(peer, make([]byte, len(hello)))
			}
			peer.Write(b)
			peer.Close()
		}()
		err = server.Open(func() []byte { return []byte(hello) })
		inClear := c.AllowNon && !c.First && len(b) > 0 && b[0] != recordHandshake
		if (err == nil) != inClear {
			t.Fatalf("opened: %v", err)
		}
		if got, _ := io.ReadAll(server); inClear && !bytes.Equal(got, b) {
			t.Errorf("%q became %q", b, got)
		}
		if _, _, secured := server.State(); secured {
			t.Error("says it is TLS")
		}
	})
}

// A connection that has not shaken hands costs little.
func TestMemoryBeforeHandshake(t *testing.T) {
	ca := testkit.NewCA(t)
	cert, key := ca.Issue(x509.Certificate{})
	id, _, err := Load(Config{CertFile: cert, KeyFile: key, Timeout: time.Hour}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	const n = 200
	socks := make([][2]net.Conn, n)
	for i := range socks {
		socks[i][0], socks[i][1] = testkit.Pipe(1 << 10)
	}
	s := NewSource(id)
	var all sync.WaitGroup
	before := inUse()
	for _, p := range socks {
		c := s.Server(p[0])
		all.Go(func() { c.Open(func() []byte { return []byte(hello) }) })
		hear(t, p[1], hello)
		p[1].Write([]byte{recordHandshake, 3, 1, 1, 0, 1}) // and no more
	}
	if each := (inUse() - before) / n; each > 16<<10 {
		t.Errorf("%d bytes each", each)
	}
	for _, p := range socks {
		p[1].Close()
	}
	all.Wait()
}

func inUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
