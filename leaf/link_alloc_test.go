//go:build !race

package leaf

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// joinedSession is a session that is up and writes nothing until it is flushed.
func joinedSession(t testing.TB, info string) *session {
	t.Helper()
	l := newTestLink(t, LinkOptions{DenyExports: []string{"no.>"}, Outbound: OutboundOptions{MaxPending: 1 << 30}})
	ours, hub := testkit.Pipe(1 << 20)
	s := newSession(l, l.urls.take(), ours)
	t.Cleanup(func() {
		s.out.Close(errors.New("end of test"))
		s.out.Wait()
		hub.Close()
	})
	if err := s.handle([]byte(info1 + info)); err != nil {
		t.Fatal(err)
	}
	return s
}

const somePermissions = `INFO {"connect_info":true,"export":{"allow":["a.>","b.*.c"],"deny":["a.x.*"]},"import":{"allow":["a.>"],"deny":["a.x"]}}` + "\r\n"

// Forwarding a message to the hub costs no allocation, permissions included, and
// neither does sending one.
func TestLinkDeliverDoesNotAllocate(t *testing.T) {
	s := joinedSession(t, somePermissions)
	sub := &msg.Sub{Subject: "a.>"}
	for _, m := range []*msg.Msg{
		text("a.b"), text("a.x.y"), text("$JS.API.INFO"), text("no.x"),
		{Subject: []byte("b.1.c"), Reply: []byte("r"), Header: []byte("NATS/1.0\r\n\r\n"), Data: make([]byte, 500), Queues: [][]byte{[]byte("q1"), []byte("q2")}},
	} {
		want := s.Deliver(m, sub)
		if n := testing.AllocsPerRun(500, func() {
			if s.Deliver(m, sub) != want {
				t.Fatal("it changed its mind")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations, %v", m.Subject, n, want)
		}
	}
	s.link.live.Store(s)
	m := text("a.b")
	if n := testing.AllocsPerRun(500, func() {
		if err := s.link.Send(m); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Send: %v allocations", n)
	}
	if err := s.handle([]byte("LS+ a.*\r\nLS+ a.b q 1\r\n")); err != nil {
		t.Fatal(err)
	}
	h, err := s.link.Handover([]string{"a.>"})
	if err != nil {
		t.Fatal(err)
	}
	answered := func(error) {}
	if n := testing.AllocsPerRun(500, func() {
		if wanted, err := h.Offer(m); !wanted || err != nil {
			t.Fatal(err)
		}
		if err := h.Ping(answered); err != nil {
			t.Fatal(err)
		}
		s.handlePong()
	}); n != 0 {
		t.Errorf("Offer and Ping: %v allocations", n)
	}
}

// What the hub sends reaches a local client without allocation, whole or split.
func TestLinkBringsWithoutAllocation(t *testing.T) {
	s := joinedSession(t, somePermissions)
	a, b := testkit.Pipe(1 << 20)
	defer b.Close()
	srv := New(Options{Outbound: OutboundOptions{MaxPending: 1 << 30}}, s.link.router)
	c := newConn(srv, a, 99)
	c.parser = c.newParser()
	defer c.out.Close(errors.New("end of test"))
	if err := c.handle([]byte("CONNECT {\"headers\":true}\r\nSUB a.> 1\r\nSUB a.b q 2\r\n")); err != nil {
		t.Fatal(err)
	}
	batch := []byte(strings.Repeat("LMSG a.b 5\r\nhello\r\nHMSG a.b + r q 12 14\r\nNATS/1.0\r\n\r\nhi\r\nLMSG a.x 2\r\nno\r\n", 50))
	cut := len(batch) - 12
	taken := func() uint64 { return s.link.router.Stats().OutMsgs.Load() }
	allocs := testing.AllocsPerRun(200, func() {
		before := taken()
		if s.handle(batch[:cut]) != nil || s.handle(batch[cut:]) != nil {
			t.Fatal("protocol error")
		}
		s.port.settle()
		if n := taken() - before; n != 150 {
			t.Fatalf("%d deliveries", n)
		}
	})
	if perMsg := allocs / 150; perMsg > 0.1 { // pages of the growing buffers
		t.Errorf("%v allocations for 150 messages", allocs)
	}
}

func BenchmarkLinkDeliver(b *testing.B) {
	for name, info := range map[string]string{"permissions": somePermissions, "free": info2} {
		b.Run(name, func(b *testing.B) {
			s := joinedSession(b, info)
			m := &msg.Msg{Subject: []byte("a.b.c.d"), Data: make([]byte, 128)}
			sub := &msg.Sub{Subject: ">"}
			b.ReportAllocs()
			b.SetBytes(128)
			for b.Loop() {
				if s.Deliver(m, sub) != msg.Taken {
					b.Fatal("refused")
				}
				if s.out.pending > 32<<10 {
					b.StopTimer()
					discard(s.out)
					b.StartTimer()
				}
			}
		})
	}
}

// discard drops what waits, as if the socket had taken it.
func discard(o *Outbound) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.chunks {
		putChunk(c)
	}
	o.chunks, o.pending = o.chunks[:0], 0
}

func BenchmarkLinkBrings(b *testing.B) {
	s := joinedSession(b, info2)
	if err := s.link.router.Attach("local", countSink{}, EachSub).Subscribe(&msg.Sub{Subject: "a.>"}); err != nil {
		b.Fatal(err)
	}
	one := fmt.Sprintf("LMSG a.b.c.d 128\r\n%s\r\n", strings.Repeat("x", 128))
	batch := []byte(strings.Repeat(one, 100))
	b.ReportAllocs()
	b.SetBytes(128)
	for i := 0; b.Loop(); i++ {
		if i%100 == 0 {
			if err := s.handle(batch); err != nil {
				b.Fatal(err)
			}
		}
	}
}

type countSink struct{}

func (countSink) Deliver(*msg.Msg, *msg.Sub) msg.Drop { return msg.Taken }
