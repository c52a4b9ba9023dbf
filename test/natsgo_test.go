package test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leafd/leafd/internal/testkit"
)

// sides are where a publisher and a subscriber of nats.go may be: both at leafd, or
// on either end of the link.
type sides struct {
	name     string
	pub, sub string // URLs
}

// TestNatsGo drives leafd with the official Go client, and the hub through the link
// in both directions.
func TestNatsGo(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{})
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: linkConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	testkit.Eventually(t, func() bool { return len(hub.Leafz()) == 1 }, "the link up")
	for _, s := range []sides{
		{"local", l.NATSURL(), l.NATSURL()},
		{"to the hub", l.NATSURL(), hub.ClientURL()},
		{"from the hub", hub.ClientURL(), l.NATSURL()},
	} {
		t.Run(s.name, func(t *testing.T) {
			for name, test := range map[string]func(*testing.T, *nats.Conn, *nats.Conn){
				"publish": publishTest, "queue": queueTest, "request": requestTest, "headers": headersTest,
				"no responders": noRespondersTest, "drain": drainTest,
			} {
				t.Run(name, func(t *testing.T) { test(t, connect(t, s.pub), connect(t, s.sub)) })
			}
		})
	}
}

const linkConfig = `
server_name: edge
host: "127.0.0.1", port: $LEAFD_NATS_PORT
leafnodes { remotes: [ { url: $LEAFD_HUB_URL } ] }
`

func connect(t *testing.T, url string, o ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, append([]nats.Option{nats.Timeout(testkit.Patience)}, o...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// seen waits until what pub sends reaches sub's side: interest takes a moment to
// cross a link.
func seen(t *testing.T, pub, sub *nats.Conn) {
	t.Helper()
	in := nats.NewInbox()
	s, err := sub.SubscribeSync(in)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Unsubscribe()
	testkit.Eventually(t, func() bool {
		pub.Publish(in, nil)
		_, err := s.NextMsg(50 * time.Millisecond)
		return err == nil
	}, "interest to spread")
}

func publishTest(t *testing.T, pub, sub *nats.Conn) {
	s, _ := sub.SubscribeSync("t.pub.*")
	seen(t, pub, sub)
	for i := range 100 {
		pub.Publish(fmt.Sprintf("t.pub.%d", i), fmt.Appendf(nil, "%d", i))
	}
	for i := range 100 {
		m, err := s.NextMsg(testkit.Patience)
		if err != nil || string(m.Data) != fmt.Sprint(i) || m.Subject != fmt.Sprintf("t.pub.%d", i) {
			t.Fatalf("message %d: %v %v", i, m, err)
		}
	}
}

func queueTest(t *testing.T, pub, sub *nats.Conn) {
	got := make(chan *nats.Msg, 200)
	for range 3 {
		if _, err := sub.ChanQueueSubscribe("t.queue", "workers", got); err != nil {
			t.Fatal(err)
		}
	}
	plain, _ := sub.SubscribeSync("t.queue")
	seen(t, pub, sub)
	for range 50 {
		pub.Publish("t.queue", nil)
	}
	pub.Publish("t.queue", []byte("end"))
	for last := false; !last; {
		m, err := plain.NextMsg(testkit.Patience)
		if err != nil {
			t.Fatal(err)
		}
		last = string(m.Data) == "end"
	}
	sub.Flush()
	testkit.Eventually(t, func() bool { return len(got) >= 51 }, "51 messages to the group")
	if len(got) != 51 {
		t.Errorf("the group got %d of 51", len(got))
	}
}

func requestTest(t *testing.T, pub, sub *nats.Conn) {
	sub.Subscribe("t.req", func(m *nats.Msg) { m.Respond(append([]byte("re "), m.Data...)) })
	seen(t, pub, sub)
	for i := range 20 {
		m, err := pub.Request("t.req", fmt.Appendf(nil, "%d", i), testkit.Patience)
		if err != nil || string(m.Data) != fmt.Sprintf("re %d", i) {
			t.Fatalf("%v %v", m, err)
		}
	}
}

func headersTest(t *testing.T, pub, sub *nats.Conn) {
	s, _ := sub.SubscribeSync("t.head")
	seen(t, pub, sub)
	m := nats.NewMsg("t.head")
	m.Header.Set("Unit", "°C")
	m.Data = []byte("21.5")
	pub.PublishMsg(m)
	got, err := s.NextMsg(testkit.Patience)
	if err != nil || got.Header.Get("Unit") != "°C" || string(got.Data) != "21.5" {
		t.Fatalf("%v %v", got, err)
	}
}

func noRespondersTest(t *testing.T, pub, _ *nats.Conn) {
	if _, err := pub.Request("t.nobody", nil, testkit.Patience); !errors.Is(err, nats.ErrNoResponders) {
		t.Fatalf("got %v", err)
	}
}

func drainTest(t *testing.T, pub, sub *nats.Conn) {
	got := make(chan *nats.Msg, 100)
	if _, err := sub.ChanSubscribe("t.drain", got); err != nil {
		t.Fatal(err)
	}
	seen(t, pub, sub)
	for range 100 {
		pub.Publish("t.drain", nil)
	}
	if err := pub.Drain(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, func() bool { return len(got) == 100 && pub.IsClosed() }, "all that was sent before the drain")
}

// TestNatsGoReconnects restarts leafd under a client, which finds its subscriptions
// working again.
func TestNatsGoReconnects(t *testing.T) {
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: `host: "127.0.0.1", port: $LEAFD_NATS_PORT`})
	back := make(chan struct{}, 1)
	nc := connect(t, l.NATSURL(), nats.ReconnectWait(20*time.Millisecond), nats.MaxReconnects(-1),
		nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
	s, err := nc.SubscribeSync("a")
	if err != nil {
		t.Fatal(err)
	}
	l.Kill()
	l.Restart()
	<-back
	nc.Publish("a", []byte("x"))
	if _, err := s.NextMsg(testkit.Patience); err != nil {
		t.Fatal(err)
	}
}

// TestInterestOnTheHub follows a subscription at leafd in the hub's own monitoring.
func TestInterestOnTheHub(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{})
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: linkConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	nc := connect(t, l.NATSURL())
	has := func() bool {
		for _, leaf := range hub.Leafz() {
			for _, s := range leaf.Subjects {
				if s == "t.interest" {
					return true
				}
			}
		}
		return false
	}
	a, _ := nc.SubscribeSync("t.interest")
	b, _ := nc.SubscribeSync("t.interest")
	testkit.Eventually(t, has, "interest on the hub")
	a.Unsubscribe()
	nc.Flush()
	seen(t, connect(t, hub.ClientURL()), nc) // a round trip behind the unsubscribe
	if !has() {
		t.Error("interest went with the first of two subscriptions")
	}
	b.Unsubscribe()
	testkit.Eventually(t, func() bool { return !has() }, "interest gone from the hub")
}
