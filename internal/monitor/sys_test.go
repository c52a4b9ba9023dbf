package monitor

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

func sysMonitor() *Monitor {
	return New(Options{ServerID: "ID", ServerName: "edge-7", Version: "2.15.2", Host: "127.0.0.1",
		Varz:  func() Varz { return Varz{ServerID: "ID", InMsgs: 5, OutClientMsgs: 4, Connections: 2} },
		Conns: three, Accounts: func() []Account { return []Account{{Name: GlobalAccount, Conns: 1}, {Name: "A"}} },
		Subs: func(account string) []SubDetail { return []SubDetail{{Subject: "a", Account: account}} }})
}

// short is an answer without what differs each time.
func short(b []byte) string {
	if b == nil {
		return ""
	}
	var v struct {
		Server ServerInfo
		Data   map[string]any
		Statsz map[string]any
		Error  *apiError
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return err.Error()
	}
	text := v.Server.Name + " " + v.Server.ID + " " + v.Server.Version
	for _, key := range []string{"server_id", "in_msgs", "num_connections", "total", "leafnodes", "status", "status_code", "disabled", "account_name", "account_detail", "accounts", "num_routes", "cmdline"} {
		if got, ok := v.Data[key]; ok && key != "cmdline" {
			text += fmt.Sprintf(" %s=%.20v", key, got)
		}
	}
	if v.Statsz != nil {
		text += fmt.Sprint(" statsz ", v.Statsz["received"], v.Statsz["active_accounts"])
	}
	if v.Error != nil {
		text += fmt.Sprintf(" error %d %s", v.Error.Code, v.Error.Description)
	}
	return strings.TrimPrefix(text, "edge-7 ID 2.15.2")
}

func TestAnswerServer(t *testing.T) {
	m := sysMonitor()
	for _, tc := range []struct{ kind, body, want string }{
		{"VARZ", "", " server_id=ID in_msgs=5 leafnodes=0"},
		{"VARZ", `{"server_name":"edge"}`, " server_id=ID in_msgs=5 leafnodes=0"},
		{"VARZ", `{"server_name":"edge","exact_match":true}`, ""},
		{"VARZ", `{"host":"127.0.0.1","exact_match":true}`, " server_id=ID in_msgs=5 leafnodes=0"},
		{"VARZ", `{"cluster":"c"}`, ""},
		{"VARZ", `{"tags":["a"]}`, ""},
		{"VARZ", `{"domain":"hub"}`, ""},
		{"VARZ", `{`, " error 400 unexpected end of JSON input"},
		{"CONNZ", `{"limit":1,"sort":"subs"}`, " server_id=ID num_connections=1 total=3"},
		{"CONNZ", `{"sort":"x"}`, " error 500 invalid sorting option: x"},
		{"CONNZ", `{"limit":"x"}`, " error 400 json: cannot unmarshal string into Go struct field ConnzOptions.page.limit of type int"},
		{"SUBSZ", `{"subscriptions":true}`, " server_id=ID total=1"},
		{"LEAFZ", "", " server_id=ID leafnodes=0"},
		{"ACCOUNTZ", "", " server_id=ID accounts=[$G A]"},
		{"ACCOUNTZ", `{"account":"nope"}`, " error 500 Account nope does not exist"},
		{"HEALTHZ", "", " status=ok status_code=200"},
		{"HEALTHZ", `{"stream":"a"}`, " status=error status_code=400"},
		{"JSZ", "", " server_id=ID total=0 disabled=true accounts=0"},
		{"JSZ", `{"leader_only":true}`, ""},
		{"STATSZ", "", " statsz map[bytes:0 msgs:5] 1"},
		{"STATSZ", `{"server_name":"other"}`, ""},
		{"ROUTEZ", "", " server_id=ID num_routes=0"},
		{"GATEWAYZ", "", " server_id=ID"},
		{"NOPE", "", ""},
	} {
		if got := short(m.AnswerServer(tc.kind, []byte(tc.body))); got != tc.want {
			t.Errorf("%s %s\n got %s\nwant %s", tc.kind, tc.body, got, tc.want)
		}
	}
	if got := string(m.AnswerServer("IDZ", nil)); got != `{"host":"127.0.0.1","id":"ID","name":"edge-7"}` {
		t.Error(got)
	}
	for _, kind := range Kinds() {
		if m.AnswerServer(kind, nil) == nil {
			t.Errorf("%s is not answered", kind)
		}
	}
}

func TestAnswerAccount(t *testing.T) {
	m := sysMonitor()
	for _, tc := range []struct{ kind, account, body, want string }{
		{"CONNZ", "A", "", " server_id=ID num_connections=2 total=2"},
		{"CONNZ", "A", `{"acc":"$G"}`, " server_id=ID num_connections=2 total=2"}, // not that of another
		{"SUBSZ", "A", "", " server_id=ID total=1"},
		{"LEAFZ", "A", "", " server_id=ID leafnodes=0"},
		{"INFO", "A", "", " account_name=A"},
		{"INFO", "nope", "", " error 500 Account nope does not exist"},
		{"STATZ", GlobalAccount, "", " server_id=ID"},
		{"STATZ", "A", "", ""}, // has no connections
		{"STATZ", "A", `{"include_unused":true}`, " server_id=ID"},
		{"STATZ", "", `{"accounts":["nope"]}`, ""},
		{"STATZ", GlobalAccount, `[]`, " error 400 json: cannot unmarshal array into Go value of type monitor.forServers"},
		{"NOPE", "A", "", ""},
	} {
		if got := short(m.AnswerAccount(tc.kind, tc.account, []byte(tc.body))); got != tc.want {
			t.Errorf("%s %s %s\n got %s\nwant %s", tc.kind, tc.account, tc.body, got, tc.want)
		}
	}
}

func TestEvents(t *testing.T) {
	m := sysMonitor()
	stop := t0.Add(time.Hour)
	c := &Conn{Cid: 7, Kind: "Client", Type: "nats", IP: "10.0.0.7", Start: t0, Stop: &stop, User: "u", Account: "A", Name: "n", InMsgs: 1, OutBytes: 9}
	var come connectMsg
	if err := json.Unmarshal(m.ConnectEvent(c), &come); err != nil {
		t.Fatal(err)
	}
	if come.Type != "io.nats.server.advisory.v1.client_connect" || come.ID == "" || come.Server.ID != "ID" || come.Client.ID != 7 || come.Client.Account != "A" {
		t.Errorf("%+v", come)
	}
	var gone disconnectMsg
	if err := json.Unmarshal(m.DisconnectEvent(c, "Client Closed"), &gone); err != nil {
		t.Fatal(err)
	}
	if gone.Type != "io.nats.server.advisory.v1.client_disconnect" || gone.Reason != "Client Closed" || !gone.Time.Equal(stop) || gone.Sent.Msgs != 1 || gone.Received.Bytes != 9 ||
		gone.Server.Seq <= come.Server.Seq {
		t.Errorf("%+v", gone)
	}
}

// Whatever a request holds, the answer is JSON, or there is none.
func FuzzRequest(f *testing.F) {
	m := sysMonitor()
	for _, body := range []string{"", "{}", `{"limit":-1,"offset":9}`, `{"state":7}`, `{"sort":"uptime","subscriptions_detail":true}`, `{"acc":"A","filter_subject":"*.>"}`,
		`{"server_name":"e","exact_match":false,"tags":[]}`, `[1]`, `{"accounts":["A"],"include_unused":true}`, `{"test":"a.b","subscriptions":true}`, "\x00"} {
		for _, kind := range []string{"CONNZ", "SUBSZ", "STATZ", "HEALTHZ"} {
			f.Add(kind, body)
		}
	}
	f.Fuzz(func(t *testing.T, kind, body string) {
		for _, answer := range [][]byte{m.AnswerServer(kind, []byte(body)), m.AnswerAccount(kind, "A", []byte(body))} {
			if answer != nil && !json.Valid(answer) {
				t.Errorf("no JSON: %s", answer)
			}
		}
	})
}
