package mqttbridge

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"testing"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/leafd/leafd/internal/testkit"
)

// inbox is what a stock client received, as "topic=payload" and in order.
type inbox struct {
	mu  sync.Mutex
	got []string
}

func (i *inbox) handle(_ mqtt.Client, m mqtt.Message) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.got = append(i.got, fmt.Sprintf("%s=%s qos%d retained=%v", m.Topic(), m.Payload(), m.Qos(), m.Retained()))
}

func (i *inbox) list() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.got)
}

func (i *inbox) is(want ...string) bool { return slices.Equal(i.list(), want) }

// done waits for what a stock client was asked to do.
func done(t *testing.T, tok mqtt.Token) {
	t.Helper()
	if !tok.WaitTimeout(testkit.Patience) {
		t.Fatal("no answer")
	}
	if err := tok.Error(); err != nil {
		t.Fatal(err)
	}
}

// soon is a barrier on another goroutine, as a store's is.
func soon(fn func(error)) { go fn(nil) }

// paho returns a stock client that has connected, version 3.1.1 only.
func paho(t *testing.T, b *broker, id string, change func(*mqtt.ClientOptions)) mqtt.Client {
	t.Helper()
	o := mqtt.NewClientOptions().AddBroker("tcp://" + b.addr).SetClientID(id).SetProtocolVersion(4).SetAutoReconnect(false)
	if change != nil {
		change(o)
	}
	c := mqtt.NewClient(o)
	done(t, c.Connect())
	t.Cleanup(func() { c.Disconnect(0) })
	return c
}

func TestPahoPublishAndSubscribe(t *testing.T) {
	b := startBroker(t, Options{Barrier: soon})
	nats := b.watch(">")
	sub, pub := paho(t, b, "sub", nil), paho(t, b, "pub", nil)
	var in inbox
	granted := sub.SubscribeMultiple(map[string]byte{"plant/+/temp": 1, "log/#": 2}, in.handle)
	done(t, granted)
	for f, qos := range granted.(*mqtt.SubscribeToken).Result() {
		if qos != 0 {
			t.Errorf("%s granted %d", f, qos)
		}
	}
	done(t, pub.Publish("plant/1/temp", 0, false, "20"))
	done(t, pub.Publish("plant/2/temp", 1, true, "21"))
	done(t, pub.Publish("plant/2/hum", 1, false, "60"))
	done(t, pub.Publish("log", 1, false, "kept"))
	done(t, pub.Publish("log/a.b", 1, false, "kept"))
	want := []string{"plant/1/temp=20 qos0 retained=false", "plant/2/temp=21 qos0 retained=false",
		"log=kept qos0 retained=false", "log/a.b=kept qos0 retained=false"}
	testkit.Eventually(t, func() bool { return in.is(want...) }, "the four that match have come")

	done(t, sub.Unsubscribe("plant/+/temp"))
	done(t, pub.Publish("plant/1/temp", 1, false, "22"))
	b.publish("log.x", "from NATS")
	testkit.Eventually(t, func() bool { return len(in.list()) > len(want) }, "from NATS")
	if !in.is(append(want, "log/x=from NATS qos0 retained=false")...) {
		t.Errorf("the four that match")
	}
	if s := nats.Subjects(); !slices.Equal(s, []string{"plant.1.temp", "plant.2.temp", "plant.2.hum", "log", "log.a//b", "plant.1.temp", "log.x"}) {
		t.Errorf("NATS got %q", s)
	}
}

// A thousand QoS 1 messages in flight: each is acknowledged, none is lost, the
// order holds.
func TestPahoPipelinesQoS1(t *testing.T) { pahoPipelines(t, 1) }

// The same at QoS 2, with its four packets for each.
func TestPahoPipelinesQoS2(t *testing.T) { pahoPipelines(t, 2) }

func pahoPipelines(t *testing.T, qos byte) {
	b := startBroker(t, Options{})
	stop := make(chan struct{})
	var settled sync.WaitGroup
	settled.Go(func() {
		for {
			select {
			case fn := <-b.barriers:
				fn(nil)
			case <-stop:
				return
			}
		}
	})
	c := paho(t, b, "c", nil)
	tokens := make([]mqtt.Token, 1000)
	for i := range tokens {
		tokens[i] = c.Publish("log/n", qos, false, strconv.Itoa(i))
	}
	for _, tok := range tokens {
		done(t, tok)
	}
	close(stop)
	settled.Wait()
	got := b.log.Got()
	if len(got) != len(tokens) {
		t.Fatalf("%d messages kept", len(got))
	}
	for i, m := range got {
		if string(m.Data) != strconv.Itoa(i) {
			t.Fatalf("message %d is %q", i, m.Data)
		}
	}
}

func TestPahoWill(t *testing.T) {
	b := startBroker(t, Options{})
	var in inbox
	done(t, paho(t, b, "watcher", nil).Subscribe("status/#", 0, in.handle))
	var nc net.Conn
	withWill := func(o *mqtt.ClientOptions) {
		o.SetWill("status/dev", "offline", 1, true)
		o.SetCustomOpenConnectionFn(func(u *url.URL, _ mqtt.ClientOptions) (net.Conn, error) {
			var err error
			nc, err = net.Dial("tcp", u.Host)
			return nc, err
		})
	}
	paho(t, b, "dev", withWill).Disconnect(uint(testkit.Patience.Milliseconds()))
	paho(t, b, "dev", withWill)
	nc.Close()
	testkit.Eventually(t, func() bool { return in.is("status/dev=offline qos0 retained=false") }, "one will")
}

// A client that wants to keep its session is let in, and told that there is none.
func TestPahoPersistentSession(t *testing.T) {
	b := startBroker(t, Options{})
	for range 2 {
		c := paho(t, b, "keeper", func(o *mqtt.ClientOptions) { o.SetCleanSession(false) })
		done(t, c.Subscribe("a", 1, nil))
		done(t, c.Publish("a", 1, false, "x"))
		c.Disconnect(100)
	}
	if n := b.Stats().SessionsNotKept; n != 2 {
		t.Errorf("%d", n)
	}
}

// The command line clients that people have at hand.
func TestMosquittoClients(t *testing.T) {
	b := startBroker(t, Options{Barrier: soon})
	_, p, err := net.SplitHostPort(b.addr)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	got, stop := testkit.MosquittoSub(t, port, "-q", "1", "-t", "log/+", "-t", "a.b/#")
	testkit.MosquittoPub(t, port, "-q", "1", "-t", "log/x", "-m", "one")
	testkit.MosquittoPub(t, port, "-q", "1", "-t", "a.b", "-m", "two", "-r")
	testkit.MosquittoPub(t, port, "-q", "2", "-t", "log/x", "-m", "twice")
	b.publish("log.y", "three")
	for _, want := range []testkit.MQTTMessage{{Topic: "log/x", Payload: "one"}, {Topic: "a.b", Payload: "two"},
		{Topic: "log/x", Payload: "twice"}, {Topic: "log/y", Payload: "three"}} {
		if m := <-got; m != want {
			t.Errorf("got %+v, want %+v", m, want)
		}
	}
	stop()
}
