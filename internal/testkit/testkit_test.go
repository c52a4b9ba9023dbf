package testkit_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// fakeT is a test whose failure is the expected result.
type fakeT struct {
	testing.TB
	cleanups []func()
	said     string
}

func (f *fakeT) Helper()          {}
func (f *fakeT) Failed() bool     { return f.said != "" }
func (f *fakeT) Cleanup(c func()) { f.cleanups = append(f.cleanups, c) }
func (f *fakeT) Fatalf(s string, a ...any) {
	f.said = fmt.Sprintf(s, a...)
	runtime.Goexit()
}

// run runs a test and its cleanups to their end and returns what it failed with.
func (f *fakeT) run(test func()) string {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			for _, c := range slices.Backward(f.cleanups) {
				defer c()
			}
		}()
		test()
	}()
	<-done
	return f.said
}

func TestCheckGoroutinesNamesTheLeak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := make(chan struct{})
		defer close(stop)
		f := &fakeT{TB: t}
		said := f.run(func() {
			testkit.CheckGoroutines(f)
			go func() { <-stop }()
		})
		if !strings.Contains(said, "TestCheckGoroutinesNamesTheLeak") {
			t.Errorf("a goroutine that stayed was reported as %q", said)
		}
	})
}

func TestCheckGoroutinesWaitsForTheLast(t *testing.T) {
	f := &fakeT{TB: t}
	said := f.run(func() {
		testkit.CheckGoroutines(f)
		gone := make(chan struct{})
		go func() { <-gone }()
		time.AfterFunc(50*time.Millisecond, func() { close(gone) })
	})
	if said != "" {
		t.Errorf("a goroutine that ended shortly after was reported: %s", said)
	}
}

func TestEventuallyGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, begin := &fakeT{TB: t}, time.Now()
		said := f.run(func() { testkit.Eventually(f, func() bool { return false }, "%d geese", 3) })
		if !strings.Contains(said, "3 geese") || time.Since(begin) < testkit.Patience {
			t.Errorf("gave up after %s with %q", time.Since(begin), said)
		}
	})
}

func TestPortStaysOurs(t *testing.T) {
	port := testkit.Port(t)
	addr := testkit.Addr(port)
	for range 3 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			t.Fatalf("connected to %s, where nothing listens", addr)
		}
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		s.Close() // leaves a TIME_WAIT behind
		c.Close()
		ln.Close()
	}
	for range 2000 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if ln.Addr().(*net.TCPAddr).Port == port {
			t.Errorf("the kernel gave port %d to somebody else", port)
		}
		ln.Close()
	}
}

func TestPortPrefersAFreeOne(t *testing.T) {
	f := &fakeT{TB: t}
	var free int
	f.run(func() { free = testkit.Port(f) }) // reserved and given back
	if got := testkit.Port(t, free); got != free {
		t.Errorf("port %d is free, got %d", free, got)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	taken := ln.Addr().(*net.TCPAddr).Port
	if got := testkit.Port(t, taken); got == taken || got == 0 {
		t.Errorf("port %d is taken, got %d", taken, got)
	}
}

func TestPipeHoldsBytesUntilRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := testkit.Pipe(8)
		for _, end := range []net.Conn{a, b} { // both first: net.Pipe would hang
			if n, err := end.Write([]byte("12345678")); n != 8 || err != nil {
				t.Fatalf("write: %d, %v", n, err)
			}
		}
		a.SetWriteDeadline(time.Now().Add(time.Hour))
		begin := time.Now()
		if n, err := a.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != time.Hour {
			t.Errorf("write to a full pipe: %d, %v after %s", n, err, time.Since(begin))
		}
		a.SetWriteDeadline(time.Time{})
		wrote := make(chan error, 1)
		go func() {
			_, err := a.Write([]byte("9"))
			a.Close()
			wrote <- err
		}()
		got, err := io.ReadAll(b)
		if string(got) != "123456789" || err != nil || <-wrote != nil {
			t.Errorf("read %q, %v", got, err)
		}
		if _, err := b.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("write to an end that is gone: %v", err)
		}
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read of a closed end: %v", err)
		}
	})
}

func TestPipeReadDeadlineMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := testkit.Pipe(1)
		defer a.Close()
		begin := time.Now()
		a.SetReadDeadline(begin.Add(time.Second))
		time.AfterFunc(500*time.Millisecond, func() { a.SetReadDeadline(begin.Add(3 * time.Second)) })
		_, err := a.Read(make([]byte, 1))
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != 3*time.Second {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
	})
}

func TestLendPoisonsWhatIsKept(t *testing.T) {
	var sink testkit.Sink
	var kept *msg.Msg
	m := &msg.Msg{Subject: []byte("a.b"), Data: []byte("21.5"), Queues: [][]byte{[]byte("q")}}
	testkit.Lend(m, func(m *msg.Msg) {
		kept = m
		sink.Deliver(m, &msg.Sub{Subject: "a.>"})
	})
	if bytes.ContainsAny(kept.Data, "21.5") || string(kept.Queues[0]) == "q" {
		t.Errorf("who kept the borrow still reads %q", kept.Data)
	}
	if got := sink.Got(); len(got) != 1 || string(got[0].Data) != "21.5" || got[0].Sub.Subject != "a.>" || string(m.Data) != "21.5" {
		t.Errorf("the copy is %v", got)
	}
	sink.Answer(msg.SlowConsumer)
	if d := sink.Deliver(m, &msg.Sub{}); d != msg.SlowConsumer || !slices.Equal(sink.Subjects(), []string{"a.b"}) {
		t.Errorf("refusing: %v, has %v", d, sink.Subjects())
	}
}

// echo is a server that sends back what it gets, and its address.
func echo(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return ln.Addr().String()
}

// wire is a connection through a proxy, after a first byte went round.
func wire(t *testing.T, p *testkit.Proxy) net.Conn {
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(testkit.Patience))
	if err := roundTrip(c, "!"); err != nil {
		t.Fatalf("through a cable that is plugged in: %v", err)
	}
	return c
}

func roundTrip(c net.Conn, s string) error {
	if _, err := io.WriteString(c, s); err != nil {
		return err
	}
	got := make([]byte, len(s))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != s {
		return fmt.Errorf("sent %q, got %q", s, got)
	}
	return nil
}

func TestProxyCutResetsOldAndNew(t *testing.T) {
	testkit.CheckGoroutines(t)
	p := testkit.StartProxy(t, echo(t))
	c := wire(t, p)
	p.Cut()
	if err := roundTrip(c, "x"); err == nil {
		t.Error("an old connection survives the cut")
	}
	if n, err := net.Dial("tcp", p.Addr()); err == nil {
		if err := roundTrip(n, "x"); err == nil {
			t.Error("a new connection passes the cut")
		}
		n.Close()
	}
	p.Restore()
	wire(t, p)
}

func TestProxyCutAfterTearsAtTheByte(t *testing.T) {
	p := testkit.StartProxy(t, echo(t))
	c := wire(t, p)
	p.CutAfter(testkit.Down, 3)
	if _, err := io.WriteString(c, "12345"); err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(c) // ends with a reset
	if string(got) != "123" || p.Passed(testkit.Up) != 6 || p.Passed(testkit.Down) != 4 {
		t.Errorf("got %q; %d bytes up, %d down", got, p.Passed(testkit.Up), p.Passed(testkit.Down))
	}
}

func TestProxyStallLosesNothing(t *testing.T) {
	p := testkit.StartProxy(t, echo(t))
	c := wire(t, p)
	p.Stall(testkit.Down)
	if _, err := io.WriteString(c, "later"); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, func() bool { return p.Passed(testkit.Up) == 6 }, "the way up stalls as well")
	if p.Passed(testkit.Down) != 1 || p.Conns() != 1 {
		t.Errorf("%d bytes came down, %d connections", p.Passed(testkit.Down), p.Conns())
	}
	p.Restore()
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "later" {
		t.Errorf("after the stall: %q, %v", got, err)
	}
}

func TestProxyBlackholeHidesTheEnd(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p := testkit.StartProxy(t, ln.Addr().String())
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	p.Blackhole()
	io.WriteString(c, "lost")
	c.Close()
	far.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := far.Read(make([]byte, 8)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("through a hole came %d bytes, %v", n, err)
	}
	p.Restore()
	far.SetReadDeadline(time.Now().Add(testkit.Patience))
	if n, err := far.Read(make([]byte, 8)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a stream with a hole in it goes on: %d bytes, %v", n, err)
	}
}

func TestHubComesBackOnItsPorts(t *testing.T) {
	testkit.CheckGoroutines(t)
	h := testkit.StartHub(t, testkit.HubOptions{JetStream: true, Domain: "hub", Config: "max_payload: 4321"})
	for range 2 {
		info := greeting(t, strings.TrimPrefix(h.ClientURL(), "nats://"))
		if !strings.Contains(info, `"domain":"hub"`) || !strings.Contains(info, `"max_payload":4321`) {
			t.Errorf("hub says %s", info)
		}
		if info := greeting(t, h.LeafAddr()); !strings.HasPrefix(info, "INFO ") {
			t.Errorf("hub says to leaves %q", info)
		}
		if n := len(h.Leafz()); n != 0 || h.Varz().Leafs != 0 {
			t.Errorf("%d leafs", n)
		}
		pid := h.PID()
		h.Kill()
		if h.Running() || h.ExitCode() != -1 {
			t.Error("runs after Kill")
		}
		h.Restart()
		if h.PID() == pid {
			t.Error("not a new process")
		}
	}
	h.Stop()
	if !strings.Contains(h.Log(), "Server is ready") {
		t.Errorf("log: %s", h.Log())
	}
}

// greeting is the first line a server sends.
func greeting(t *testing.T, addr string) string {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(testkit.Patience))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// A stock nats-server stands in for leafd: it reads the same configuration
// language, writes to a store, and speaks MQTT.
func TestGatewayToolsOnAStandIn(t *testing.T) {
	l := testkit.StartLeafd(t, testkit.LeafdOptions{
		Bin:         testkit.NATSServer(t),
		TraceWrites: true,
		Env:         map[string]string{"NAME": "stand-in"},
		Config: `server_name: $NAME
			host: "127.0.0.1", port: $LEAFD_NATS_PORT
			http_port: $LEAFD_HTTP_PORT
			jetstream { store_dir: $LEAFD_STORE, sync_interval: always }
			mqtt { host: "127.0.0.1", port: $LEAFD_MQTT_PORT }`,
	})
	var v struct {
		Name string `json:"server_name"`
	}
	if l.Get("/varz", &v); v.Name != "stand-in" {
		t.Errorf("name %q", v.Name)
	}
	got, stop := testkit.MosquittoSub(t, l.MQTTPort, "-q", "1", "-t", "barn/#")
	before := l.Writes(l.StoreDir)
	testkit.MosquittoPub(t, l.MQTTPort, "-q", "1", "-t", "barn/t1", "-m", strings.Repeat("x", 5000))
	if m := <-got; m.Topic != "barn/t1" || len(m.Payload) != 5000 || m.QoS != 1 || m.Retained {
		t.Errorf("got %v", m)
	}
	after := l.Writes(l.StoreDir)
	if grown := after.Bytes - before.Bytes; grown < 5000 || grown > 50000 || after.Calls <= before.Calls {
		t.Errorf("storing 5000 bytes wrote %d: %v, then %v", grown, before, after)
	}
	for path := range after.Files {
		if rel, err := filepath.Rel(l.StoreDir, path); err != nil || strings.HasPrefix(rel, "..") {
			t.Errorf("counted %s, which is not in %s", path, l.StoreDir)
		}
	}
	stop()
	l.Kill()
	l.Restart()
	if n := l.Writes(l.StoreDir); n.Bytes < after.Bytes {
		t.Errorf("%d bytes over both runs, %d in the first", n.Bytes, after.Bytes)
	}
}
