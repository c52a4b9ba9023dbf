package monitor

import (
	"fmt"
	"time"
)

// Subsz is the answer of /subsz.
type Subsz struct {
	ServerID string    `json:"server_id"`
	Now      time.Time `json:"now"`
	SublistStats
	Total int `json:"total"` // listed without paging; 0 if not asked for
	page
	Subs []SubDetail `json:"subscriptions_list,omitempty"`
}

// SubszOptions are the parameters of /subsz, and what a system request for SUBSZ
// holds.
type SubszOptions struct {
	page
	Subs    bool   `json:"subscriptions"`
	Account string `json:"account,omitempty"`
	Test    string `json:"test,omitempty"` // only those that would get a message to this subject
}

func subszOptions(q *query) (o SubszOptions) {
	o.Subs, o.Offset, o.Limit, o.Test, o.Account = q.flag("subs"), q.int("offset"), q.int("limit"), q.text("test"), q.text("acc")
	return o
}

// Subsz describes the subscriptions, and lists them if asked to.
func (m *Monitor) Subsz(o SubszOptions) (*Subsz, error) {
	o.setDefaults()
	if o.Test != "" && !literal(o.Test) {
		return nil, fmt.Errorf("invalid test subject, must be valid publish subject: %s", o.Test)
	}
	z := &Subsz{ServerID: m.o.ServerID, Now: time.Now().UTC(), page: o.page}
	all := m.accounts()
	for i := range all {
		if o.Account == "" || all[i].Name == o.Account {
			z.add(&all[i].Subs)
		}
	}
	if !o.Subs || m.o.Subs == nil {
		return z, nil
	}
	var list []SubDetail
	for _, s := range m.o.Subs(o.Account) {
		if o.Test == "" || matches(o.Test, s.Subject) {
			list = append(list, s)
		}
	}
	from, to := o.cut(len(list))
	z.Total, z.Subs = len(list), list[from:to]
	return z, nil
}
