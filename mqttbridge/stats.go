package mqttbridge

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/leafd/leafd/leaf"
	"github.com/leafd/leafd/mqttbridge/packet"
)

// Stats is what a Server has counted since it was made.
type Stats struct {
	Connections int    // now, those that have not sent CONNECT included
	Accepted    uint64 // connections
	Refused     uint64 // connections over MaxConns

	InMsgs, InBytes   uint64 // PUBLISH packets from devices and their payloads; lags by at most one read
	OutMsgs, OutBytes uint64 // PUBLISH packets to devices and their payloads

	Takeovers       uint64 // connections that took the client id of another
	Wills           uint64 // wills published
	SessionsNotKept uint64 // CONNECTs that asked for a persistent session and were told there is none
	Panics          uint64 // handlers that failed
	SlowConsumers   uint64 // connections cut off because they were too far behind

	// Faults counts connections refused or ended by the server, by the version 5
	// name of the reason, such as "malformed_packet" or "quota_exceeded".
	Faults map[string]uint64
}

// counters are the server's own; traffic is that of connections that have ended.
type counters struct {
	accepted, refused, takeovers, wills, sessionsNotKept, panics, slow atomic.Uint64
	ended                                                              traffic
}

// traffic counts messages and the bytes of their payloads.
type traffic struct {
	inMsgs, inBytes, outMsgs, outBytes atomic.Uint64
}

func (t *traffic) add(u *traffic) {
	t.inMsgs.Add(u.inMsgs.Load())
	t.inBytes.Add(u.inBytes.Load())
	t.outMsgs.Add(u.outMsgs.Load())
	t.outBytes.Add(u.outBytes.Load())
}

// Stats returns the counters as they are now.
func (srv *Server) Stats() Stats {
	c := &srv.counters
	st := Stats{
		Accepted: c.accepted.Load(), Refused: c.refused.Load(), Takeovers: c.takeovers.Load(), Wills: c.wills.Load(),
		SessionsNotKept: c.sessionsNotKept.Load(), Panics: c.panics.Load(), SlowConsumers: c.slow.Load(), Faults: srv.faults.counts(),
	}
	var all traffic
	srv.mu.Lock() // forgetting a session and adding its traffic to ended are one step
	defer srv.mu.Unlock()
	st.Connections = len(srv.conns)
	all.add(&c.ended)
	for s := range srv.conns {
		all.add(&s.traffic)
	}
	st.InMsgs, st.InBytes = all.inMsgs.Load(), all.inBytes.Load()
	st.OutMsgs, st.OutBytes = all.outMsgs.Load(), all.outBytes.Load()
	return st
}

// Conns describes the connections there are now, in no order.
func (srv *Server) Conns() []leaf.ConnInfo {
	list := srv.snapshot()
	infos := make([]leaf.ConnInfo, 0, len(list))
	for _, s := range list {
		infos = append(infos, s.info())
	}
	return infos
}

// logPeriod is how often one kind of fault is logged at most.
const logPeriod = 10 * time.Second

// faults counts by reason and lets each reason into the log once in a period.
type faults struct {
	mu     sync.Mutex
	byCode [256]fault // guarded by mu
}

type fault struct {
	count, logged uint64 // in all, and as of the last log line
	last          time.Time
}

// note counts one fault. It reports whether to log it, and how many there were
// since the last one logged, this one included.
func (f *faults) note(r packet.Reason, now time.Time) (since uint64, log bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := &f.byCode[r]
	e.count++
	if !e.last.IsZero() && now.Sub(e.last) < logPeriod {
		return 0, false
	}
	since = e.count - e.logged
	e.logged, e.last = e.count, now
	return since, true
}

func (f *faults) counts() map[string]uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := map[string]uint64{}
	for code := range f.byCode {
		if n := f.byCode[code].count; n > 0 {
			m[packet.Reason(code).String()] = n
		}
	}
	return m
}

const (
	// violationPeriod is how often one client is named in the log for one subject at most.
	violationPeriod = 10 * time.Minute
	// maxViolations is how many lines that makes in this time, at most.
	maxViolations = 64
)

// violations are who published where they may not, as far as the log names them.
type violations struct {
	mu     sync.Mutex
	logged map[violation]time.Duration // guarded by mu; when, by leaf.Mono
}

type violation struct{ account, client, subject string }

// note reports whether to log that a client published to a subject.
func (v *violations) note(account, client string, subject []byte, now time.Duration) (log bool) {
	subject = subject[:min(len(subject), 128)] // so that little is remembered
	v.mu.Lock()
	defer v.mu.Unlock()
	if at, ok := v.logged[violation{account, client, string(subject)}]; ok && now-at < violationPeriod {
		return false
	}
	if len(v.logged) >= maxViolations {
		maps.DeleteFunc(v.logged, func(_ violation, at time.Duration) bool { return now-at >= violationPeriod })
	}
	if len(v.logged) >= maxViolations {
		return false
	}
	if v.logged == nil {
		v.logged = map[violation]time.Duration{}
	}
	v.logged[violation{account, client, string(subject)}] = now
	return true
}
