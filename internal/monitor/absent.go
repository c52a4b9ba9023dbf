package monitor

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"time"
)

// The pages of this file are about what an edge gateway has not. They answer as a
// nats-server does that has none of it either.

type routez struct {
	ServerID   string    `json:"server_id"`
	ServerName string    `json:"server_name"`
	Now        time.Time `json:"now"`
	NumRoutes  int       `json:"num_routes"`
	Routes     []any     `json:"routes"`
}

func (m *Monitor) routez() *routez {
	return &routez{ServerID: m.o.ServerID, ServerName: m.o.ServerName, Now: time.Now().UTC(), Routes: []any{}}
}

type gatewayz struct {
	ServerID string         `json:"server_id"`
	Now      time.Time      `json:"now"`
	Outbound map[string]any `json:"outbound_gateways"`
	Inbound  map[string]any `json:"inbound_gateways"`
}

func (m *Monitor) gatewayz() *gatewayz {
	return &gatewayz{m.o.ServerID, time.Now().UTC(), map[string]any{}, map[string]any{}}
}

type jsz struct {
	Memory          uint64           `json:"memory"`
	Storage         uint64           `json:"storage"`
	ReservedMemory  uint64           `json:"reserved_memory"`
	ReservedStorage uint64           `json:"reserved_storage"`
	Accounts        int              `json:"accounts"`
	HAAssets        int              `json:"ha_assets"`
	API             map[string]int   `json:"api"`
	ServerID        string           `json:"server_id"`
	Now             time.Time        `json:"now"`
	Disabled        bool             `json:"disabled,omitempty"`
	Config          map[string]int64 `json:"config"`
	Streams         int              `json:"streams"`
	Consumers       int              `json:"consumers"`
	Messages        uint64           `json:"messages"`
	Bytes           uint64           `json:"bytes"`
	Total           int              `json:"total"`
}

type jszOptions struct {
	LeaderOnly bool `json:"leader_only,omitempty"`
}

// jszQuery checks the parameters, of which only one makes a difference.
func jszQuery(q *query) (o jszOptions) {
	for _, name := range []string{"accounts", "streams", "consumers", "direct-consumers", "config"} {
		q.flag(name)
	}
	q.int("offset")
	q.int("limit")
	o.LeaderOnly = q.flag("leader-only")
	q.flag("raft")
	q.flag("stream-leader-only")
	return o
}

// errNotLeader is told over HTTP and answered with silence to a system request.
var errNotLeader = errors.New("filtered response: not leader")

func (m *Monitor) jsz(o jszOptions) (*jsz, error) {
	if o.LeaderOnly {
		return nil, errNotLeader
	}
	return &jsz{ServerID: m.o.ServerID, Now: time.Now().UTC(), Disabled: true, API: map[string]int{"level": 0, "total": 0, "errors": 0},
		Config: map[string]int64{"max_memory": 0, "max_storage": 0}}, nil
}

// vars is the answer of /debug/vars.
type vars struct {
	Cmdline  []string          `json:"cmdline"`
	Memstats *runtime.MemStats `json:"memstats"`
}

func debugVars() *vars {
	v := &vars{Cmdline: withoutSecrets(os.Args), Memstats: new(runtime.MemStats)}
	runtime.ReadMemStats(v.Memstats)
	return v
}

// withoutSecrets hides what flags name a password or a token, and passwords in URLs.
func withoutSecrets(args []string) []string {
	shown := make([]string, len(args))
	hide := false
	for i, a := range args {
		name, value, given := strings.Cut(strings.TrimLeft(a, "-"), "=")
		secret := strings.HasPrefix(a, "-") && (name == "pass" || name == "auth")
		switch {
		case hide:
			a = "[REDACTED]"
		case secret && given:
			a = strings.TrimSuffix(a, value) + "[REDACTED]"
		case strings.Contains(a, "://") && strings.Contains(a, "@"):
			a = "[REDACTED]"
		}
		shown[i], hide = a, secret && !given
	}
	return shown
}

// maxStacks bounds the answer of /stacksz in bytes.
const maxStacks = 4 << 20

// stacks writes down what all goroutines are doing, as the runtime does.
func stacks() []byte {
	for size := 64 << 10; ; size *= 2 {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, true); n < size || size >= maxStacks {
			return buf[:n]
		}
	}
}
