package monitor

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
)

// Options are what is shown. A nil function leaves its fields empty.
type Options struct {
	// Health tells what is wrong, one reason each; none means well. A hub out of
	// reach is not wrong, that is what leafd is for: report what needs a person.
	Health  func() []string
	Varz    func() Varz // Process is filled in by this package
	Uplinkz func() Uplinkz

	Logger *slog.Logger // nil means slog.Default
}

// index is the page at "/": what there is to read.
const index = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>leafd</title></head><body>
<h1>leafd</h1>
<ul>
<li><a href="/healthz">healthz</a>: is it well</li>
<li><a href="/varz">varz</a>: traffic, limits, process</li>
<li><a href="/uplinkz">uplinkz</a>: the link to the hub, outboxes, the store</li>
<li><a href="/metrics">metrics</a>: all that is counted, for Prometheus</li>
</ul>
</body></html>
`

// health is the answer of /healthz.
type health struct {
	Status  string   `json:"status"` // ok or unavailable
	Error   string   `json:"error,omitempty"`
	Reasons []string `json:"reasons,omitempty"`
}

// New returns the handler of all pages. It is safe for all goroutines.
func New(o Options) http.Handler {
	log := o.Logger
	if log == nil {
		log = slog.Default()
	}
	proc := newProcess()
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if _, err := w.Write([]byte(index)); err != nil {
			log.Debug("monitoring answer not sent", "path", "/", "err", err)
		}
	})
	page := func(path string, fill func() (status int, answer any)) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			status, answer := fill()
			if err := writeJSON(w, r, status, answer); err != nil {
				log.Debug("monitoring answer not sent", "path", path, "err", err)
			}
		})
	}
	page("/healthz", func() (int, any) {
		var reasons []string
		if o.Health != nil {
			reasons = o.Health()
		}
		if len(reasons) == 0 {
			return http.StatusOK, health{Status: "ok"}
		}
		return http.StatusServiceUnavailable, health{"unavailable", strings.Join(reasons, "; "), reasons}
	})
	varz := func() (v Varz) {
		if o.Varz != nil {
			v = o.Varz()
		}
		v.Process = proc.sample()
		return v
	}
	uplinkz := func() (u Uplinkz) {
		if o.Uplinkz != nil {
			u = o.Uplinkz()
		}
		return u
	}
	page("/varz", func() (int, any) { return http.StatusOK, varz() })
	page("/uplinkz", func() (int, any) { return http.StatusOK, uplinkz() })
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		v, u := varz(), uplinkz()
		w.Header().Set("Content-Type", metricsType)
		if _, err := w.Write(appendMetrics(nil, &v, &u)); err != nil {
			log.Debug("monitoring answer not sent", "path", "/metrics", "err", err)
		}
	})
	return readOnly(mux)
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
