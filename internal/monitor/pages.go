package monitor

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
)

// index is the page at "/": what there is to read.
const index = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>leafd</title></head><body>
<h1>leafd</h1>
<ul>
<li><a href="/healthz">healthz</a>: is it well</li>
<li><a href="/varz">varz</a>: traffic, limits, process</li>
<li><a href="/connz">connz</a>: connections; <a href="/connz?state=closed">those that have ended</a></li>
<li><a href="/subsz">subsz</a>: subscriptions; <a href="/subsz?subs=1">one by one</a></li>
<li><a href="/accountz">accountz</a>, <a href="/accstatz?unused=1">accstatz</a>: accounts and their traffic</li>
<li><a href="/leafz">leafz</a>: links that are up</li>
<li><a href="/uplinkz">uplinkz</a>: the link to the hub, up or down; outboxes, the store</li>
<li><a href="/metrics">metrics</a>: all that is counted, for Prometheus</li>
<li><a href="/stacksz">stacksz</a>, <a href="/debug/vars">debug/vars</a>: for whoever looks for a fault</li>
<li><a href="/jsz">jsz</a>, <a href="/routez">routez</a>, <a href="/gatewayz">gatewayz</a>, <a href="/ipqueuesz">ipqueuesz</a>,
<a href="/raftz">raftz</a>: for tools that ask; a gateway has nothing of the kind</li>
</ul>
</body></html>
`

// routes are all pages. The names are nats-server's, but for /uplinkz and /metrics.
func (m *Monitor) routes() *http.ServeMux {
	mux := http.NewServeMux()
	m.raw(mux, "/{$}", "text/html; charset=utf-8", func() []byte { return []byte(index) })
	m.raw(mux, "/stacksz", "text/plain; charset=utf-8", stacks)
	m.raw(mux, "/metrics", metricsType, func() []byte {
		v, u := m.varz(), m.uplinkz()
		return appendMetrics(nil, &v, &u)
	})
	m.page(mux, "/varz", func(*query) (any, error) { return m.varz(), nil })
	m.page(mux, "/uplinkz", func(*query) (any, error) { return m.uplinkz(), nil })
	m.page(mux, "/connz", func(q *query) (any, error) {
		o := connzOptions(q)
		return checked(q, func() (*Connz, error) { return m.Connz(o) })
	})
	subsz := func(q *query) (any, error) {
		o := subszOptions(q)
		return checked(q, func() (*Subsz, error) { return m.Subsz(o) })
	}
	m.page(mux, "/subsz", subsz)
	m.page(mux, "/subscriptionsz", subsz)
	m.page(mux, "/leafz", func(q *query) (any, error) {
		return m.Leafz(LeafzOptions{q.flag("subs"), q.text("acc")}), q.err
	})
	m.page(mux, "/accountz", func(q *query) (any, error) { return m.Accountz(q.text("acc")) })
	m.page(mux, "/accstatz", func(q *query) (any, error) {
		return m.AccountStatz(AccountStatzOptions{Unused: q.flag("unused")}), q.err
	})
	m.page(mux, "/routez", func(q *query) (any, error) {
		q.subs()
		return m.routez(), q.err
	})
	m.page(mux, "/gatewayz", func(q *query) (any, error) {
		q.subs()
		q.flag("accs")
		return m.gatewayz(), q.err
	})
	m.page(mux, "/jsz", func(q *query) (any, error) {
		o := jszQuery(q)
		return checked(q, func() (*jsz, error) { return m.jsz(o) })
	})
	m.page(mux, "/ipqueuesz", func(q *query) (any, error) {
		q.flag("all")
		return struct{}{}, q.err
	})
	m.page(mux, "/raftz", func(*query) (any, error) { return nil, errNoRaft })
	m.page(mux, "/debug/vars", func(*query) (any, error) { return debugVars(), nil })
	m.page(mux, "/healthz", func(q *query) (any, error) {
		o := healthQuery(q)
		return checked(q, func() (*health, error) { return m.healthz(o), nil })
	})
	return mux
}

// checked calls answer if the parameters are right.
func checked[T any](q *query, answer func() (*T, error)) (any, error) {
	if q.err != nil {
		return nil, q.err
	}
	return answer()
}

// pageError is an error with a status of its own.
type pageError struct {
	status int
	text   string
}

func (e *pageError) Error() string { return e.text }

var errNoRaft = &pageError{http.StatusNotFound, "No Raft nodes registered"}

func (m *Monitor) count(path string) *atomic.Uint64 {
	n := new(atomic.Uint64)
	m.asked[strings.TrimSuffix(path, "{$}")] = n
	return n
}

// raw is a page that is not JSON.
func (m *Monitor) raw(mux *http.ServeMux, path, contentType string, fill func() []byte) {
	asked := m.count(path)
	mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", contentType)
		if _, err := w.Write(fill()); err != nil {
			m.log.Debug("monitoring answer not sent", "path", path, "err", err)
		}
	})
}

// page is a page of JSON. An error is told as text, as nats-server does.
func (m *Monitor) page(mux *http.ServeMux, path string, fill func(*query) (any, error)) {
	asked := m.count(path)
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		answer, err := fill(&query{values: r.URL.Query()})
		if err != nil {
			refuse(w, err)
			return
		}
		status := http.StatusOK
		if h, ok := answer.(*health); ok {
			status, h.Code = h.Code, 0
		}
		if err := writeJSON(w, r, status, answer); err != nil {
			m.log.Debug("monitoring answer not sent", "path", path, "err", err)
		}
	})
}

func refuse(w http.ResponseWriter, err error) {
	status := http.StatusBadRequest
	if pe, ok := err.(*pageError); ok {
		status = pe.status
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(err.Error())) // who asked has gone, or reads it
}

// readOnly refuses what would change something, and says that answers are neither
// to be kept nor to be taken for something else.
func readOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD are answered here", http.StatusMethodNotAllowed)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// writeJSON answers with v, or with callback(v) if ?callback= asks for it.
func writeJSON(w http.ResponseWriter, r *http.Request, status int, v any) error {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, "the answer could not be written as JSON", http.StatusInternalServerError)
		return err
	}
	contentType := "application/json"
	if r.URL.Query().Has("callback") {
		callback := r.URL.Query().Get("callback")
		if !validCallback(callback) {
			http.Error(w, "callback is not the name of a function: use letters, digits, _, $ and dots", http.StatusBadRequest)
			return nil
		}
		// The comment keeps the answer from being taken for anything but a script.
		body = []byte("/**/" + callback + "(" + string(body) + ");")
		contentType = "application/javascript"
	}
	body = append(body, '\n')
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Access-Control-Allow-Origin", "*") // as nats-server: dashboards in a browser read it
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, err = w.Write(body)
	return err
}

// validCallback accepts identifiers joined by dots, of ASCII, at most 64 bytes:
// anything else could make the answer a script of the asker's own.
func validCallback(s string) bool {
	if len(s) > 64 {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		for i := range len(part) {
			c := part[i]
			letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '$'
			if !letter && (i == 0 || c < '0' || c > '9') {
				return false
			}
		}
		if part == "" {
			return false
		}
	}
	return true
}
