package mqttbridge

import (
	"testing"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
	"github.com/leafd/leafd/mqttbridge/packet"
)

func TestSubscribe(t *testing.T) {
	b := startBroker(t, Options{})
	d := b.connect("dev")
	d.send([]byte{
		0x82, 32, // SUBSCRIBE
		0x01, 0x02, // packet id
		0, 3, 'a', '/', '#', 2, // asks for QoS 2
		0, 3, 'b', '/', '+', 1, // asks for QoS 1
		0, 2, 'c', '+', 0, // no filter
		0, 3, 'd', ' ', 'd', 0, // no subject
		0, 0, 0, // empty
		0, 1, 'e', 0,
	})
	d.expect(0x90, 8, 0x01, 0x02, 0, 0, 0x80, 0x80, 0x80, 0)
	for _, m := range []struct{ subject, topic string }{
		{"a", "a"}, {"a.b.c", "a/b/c"}, {"b.x", "b/x"}, {"e", "e"}, {"a./.x//y", "a//x.y"},
	} {
		b.publish(m.subject, m.topic)
		d.expectMessage(m.topic, m.topic)
	}
	for _, other := range []string{"b", "b.x.y", "c", "f", "a/"} { // the last is topic "a", but not subject "a"
		b.publish(other, "no")
	}
	d.ping()
	if st := b.Stats(); st.OutMsgs != 5 || st.OutBytes != 1+5+3+1+6 {
		t.Errorf("%+v", st)
	}
	if info := b.Conns()[0]; info.NumSubs != 3 || info.MQTTClient != "dev" || info.Out.Msgs != 5 {
		t.Errorf("%+v", info)
	}
}

// The same filter again replaces the old one; overlapping filters each get a copy.
func TestSubscribeTwiceAndOverlapping(t *testing.T) {
	b := startBroker(t, Options{})
	d := b.connect("dev")
	d.subscribe("a/b")
	d.subscribe("a/b", "a/b")
	b.publish("a.b", "1")
	d.expectMessage("a/b", "1")
	d.ping()
	d.subscribe("a/#", "+/b")
	b.publish("a.b", "2")
	for range 3 {
		d.expectMessage("a/b", "2")
	}
	d.ping()
}

func TestUnsubscribe(t *testing.T) {
	b := startBroker(t, Options{})
	d := b.connect("dev")
	d.subscribe("a/#", "b")
	d.send([]byte{0xa2, 12, 0, 9, 0, 3, 'a', '/', '#', 0, 3, 'x', '/', 'y'})
	d.expect(0xb0, 2, 0, 9) // though the second was never there
	for _, s := range []string{"a", "a.x"} {
		b.publish(s, "no")
	}
	b.publish("b", "yes")
	d.expectMessage("b", "yes")
	d.send([]byte{0xe0, 0})
	d.expectEnd()
	testkit.Eventually(t, func() bool { return b.router.Subscriptions() == 1 }, "only the log's subscription is left")
}

func TestSubscriptionLimit(t *testing.T) {
	b := startBroker(t, Options{MaxSubs: 2})
	d := b.connect("dev")
	d.send([]byte{0x82, 14, 0, 1, 0, 1, 'a', 0, 0, 1, 'b', 0, 0, 1, 'c', 0})
	d.expect(0x90, 5, 0, 1, 0, 0, 0x80)
	d.subscribe("a") // known already
	d.send([]byte{0xa2, 5, 0, 9, 0, 1, 'a'})
	d.expect(0xb0, 2, 0, 9)
	d.subscribe("c")
}

func TestMQTTToMQTT(t *testing.T) {
	b := startBroker(t, Options{})
	d, e := b.connect("d"), b.connect("e")
	d.subscribe("up/+", "/./x")
	e.subscribe("up/#")
	e.send((&packet.Publish{Topic: []byte("up/1"), Payload: []byte("hi"), QoS: 1, ID: 3, Retain: true}).Append(nil, packet.V311))
	d.expectMessage("up/1", "hi") // QoS 0 and not retained
	e.expectMessage("up/1", "hi") // a client hears itself
	e.expect(puback(3)...)
	e.send(pub("/./x", "", 0, 0))
	d.expectMessage("/./x", "")
}

func TestDollarTopics(t *testing.T) {
	b := startBroker(t, Options{})
	all, sys := b.connect("all"), b.connect("sys")
	all.subscribe("#", "+/x")
	sys.subscribe("$SYS/#")
	b.publish("$SYS.x", "1")
	b.publish("a", "2")
	all.expectMessage("a", "2")
	sys.expectMessage("$SYS/x", "1")
}

// A subject that is no topic stays behind, and is counted.
func TestSubjectsThatAreNoTopic(t *testing.T) {
	b := startBroker(t, Options{})
	d := b.connect("dev")
	d.subscribe("#")
	for _, s := range []string{"a.+", "a#b", "/", "\xff"} {
		b.publish(s, "no")
		b.publish(s, "no")
	}
	b.publish("a/b", "lossy")
	d.expectMessage("ab", "lossy")
	if n := b.router.Stats().Drops[msg.Denied].Load(); n != 8 {
		t.Errorf("%d denied, want 8", n)
	}
}
