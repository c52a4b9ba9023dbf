package hw

import (
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"time"
)

// State says how a device is.
type State uint8

const (
	Starting State = iota // not tried yet
	OK                    // opened, and its last use succeeded
	Missing               // not there; tried again with a backoff
	Failed                // there, but it does not work; tried again with a backoff
	Skipped               // this machine can never have it; not tried again
)

var stateNames = [...]string{"starting", "ok", "missing", "failed", "skipped"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "state(" + strconv.Itoa(int(s)) + ")"
}

// MarshalText makes a State its name in JSON.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// DeviceHealth is a snapshot of one device.
type DeviceHealth struct {
	Name     string    `json:"name"`
	Driver   string    `json:"driver"`
	Subject  string    `json:"subject"`
	Part     string    `json:"part,omitempty"` // what answered when it was last opened: "BME280 at 0x76"
	State    State     `json:"state"`
	Since    time.Time `json:"since"`           // of the state
	Err      string    `json:"error,omitempty"` // the last, even if the device is ok by now
	Readings uint64    `json:"readings"`        // published
	Commands uint64    `json:"commands"`        // answered, with whatever answer
	Failures uint64    `json:"failures"`        // attempts to open, sense, watch or set that failed
}

// health keeps a device's DeviceHealth and logs its changes of state. Safe for any
// goroutine; the device's own goroutine writes.
type health struct {
	log *slog.Logger // static after New

	mu      sync.Mutex
	now     DeviceHealth // guarded by mu
	retries int          // guarded by mu; failures since the state changed
}

func (h *health) snapshot() DeviceHealth {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

// opened notes which part answered.
func (h *health) opened(part string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now.Part = part
}

// read notes one published reading, which proves that the device is well.
func (h *health) read() {
	h.mu.Lock()
	h.now.Readings++
	h.mu.Unlock()
}

// command notes one answered command.
func (h *health) command() {
	h.mu.Lock()
	h.now.Commands++
	h.mu.Unlock()
}

// well notes that the device works.
func (h *health) well() {
	h.mu.Lock()
	was, failures := h.now.State, h.retries
	h.enter(OK)
	part := h.now.Part
	h.mu.Unlock()
	if was != OK {
		h.log.Info("device is ok", "part", part, "failures", failures)
	}
}

// ill notes that the device does not work. A repeated fault is logged once.
func (h *health) ill(err error) State {
	h.mu.Lock()
	was := h.now.State
	s := stateOf(err)
	h.enter(s)
	h.now.Err = err.Error()
	h.now.Failures++
	h.retries++
	h.mu.Unlock()
	if was != s {
		h.log.Warn("device is "+s.String(), "err", err)
	}
	return s
}

// enter must be called with mu held.
func (h *health) enter(s State) {
	if h.now.State != s {
		h.now.State, h.now.Since = s, time.Now()
		h.retries = 0
	}
}

func stateOf(err error) State {
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return Skipped
	case errors.Is(err, ErrMissing):
		return Missing
	default:
		return Failed
	}
}
