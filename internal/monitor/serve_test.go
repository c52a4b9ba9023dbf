package monitor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener of in-memory connections.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case nc := <-p.conns:
		return nc, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// dial connects a client.
func (p *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p.conns <- theirs
	return ours
}

// serve runs Serve on in-memory connections until the test stops it.
func serve(t *testing.T) (p *pipes, stop func() error) {
	p = newPipes()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, p, New(Options{}), nil) }()
	return p, func() error { cancel(); return <-ended }
}

func ask(nc net.Conn) (*http.Response, error) {
	if _, err := io.WriteString(nc, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	return resp, err
}

func TestServeAnswersAndStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, stop := serve(t)
		nc := p.dial()
		for range 2 { // one connection serves many requests
			if resp, err := ask(nc); err != nil || resp.StatusCode != 200 {
				t.Fatal(resp, err)
			}
		}
		silent := p.dial() // never asks, must not hold the end up
		start := time.Now()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("took %v to stop", took)
		}
		for _, c := range []net.Conn{nc, silent} {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("a connection is still open")
			}
		}
	})
}

// One who sends its request too slowly, or sends none, is cut off.
func TestServeCutsSlowAskers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, stop := serve(t)
		for _, sent := range []string{"", "GET /varz HTTP/1.1\r\nHost:"} {
			nc := p.dial()
			start := time.Now()
			if _, err := io.WriteString(nc, sent); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, nc); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("%q held its connection for %v", sent, took)
			}
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestServeRefusesLargeHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, stop := serve(t)
		nc := p.dial()
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			_, _ = fmt.Fprintf(nc, "GET / HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", strings.Repeat("a", 64<<10)) // cut off half way
		}()
		resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Error(resp, err)
		}
		_ = nc.Close()
		<-sent
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// At most maxConns are served at once; the next is turned away, and there is room
// again once one has left.
func TestServeLimitsAskers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, stop := serve(t)
		var conns []net.Conn
		for range maxConns {
			conns = append(conns, p.dial())
		}
		if _, err := ask(p.dial()); err == nil {
			t.Error("one asker too many was served")
		}
		_ = conns[0].Close()
		synctest.Wait()
		if resp, err := ask(p.dial()); err != nil || resp.StatusCode != 200 {
			t.Errorf("no room though one has left: %v", err)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

type brokenListener struct{ net.Listener }

func (brokenListener) Accept() (net.Conn, error) { return nil, errBroken }
func (brokenListener) Close() error              { return nil }

var errBroken = errors.New("broken")

func TestServeReportsABrokenListener(t *testing.T) {
	if err := Serve(t.Context(), brokenListener{}, New(Options{}), nil); !errors.Is(err, errBroken) {
		t.Error(err)
	}
}
