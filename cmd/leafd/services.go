package main

import (
	"cmp"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/leafd/leafd/internal/monitor"
	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/leaf"
)

// services answers what is asked on $SYS subjects, and tells there of clients that
// come and go. It has a goroutine of its own, so that a question costs whoever asks
// no more than a publish. (nats-server, "System Events & Monitoring".)
type services struct {
	// Static after attach.
	log    *slog.Logger
	mon    *monitor.Monitor
	id     string           // of this server
	closed *leaf.ClosedRing // fed here
	system *leaf.Port       // in the system account
	heard  *leaf.Router     // that account

	places map[*leaf.Router]bool // owned by attach and follow

	kick   func(cid uint64) error
	notice func(cid uint64) error

	reloads chan chan<- error // one that is asked for; what comes of it goes into it

	work chan func()     // done one after the other by run
	quit <-chan struct{} // owned by run
	lost atomic.Uint64
}

// maxWork bounds what waits. Questions over it are refused, events are lost and
// counted.
const maxWork = 256

func newServices(id string, closed *leaf.ClosedRing, log *slog.Logger) *services {
	return &services{id: id, closed: closed, log: log, reloads: make(chan chan<- error, 1), work: make(chan func(), maxWork)}
}

// attach takes the services' places in all accounts. It is called once, before run.
func (s *services) attach(mon *monitor.Monitor, spaces []space) error {
	s.mon = mon
	return s.follow(spaces)
}

// follow takes places in the accounts that a reload brought. Of those that it removed
// nothing is kept. It is called by one goroutine at a time.
func (s *services) follow(spaces []space) error {
	was := s.places
	s.places = map[*leaf.Router]bool{}
	for _, sp := range spaces {
		s.places[sp.router] = true
		if was[sp.router] {
			continue
		}
		a := &asker{services: s, account: sp.name, system: sp.system}
		a.port = sp.router.Attach("services:"+sp.name, a, leaf.EachSub)
		a.port.Echo(false)
		if sp.system {
			s.system, s.heard = a.port, sp.router
		}
		for _, subject := range a.subjects() {
			if err := a.port.Subscribe(&msg.Sub{Subject: subject}); err != nil {
				return err
			}
		}
	}
	return nil
}

// asker is the place of the services in one account.
type asker struct {
	*services
	account string
	system  bool
	port    *leaf.Port // published to by run alone
}

const (
	serverReq  = "$SYS.REQ.SERVER."
	accountReq = "$SYS.REQ.ACCOUNT."
)

// subjects are what can be asked in the account: everything in the system account,
// what concerns the account itself in another.
func (a *asker) subjects() []string {
	if !a.system {
		return []string{serverReq + "PING.CONNZ", accountReq + "PING.CONNZ", accountReq + "PING.STATZ"}
	}
	all := []string{serverReq + "PING"}
	for _, kind := range monitor.Kinds() {
		all = append(all, serverReq+"PING."+kind, serverReq+a.id+"."+kind)
	}
	for kind := range ordered {
		all = append(all, serverReq+a.id+"."+kind)
	}
	for _, kind := range monitor.AccountKinds() {
		all = append(all, accountReq+"*."+kind)
	}
	return all
}

// Deliver implements [msg.Sink]: it keeps the question for run.
func (a *asker) Deliver(m *msg.Msg, _ *msg.Sub) msg.Drop {
	if len(m.Reply) == 0 {
		return msg.Taken // and nowhere to answer to
	}
	m = m.Clone()
	if !a.do(func() { a.send(string(m.Reply), a.answer(string(m.Subject), m.Data)) }) {
		return msg.SlowConsumer
	}
	return msg.Taken
}

// answer is nil if there is none to give.
func (a *asker) answer(subject string, body []byte) []byte {
	if about, ok := strings.CutPrefix(subject, accountReq); ok {
		account, kind, _ := strings.Cut(about, ".")
		switch {
		case !a.system:
			account = a.account
		case account == "PING" && kind != "STATZ":
			return nil // asked of accounts, each about itself
		case account == "PING":
			account = ""
		}
		return a.mon.AnswerAccount(kind, account, body)
	}
	if !a.system { // SERVER.PING.CONNZ: of one's own account
		return a.mon.AnswerAccount("CONNZ", a.account, body)
	}
	_, kind, ok := strings.Cut(strings.TrimPrefix(subject, serverReq), ".")
	if !ok { // SERVER.PING
		kind = "STATSZ"
	}
	if order := ordered[kind]; order != nil {
		return order(a.services, body)
	}
	return a.mon.AnswerServer(kind, body)
}

func (a *asker) send(subject string, body []byte) { publish(a.port, subject, body) }

// publish needs to run on the goroutine of run.
func publish(p *leaf.Port, subject string, body []byte) {
	if body == nil {
		return
	}
	p.Publish(&msg.Msg{Subject: []byte(subject), Data: body})
	p.Flush()
}

// do leaves f to run, if there is room.
func (s *services) do(f func()) bool {
	select {
	case s.work <- f:
		return true
	default:
		return false
	}
}

// userInfo answers a client that asks who it is, on the client's goroutine.
func (s *services) userInfo(i *leaf.ConnInfo, p *leaf.Permissions) []byte {
	account := accountOf(i)
	u := monitor.UserInfo{User: i.User, Account: account, AccountName: account}
	if p != nil {
		u.Permissions = permissionsz(p)
	}
	return s.mon.AnswerUser(u)
}

func permissionsz(p *leaf.Permissions) *monitor.Permissions {
	z := &monitor.Permissions{Publish: monitor.SubjectList(p.Publish), Subscribe: monitor.SubjectList(p.Subscribe)}
	if r := p.Responses; r != nil {
		z.Responses = &monitor.Responses{Max: cmp.Or(r.Max, 1), TTL: cmp.Or(r.Expires, 2*time.Minute)}
	}
	return z
}
