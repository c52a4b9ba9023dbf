package mqttbridge

import (
	"io"
	"net"
	"strings"
	"testing"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/leaf"
	"github.com/leafd/leafd/mqttbridge/packet"
)

// connected is a session that was let in on a TCP connection whose other end
// throws away what it gets. No goroutine reads: the caller feeds consume.
func connected(tb testing.TB, b *broker) *session {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	far, err := ln.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		io.Copy(io.Discard, near)
	}()
	s := b.admit(far)
	if err := s.consume(hello(nothing)); err != nil {
		tb.Fatal(err)
	}
	s.settle()
	tb.Cleanup(func() {
		s.end(errDisconnect)
		s.out.Wait()
		<-drained
		near.Close()
	})
	return s
}

// countingSink is a sink that allocates nothing.
type countingSink struct {
	n      int
	answer msg.Drop
}

func (c *countingSink) Deliver(*msg.Msg, *msg.Sub) msg.Drop { c.n++; return c.answer }

// A broker whose barriers are safe at once.
func quickBroker(tb testing.TB) *broker {
	return newBroker(tb, Options{Barrier: func(fn func(error)) { fn(nil) }})
}

// Publishing allocates nothing: QoS 0, QoS 1 without a log, and QoS 1 and 2 with
// their batch and barrier.
func TestPublishDoesNotAllocate(t *testing.T) {
	for name, c := range map[string]struct {
		wire []byte
		kept bool
	}{
		"QoS 0":            {pub("plant/press/temperature", "21.5", 0, 0), false},
		"QoS 1":            {pub("plant/press/temperature", "21.5", 1, 7), false},
		"QoS 1 kept":       {pub("plant/press/temperature", "21.5", 1, 7), true},
		"QoS 2 kept":       {append(pub("plant/press/temperature", "21.5", 2, 7), qos2(packet.PUBREL, 7)...), true},
		"changing subject": {append(pub("plant/1", "", 0, 0), pub("plant/2", "", 0, 0)...), false},
	} {
		t.Run(name, func(t *testing.T) {
			b := quickBroker(t)
			s := connected(t, b)
			sink, mode := &countingSink{}, leaf.EachSub
			if c.kept {
				sink.answer, mode = msg.Kept, leaf.Outbox
			}
			if err := b.router.Attach("sink", sink, mode).Subscribe(newSub("plant.>")); err != nil {
				t.Fatal(err)
			}
			read := func() {
				if err := s.consume(c.wire); err != nil {
					t.Fatal(err)
				}
				s.settle()
			}
			if n := testing.AllocsPerRun(500, read); n != 0 {
				t.Errorf("%v allocations", n)
			}
			if sink.n < 500 {
				t.Errorf("%d delivered", sink.n)
			}
		})
	}
}

// Delivering allocates nothing, whether subjects repeat or change.
func TestDeliverDoesNotAllocate(t *testing.T) {
	b := quickBroker(t)
	s := connected(t, b)
	sub := newSub("plant.>")
	one := &msg.Msg{Subject: []byte("plant.a//b.temperature"), Header: pubHeader(0), Data: []byte("21.5")}
	two := &msg.Msg{Subject: []byte("plant.c"), Data: []byte("22")}
	if n := testing.AllocsPerRun(500, func() {
		for _, m := range []*msg.Msg{one, one, two} {
			if d := s.Deliver(m, sub); d != msg.Taken {
				t.Fatal(d)
			}
		}
		s.Flush()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkPublish is a read full of small messages, from bytes to the router.
func BenchmarkPublish(b *testing.B) {
	for name, wire := range map[string][]byte{
		"qos0":         pub("plant/line4/press/temperature", strings.Repeat("x", 128), 0, 0),
		"qos1":         pub("plant/line4/press/temperature", strings.Repeat("x", 128), 1, 7),
		"qos0-2topics": append(pub("plant/line4/press/temperature", strings.Repeat("x", 128), 0, 0), pub("plant/line4/press/pressure", strings.Repeat("x", 128), 0, 0)...),
	} {
		b.Run(name, func(b *testing.B) {
			s := connected(b, quickBroker(b))
			read := []byte(strings.Repeat(string(wire), 400))
			b.ReportAllocs()
			for n := 0; n < b.N; n += 400 {
				if err := s.consume(read); err != nil {
					b.Fatal(err)
				}
				s.settle()
			}
		})
	}
}

// BenchmarkDeliver is a message into one device's buffer, flushed every 400.
func BenchmarkDeliver(b *testing.B) {
	s := connected(b, quickBroker(b))
	m := &msg.Msg{Subject: []byte("plant.line4.press.temperature"), Data: []byte(strings.Repeat("x", 128))}
	sub := newSub("plant.>")
	b.ReportAllocs()
	for n := range b.N {
		s.Deliver(m, sub)
		if n%400 == 399 {
			if behind := s.Flush(); behind != nil {
				<-behind
			}
		}
	}
}

func BenchmarkConvert(b *testing.B) {
	topic, subject := []byte("plant/line4/press/temperature"), []byte("plant.line4.press.temperature")
	buf := make([]byte, 0, 64)
	b.Run("to-subject", func(b *testing.B) {
		for b.Loop() {
			buf, _ = appendSubject(buf[:0], topic)
		}
	})
	b.Run("to-topic", func(b *testing.B) {
		for b.Loop() {
			buf, _ = appendTopic(buf[:0], subject)
		}
	})
}
