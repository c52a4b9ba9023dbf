package main

import (
	"context"
	"sync"
	"time"

	"github.com/leafd/leafd/internal/monitor"
	"github.com/leafd/leafd/leaf"
)

// The state of the server is told at once, and then ever less often up to this.
const (
	firstStatsz = 250 * time.Millisecond
	everyStatsz = 10 * time.Second
)

// run answers and tells until ctx ends.
func (s *services) run(ctx context.Context) error {
	s.quit = ctx.Done()
	statsz := []byte("$SYS.SERVER." + s.id + ".STATSZ")
	wait := firstStatsz
	tick := time.After(wait)
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-s.work:
			f()
		case <-tick:
			if s.heard.Wanted(statsz) {
				publish(s.system, string(statsz), s.mon.AnswerServer("STATSZ", nil))
			}
			wait = min(2*wait, everyStatsz)
			tick = time.After(leaf.Aligned(wait))
		}
	}
}

// event leaves it to run to tell of a connection on a subject, unless nobody would
// hear it: then it costs a look at the subscriptions, and nothing is made.
func (s *services) event(subject []byte, i *leaf.ConnInfo, tell func(*monitor.Monitor, *monitor.Conn) []byte) {
	if !s.heard.Wanted(subject) {
		return
	}
	to, c := string(subject), connz([]leaf.ConnInfo{*i})
	if !s.do(func() { publish(s.system, to, tell(s.mon, &c[0])) }) && s.lost.Add(1) == 1 {
		s.log.Warn("a system event is lost, connections come and go too fast; more are counted in /varz", "conn", i.ID)
	}
}

// subjects are buffers of accountEvent.
var subjects = sync.Pool{New: func() any { return new([]byte) }}

// accountEvent is event for what is told of an account.
func (s *services) accountEvent(name string, i *leaf.ConnInfo, tell func(*monitor.Monitor, *monitor.Conn) []byte) {
	b := subjects.Get().(*[]byte)
	defer subjects.Put(b)
	*b = append((*b)[:0], "$SYS.ACCOUNT."...)
	*b = append(*b, accountOf(i)...)
	*b = append(*b, name...)
	s.event(*b, i, tell)
}

// Connected, Refused and Closed implement [leaf.Watcher].
func (s *services) Connected(i *leaf.ConnInfo) {
	s.accountEvent(".CONNECT", i, (*monitor.Monitor).ConnectEvent)
}

func (s *services) Refused(i *leaf.ConnInfo) {
	s.event([]byte("$SYS.SERVER."+s.id+".CLIENT.AUTH.ERR"), i, func(m *monitor.Monitor, c *monitor.Conn) []byte {
		return m.DisconnectEvent(c, "Authentication Failure")
	})
}

func (s *services) Closed(i *leaf.ConnInfo) {
	s.closed.Add(i)
	if !i.Known || i.Account == "" {
		return // nobody was told that it came
	}
	s.accountEvent(".DISCONNECT", i, func(m *monitor.Monitor, c *monitor.Conn) []byte { return m.DisconnectEvent(c, c.Reason) })
}

var _ leaf.Watcher = (*services)(nil)
