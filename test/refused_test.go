package test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

var refusedConfig = cableConfig + "http: $LEAFD_HTTP_PORT\n"

// TestOutboxWaitsForRoomAtTheHub has hubs whose stream takes messages and then no more,
// for reasons that are not the message's. It is tried again and again, nothing is given up,
// and once there is room all are in the stream, once and in order.
func TestOutboxWaitsForRoomAtTheHub(t *testing.T) {
	const total, size = 60, 2000
	cable := jetstream.StreamConfig{Name: "CABLE", Subjects: []string{"cable.>"}}
	small := cable
	small.MaxMsgs, small.Discard = 20, jetstream.DiscardNew
	filler := jetstream.StreamConfig{Name: "FILLER", Subjects: []string{"filler"}}
	fill := func(js jetstream.JetStream) (err error) {
		if _, err = js.CreateStream(context.Background(), filler); err == nil {
			_, err = js.Publish(context.Background(), "filler", make([]byte, 150_000))
		}
		return err
	}
	empty := func(js jetstream.JetStream) error { return js.DeleteStream(context.Background(), "FILLER") }
	for _, c := range []struct {
		name, config string
		stream       jetstream.StreamConfig
		full         func(jetstream.JetStream) error
		says         string // the hub, when it refuses
		free         func(jetstream.JetStream) error
	}{
		{"account", `accounts { A { jetstream { max_store: 200KB }, users: [ { user: a, password: a } ] } }, no_auth_user: a`, cable, fill, "resource limits exceeded for account (10002)", empty},
		{"stream", "", small, nil, "maximum messages exceeded (10077)", func(js jetstream.JetStream) error {
			_, err := js.UpdateStream(context.Background(), cable)
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true, Config: c.config})
			js, err := jetstream.New(connect(t, hub.ClientURL()))
			if err != nil {
				t.Fatal(err)
			}
			if c.full != nil {
				if err := c.full(js); err != nil {
					t.Fatal(err)
				}
			}
			s, err := js.CreateStream(t.Context(), c.stream)
			if err != nil {
				t.Fatal(err)
			}
			l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: refusedConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
			nc := connect(t, l.NATSURL())
			pad := strings.Repeat("x", size)
			for n := range total {
				if _, err := nc.Request("cable.x", fmt.Append(nil, n, " ", pad), testkit.Patience); err != nil {
					t.Fatalf("%d: %v", n, err)
				}
			}
			var u outboxState
			testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.Resent >= 8 && strings.Contains(u.Reason, c.says) }, "refused %q: %+v", c.says, &u)
			testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.State == "refused" }, "said to be refused: %+v", &u)
			if err := c.free(js); err != nil {
				t.Fatal(err)
			}
			testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.Messages == 0 && u.State == "live" }, "nothing waits: %+v", &u)
			if u.Rejected != 0 || len(u.Dropped) != 0 {
				t.Errorf("%+v", u)
			}
			for n := range total {
				m, err := s.GetMsg(t.Context(), uint64(n+1))
				if err != nil || string(m.Data) != fmt.Sprint(n, " ", pad) {
					t.Fatalf("message %d of the stream: %.20s %v", n+1, m.Data, err)
				}
			}
			if i, err := s.Info(t.Context()); err != nil || i.State.Msgs != total {
				t.Errorf("%+v %v", i, err)
			}
		})
	}
}

// TestOutboxGoesOnPastAHeaderThatTheStreamForbids has a device that sets headers that mean
// something to a stream, but not to this one: it would refuse them for ever. What is dropped for
// them is one line a minute for each reason.
func TestOutboxGoesOnPastAHeaderThatTheStreamForbids(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js := stream(t, hub)
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: refusedConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	nc := connect(t, l.NATSURL())
	publish := func(subject string, header nats.Header) {
		t.Helper()
		if err := nc.PublishMsg(&nats.Msg{Subject: subject, Header: header}); err != nil {
			t.Fatal(err)
		}
	}
	bad := []nats.Header{
		{"Nats-Rollup": {"all"}}, {"Nats-Rollup": {"nonsense"}}, {"Nats-Incr": {"+1"}}, {"Nats-Schedule": {"@every 1s"}},
		{"Nats-Stream-Source": {"OTHER 1 a b c"}},
	}
	const times = 20
	for n := range times * len(bad) {
		publish("cable.bad", bad[n%len(bad)])
		publish(fmt.Sprint("cable.good.", n), nil)
	}
	nc.Flush()
	s, err := js.Stream(t.Context(), "CABLE")
	if err != nil {
		t.Fatal(err)
	}
	var u outboxState
	testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.Messages == 0 }, "nothing waits: %+v", &u)
	for n := range times * len(bad) {
		if _, err := s.GetLastMsgForSubject(t.Context(), fmt.Sprint("cable.good.", n)); err != nil {
			t.Errorf("the message behind %v: %v", bad[n%len(bad)], err)
		}
	}
	if want := times * len(bad); u.Rejected != want || u.Dropped["rejected_by_hub"] != uint64(want) {
		t.Errorf("%+v, want %d rejected", u, want)
	}
	if lines := strings.Count(l.Log(), "it is dropped"); lines == 0 || lines > len(bad) {
		t.Errorf("the log says %d times that one was dropped, for %d reasons", lines, len(bad))
	}
}

// TestOutboxThatIsNotConfigured renames an outbox that holds messages: the log names what goes
// nowhere, and the old name brings it back.
func TestOutboxThatIsNotConfigured(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js := stream(t, hub)
	hub.Kill()
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: refusedConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	nc := connect(t, l.NATSURL())
	for n := range 3 {
		if _, err := nc.Request("cable.x", fmt.Append(nil, n), testkit.Patience); err != nil {
			t.Fatal(err)
		}
	}
	l.Stop()
	l.Configure(strings.Replace(refusedConfig, "outbox { cable {", "outbox { rope {", 1))
	l.Restart()
	if want := `log "OUT/cable" is not configured and still holds 3 messages, which go nowhere`; !strings.Contains(l.Log(), want) {
		t.Errorf("the log does not say %s", want)
	}
	hub.Restart()
	testkit.Eventually(t, func() bool { return uplinkBox(l).State == "live" }, "the link")
	l.Stop()
	l.Configure(refusedConfig)
	l.Restart()
	s, err := js.Stream(t.Context(), "CABLE")
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		testkit.Eventually(t, func() bool {
			m, err := s.GetMsg(t.Context(), uint64(n+1))
			return err == nil && string(m.Data) == fmt.Sprint(n)
		}, "message %d", n)
	}
}

// TestOutboxTakesWhatTheHubWill publishes messages of about the size of max_payload, with the
// hub there, away, and not known yet: what is too large once the message id is in it is
// refused, and what was acknowledged comes through.
func TestOutboxTakesWhatTheHubWill(t *testing.T) {
	const most = 64 << 10
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true, Config: fmt.Sprintf("max_payload: %d", most)})
	js := stream(t, hub)
	hub.Kill()
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: refusedConfig + fmt.Sprintf("max_payload: %d\n", most), Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	nc := connect(t, l.NATSURL())
	acked, refused := 0, 0
	publish := func() {
		for size := most - 600; size <= most; size += 20 {
			m, err := nc.Request("cable.x", make([]byte, size), testkit.Patience)
			switch {
			case err != nil:
				t.Fatalf("%d bytes: %v", size, err)
			case strings.Contains(string(m.Data), "more than the hub's max_payload"):
				refused++
			default:
				acked++
			}
		}
	}
	arrived := func() {
		t.Helper()
		var u outboxState
		testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.State == "live" && u.Messages == 0 }, "nothing waits: %+v", &u)
		s, err := js.Stream(t.Context(), "CABLE")
		if err != nil {
			t.Fatal(err)
		}
		if got := s.CachedInfo().State.Msgs; u.Rejected != 0 || got != uint64(acked) || u.Dropped["too_large"] != uint64(refused) {
			t.Errorf("%d acknowledged, %d refused, %d in the stream, %+v", acked, refused, got, u)
		}
	}
	publish()
	hub.Restart()
	arrived()
	publish()
	hub.Kill()
	publish()
	hub.Restart()
	arrived()
	if acked < 3*10 || refused < 3*5 {
		t.Errorf("%d acknowledged, %d refused", acked, refused)
	}
}

// TestOutboxRefusesHeaders publishes headers that the hub's stream would not store the message
// for, or not answer to: an outbox refuses them, and what it acknowledged comes through.
func TestOutboxRefusesHeaders(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js := stream(t, hub)
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: refusedConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	nc := connect(t, l.NATSURL())
	long := func(n int) nats.Header { return nats.Header{"X": {strings.Repeat("x", n)}} }
	acked := 0
	for _, c := range []struct {
		header nats.Header
		says   string // the outbox, where it refuses
	}{
		{nil, ""},
		{nats.Header{"Nats-Trace-Dest": {"cable.trace"}, "Nats-Trace-Only": {"true"}}, "Nats-Trace-Only says that nothing is to be stored"},
		{nats.Header{"Nats-Trace-Only": {"false"}}, ""},
		{nats.Header{"Nats-Batch-Id": {"b"}, "Nats-Batch-Sequence": {"1"}}, "cannot check"},
		{long(100_000), "no header of more than 64 KB"},
		{long(1<<16 - 20), "no header of more than 64 KB"},
		{long(1<<16 - 500), ""},
		{nil, ""},
	} {
		m, err := nc.RequestMsg(&nats.Msg{Subject: "cable.x", Header: c.header}, testkit.Patience)
		if err != nil {
			t.Fatal(err)
		}
		if refusal := strings.Contains(string(m.Data), `"code":400`); refusal != (c.says != "") || !strings.Contains(string(m.Data), c.says) {
			t.Errorf("%.100v: %s", c.header, m.Data)
		} else if !refusal {
			acked++
		}
	}
	var u outboxState
	testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.Messages == 0 }, "nothing waits: %+v", &u)
	s, err := js.Stream(t.Context(), "CABLE")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.CachedInfo().State.Msgs; u.Rejected != 0 || got != uint64(acked) {
		t.Errorf("%d acknowledged, %d in the stream, %+v", acked, got, u)
	}
}

// TestOutboxTakesTheTTLsOfAStream publishes a Nats-TTL to a stream and to an outbox: they take the
// same ones, and refuse the others with the same code. Nothing is given up later.
func TestOutboxTakesTheTTLsOfAStream(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	at := connect(t, hub.ClientURL())
	js, err := jetstream.New(at)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "CABLE", Subjects: []string{"cable.>"}, AllowMsgTTL: true})
	if err != nil {
		t.Fatal(err)
	}
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: refusedConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	nc := connect(t, l.NATSURL())
	code := func(nc *nats.Conn, ttl string) (code int, answer []byte) {
		t.Helper()
		m, err := nc.RequestMsg(&nats.Msg{Subject: "cable.x", Header: nats.Header{"Nats-TTL": {ttl}}}, testkit.Patience)
		if err != nil {
			t.Fatal(err)
		}
		var a struct {
			Error struct {
				Code int `json:"err_code"`
			}
		}
		if err := json.Unmarshal(m.Data, &a); err != nil {
			t.Fatal(err)
		}
		return a.Error.Code, m.Data
	}
	taken, refused := 0, uint64(0)
	for _, ttl := range []string{"0", "-1", "abc", "-5s", "0s", "999ms", "2d", "1.5", "+10", "0x10", "1_0", "1e3s", "nevers", "9223372036854775808", "infinite", "10 s",
		"", "never", "Never", "NEVER", "60", "060", "00", "1m", "+1h", "60.5s", "1h1m1s"} {
		want, _ := code(at, ttl)
		got, answer := code(nc, ttl)
		if got != want {
			t.Errorf("%q: a stream answers with code %d, the outbox %s", ttl, want, answer)
		}
		switch want {
		case 0:
			taken++
		case 10165:
			refused++
		}
	}
	if taken < 10 || refused < 16 {
		t.Errorf("the stream took %d, and refused %d", taken, refused)
	}
	var u outboxState
	testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.Messages == 0 }, "nothing waits: %+v", &u)
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.State.Msgs != 2*uint64(taken) || u.Rejected != 0 || u.Dropped["header_refused"] != refused {
		t.Errorf("%d in the stream, %d taken, %d refused, %+v", info.State.Msgs, taken, refused, u)
	}
}

// TestOutboxNamesWhatNoStreamTakes has a stream that takes a part of the outbox's subjects. The
// first message of another waits, and is named; a gap marker does not wait for one.
func TestOutboxNamesWhatNoStreamTakes(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js, err := jetstream.New(connect(t, hub.ClientURL()))
	if err != nil {
		t.Fatal(err)
	}
	part := jetstream.StreamConfig{Name: "PART", Subjects: []string{"cable.*.temp"}}
	s, err := js.CreateStream(t.Context(), part)
	if err != nil {
		t.Fatal(err)
	}
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: refusedConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	nc := connect(t, l.NATSURL())
	rollup := &nats.Msg{Subject: "cable.a.temp", Header: nats.Header{"Nats-Rollup": {"sub"}}} // rejected, which a marker declares
	if _, err := nc.RequestMsg(rollup, testkit.Patience); err != nil {
		t.Fatal(err)
	}
	var u outboxState
	testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.Rejected == 1 && u.Messages == 0 && u.State == "live" }, "rejected, and nothing waits: %+v", &u)
	subjects := []string{"cable.a.temp", "cable.a.hum", "cable.b.temp"}
	for _, subject := range subjects {
		if _, err := nc.Request(subject, nil, testkit.Patience); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, func() bool {
		u = uplinkBox(l)
		return u.State == "refused" && strings.Contains(u.Reason, `captures "cable.a.hum", which is next; add it to the subjects of stream "PART"`)
	}, "named: %+v", &u)
	part.Subjects = []string{"cable.>"}
	if _, err := js.UpdateStream(t.Context(), part); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.Messages == 0 && u.State == "live" }, "nothing waits: %+v", &u)
	for i, subject := range subjects {
		if m, err := s.GetMsg(t.Context(), uint64(i+1)); err != nil || m.Subject != subject {
			t.Errorf("message %d: %+v, %v, want %s", i+1, m, err, subject)
		}
	}
}
