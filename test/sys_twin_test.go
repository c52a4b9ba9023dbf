package test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/nats-io/nats.go"

	"github.com/leafd/leafd/internal/testkit"
)

// What the system account is told of clients of other accounts that come and go is what
// nats-server tells.
func TestTwinConnectionEvents(t *testing.T) {
	both := startWatched(t)
	var events [2]any
	for i, m := range both {
		sys := connect(t, m.nats, nats.UserInfo("sys", "p"), nats.Name("sys"))
		heard := make(chan *nats.Msg, 64)
		for _, s := range []string{"$SYS.ACCOUNT.*.CONNECT", "$SYS.ACCOUNT.*.DISCONNECT", "$SYS.SERVER.*.CLIENT.AUTH.ERR"} {
			if _, err := sys.ChanSubscribe(s, heard); err != nil {
				t.Fatal(err)
			}
		}
		sys.Flush()
		all := map[string]any{}
		next := func(what string) {
			t.Helper()
			var m *nats.Msg
			var v map[string]any
			for named := false; !named; { // not sys itself, if it listens early enough, nor who looked whether the port is open
				m, v = <-heard, nil
				if err := json.Unmarshal(m.Data, &v); err != nil {
					t.Fatal(err)
				}
				client, _ := v["client"].(map[string]any)
				name, _ := client["name"].(string)
				named = name != "" && name != "sys"
			}
			subject := m.Subject
			if strings.HasPrefix(subject, "$SYS.SERVER.") {
				subject = "$SYS.SERVER.*" + subject[strings.LastIndex(subject, ".CLIENT"):]
			}
			v["subject"] = subject
			all[what] = v
		}
		for _, o := range []nats.Option{nats.UserInfo("a", "p"), nats.Nkey(twinUser, twinKey.Sign), nats.UserInfo("limited", "p")} {
			nc := connect(t, m.nats, o, nats.Name("one"))
			what := fmt.Sprint(len(all))
			next(what + " comes")
			if err := nc.Publish("x", []byte("12345")); err != nil {
				t.Fatal(err)
			}
			nc.Flush()
			nc.Close()
			next(what + " goes")
		}
		if _, err := nats.Connect(m.nats, nats.UserInfo("a", "wrong"), nats.Name("wrong")); err == nil {
			t.Error("let in")
		}
		next("one is refused")
		events[i] = all
	}
	wantSame(t, "events", events)
}

// The system account has clients told to go, cut off, and the configuration read anew,
// and is answered as by nats-server.
func TestTwinSystemOrders(t *testing.T) {
	config := `
system_account: SYS
accounts { SYS { users: [ { user: sys, password: p } ] }, A { users: [ { user: a, password: p } ] } }
`
	w := startTwins(t, config)
	var heard [2]any
	for i, addr := range w.addr {
		url := "nats://" + addr
		closed, lame, gone := make(chan error, 1), make(chan struct{}, 1), make(chan struct{}, 1)
		a := connect(t, url, nats.UserInfo("a", "p"), nats.NoReconnect(), nats.LameDuckModeHandler(func(*nats.Conn) { lame <- struct{}{} }),
			nats.ClosedHandler(func(nc *nats.Conn) { closed <- nc.LastError() }))
		sys := connect(t, url, nats.UserInfo("sys", "p"), nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { gone <- struct{}{} }))
		events, err := sys.SubscribeSync("$SYS.ACCOUNT.A.DISCONNECT")
		if err != nil {
			t.Fatal(err)
		}
		cid, err := a.GetClientID()
		if err != nil {
			t.Fatal(err)
		}
		a.Flush()
		order := func(kind, body string) map[string]any {
			return askOne(t, sys, "$SYS.REQ.SERVER."+sys.ConnectedServerId()+"."+kind, body)
		}
		all := map[string]any{}
		all["notice"] = order("LDM", fmt.Sprintf(`{"cid":%d}`, cid))
		<-lame
		if err := a.Flush(); err != nil {
			t.Errorf("told to go, and cut off: %v", err)
		}
		all["kick"] = order("KICK", fmt.Sprintf(`{"cid":%d}`, cid))
		all["closed"] = fmt.Sprint(<-closed)
		m, err := events.NextMsg(testkit.Patience)
		if err != nil {
			t.Fatal(err)
		}
		var event map[string]any
		if err := json.Unmarshal(m.Data, &event); err != nil {
			t.Fatal(err)
		}
		all["event"] = event["reason"]
		all["kick again"] = order("KICK", fmt.Sprintf(`{"cid":%d}`, cid))
		all["notice again"] = order("LDM", fmt.Sprintf(`{"cid":%d}`, cid))
		all["other server"] = order("KICK", `{"cid":1,"server_name":"twin"}`)
		put := []func(string){func(s string) { w.leafd.Configure(twinListen + s) }, w.write}[i]
		put(strings.Replace(config, "user: a", "user: b", 1))
		all["reload"] = order("RELOAD", "")
		if _, err := nats.Connect(url, nats.UserInfo("a", "p")); err == nil {
			t.Error("reloaded, and who was removed is let in")
		}
		connect(t, url, nats.UserInfo("b", "p"))
		put(config + "no_such_key_there: 1\n")
		wrong := order("RELOAD", "")["error"].(map[string]any)
		if all["wrong"] = wrong["code"]; !strings.Contains(wrong["description"].(string), "no_such_key_there") {
			t.Errorf("%v does not say what is wrong", wrong)
		}
		connect(t, url, nats.UserInfo("b", "p"))
		put(strings.Replace(config, "user: sys", "user: other", 1))
		// Who asks for it may be cut off by it; the answer is lost then, or not.
		sys.PublishRequest("$SYS.REQ.SERVER."+sys.ConnectedServerId()+".RELOAD", "nobody", nil)
		<-gone
		heard[i] = all
	}
	wantSame(t, "orders", heard)
}

// A device that is kicked loses its connection; a link, too, and comes back.
func TestKickOfDevicesAndLinks(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{})
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}, Config: `
server_name: edge
host: "127.0.0.1", port: $LEAFD_NATS_PORT
http: $LEAFD_HTTP_PORT
mqtt { host: "127.0.0.1", port: $LEAFD_MQTT_PORT }
system_account: SYS
accounts { SYS { users: [ { user: sys, password: p } ] } }
authorization { users: [ { user: g, password: p } ] }
leafnodes { remotes: [ { url: $LEAFD_HUB_URL } ] }
`})
	m := monitored{"leafd", l.NATSURL(), l.HTTPURL()}
	sys := connect(t, m.nats, nats.UserInfo("sys", "p"))
	order := func(kind, body string) map[string]any {
		return askOne(t, sys, "$SYS.REQ.SERVER."+sys.ConnectedServerId()+"."+kind, body)
	}
	lost := make(chan error, 1)
	device := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(l.MQTTURL()).SetClientID("dev").SetUsername("g").SetPassword("p").SetAutoReconnect(false).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { lost <- err }))
	wait(t, device.Connect())
	cid := number(m.get(t, "/connz?mqtt_client=dev")["connections"].([]any)[0].(map[string]any)["cid"])
	if a := order("KICK", fmt.Sprintf(`{"cid":%v}`, cid)); a["error"] != nil {
		t.Error(a)
	}
	<-lost
	testkit.Eventually(t, func() bool {
		list := m.get(t, "/connz?state=closed&mqtt_client=dev")["connections"].([]any)
		return len(list) == 1 && list[0].(map[string]any)["reason"] == "Kicked"
	}, "the device kicked")
	link := func() float64 {
		if list := m.get(t, "/leafz")["leafs"].([]any); len(list) == 1 {
			return number(list[0].(map[string]any)["id"])
		}
		return 0
	}
	testkit.Eventually(t, func() bool { return link() > 0 }, "the link up")
	first := link()
	if a := order("KICK", fmt.Sprintf(`{"cid":%v}`, first)); a["error"] != nil {
		t.Error(a)
	}
	testkit.Eventually(t, func() bool { return link() > first }, "another link up")
	if a := order("LDM", fmt.Sprintf(`{"cid":%v}`, link())); a["error"] == nil {
		t.Error(a)
	}
}
