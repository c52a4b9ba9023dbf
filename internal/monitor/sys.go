package monitor

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"
)

// ServerInfo says which server an answer or event is of.
type ServerInfo struct {
	Name      string    `json:"name"`
	Host      string    `json:"host"`
	ID        string    `json:"id"`
	Version   string    `json:"ver"`
	JetStream bool      `json:"jetstream"`
	Flags     uint64    `json:"flags"`
	Seq       uint64    `json:"seq"`
	Time      time.Time `json:"time"`
}

func (m *Monitor) serverInfo() ServerInfo {
	return ServerInfo{Name: m.o.ServerName, Host: m.o.Host, ID: m.o.ServerID, Version: m.o.Version,
		Seq: m.seq.Add(1), Time: time.Now().UTC()}
}

// envelope is what answers to system requests come in.
type envelope struct {
	Server ServerInfo `json:"server"`
	Data   any        `json:"data,omitempty"`
	Error  *apiError  `json:"error,omitempty"`
}

type apiError struct {
	Code        int    `json:"code"`
	Description string `json:"description,omitempty"`
}

// forServers are filters in a request to all servers: one that does not fit is
// silent.
type forServers struct {
	Name       string   `json:"server_name,omitempty"`
	Cluster    string   `json:"cluster,omitempty"`
	Host       string   `json:"host,omitempty"`
	ExactMatch bool     `json:"exact_match,omitempty"`
	Tags       []string `json:"tags,omitempty"`
	Domain     string   `json:"domain,omitempty"`
}

func (m *Monitor) fits(f *forServers) bool {
	is := func(want, have string) bool {
		return want == "" || want == have || !f.ExactMatch && strings.Contains(have, want)
	}
	return is(f.Name, m.o.ServerName) && is(f.Host, m.o.Host) && is(f.Cluster, "") && len(f.Tags) == 0 && f.Domain == ""
}

// errSilent is for requests that this server does not answer.
var errSilent = errors.New("not for this server")

// kinds are what can be asked of a server, and how it is answered.
var kinds = map[string]func(*Monitor, []byte) (any, error){
	"VARZ":      func(m *Monitor, _ []byte) (any, error) { return m.varz(), nil },
	"SUBSZ":     asked(func(m *Monitor, o SubszOptions) (any, error) { return m.Subsz(o) }),
	"CONNZ":     asked(func(m *Monitor, o ConnzOptions) (any, error) { return m.Connz(o) }),
	"LEAFZ":     asked(func(m *Monitor, o LeafzOptions) (any, error) { return m.Leafz(o), nil }),
	"JSZ":       asked(func(m *Monitor, o jszOptions) (any, error) { return m.jsz(o) }),
	"HEALTHZ":   asked(func(m *Monitor, o healthOptions) (any, error) { return m.healthz(o), nil }),
	"ROUTEZ":    func(m *Monitor, _ []byte) (any, error) { return m.routez(), nil },
	"GATEWAYZ":  func(m *Monitor, _ []byte) (any, error) { return m.gatewayz(), nil },
	"IPQUEUESZ": func(*Monitor, []byte) (any, error) { return struct{}{}, nil },
	"EXPVARZ":   func(*Monitor, []byte) (any, error) { return debugVars(), nil },
	"ACCOUNTZ": asked(func(m *Monitor, o struct {
		Account string `json:"account"`
	}) (any, error) {
		return m.Accountz(o.Account)
	}),
}

// accountKinds are what can be asked about an account.
var accountKinds = map[string]func(m *Monitor, account string, body []byte) (any, error){
	"INFO": func(m *Monitor, account string, _ []byte) (any, error) { return m.AccountInfo(account) },
	"SUBSZ": ofAccount(func(m *Monitor, account string, o SubszOptions) (any, error) {
		o.Subs, o.Account = true, account
		return m.Subsz(o)
	}),
	"CONNZ": ofAccount(func(m *Monitor, account string, o ConnzOptions) (any, error) {
		o.Account = account
		return m.Connz(o)
	}),
	"LEAFZ": ofAccount(func(m *Monitor, account string, o LeafzOptions) (any, error) {
		o.Account = account
		return m.Leafz(o), nil
	}),
	"STATZ": ofAccount(func(m *Monitor, account string, o AccountStatzOptions) (any, error) {
		if account != "" {
			o.Accounts = []string{account}
		}
		z := m.AccountStatz(o)
		if len(z.Accounts) == 0 && !o.Unused {
			return nil, errSilent
		}
		return z, nil
	}),
}

// numConns is the answer to CONNS, which is older than the other kinds and has no
// envelope. (nats-server, "account_connections".)
type numConns struct {
	typed
	Server ServerInfo `json:"server"`
	AccountStat
}

// accountConns is nil about an account without connections, or if body names another.
func (m *Monitor) accountConns(account string, body []byte) []byte {
	o := struct {
		Account string `json:"acc"`
	}{account}
	if decode(body, &o) != nil || o.Account != account {
		return nil
	}
	for _, a := range m.accounts() {
		if a.Name == account && a.Conns+a.Leafs > 0 {
			return marshal(numConns{newTyped("account_connections", time.Now()), m.serverInfo(), a.stat()})
		}
	}
	return nil
}

// asked decodes what a request holds; nothing is the defaults.
func asked[T any](answer func(*Monitor, T) (any, error)) func(*Monitor, []byte) (any, error) {
	return func(m *Monitor, body []byte) (any, error) {
		var o T
		if err := decode(body, &o); err != nil {
			return nil, err
		}
		return answer(m, o)
	}
}

func ofAccount[T any](answer func(*Monitor, string, T) (any, error)) func(*Monitor, string, []byte) (any, error) {
	return func(m *Monitor, account string, body []byte) (any, error) {
		var o T
		if err := decode(body, &o); err != nil {
			return nil, err
		}
		return answer(m, account, o)
	}
}

func decode(body []byte, into any) error {
	if len(body) == 0 {
		return nil
	}
	if err := json.Unmarshal(body, into); err != nil {
		return &pageError{http.StatusBadRequest, err.Error()}
	}
	return nil
}

// Kinds are what [Monitor.AnswerServer] answers, in their order.
func Kinds() []string {
	all := []string{"IDZ", "STATSZ"}
	for k := range kinds {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

// AccountKinds are what [Monitor.AnswerAccount] answers, in their order.
func AccountKinds() []string {
	all := []string{"CONNS"}
	for k := range accountKinds {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

// AnswerServer answers a system request to this server, or to all. The answer is nil
// if there is none to give. The body is borrowed.
func (m *Monitor) AnswerServer(kind string, body []byte) []byte {
	switch kind {
	case "IDZ":
		return marshal(map[string]string{"name": m.o.ServerName, "host": m.o.Host, "id": m.o.ServerID})
	case "STATSZ":
		return m.answer(body, func() (any, error) { return m.Statsz(), nil })
	}
	fn := kinds[kind]
	if fn == nil {
		return nil
	}
	return m.answer(body, func() (any, error) { return fn(m, body) })
}

// AnswerAccount answers a system request about an account; STATZ about all if it is
// empty. The answer is nil if there is none to give. The body is borrowed.
func (m *Monitor) AnswerAccount(kind, account string, body []byte) []byte {
	if kind == "CONNS" {
		return m.accountConns(account, body)
	}
	fn := accountKinds[kind]
	if fn == nil {
		return nil
	}
	return m.answer(body, func() (any, error) { return fn(m, account, body) })
}

// Do answers a system request to this server that has something done, or says why it
// could not be. The answer is nil if there is none to give. The body is borrowed.
func (m *Monitor) Do(body []byte, do func() error) []byte {
	return m.answer(body, func() (any, error) { return nil, do() })
}

func (m *Monitor) answer(body []byte, fill func() (any, error)) []byte {
	var f forServers
	err := decode(body, &f)
	if err == nil && !m.fits(&f) {
		return nil
	}
	var data any
	if err == nil {
		data, err = fill()
	}
	if errors.Is(err, errSilent) || errors.Is(err, errNotLeader) {
		return nil
	}
	if s, ok := data.(*StatszMsg); ok && err == nil { // has an envelope of its own
		return marshal(s)
	}
	e := envelope{Server: m.serverInfo(), Data: data}
	if err != nil {
		e.Data, e.Error = nil, &apiError{http.StatusInternalServerError, err.Error()}
		var pe *pageError
		if errors.As(err, &pe) {
			e.Error.Code = pe.status
		}
	}
	return marshal(e)
}

// marshal is for values that always can be.
func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("monitor: " + err.Error())
	}
	return b
}

// UserInfo is what a client learns about itself. A permission that is empty is none.
type UserInfo struct {
	User        string       `json:"user"`
	Account     string       `json:"account"`
	AccountName string       `json:"account_name,omitempty"`
	UserName    string       `json:"user_name,omitempty"`
	Permissions *Permissions `json:"permissions,omitempty"` // nil: everything
}

// Permissions are what a user may do. (nats-server, "permissions".)
type Permissions struct {
	Publish   SubjectList `json:"publish"`
	Subscribe SubjectList `json:"subscribe"`
	Responses *Responses  `json:"responses,omitempty"`
}

// SubjectList is one direction of Permissions.
type SubjectList struct {
	Allow []string `json:"allow,omitempty"`
	Deny  []string `json:"deny,omitempty"`
}

// Responses bound answers to what was received.
type Responses struct {
	Max int           `json:"max"`
	TTL time.Duration `json:"ttl"` // nanoseconds
}

// AnswerUser answers a client that asks who it is.
func (m *Monitor) AnswerUser(u UserInfo) []byte {
	return marshal(envelope{Server: m.serverInfo(), Data: u})
}

// StatszMsg is what a server tells of itself now and then.
type StatszMsg struct {
	Server ServerInfo `json:"server"`
	Stats  statsz     `json:"statsz"`
}

type statsz struct {
	Start               time.Time  `json:"start"`
	Mem                 int64      `json:"mem"`
	Cores               int        `json:"cores"`
	CPU                 float64    `json:"cpu"`
	Connections         int        `json:"connections"`
	TotalConnections    uint64     `json:"total_connections"`
	ActiveAccounts      int        `json:"active_accounts"`
	Subscriptions       int        `json:"subscriptions"`
	Sent                Counts     `json:"sent"`
	SentToClients       Counts     `json:"sent_to_clients"`
	Received            Counts     `json:"received"`
	ReceivedFromClients Counts     `json:"received_from_clients"`
	SlowConsumers       uint64     `json:"slow_consumers"`
	SlowStats           *KindStats `json:"slow_consumer_stats,omitempty"`
	StaleConnections    uint64     `json:"stale_connections,omitempty"`
	StaleStats          *KindStats `json:"stale_connection_stats,omitempty"`
	StalledClients      uint64     `json:"stalled_clients,omitempty"`
	ActiveServers       int        `json:"active_servers,omitempty"`
	MemLimit            int64      `json:"gomemlimit,omitempty"`
	MaxProcs            int        `json:"gomaxprocs,omitempty"`
}

// Statsz is what this server tells of itself.
func (m *Monitor) Statsz() *StatszMsg {
	v := m.varz()
	s := statsz{Start: v.Start.UTC(), Mem: v.Mem, Cores: v.Cores, CPU: v.CPU, Connections: v.Connections, TotalConnections: v.TotalConnections,
		Subscriptions: v.Subscriptions, Sent: Counts{v.OutMsgs, v.OutBytes}, SentToClients: Counts{v.OutClientMsgs, v.OutClientBytes},
		Received: Counts{v.InMsgs, v.InBytes}, ReceivedFromClients: Counts{v.InClientMsgs, v.InClientBytes},
		SlowConsumers: v.SlowConsumers, StaleConnections: v.StaleConnections, StalledClients: v.StalledClients,
		ActiveServers: 1, MemLimit: v.MemLimit, MaxProcs: v.MaxProcs}
	if v.SlowStats != (KindStats{}) {
		s.SlowStats = &v.SlowStats
	}
	if v.StaleStats != (KindStats{}) {
		s.StaleStats = &v.StaleStats
	}
	for _, a := range m.accounts() {
		if a.Conns+a.Leafs > 0 {
			s.ActiveAccounts++
		}
	}
	return &StatszMsg{m.serverInfo(), s}
}
