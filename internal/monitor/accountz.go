package monitor

import (
	"fmt"
	"slices"
	"time"
)

// GlobalAccount is the account of all who have none of their own.
const GlobalAccount = "$G"

// Account is one subject space with those who use it, as the daemon tells it.
type Account struct {
	Name          string
	System        bool
	Updated       time.Time // when its configuration was read
	Conns, Leafs  int
	Subs          SublistStats
	In, Out       Counts // received from and sent to all, links included
	LeafIn        Counts // of these, from links
	LeafOut       Counts // and to links
	SlowConsumers uint64
	Imports       []Import
	Exports       []Export
}

// SublistStats describes the subscriptions of an account and the cache in front of
// them. (nats-server, "subsz".)
type SublistStats struct {
	NumSubs      uint32  `json:"num_subscriptions"`
	NumCache     uint32  `json:"num_cache"`
	NumInserts   uint64  `json:"num_inserts"`
	NumRemoves   uint64  `json:"num_removes"`
	NumMatches   uint64  `json:"num_matches"`
	CacheHitRate float64 `json:"cache_hit_rate"`
	MaxFanout    uint32  `json:"max_fanout"`
	AvgFanout    float64 `json:"avg_fanout"`

	CacheHits uint64 `json:"-"`
	Fanout    uint64 `json:"-"` // of all cached subjects together
}

// add adds up two accounts, or one to nothing.
func (s *SublistStats) add(t *SublistStats) {
	s.NumSubs += t.NumSubs
	s.NumCache += t.NumCache
	s.NumInserts += t.NumInserts
	s.NumRemoves += t.NumRemoves
	s.NumMatches += t.NumMatches
	s.CacheHits += t.CacheHits
	s.Fanout += t.Fanout
	s.MaxFanout = max(s.MaxFanout, t.MaxFanout)
	if s.NumMatches > 0 {
		s.CacheHitRate = float64(s.CacheHits) / float64(s.NumMatches)
	}
	if s.NumCache > 0 {
		s.AvgFanout = float64(s.Fanout) / float64(s.NumCache)
	}
}

// Import is a stream or service that an account has from another.
type Import struct {
	Subject      string `json:"subject,omitempty"`
	Account      string `json:"account,omitempty"`
	To           string `json:"to,omitempty"`
	LocalSubject string `json:"local_subject,omitempty"`
	Type         string `json:"type,omitempty"` // stream, service
	Invalid      bool   `json:"invalid"`
	Share        bool   `json:"share"`
	Tracking     bool   `json:"tracking"`
}

// Export is a stream or service that an account offers to others.
type Export struct {
	Subject  string   `json:"subject,omitempty"`
	Type     string   `json:"type,omitempty"`
	Response string   `json:"response_type,omitempty"`
	Approved []string `json:"approved_accounts,omitempty"`
}

// Accountz is the answer of /accountz: names, or one account in detail.
type Accountz struct {
	ServerID      string       `json:"server_id"`
	Now           time.Time    `json:"now"`
	SystemAccount string       `json:"system_account,omitempty"`
	Accounts      []string     `json:"accounts,omitempty"`
	Account       *AccountInfo `json:"account_detail,omitempty"`
}

// AccountInfo is one account in detail.
type AccountInfo struct {
	Name      string       `json:"account_name"`
	Updated   time.Time    `json:"update_time"`
	System    bool         `json:"is_system,omitempty"`
	Expired   bool         `json:"expired"`
	Complete  bool         `json:"complete"`
	JetStream bool         `json:"jetstream_enabled"`
	Leafs     int          `json:"leafnode_connections"`
	Conns     int          `json:"client_connections"`
	Subs      uint32       `json:"subscriptions"`
	Exports   []Export     `json:"exports,omitempty"`
	Imports   []Import     `json:"imports,omitempty"`
	NameTag   string       `json:"name_tag,omitempty"`
	Sublist   SublistStats `json:"sublist_stats"`
}

func (m *Monitor) accounts() []Account {
	if m.o.Accounts == nil {
		return nil
	}
	return m.o.Accounts()
}

// Accountz lists accounts, or tells of the one named acc.
func (m *Monitor) Accountz(acc string) (*Accountz, error) {
	z := &Accountz{ServerID: m.o.ServerID, Now: time.Now().UTC()}
	all := m.accounts()
	for i := range all {
		if all[i].System {
			z.SystemAccount = all[i].Name
		}
		if acc == "" {
			z.Accounts = append(z.Accounts, all[i].Name)
		}
	}
	if acc == "" {
		return z, nil
	}
	info, err := m.AccountInfo(acc)
	z.Account = info
	return z, err
}

// AccountInfo tells of one account.
func (m *Monitor) AccountInfo(acc string) (*AccountInfo, error) {
	all := m.accounts()
	i := slices.IndexFunc(all, func(a Account) bool { return a.Name == acc })
	if i < 0 {
		return nil, fmt.Errorf("Account %s does not exist", acc) // as nats-server says it
	}
	a := &all[i]
	info := &AccountInfo{Name: a.Name, Updated: a.Updated.UTC(), System: a.System, Complete: true, Leafs: a.Leafs, Conns: a.Conns,
		Subs: a.Subs.NumSubs, Exports: a.Exports, Imports: a.Imports, NameTag: a.Name}
	info.Sublist.add(&a.Subs)
	return info, nil
}

// AccountStatz is the answer of /accstatz.
type AccountStatz struct {
	ServerID string        `json:"server_id"`
	Now      time.Time     `json:"now"`
	Accounts []AccountStat `json:"account_statz"`
}

// AccountStat is the traffic of one account.
type AccountStat struct {
	Account       string    `json:"acc"`
	Name          string    `json:"name"`
	Conns         int       `json:"conns"`
	Leafs         int       `json:"leafnodes"`
	TotalConns    int       `json:"total_conns"`
	NumSubs       uint32    `json:"num_subscriptions"`
	Sent          DataStats `json:"sent"`
	Received      DataStats `json:"received"`
	SlowConsumers uint64    `json:"slow_consumers"`
}

// DataStats are counts, and which part of them is of whom. Gateways and routes are
// always empty here.
type DataStats struct {
	Counts
	Gateways *Counts `json:"gateways,omitempty"`
	Routes   *Counts `json:"routes,omitempty"`
	Leafs    *Counts `json:"leafs,omitempty"`
}

// Counts are messages and the bytes of their headers and data.
type Counts struct {
	Msgs  uint64 `json:"msgs"`
	Bytes uint64 `json:"bytes"`
}

// AccountStatzOptions are what a system request for STATZ holds.
type AccountStatzOptions struct {
	Accounts []string `json:"accounts"` // empty: all
	Unused   bool     `json:"include_unused"`
}

// AccountStatz tells the traffic of accounts; those without connections only if
// asked to.
func (m *Monitor) AccountStatz(o AccountStatzOptions) *AccountStatz {
	z := &AccountStatz{ServerID: m.o.ServerID, Now: time.Now().UTC(), Accounts: []AccountStat{}}
	all := m.accounts()
	for i := range all {
		a := &all[i]
		if len(o.Accounts) > 0 && !slices.Contains(o.Accounts, a.Name) || !o.Unused && a.Conns+a.Leafs == 0 {
			continue
		}
		z.Accounts = append(z.Accounts, a.stat())
	}
	return z
}

func (a *Account) stat() AccountStat {
	return AccountStat{Account: a.Name, Name: a.Name, Conns: a.Conns, Leafs: a.Leafs, TotalConns: a.Conns + a.Leafs, NumSubs: a.Subs.NumSubs,
		Sent:          DataStats{a.Out, &Counts{}, &Counts{}, &a.LeafOut},
		Received:      DataStats{a.In, &Counts{}, &Counts{}, &a.LeafIn},
		SlowConsumers: a.SlowConsumers}
}
