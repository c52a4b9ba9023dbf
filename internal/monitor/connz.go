package monitor

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Connz is the answer of /connz, with nats-server's names (nats-server, "connz").
type Connz struct {
	ServerID string    `json:"server_id"`
	Now      time.Time `json:"now"`
	NumConns int       `json:"num_connections"` // in this answer
	Total    int       `json:"total"`           // before paging and the filters by user and client id
	page
	Conns []*Conn `json:"connections"`
}

// Conn is one connection in /connz. The daemon fills what has a value of its own,
// [Monitor] the rest.
type Conn struct {
	Cid            uint64      `json:"cid"`
	Kind           string      `json:"kind,omitempty"` // Client, Leafnode
	Type           string      `json:"type,omitempty"` // nats, mqtt, websocket
	IP             string      `json:"ip"`
	Port           int         `json:"port"`
	Start          time.Time   `json:"start"`
	LastActivity   time.Time   `json:"last_activity"`
	Stop           *time.Time  `json:"stop,omitempty"`   // of one that has ended
	Reason         string      `json:"reason,omitempty"` // likewise
	RTTText        string      `json:"rtt,omitempty"`    // filled in here
	Uptime         string      `json:"uptime"`           // filled in here
	Idle           string      `json:"idle"`             // filled in here
	Pending        int         `json:"pending_bytes"`
	InMsgs         uint64      `json:"in_msgs"`
	OutMsgs        uint64      `json:"out_msgs"`
	InBytes        uint64      `json:"in_bytes"`
	OutBytes       uint64      `json:"out_bytes"`
	Stalls         uint64      `json:"stalls,omitempty"`
	NumSubs        int         `json:"subscriptions"`
	Name           string      `json:"name,omitempty"`
	Lang           string      `json:"lang,omitempty"`
	Version        string      `json:"version,omitempty"`
	TLSVersion     string      `json:"tls_version,omitempty"`
	TLSCipher      string      `json:"tls_cipher_suite,omitempty"`
	TLSFirst       bool        `json:"tls_first,omitempty"`
	AuthorizedUser string      `json:"authorized_user,omitempty"` // filled in here
	AccountName    string      `json:"account,omitempty"`         // filled in here
	IssuerKey      string      `json:"issuer_key,omitempty"`      // likewise
	Subs           []string    `json:"subscriptions_list,omitempty"`
	SubsDetail     []SubDetail `json:"subscriptions_list_detail,omitempty"`
	NameTag        string      `json:"name_tag,omitempty"`
	MQTTClient     string      `json:"mqtt_client,omitempty"`

	RTT     time.Duration `json:"-"`
	User    string        `json:"-"`
	NKey    bool          `json:"-"` // User is one
	Account string        `json:"-"`
	up      time.Duration
	List    func() []SubDetail `json:"-"` // its subscriptions; nil if not to be had
}

// SubDetail is one subscription.
type SubDetail struct {
	Account string `json:"account,omitempty"`     // of /subsz, and of closed connections
	Tag     string `json:"account_tag,omitempty"` // likewise
	Subject string `json:"subject"`
	Queue   string `json:"qgroup,omitempty"`
	SID     string `json:"sid"`
	Msgs    uint64 `json:"msgs"` // delivered
	Max     uint64 `json:"max,omitempty"`
	Cid     uint64 `json:"cid"`
}

// ConnState says which connections are asked for. On the wire it is a number.
type ConnState int

// Connections that are there, that have ended, and both.
const (
	Open ConnState = iota
	Closed
	Any
)

// ConnzOptions are the parameters of /connz, and what a system request for CONNZ
// holds.
type ConnzOptions struct {
	Sort   string `json:"sort"`
	Auth   bool   `json:"auth"` // with users and accounts
	Subs   bool   `json:"subscriptions"`
	Detail bool   `json:"subscriptions_detail"`
	page
	Cid           uint64    `json:"cid"`
	MQTTClient    string    `json:"mqtt_client"`
	State         ConnState `json:"state"`
	User          string    `json:"user"`
	Account       string    `json:"acc"`
	FilterSubject string    `json:"filter_subject"` // has a subscription that overlaps it; needs Account
}

func connzOptions(q *query) (o ConnzOptions) {
	o.Sort, o.Auth = q.text("sort"), q.flag("auth")
	o.Subs, o.Detail = q.subs()
	o.Offset, o.Limit, o.Cid, o.State = q.int("offset"), q.int("limit"), q.uint("cid"), q.state()
	o.User, o.Account, o.MQTTClient, o.FilterSubject = q.text("user"), q.text("acc"), q.text("mqtt_client"), q.text("filter_subject")
	return o
}

// connOrder are the ways to sort. Only cid, start, uptime and reason ascend. It is no map: making one
// at each start is a kilobyte of code.
var connOrder = []struct {
	name string
	by   func(a, b *Conn) int
}{
	{"", byCid},
	{"cid", byCid},
	{"start", byCid},
	{"subs", func(a, b *Conn) int { return cmp.Compare(b.NumSubs, a.NumSubs) }},
	{"pending", func(a, b *Conn) int { return cmp.Compare(b.Pending, a.Pending) }},
	{"msgs_to", func(a, b *Conn) int { return cmp.Compare(b.OutMsgs, a.OutMsgs) }},
	{"msgs_from", func(a, b *Conn) int { return cmp.Compare(b.InMsgs, a.InMsgs) }},
	{"bytes_to", func(a, b *Conn) int { return cmp.Compare(b.OutBytes, a.OutBytes) }},
	{"bytes_from", func(a, b *Conn) int { return cmp.Compare(b.InBytes, a.InBytes) }},
	{"last", func(a, b *Conn) int { return b.LastActivity.Compare(a.LastActivity) }},
	{"idle", func(a, b *Conn) int { return a.LastActivity.Compare(b.LastActivity) }},
	{"uptime", func(a, b *Conn) int { return cmp.Compare(a.up, b.up) }},
	{"stop", func(a, b *Conn) int { return b.Stop.Compare(*a.Stop) }},
	{"reason", func(a, b *Conn) int { return cmp.Compare(a.Reason, b.Reason) }},
	{"rtt", func(a, b *Conn) int { return cmp.Compare(b.RTT, a.RTT) }},
}

// orderOf is nil for a name that is none.
func orderOf(name string) func(a, b *Conn) int {
	for _, o := range connOrder {
		if o.name == name {
			return o.by
		}
	}
	return nil
}

func byCid(a, b *Conn) int { return cmp.Compare(a.Cid, b.Cid) }

// upTo is how long the connection was there, at most until now.
func (c *Conn) upTo(now time.Time) time.Duration {
	if c.Stop != nil {
		now = *c.Stop
	}
	return now.Sub(c.Start)
}

func (o *ConnzOptions) check() error {
	o.setDefaults()
	if orderOf(o.Sort) == nil {
		return fmt.Errorf("invalid sorting option: %s", o.Sort)
	}
	if (o.Sort == "stop" || o.Sort == "reason") && o.State != Closed {
		return fmt.Errorf("sort by %s only valid on closed connections", o.Sort)
	}
	if o.FilterSubject == ">" {
		o.FilterSubject = ""
	}
	if o.FilterSubject != "" && o.Account == "" {
		return errors.New("filter by subject only valid with account filtering")
	}
	if o.Cid > 0 {
		o.Limit = 1
	}
	return nil
}

// Connz lists connections.
func (m *Monitor) Connz(o ConnzOptions) (*Connz, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	z := &Connz{ServerID: m.o.ServerID, Now: time.Now().UTC(), page: o.page, Conns: []*Conn{}}
	var list []*Conn
	gather := func(from func() []Conn, open bool) {
		if from == nil {
			return
		}
		all := from()
		for i := range all {
			c := &all[i]
			if o.Account != "" && c.Account != o.Account {
				continue
			}
			c.up = c.upTo(z.Now)
			if z.Total++; o.wants(c, open) {
				list = append(list, c)
			}
		}
	}
	if o.State != Closed {
		gather(m.o.Conns, true)
	}
	if o.State != Open {
		gather(m.o.Closed, false)
	}
	slices.SortStableFunc(list, orderOf(o.Sort))
	from, to := o.cut(len(list))
	for _, c := range list[from:to] {
		c.show(&o, z.Now)
		z.Conns = append(z.Conns, c)
	}
	z.NumConns = len(z.Conns)
	return z, nil
}

// wants reports whether the filters let a connection through. That by subject looks
// at open connections only.
func (o *ConnzOptions) wants(c *Conn, open bool) bool {
	switch {
	case o.Cid > 0 && c.Cid != o.Cid, o.User != "" && c.User != o.User, o.MQTTClient != "" && c.MQTTClient != o.MQTTClient:
		return false
	case o.FilterSubject == "" || !open:
		return true
	case c.List == nil:
		return false
	}
	return slices.ContainsFunc(c.List(), func(s SubDetail) bool { return collide(o.FilterSubject, s.Subject) })
}

// show fills in what is shown of a connection.
func (c *Conn) show(o *ConnzOptions, now time.Time) {
	if c.Stop != nil {
		now = *c.Stop
	}
	c.Uptime, c.Idle, c.RTTText = uptime(c.up), uptime(max(0, now.Sub(c.LastActivity))), rttText(c.RTT)
	if (o.Subs || o.Detail) && c.List != nil {
		subs := c.List()
		if o.Detail {
			c.SubsDetail = subs
		} else {
			for _, s := range subs {
				c.Subs = append(c.Subs, s.Subject)
			}
		}
	}
	if o.Auth {
		c.AuthorizedUser, c.IssuerKey = c.User, c.issuer()
		if c.Account != GlobalAccount {
			c.AccountName = c.Account
		}
		if c.Stop == nil || c.Account != GlobalAccount { // as nats-server has it
			c.NameTag = c.Account
		}
	}
}

// issuer is what nats-server shows for a user known by an nkey: the account.
func (c *Conn) issuer() string {
	if !c.NKey {
		return ""
	}
	return c.Account
}

// rttText writes a round trip as nats-server does, to a microsecond if it is short.
func rttText(d time.Duration) string {
	if d > time.Microsecond && d < time.Millisecond {
		d = d.Truncate(time.Microsecond)
	}
	return d.String()
}
