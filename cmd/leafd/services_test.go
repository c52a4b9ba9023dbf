package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
	"github.com/leafd/leafd/leaf"
)

// runWithSystem runs a daemon that has a system account, and a listener into that.
func runWithSystem(t *testing.T) (d *daemon, client, system string) {
	t.Helper()
	cfg := defaultConfig()
	cfg.Listen, cfg.ServerName = "127.0.0.1:0", "edge"
	cfg.Auth.Users = []leaf.User{{Name: "u", Password: "p"}}
	cfg.Auth.Accounts, cfg.Auth.SystemAccount = []leaf.AccountConfig{{Name: "SYS"}}, "SYS"
	logs, err := newLogs(cfg, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { logs.close() })
	d, err = newDaemon("leafd", cfg, &flags{}, logs)
	if err != nil {
		t.Fatal(err)
	}
	space, _ := d.auth.Router("SYS")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	door := leaf.New(leaf.Options{ConnIDs: &d.connIDs}, space)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- d.run(ctx, nil) }()
	go func() { ended <- door.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, <-ended); err != nil {
			t.Error(err)
		}
	})
	return d, "nats://" + d.natsLn.Addr().String(), "nats://" + ln.Addr().String()
}

func dial(t *testing.T, url string, o ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, append([]nats.Option{nats.Timeout(testkit.Patience)}, o...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// ask returns what differs little between two answers.
func ask(t *testing.T, nc *nats.Conn, subject, body string) (answer struct {
	Server struct{ ID, Name string }
	Data   map[string]any
	Error  *struct{ Code int }
	Statsz map[string]any
	ID     string
}) {
	t.Helper()
	m, err := nc.Request(subject, []byte(body), testkit.Patience)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		t.Fatalf("%s: %v %s", subject, err, m.Data)
	}
	return answer
}

func TestSystemRequests(t *testing.T) {
	d, client, system := runWithSystem(t)
	dial(t, client, nats.UserInfo("u", "p"), nats.Name("one"))
	sys := dial(t, system)
	for _, subject := range []string{"PING", "PING.STATSZ", d.id + ".STATSZ"} {
		a := ask(t, sys, "$SYS.REQ.SERVER."+subject, "")
		if a.Server.ID != d.id || a.Server.Name != "edge" || a.Statsz["connections"] != 1.0 {
			t.Errorf("%s: %+v", subject, a)
		}
	}
	for _, kind := range strings.Fields("VARZ CONNZ SUBSZ LEAFZ ACCOUNTZ JSZ ROUTEZ GATEWAYZ") {
		for _, to := range []string{"PING.", d.id + "."} {
			if a := ask(t, sys, "$SYS.REQ.SERVER."+to+kind, ""); a.Data["server_id"] != d.id || a.Server.ID != d.id {
				t.Errorf("%s%s: %+v", to, kind, a)
			}
		}
	}
	if a := ask(t, sys, "$SYS.REQ.SERVER.PING.HEALTHZ", ""); a.Data["status"] != "ok" || a.Data["status_code"] != 200.0 {
		t.Errorf("%+v", a)
	}
	if a := ask(t, sys, "$SYS.REQ.SERVER.PING.IDZ", ""); a.ID != d.id {
		t.Errorf("%+v", a)
	}
	if a := ask(t, sys, "$SYS.REQ.SERVER.PING.ACCOUNTZ", ""); a.Data["system_account"] != "SYS" {
		t.Errorf("%+v", a)
	}
	for subject, check := range map[string]func(map[string]any) bool{
		"$SYS.REQ.ACCOUNT.$G.CONNZ":   func(v map[string]any) bool { return v["num_connections"] == 1.0 },
		"$SYS.REQ.ACCOUNT.SYS.CONNZ":  func(v map[string]any) bool { return v["num_connections"] == 0.0 },
		"$SYS.REQ.ACCOUNT.$G.SUBSZ":   func(v map[string]any) bool { return v["total"] == 3.0 },
		"$SYS.REQ.ACCOUNT.$G.INFO":    func(v map[string]any) bool { return v["client_connections"] == 1.0 },
		"$SYS.REQ.ACCOUNT.$G.STATZ":   func(v map[string]any) bool { return len(v["account_statz"].([]any)) == 1 },
		"$SYS.REQ.ACCOUNT.PING.STATZ": func(v map[string]any) bool { return len(v["account_statz"].([]any)) == 1 },
		"$SYS.REQ.ACCOUNT.$G.LEAFZ":   func(v map[string]any) bool { return v["leafnodes"] == 0.0 },
	} {
		if a := ask(t, sys, subject, ""); !check(a.Data) {
			t.Errorf("%s: %+v", subject, a)
		}
	}
	if a := ask(t, sys, "$SYS.REQ.SERVER.PING.CONNZ", "{"); a.Error == nil || a.Error.Code != 400 {
		t.Errorf("%+v", a)
	}
	for _, subject := range []string{"$SYS.REQ.SERVER.PING.NOPE", "$SYS.REQ.SERVER.X.VARZ", "$SYS.REQ.ACCOUNT.$G.NOPE"} {
		if _, err := sys.Request(subject, nil, testkit.Patience); !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("%s: %v", subject, err)
		}
	}
}

// A client of another account asks about that alone, and about itself.
func TestAccountRequests(t *testing.T) {
	_, client, system := runWithSystem(t)
	dial(t, system)
	nc := dial(t, client, nats.UserInfo("u", "p"))
	if a := ask(t, nc, "$SYS.REQ.USER.INFO", ""); a.Data["user"] != "u" || a.Data["account"] != "$G" || a.Server.Name != "edge" {
		t.Errorf("%+v", a)
	}
	for _, subject := range []string{"$SYS.REQ.ACCOUNT.PING.CONNZ", "$SYS.REQ.SERVER.PING.CONNZ"} {
		for _, body := range []string{"", `{"acc":"SYS"}`} {
			if a := ask(t, nc, subject, body); a.Data["num_connections"] != 1.0 || a.Data["total"] != 1.0 {
				t.Errorf("%s %s: %+v", subject, body, a)
			}
		}
	}
	a := ask(t, nc, "$SYS.REQ.ACCOUNT.PING.STATZ", `{"accounts":["SYS"],"include_unused":true}`)
	if list := a.Data["account_statz"].([]any); len(list) != 1 || list[0].(map[string]any)["acc"] != "$G" {
		t.Errorf("%+v", a)
	}
	if _, err := nc.Request("$SYS.REQ.SERVER.PING", nil, testkit.Patience); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("the server answers whoever asks: %v", err)
	}
}

func TestSystemEvents(t *testing.T) {
	d, client, system := runWithSystem(t)
	sys := dial(t, system)
	events := make(chan *nats.Msg, 16)
	for _, s := range []string{"$SYS.ACCOUNT.>", "$SYS.SERVER.*.CLIENT.>", "$SYS.SERVER.*.STATSZ"} {
		if _, err := sys.ChanSubscribe(s, events); err != nil {
			t.Fatal(err)
		}
	}
	if err := sys.Flush(); err != nil {
		t.Fatal(err)
	}
	next := func(subject string) (v struct {
		Type, Reason string
		Client       struct{ Name, User, Acc, Kind string }
		Sent         struct{ Msgs int }
		Statsz       map[string]any
	}) {
		t.Helper()
		for m := range events {
			if m.Subject != subject && strings.HasSuffix(m.Subject, "STATSZ") {
				continue
			}
			if err := json.Unmarshal(m.Data, &v); err != nil || m.Subject != subject {
				t.Fatalf("%s, not %s: %v", m.Subject, subject, err)
			}
			break
		}
		return v
	}
	nc := dial(t, client, nats.UserInfo("u", "p"), nats.Name("one"))
	if v := next("$SYS.ACCOUNT.$G.CONNECT"); v.Type != "io.nats.server.advisory.v1.client_connect" || v.Client.Name != "one" || v.Client.User != "u" || v.Client.Acc != "$G" || v.Client.Kind != "Client" {
		t.Errorf("%+v", v)
	}
	if err := errors.Join(nc.Publish("a", nil), nc.Flush()); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	if v := next("$SYS.ACCOUNT.$G.DISCONNECT"); v.Type != "io.nats.server.advisory.v1.client_disconnect" || v.Reason != "Client Closed" || v.Sent.Msgs != 1 || v.Client.Name != "one" {
		t.Errorf("%+v", v)
	}
	if _, err := nats.Connect(client, nats.UserInfo("u", "wrong")); err == nil {
		t.Error("let in")
	}
	if v := next("$SYS.SERVER." + d.id + ".CLIENT.AUTH.ERR"); v.Reason != "Authentication Failure" || v.Client.User != "u" {
		t.Errorf("%+v", v)
	}
	if v := next("$SYS.SERVER." + d.id + ".STATSZ"); v.Statsz["total_connections"] == nil {
		t.Errorf("%+v", v)
	}
}

// Questions are refused and events counted as lost when nobody gets to them.
func TestServicesAreBounded(t *testing.T) {
	s := newServices("ID", leaf.NewClosedRing(1), slog.New(slog.NewTextHandler(t.Output(), nil)))
	r := leaf.NewRouter()
	if err := s.attach(nil, []space{{"SYS", r, true}}); err != nil {
		t.Fatal(err)
	}
	p := r.Attach("client", &testkit.Sink{}, leaf.EachSub)
	refused := 0
	for range maxWork + 5 {
		rc := p.Publish(&msg.Msg{Subject: []byte("$SYS.REQ.SERVER.PING"), Reply: []byte("r")})
		if rc.Taken == 0 {
			refused++
		}
		p.Flush()
	}
	if err := p.Subscribe(&msg.Sub{Subject: "$SYS.ACCOUNT.*.CONNECT"}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s.Connected(&leaf.ConnInfo{ID: 1, Known: true, Account: "A"})
	}
	if refused != 5 || s.lost.Load() != 3 || r.Stats().Drops[msg.SlowConsumer].Load() != 5 {
		t.Errorf("%d refused, %d events lost", refused, s.lost.Load())
	}
}

// An event that nobody hears is not made, and costs nothing; nor does it wait in the
// place of a question. Whoever may hear it counts: a client of the system account, of
// one that imports from there, a hub.
func TestEventsNobodyHears(t *testing.T) {
	s := newServices("ID", leaf.NewClosedRing(0), slog.New(slog.NewTextHandler(t.Output(), nil)))
	global := leaf.NewRouter()
	auth, err := leaf.NewAuth(leaf.AuthConfig{SystemAccount: "SYS", Accounts: []leaf.AccountConfig{
		{Name: "SYS", Exports: []leaf.Export{{Subject: "$SYS.ACCOUNT.A.>"}}},
		{Name: "A", Imports: []leaf.Import{{Account: "SYS", Subject: "$SYS.ACCOUNT.A.>"}}}}}, global)
	if err != nil {
		t.Fatal(err)
	}
	sys, _ := auth.Router("SYS")
	a, _ := auth.Router("A")
	if err := s.attach(nil, []space{{"$G", global, false}, {"A", a, false}, {"SYS", sys, true}}); err != nil {
		t.Fatal(err)
	}
	one := &leaf.ConnInfo{ID: 1, Known: true, Account: "A"}
	tell := func() { s.Connected(one); s.Refused(one); s.Closed(one) }
	other := &leaf.ConnInfo{ID: 2, Known: true, Account: "B"} // which nothing crosses to
	nobody := func() {
		t.Helper()
		tell()
		if n := testing.AllocsPerRun(100, func() { s.Connected(other); s.Closed(other) }); n > 0 && !testkit.RaceEnabled || len(s.work) > 0 || s.lost.Load() > 0 {
			t.Errorf("%v allocations, %d events made for nobody, %d lost", n, len(s.work), s.lost.Load())
		}
	}
	nobody()
	for _, listener := range []struct {
		at      *leaf.Router
		mode    leaf.Mode
		subject string
		hears   int
	}{
		{sys, leaf.EachSub, "$SYS.ACCOUNT.*.CONNECT", 1}, {sys, leaf.EachSub, ">", 3}, {sys, leaf.Uplink, "$SYS.ACCOUNT.>", 2},
		{a, leaf.EachSub, "$SYS.ACCOUNT.A.DISCONNECT", 1}, {sys, leaf.EachSub, "$SYS.SERVER.*.CLIENT.AUTH.ERR", 1},
		{sys, leaf.EachSub, "$SYS.ACCOUNT.B.*", 0}, {global, leaf.EachSub, ">", 0},
	} {
		p := listener.at.Attach("listener", &testkit.Sink{}, listener.mode)
		if err := p.Subscribe(&msg.Sub{Subject: listener.subject}); err != nil {
			t.Fatal(err)
		}
		if tell(); len(s.work) != listener.hears {
			t.Errorf("%d events made for %s", len(s.work), listener.subject)
		}
		p.Close()
		for len(s.work) > 0 {
			<-s.work
		}
		nobody()
	}
}
