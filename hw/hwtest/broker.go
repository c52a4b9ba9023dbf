package hwtest

import (
	"fmt"
	"slices"
	"sync"

	"github.com/leafd/leafd/hw"
	"github.com/leafd/leafd/internal/msg"
)

// Broker stands in for the router: it remembers what was published, and gives
// commands to whoever subscribed. The zero value is ready.
type Broker struct {
	mu     sync.Mutex
	ports  []*port    // guarded by mu
	msgs   []*msg.Msg // guarded by mu; clones, flushed
	refuse error      // guarded by mu
}

// Attach is for hw.Options.Attach.
func (b *Broker) Attach(name string, s msg.Sink) hw.Port {
	p := &port{broker: b, name: name, sink: s}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ports = append(b.ports, p)
	return p
}

// Refuse lets further subscriptions fail with err.
func (b *Broker) Refuse(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuse = err
}

// Published is every message whose subject the filter covers, oldest first. A
// message counts once it was flushed.
func (b *Broker) Published(filter string) []*msg.Msg {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []*msg.Msg
	for _, m := range b.msgs {
		if msg.Match(filter, string(m.Subject)) {
			out = append(out, m)
		}
	}
	return out
}

// Payloads is the Data of Published, as text.
func (b *Broker) Payloads(filter string) []string {
	var out []string
	for _, m := range b.Published(filter) {
		out = append(out, string(m.Data))
	}
	return out
}

// Forget drops what was published so far.
func (b *Broker) Forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.msgs = nil
}

// Send publishes a command as a client would. It tells what each subscriber said;
// the bytes it lent them are overwritten before it returns.
func (b *Broker) Send(subject, reply, payload string) []msg.Drop {
	m := &msg.Msg{Subject: []byte(subject), Data: []byte(payload)}
	if reply != "" {
		m.Reply = []byte(reply)
	}
	type target struct {
		sink msg.Sink
		sub  *msg.Sub
	}
	var to []target
	b.mu.Lock()
	for _, p := range b.ports {
		for _, s := range p.subs {
			if msg.Match(s.Subject, subject) {
				to = append(to, target{p.sink, s})
			}
		}
	}
	b.mu.Unlock()
	var said []msg.Drop
	for _, t := range to {
		said = append(said, t.sink.Deliver(m, t.sub))
	}
	for _, borrowed := range [][]byte{m.Subject, m.Reply, m.Data} {
		for i := range borrowed {
			borrowed[i] = '!'
		}
	}
	return said
}

// Ports is the names of the ports attached and not closed.
func (b *Broker) Ports() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	for _, p := range b.ports {
		names = append(names, p.name)
	}
	slices.Sort(names)
	return names
}

// port implements hw.Port.
type port struct {
	broker *Broker
	name   string
	sink   msg.Sink

	pending []*msg.Msg // owned by the publishing goroutine
	subs    []*msg.Sub // guarded by broker.mu
}

func (p *port) Publish(m *msg.Msg) msg.Receipt {
	if !msg.ValidSubject(m.Subject) {
		panic(fmt.Sprintf("hwtest: published to %q", m.Subject))
	}
	p.pending = append(p.pending, m.Clone())
	return msg.Receipt{Taken: 1}
}

func (p *port) Flush() {
	p.broker.mu.Lock()
	defer p.broker.mu.Unlock()
	p.broker.msgs = append(p.broker.msgs, p.pending...)
	p.pending = nil
}

func (p *port) Subscribe(sub *msg.Sub) error {
	p.broker.mu.Lock()
	defer p.broker.mu.Unlock()
	if p.broker.refuse != nil {
		return p.broker.refuse
	}
	p.subs = append(p.subs, sub)
	return nil
}

func (p *port) Close() {
	p.broker.mu.Lock()
	defer p.broker.mu.Unlock()
	p.broker.ports = slices.DeleteFunc(p.broker.ports, func(q *port) bool { return q == p })
}
