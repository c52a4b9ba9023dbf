package monitor

import (
	"log/slog"
	"net/http"
	"sync/atomic"
)

// Options are what is shown. A nil function leaves its fields empty.
type Options struct {
	ServerID, ServerName string
	Version              string // of the nats-server that leafd is tested against
	Host                 string // of the listener for clients

	// Health tells what is wrong, one reason each; none means well. A hub out of
	// reach is not wrong, that is what leafd is for: report what needs a person.
	Health  func() []string
	Varz    func() Varz // Process and HTTPReqStats are filled in by this package
	Uplinkz func() Uplinkz

	Conns    func() []Conn                        // that are open, links left out
	Closed   func() []Conn                        // that have ended, as far as they are remembered
	Leafs    func() []Leaf                        // that are up
	Accounts func() []Account                     // at least the global one
	Subs     func(account string) (s []SubDetail) // of one account; of all if it is empty

	Logger *slog.Logger // nil means slog.Default
}

// Monitor answers for a server, over HTTP and to system requests. It is safe for all
// goroutines.
type Monitor struct {
	// Static after New.
	o     Options
	log   *slog.Logger
	proc  *process
	pages http.Handler
	asked map[string]*atomic.Uint64 // requests by page

	seq atomic.Uint64 // of answers to system requests
}

// New makes a monitor. It is the handler of all its pages.
func New(o Options) *Monitor {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if links := o.Leafs; links != nil {
		o.Conns = withLinks(o.Conns, links)
	}
	m := &Monitor{o: o, log: o.Logger, proc: newProcess(), asked: map[string]*atomic.Uint64{}}
	m.pages = readOnly(m.routes())
	return m
}

// withLinks adds links to the connections, as nats-server's /connz does.
func withLinks(conns func() []Conn, links func() []Leaf) func() []Conn {
	return func() []Conn {
		var all []Conn
		if conns != nil {
			all = conns()
		}
		for _, l := range links() {
			all = append(all, l.conn())
		}
		return all
	}
}

// ServeHTTP implements [http.Handler].
func (m *Monitor) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.pages.ServeHTTP(w, r) }

func (m *Monitor) varz() (v Varz) {
	if m.o.Varz != nil {
		v = m.o.Varz()
	}
	v.Process = m.proc.sample()
	v.HTTPReqStats = map[string]uint64{}
	for path, n := range m.asked {
		if n := n.Load(); n > 0 {
			v.HTTPReqStats[path] = n
		}
	}
	return v
}

func (m *Monitor) uplinkz() (u Uplinkz) {
	if m.o.Uplinkz != nil {
		u = m.o.Uplinkz()
	}
	return u
}
