package monitor

import (
	"errors"
	"net/http"
	"strings"
)

// health is the answer of /healthz.
type health struct {
	Status  string        `json:"status"`                // ok, error or unavailable
	Code    int           `json:"status_code,omitempty"` // in system requests; over HTTP it is the status
	Error   string        `json:"error,omitempty"`
	Errors  []healthError `json:"errors,omitempty"`  // with details asked for
	Reasons []string      `json:"reasons,omitempty"` // one each
}

type healthError struct {
	Type  string `json:"type"` // CONNECTION, BAD_REQUEST, JETSTREAM
	Error string `json:"error,omitempty"`
}

// healthOptions are the parameters of /healthz, and what a system request for
// HEALTHZ holds. What asks for JetStream's server alone, or whether it is enabled,
// looks past the store here.
type healthOptions struct {
	JSEnabled     bool   `json:"js-enabled,omitempty"`
	JSEnabledOnly bool   `json:"js-enabled-only,omitempty"`
	JSServerOnly  bool   `json:"js-server-only,omitempty"`
	JSMetaOnly    bool   `json:"js-meta-only,omitempty"`
	Account       string `json:"account,omitempty"`
	Stream        string `json:"stream,omitempty"`
	Consumer      string `json:"consumer,omitempty"`
	Details       bool   `json:"details,omitempty"`
}

func healthQuery(q *query) (o healthOptions) {
	o.JSEnabled, o.JSEnabledOnly, o.JSServerOnly, o.JSMetaOnly = q.flag("js-enabled"), q.flag("js-enabled-only"), q.flag("js-server-only"), q.flag("js-meta-only")
	o.Details, o.Account, o.Stream, o.Consumer = q.flag("details"), q.text("account"), q.text("stream"), q.text("consumer")
	return o
}

func (m *Monitor) healthz(o healthOptions) *health {
	switch {
	case o.Account == "" && o.Stream != "":
		return unwell(o.Details, http.StatusBadRequest, "BAD_REQUEST", errors.New(`"account" must not be empty when checking stream health`))
	case o.Stream == "" && o.Consumer != "":
		return unwell(o.Details, http.StatusBadRequest, "BAD_REQUEST", errors.New(`"stream" must not be empty when checking consumer health`))
	}
	var reasons []string
	if m.o.Health != nil && !o.JSServerOnly && !o.JSEnabledOnly && !o.JSEnabled {
		reasons = m.o.Health()
	}
	if len(reasons) == 0 {
		return &health{Status: "ok", Code: http.StatusOK}
	}
	if o.Details {
		h := &health{Status: "error", Code: http.StatusServiceUnavailable}
		for _, r := range reasons {
			h.Errors = append(h.Errors, healthError{"JETSTREAM", r})
		}
		return h
	}
	return &health{Status: "unavailable", Code: http.StatusServiceUnavailable, Error: strings.Join(reasons, "; "), Reasons: reasons}
}

func unwell(details bool, code int, kind string, err error) *health {
	if details {
		return &health{Status: "error", Code: code, Errors: []healthError{{kind, err.Error()}}}
	}
	return &health{Status: "error", Code: code, Error: err.Error()}
}
