package monitor

import "time"

// Leafz is the answer of /leafz: links that are up. /uplinkz tells of those that are
// not.
type Leafz struct {
	ServerID string    `json:"server_id"`
	Now      time.Time `json:"now"`
	NumLeafs int       `json:"leafnodes"`
	Leafs    []*Leaf   `json:"leafs"`
}

// Leaf is one link that is up.
type Leaf struct {
	ID          uint64   `json:"id"`
	Name        string   `json:"name"` // of the hub
	IsSpoke     bool     `json:"is_spoke"`
	Account     string   `json:"account"` // here
	IP          string   `json:"ip"`
	Port        int      `json:"port"`
	RTTText     string   `json:"rtt,omitempty"` // filled in here
	InMsgs      uint64   `json:"in_msgs"`
	OutMsgs     uint64   `json:"out_msgs"`
	InBytes     uint64   `json:"in_bytes"`
	OutBytes    uint64   `json:"out_bytes"`
	NumSubs     int      `json:"subscriptions"` // what the hub wants
	Subs        []string `json:"subscriptions_list,omitempty"`
	Compression string   `json:"compression,omitempty"`

	Start   time.Time       `json:"-"`
	RTT     time.Duration   `json:"-"`
	Pending int             `json:"-"`
	List    func() []string `json:"-"`
}

// LeafzOptions are the parameters of /leafz, and what a system request for LEAFZ
// holds.
type LeafzOptions struct {
	Subs    bool   `json:"subscriptions"`
	Account string `json:"account"`
}

func (m *Monitor) leafs() []Leaf {
	if m.o.Leafs == nil {
		return nil
	}
	return m.o.Leafs()
}

// Leafz lists links.
func (m *Monitor) Leafz(o LeafzOptions) *Leafz {
	z := &Leafz{ServerID: m.o.ServerID, Now: time.Now().UTC(), Leafs: []*Leaf{}}
	all := m.leafs()
	for i := range all {
		l := &all[i]
		if o.Account != "" && l.Account != o.Account {
			continue
		}
		l.RTTText = rttText(l.RTT)
		if o.Subs && l.List != nil {
			l.Subs = l.List()
		}
		z.Leafs = append(z.Leafs, l)
	}
	z.NumLeafs = len(z.Leafs)
	return z
}

// conn is the link as /connz shows it.
func (l *Leaf) conn() Conn {
	c := Conn{Cid: l.ID, Kind: "Leafnode", IP: l.IP, Port: l.Port, Start: l.Start, LastActivity: l.Start, RTT: l.RTT, Pending: l.Pending,
		InMsgs: l.InMsgs, OutMsgs: l.OutMsgs, InBytes: l.InBytes, OutBytes: l.OutBytes, NumSubs: l.NumSubs, Account: l.Account}
	if l.List != nil {
		c.List = func() []SubDetail {
			var all []SubDetail
			for _, s := range l.List() {
				all = append(all, SubDetail{Subject: s, SID: s, Cid: l.ID})
			}
			return all
		}
	}
	return c
}
