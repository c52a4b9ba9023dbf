package leaf

import "github.com/leafd/leafd/internal/msg"

// sayNoResponders answers a request that nobody received with status 503, which
// goes to the client's own subscription for the reply and nowhere else.
func (c *conn) sayNoResponders(m *msg.Msg) {
	sub := c.port.hasOwn(m.Reply)
	if sub == nil {
		return
	}
	head := "NATS/1.0 503\r\nNats-Subject: " + string(m.Subject) + "\r\n\r\n"
	c.Deliver(&msg.Msg{Subject: m.Reply, Header: []byte(head)}, sub)
}

// hasOwn returns the port's own plain subscription to a subject, or nil. It is for the
// publisher's goroutine.
func (p *Port) hasOwn(subject []byte) *msg.Sub {
	if p.publishing == nil {
		p.publishing = publishings.Get().(*publishing)
	}
	for _, e := range p.find(p.router.gen.Load(), subject).plain {
		if e.at.owner == p {
			return e.sub
		}
	}
	return nil
}
