package leaf

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

func startServer(t testing.TB, o Options) (*Server, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(o, NewRouter())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, ln.Addr().String()
}

func TestSmoke(t *testing.T) {
	_, addr := startServer(t, Options{})
	nc, err := nats.Connect("nats://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.Subscribe("a.*", func(m *nats.Msg) { m.Respond(append([]byte("re "), m.Data...)) })
	m, err := nc.Request("a.b", []byte("x"), time.Second)
	if err != nil || string(m.Data) != "re x" {
		t.Fatal(m, err)
	}
	if _, err := nc.Request("nobody", nil, time.Second); err != nats.ErrNoResponders {
		t.Fatal(err)
	}
}
