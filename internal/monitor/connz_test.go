package monitor

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

var t0 = time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)

// three are connections that each way to sort puts in another order.
func three() []Conn {
	at := func(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }
	subs := func(subjects ...string) func() []SubDetail {
		return func() (all []SubDetail) {
			for i, s := range subjects {
				all = append(all, SubDetail{Subject: s, SID: fmt.Sprint(i)})
			}
			return all
		}
	}
	return []Conn{
		{Cid: 7, Start: at(0), LastActivity: at(30), Pending: 2, InMsgs: 1, OutMsgs: 3, InBytes: 5, OutBytes: 1, NumSubs: 1, RTT: 3, User: "u", Account: GlobalAccount, List: subs("a.*")},
		{Cid: 3, Start: at(9), LastActivity: at(20), Pending: 3, InMsgs: 2, OutMsgs: 1, InBytes: 4, OutBytes: 3, NumSubs: 2, RTT: 1, User: "v", Account: "A", List: subs("b", "c.>")},
		{Cid: 5, Start: at(5), LastActivity: at(40), Pending: 1, InMsgs: 3, OutMsgs: 2, InBytes: 6, OutBytes: 2, NumSubs: 0, RTT: 2, MQTTClient: "dev", Account: "A"},
	}
}

func closedOnes() []Conn {
	list := three()
	for i := range list {
		stop := t0.Add(time.Duration(60+10*i) * time.Second)
		list[i].Cid += 100
		list[i].Stop, list[i].Reason = &stop, []string{"b", "a", "c"}[i]
	}
	return list
}

func TestConnz(t *testing.T) {
	m := New(Options{ServerID: "ID", Conns: three, Closed: closedOnes,
		Leafs: func() []Leaf {
			return []Leaf{{ID: 9, Account: GlobalAccount, Start: t0, List: func() []string { return []string{"up"} }}}
		}})
	for query, want := range map[string]string{
		"":                               "3 5 7 9 of 4",
		"sort=start&limit=2":             "3 5 of 4",
		"limit=2&offset=1":               "5 7 of 4",
		"limit=2&offset=9":               "of 4",
		"limit=-1&offset=-1":             "3 5 7 9 of 4",
		"sort=subs&limit=2":              "3 7 of 4",
		"sort=pending&limit=2":           "3 7 of 4",
		"sort=msgs_to&limit=2":           "7 5 of 4",
		"sort=msgs_from&limit=2":         "5 3 of 4",
		"sort=bytes_to&limit=2":          "3 5 of 4",
		"sort=bytes_from&limit=2":        "5 7 of 4",
		"sort=last&limit=3":              "5 7 3 of 4",
		"sort=idle&limit=2":              "9 3 of 4",
		"sort=uptime&acc=A":              "3 5 of 2",
		"sort=rtt&limit=2":               "7 5 of 4",
		"state=closed&sort=stop":         "105 103 107 of 3",
		"state=closed&sort=reason":       "103 107 105 of 3",
		"state=ANY":                      "3 5 7 9 103 105 107 of 7",
		"state=all&acc=A":                "3 5 103 105 of 4",
		"cid=3":                          "3 of 4",
		"cid=3&user=u":                   "of 4",
		"cid=103":                        "of 4",
		"cid=103&state=any":              "103 of 7",
		"user=u":                         "7 of 4",
		"mqtt_client=dev":                "5 of 4",
		"acc=nope":                       "of 0",
		"acc=A&filter_subject=c.*":       "3 of 2",
		"acc=A&filter_subject=b":         "3 of 2",
		"acc=A&filter_subject=x.%3E":     "of 2",
		"acc=A&filter_subject=%3E":       "3 5 of 2",
		"acc=$G&filter_subject=*&cid=9":  "9 of 2",
		"acc=$G&filter_subject=*.*&auth": "7 of 2",
	} {
		w := get(t, m, "GET", "/connz?"+query)
		var z Connz
		if err := json.Unmarshal(w.Body.Bytes(), &z); err != nil || w.Code != 200 {
			t.Errorf("%s: %d %v %s", query, w.Code, err, w.Body)
			continue
		}
		var got []string
		for _, c := range z.Conns {
			got = append(got, fmt.Sprint(c.Cid))
		}
		if text := strings.Join(append(got, "of", fmt.Sprint(z.Total)), " "); text != want {
			t.Errorf("%s: %s, want %s", query, text, want)
		}
		if z.NumConns != len(z.Conns) || z.ServerID != "ID" {
			t.Errorf("%s: %+v", query, z)
		}
	}
}

func TestConnzDetails(t *testing.T) {
	m := New(Options{Conns: three, Closed: closedOnes})
	z, err := m.Connz(ConnzOptions{State: Any})
	if err != nil {
		t.Fatal(err)
	}
	if c := z.Conns[0]; c.Subs != nil || c.SubsDetail != nil || c.AuthorizedUser != "" || c.AccountName != "" || c.RTTText != "1ns" {
		t.Errorf("shown though nobody asked: %+v", c)
	}
	if c := z.Conns[3]; c.Uptime != "1m1s" || c.Idle != "50s" {
		t.Errorf("%s up, %s idle at its end", c.Uptime, c.Idle)
	}
	z, _ = m.Connz(ConnzOptions{Subs: true, Auth: true})
	if c := z.Conns[0]; !slices.Equal(c.Subs, []string{"b", "c.>"}) || c.AuthorizedUser != "v" || c.AccountName != "A" || c.NameTag != "A" {
		t.Errorf("%+v", c)
	}
	if c := z.Conns[2]; c.AccountName != "" || c.NameTag != GlobalAccount {
		t.Errorf("%+v", c)
	}
	z, _ = m.Connz(ConnzOptions{Detail: true, Subs: true})
	if c := z.Conns[0]; len(c.SubsDetail) != 2 || c.Subs != nil {
		t.Errorf("%+v", c)
	}
}

func TestSubsz(t *testing.T) {
	m := New(Options{
		Accounts: func() []Account {
			return []Account{{Name: "A", Subs: SublistStats{NumSubs: 2, NumCache: 1, Fanout: 3, MaxFanout: 3, NumMatches: 4, CacheHits: 1}},
				{Name: "B", Subs: SublistStats{NumSubs: 1, NumCache: 1, Fanout: 1, MaxFanout: 1}}}
		},
		Subs: func(account string) []SubDetail {
			all := []SubDetail{{Subject: "a.>", Account: "A"}, {Subject: "a.*.c", Account: "A"}}
			if account == "" {
				all = append(all, SubDetail{Subject: "a.b", Account: "B"})
			}
			return all
		}})
	for query, want := range map[string]string{
		"":                         "3 2 3 2 0.25 of 0",
		"acc=A":                    "2 1 3 3 0.25 of 0",
		"acc=nope":                 "0 0 0 0 0 of 0",
		"subs=1":                   "3 2 3 2 0.25 a.> a.*.c a.b of 3",
		"subs=1&limit=1&offset=1":  "3 2 3 2 0.25 a.*.c of 3",
		"subs=1&test=a.b":          "3 2 3 2 0.25 a.> a.b of 2",
		"subs=1&test=a.b.c&acc=A":  "2 1 3 3 0.25 a.> a.*.c of 2",
		"subs=1&test=a.b.c.d":      "3 2 3 2 0.25 a.> of 1",
		"subs=1&test=a":            "3 2 3 2 0.25 of 0",
		"subs=true&test=b&limit=1": "3 2 3 2 0.25 of 0",
	} {
		var z Subsz
		w := get(t, m, "GET", "/subsz?"+query)
		if err := json.Unmarshal(w.Body.Bytes(), &z); err != nil {
			t.Fatalf("%s: %v %s", query, err, w.Body)
		}
		got := []string{fmt.Sprint(z.NumSubs, z.NumCache, z.MaxFanout, z.AvgFanout, z.CacheHitRate)}
		for _, s := range z.Subs {
			got = append(got, s.Subject)
		}
		if text := strings.Join(append(got, "of", fmt.Sprint(z.Total)), " "); text != want {
			t.Errorf("%s: %s, want %s", query, text, want)
		}
	}
}

func TestSubjects(t *testing.T) {
	for _, tc := range []struct {
		a, b              string
		matches, collides bool
	}{
		{"a", "a", true, true}, {"a", "b", false, false}, {"a.b", "a.*", true, true}, {"a.b", "*", false, false}, {"a.b", ">", true, true},
		{"a", "a.>", false, false}, {"a.b.c", "a.>", true, true}, {"a.b", "a.b.c", false, false}, {"*.b", "a.*", false, true}, {"a.>", "*.b.c", false, true},
		{"", "", true, true}, {"a.", "a.*", true, true},
	} {
		if got := matches(tc.a, tc.b); got != tc.matches && literal(tc.a) {
			t.Errorf("%s matches %s: %v", tc.a, tc.b, got)
		}
		if got := collide(tc.a, tc.b); got != tc.collides || collide(tc.b, tc.a) != got {
			t.Errorf("%s and %s overlap: %v", tc.a, tc.b, got)
		}
	}
}

func TestAccounts(t *testing.T) {
	m := New(Options{Accounts: func() []Account {
		return []Account{{Name: GlobalAccount, Conns: 2, Leafs: 1, In: Counts{5, 50}, Out: Counts{6, 60}, LeafIn: Counts{1, 10}, LeafOut: Counts{2, 20}},
			{Name: "SYS", System: true, Subs: SublistStats{NumSubs: 9}}}
	}})
	z, err := m.Accountz("")
	if err != nil || z.SystemAccount != "SYS" || !slices.Equal(z.Accounts, []string{GlobalAccount, "SYS"}) || z.Account != nil {
		t.Errorf("%+v %v", z, err)
	}
	z, err = m.Accountz("SYS")
	if err != nil || z.Accounts != nil || !z.Account.System || z.Account.Subs != 9 || !z.Account.Complete || z.Account.NameTag != "SYS" {
		t.Errorf("%+v %v", z, err)
	}
	s := m.AccountStatz(AccountStatzOptions{})
	if len(s.Accounts) != 1 {
		t.Fatalf("%+v", s)
	}
	if a := s.Accounts[0]; a.TotalConns != 3 || a.Received.Msgs != 5 || a.Received.Leafs.Bytes != 10 || a.Sent.Leafs.Msgs != 2 || *a.Sent.Routes != (Counts{}) {
		t.Errorf("%+v", a)
	}
	if s := m.AccountStatz(AccountStatzOptions{Unused: true, Accounts: []string{"SYS"}}); len(s.Accounts) != 1 || s.Accounts[0].NumSubs != 9 {
		t.Errorf("%+v", s)
	}
}

func TestHealthzParameters(t *testing.T) {
	m := New(Options{Health: func() []string { return []string{"the store is full"} }})
	for query, want := range map[string]string{
		"":                       `503 {"status":"unavailable","error":"the store is full","reasons":["the store is full"]}`,
		"js-meta-only=1":         `503 {"status":"unavailable","error":"the store is full","reasons":["the store is full"]}`,
		"js-server-only=true":    `200 {"status":"ok"}`,
		"js-enabled-only=1":      `200 {"status":"ok"}`,
		"js-enabled=T":           `200 {"status":"ok"}`,
		"details=1":              `503 {"status":"error","errors":[{"type":"JETSTREAM","error":"the store is full"}]}`,
		"stream=a":               `400 {"status":"error","error":"\"account\" must not be empty when checking stream health"}`,
		"consumer=a&details=1":   `400 {"status":"error","errors":[{"type":"BAD_REQUEST","error":"\"stream\" must not be empty when checking consumer health"}]}`,
		"account=a&stream=b":     `503 {"status":"unavailable","error":"the store is full","reasons":["the store is full"]}`,
		"details=2":              `400 Error decoding boolean for 'details': strconv.ParseBool: parsing "2": invalid syntax`,
		"details=2&js-enabled=x": `400 Error decoding boolean for 'js-enabled': strconv.ParseBool: parsing "x": invalid syntax`,
	} {
		w := get(t, m, "GET", "/healthz?"+query)
		body := w.Body.String()
		var v json.RawMessage
		if json.Unmarshal([]byte(body), &v) == nil {
			var h health
			if err := json.Unmarshal(v, &h); err != nil {
				t.Fatal(err)
			}
			b, _ := json.Marshal(h)
			body = string(b)
		}
		if got := fmt.Sprint(w.Code, " ", body); got != want {
			t.Errorf("%s\n got %s\nwant %s", query, got, want)
		}
	}
}

func TestSecretsOfTheCommandLine(t *testing.T) {
	got := withoutSecrets(strings.Fields("leafd -p 4222 --pass s1 --auth=s2 -pass=s3 --user u -c nats://u:s4@h x --pass"))
	if want := strings.Fields("leafd -p 4222 --pass [REDACTED] --auth=[REDACTED] -pass=[REDACTED] --user u -c [REDACTED] x --pass"); !slices.Equal(got, want) {
		t.Error(got)
	}
}

func TestStacksAndVars(t *testing.T) {
	m := New(Options{})
	if w := get(t, m, "GET", "/stacksz"); !strings.Contains(w.Body.String(), "TestStacksAndVars") {
		t.Error("this test is not among what runs")
	}
	w := get(t, m, "GET", "/debug/vars")
	var v struct {
		Memstats struct{ HeapAlloc uint64 }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || v.Memstats.HeapAlloc == 0 {
		t.Error(err, w.Body)
	}
	z := m.varz()
	if z.HTTPReqStats["/stacksz"] != 1 || z.HTTPReqStats["/debug/vars"] != 1 || len(z.HTTPReqStats) != 2 {
		t.Errorf("%v", z.HTTPReqStats)
	}
}

// Whatever a query says, the answer is JSON or a reason, and nothing fails.
func FuzzQuery(f *testing.F) {
	m := New(Options{Conns: three, Closed: closedOnes, Accounts: func() []Account { return []Account{{Name: GlobalAccount}} },
		Subs: func(string) []SubDetail { return []SubDetail{{Subject: "a.*.c"}} }})
	for _, seed := range []string{"/connz?subs=detail&sort=rtt&limit=1&offset=1", "/connz?state=closed&sort=stop", "/connz?acc=A&filter_subject=c.*", "/connz?cid=18446744073709551615",
		"/subsz?subs=1&test=a.b.c", "/subsz?test=..", "/leafz?subs=1&acc=$G", "/accountz?acc=$G", "/accstatz?unused=1", "/healthz?details=1&stream=a", "/jsz?leader-only=1",
		"/varz?callback=f", "/connz?callback=a.b&limit=%31", "/connz?limit=-9223372036854775808&offset=9223372036854775807", "/gatewayz?accs=1&subs=detail", "/raftz", "/nope"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, target string) {
		r, err := http.NewRequestWithContext(t.Context(), "GET", target, nil)
		if err != nil || r.URL.Path == "/stacksz" {
			return
		}
		w := httptest.NewRecorder()
		m.ServeHTTP(w, r)
		switch kind := w.Header().Get("Content-Type"); {
		case w.Code >= 500 && r.URL.Path != "/healthz":
			t.Errorf("%d", w.Code)
		case w.Code == 200 && kind == "application/json" && !json.Valid(w.Body.Bytes()):
			t.Errorf("no JSON: %s", w.Body)
		}
	})
}
