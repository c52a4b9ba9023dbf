package mqttbridge

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
	"github.com/leafd/leafd/mqttbridge/packet"
)

func puback(id uint16) []byte { return []byte{0x40, 2, byte(id >> 8), byte(id)} }

func TestPublishReachesNATS(t *testing.T) {
	b := startBroker(t, Options{})
	got := b.watch(">")
	d := b.connect("dev")
	d.send(pub("a.b/c//d", "zero", 0, 0))
	d.send((&packet.Publish{Topic: []byte("x"), Payload: []byte("one"), QoS: 1, ID: 7, Retain: true, Dup: true}).Append(nil, packet.V311))
	d.expect(puback(7)...)
	want := []string{
		`"a//b.c./.d" "NATS/1.0\r\nNmqtt-Pub:0\r\n\r\n" "zero" 0 false`,
		`"x" "NATS/1.0\r\nNmqtt-Pub:1\r\n\r\n" "one" 1 true`,
	}
	for i, m := range got.Got() {
		if s := fmt.Sprintf("%q %q %q %d %v", m.Subject, m.Header, m.Data, m.QoS, m.Retain); s != want[i] {
			t.Errorf("got %s, want %s", s, want[i])
		}
	}
	if st := b.Stats(); len(got.Got()) != 2 || st.InMsgs != 2 || st.InBytes != 7 {
		t.Errorf("%d messages, %+v", len(got.Got()), st)
	}
}

// A PUBACK is given by the barrier, and never before it.
func TestPubackWaitsForBarrier(t *testing.T) {
	b := startBroker(t, Options{})
	d := b.connect("dev")
	d.send(pub("log/a", "x", 1, 1))
	settle := <-b.barriers
	d.ping() // nothing comes before the answer to it
	settle(nil)
	d.expect(puback(1)...)
}

// One read, one barrier: what comes in together is made safe together.
func TestOneBarrierPerRead(t *testing.T) {
	b := startBroker(t, Options{})
	d := b.connect("dev")
	d.send(slices.Concat(pub("log/a", "x", 1, 1), pub("log/a", "x", 1, 2), pub("log/a", "x", 1, 3)))
	(<-b.barriers)(nil)
	for id := range uint16(3) {
		d.expect(puback(id + 1)...)
	}
	if n := len(b.barriers); n != 0 {
		t.Errorf("%d more barriers", n)
	}
}

// PUBACKs keep the order of their PUBLISH packets [MQTT-4.6.0-2], also where a
// later message needs no barrier, or its barrier comes first.
func TestPubackOrder(t *testing.T) {
	b := startBroker(t, Options{})
	d := b.connect("dev")
	d.send(slices.Concat(pub("live", "x", 1, 1), pub("log/a", "x", 1, 2), pub("live", "x", 1, 3)))
	d.expect(puback(1)...) // before the first that is kept: at once
	first := <-b.barriers
	d.send(pub("live", "x", 1, 4))
	d.ping()
	d.send(pub("log/a", "x", 1, 5))
	second := <-b.barriers
	d.ping()
	second(nil)
	d.ping()
	first(nil)
	for id := range uint16(4) {
		d.expect(puback(id + 2)...)
	}
}

func TestBarrierFailureEndsTheConnection(t *testing.T) {
	b := startBroker(t, Options{})
	d := b.connect("dev")
	d.send(pub("log/a", "x", 1, 1))
	first := <-b.barriers
	d.send(pub("log/a", "x", 1, 2))
	second := <-b.barriers
	d.send(pub("log/a", "x", 1, 3))
	third := <-b.barriers
	first(nil)
	d.expect(puback(1)...)
	second(errors.New("disk"))
	third(nil) // safe, but to say so would acknowledge the second in the eyes of some clients
	d.expectEnd()
	testkit.Eventually(t, func() bool { return b.fault("unspecified_error") == 1 }, "counted: %+v", b.Stats())
}

// A log that refuses has no negative PUBACK in 3.1.1: the acknowledgements due are
// given, then the connection ends.
func TestStoreFullEndsTheConnection(t *testing.T) {
	b := startBroker(t, Options{})
	d := b.connect("dev")
	d.send(pub("log/a", "x", 1, 1))
	settle := <-b.barriers
	d.ping()
	b.log.Answer(msg.StoreFull)
	d.send(pub("log/a", "x", 0, 0)) // QoS 0 is not owed an answer
	d.ping()
	d.send(slices.Concat(pub("live", "x", 1, 2), pub("log/a", "x", 1, 3), pub("live", "x", 1, 4)))
	settle(nil)
	d.expect(puback(1)...)
	d.expect(puback(2)...)
	d.expectEnd()
	testkit.Eventually(t, func() bool { return b.fault("quota_exceeded") == 1 }, "counted: %+v", b.Stats())

	for range 3 { // the same again is counted, and logged no more
		d := b.connect("dev")
		d.send(pub("log/a", "x", 1, 1))
		d.expectEnd()
	}
	testkit.Eventually(t, func() bool { return b.fault("quota_exceeded") == 4 }, "counted: %+v", b.Stats())
	if n := strings.Count(b.logged.String(), "quota_exceeded"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, b.logged)
	}
}

// Messages that wait at barriers are bounded: beyond that the device is not read.
func TestUnackedMessagesAreBounded(t *testing.T) {
	b := startBroker(t, Options{MaxUnacked: 2})
	d := b.connect("dev")
	d.send(slices.Concat(pub("log/a", "x", 1, 1), pub("log/a", "x", 1, 2), pub("log/a", "x", 1, 3)))
	settle := <-b.barriers
	d.send([]byte{0xc0, 0})
	d.send(pub("log/a", "x", 1, 4))
	if n := len(b.log.Got()); n != 3 {
		t.Errorf("%d messages in the log", n)
	}
	settle(nil)
	for id := range uint16(3) {
		d.expect(puback(id + 1)...) // and then it is read on
	}
	d.expect(0xd0, 0)
	(<-b.barriers)(nil)
	d.expect(puback(4)...)
}

func TestPublishThatEndsTheConnection(t *testing.T) {
	b := startBroker(t, Options{MaxPacket: 100, MaxPayload: 20})
	got := b.watch(">")
	for _, c := range []struct {
		name, reason string
		send         []byte
	}{
		{"QoS 2 with packet id 0", "protocol_error", pub("a", "x", 2, 0)},
		{"white space in the topic", "bad_topic_name", pub("a b", "x", 0, 0)},
		{"wildcard in the topic", "bad_topic_name", pub("a/#", "x", 0, 0)},
		{"empty topic", "bad_topic_name", pub("", "x", 0, 0)},
		{"U+0000 in the topic", "malformed_packet", pub("a\x00", "x", 0, 0)},
		{"packet id 0", "protocol_error", pub("a", "x", 1, 0)},
		{"more than max_payload", "packet_too_large", pub("a", "123456789012345678901", 1, 1)},
		{"too large", "packet_too_large", []byte{0x30, 99}},
		{"268,435,455 bytes, none of them there", "packet_too_large", []byte{0x30, 0xff, 0xff, 0xff, 0x7f}},
	} {
		before := b.fault(c.reason)
		d := b.connect("dev")
		d.send(c.send)
		d.expectEnd()
		testkit.Eventually(t, func() bool { return b.fault(c.reason) == before+1 }, "%s counts as %s: %+v", c.name, c.reason, b.Stats())
	}
	if n := len(got.Got()); n != 0 {
		t.Errorf("%d of them were published: %q", n, got.Subjects())
	}
}

// "*" and ">" are ordinary in a topic and reach the subject as they are.
func TestPublishToLiteralWildcards(t *testing.T) {
	b := startBroker(t, Options{})
	got := b.watch(">")
	d := b.connect("dev")
	for _, topic := range []string{"foo/*/bar", "foo/>", "*", ">/a"} {
		d.send(pub(topic, "x", 0, 0))
	}
	d.ping()
	if s := got.Subjects(); !slices.Equal(s, []string{"foo.*.bar", "foo.>", "*", ">.a"}) {
		t.Errorf("%q", s)
	}
}

func qos2(t packet.Type, id uint16) []byte {
	a := packet.Ack{Type: t, ID: id}
	return a.Append(nil, packet.V311)
}

// QoS 2: PUBREC once safe, a PUBLISH that comes again before the PUBREL is not
// routed again, and after it the id is free. [MQTT-4.3.3-2]
func TestQoS2IsRoutedOnce(t *testing.T) {
	b := startBroker(t, Options{})
	d := b.connect("dev")
	again := (&packet.Publish{Topic: []byte("log/a"), Payload: []byte("x"), QoS: 2, ID: 7, Dup: true}).Append(nil, packet.V311)
	d.send(pub("log/a", "x", 2, 7))
	settle := <-b.barriers
	d.send(again) // its PUBREC would say that the first is safe
	d.ping()
	settle(nil)
	d.expect(qos2(packet.PUBREC, 7)...)
	d.expect(qos2(packet.PUBREC, 7)...)
	d.send(again)
	d.expect(qos2(packet.PUBREC, 7)...)
	d.send(qos2(packet.PUBREL, 7))
	d.expect(qos2(packet.PUBCOMP, 7)...)
	d.send(qos2(packet.PUBREL, 7)) // the PUBCOMP got lost
	d.expect(qos2(packet.PUBCOMP, 7)...)
	if n := len(b.log.Got()); n != 1 {
		t.Errorf("%d messages in the log", n)
	}
	d.send(pub("log/b", "y", 2, 7))
	(<-b.barriers)(nil)
	d.expect(qos2(packet.PUBREC, 7)...)
	if s := b.log.Subjects(); !slices.Equal(s, []string{"log.a", "log.b"}) || b.log.Got()[1].QoS != 2 {
		t.Errorf("%q", s)
	}
}

// Acknowledgements of both levels keep one order, in one read and over several.
func TestQoS2Order(t *testing.T) {
	b := startBroker(t, Options{})
	d := b.connect("dev")
	d.send(slices.Concat(pub("live", "x", 2, 1), pub("log/a", "x", 1, 2), pub("live", "x", 2, 3), qos2(packet.PUBREL, 1)))
	d.expect(qos2(packet.PUBREC, 1)...) // before the first that is kept: at once
	settle := <-b.barriers
	d.send(pub("live", "x", 1, 4))
	d.ping()
	settle(nil)
	d.expect(puback(2)...)
	d.expect(qos2(packet.PUBREC, 3)...)
	d.expect(qos2(packet.PUBCOMP, 1)...)
	d.expect(puback(4)...)
}

// A client may use all packet ids at once: none of its messages is routed twice, and each PUBREL
// makes room for another.
func TestQoS2TakesAllIDs(t *testing.T) {
	b := startBroker(t, Options{})
	seen := b.watch("a")
	d := b.connect("dev")
	all := func(make func(id uint16) []byte, answer packet.Type) {
		for from := 1; from < 1<<16; from += 1000 {
			to := min(from+1000, 1<<16)
			var ask []byte
			for id := from; id < to; id++ {
				ask = append(ask, make(uint16(id))...)
			}
			d.send(ask)
			for id := from; id < to; id++ {
				d.expect(qos2(answer, uint16(id))...)
			}
		}
	}
	publish := func(id uint16) []byte { return pub("a", "x", 2, id) }
	release := func(id uint16) []byte { return qos2(packet.PUBREL, id) }
	all(publish, packet.PUBREC)
	all(publish, packet.PUBREC)
	if n := len(seen.Got()); n != 1<<16-1 {
		t.Errorf("%d messages were routed", n)
	}
	all(release, packet.PUBCOMP)
	all(release, packet.PUBCOMP)
	all(publish, packet.PUBREC)
	if n := len(seen.Got()); n != 2*(1<<16-1) {
		t.Errorf("%d messages were routed", n)
	}
}

// What is safe is acknowledged before a connection ends for what came behind it.
func TestAcknowledgedBeforeTheEnd(t *testing.T) {
	b := startBroker(t, Options{})
	d := b.connect("dev")
	d.send(slices.Concat(pub("log/a", "x", 1, 1), pub("log/a", "x", 2, 2), pub("a b", "x", 0, 0)))
	settle := <-b.barriers
	testkit.Eventually(t, func() bool { return len(b.log.Got()) == 2 }, "both are stored")
	settle(nil)
	d.expect(puback(1)...)
	d.expect(qos2(packet.PUBREC, 2)...)
	d.expectEnd()
	testkit.Eventually(t, func() bool { return strings.Contains(b.logged.String(), `\"a b\"`) }, "the log names the topic")
}

func TestQoS2RefusedEndsTheConnection(t *testing.T) {
	b := startBroker(t, Options{})
	b.log.Answer(msg.StoreFull)
	d := b.connect("dev")
	d.send(pub("log/a", "x", 2, 1))
	d.expectEnd()
	testkit.Eventually(t, func() bool { return b.fault("quota_exceeded") == 1 }, "counted: %+v", b.Stats())
}
