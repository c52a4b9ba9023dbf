package monitor

import (
	"encoding/json"
	"time"
)

// Process is what the operating system says of this process.
type Process struct {
	Start      time.Time `json:"start"`
	Now        time.Time `json:"now"`
	Uptime     string    `json:"uptime"` // "2d3h4m5s"
	Mem        int64     `json:"mem"`    // bytes resident
	Anon       int64     `json:"-"`      // of these, those that no file stands behind; for /metrics
	Cores      int       `json:"cores"`
	MaxProcs   int       `json:"gomaxprocs"`
	MemLimit   int64     `json:"gomemlimit,omitempty"` // bytes; 0: none
	CPU        float64   `json:"cpu"`                  // percent of one core since the last question
	Goroutines int       `json:"goroutines"`
}

// Leafd is what leafd has and nats-server has not.
type Leafd struct {
	Version    string            `json:"version"`                // of leafd
	Conns      int               `json:"nats_connections"`       // of these, NATS clients
	Accepted   uint64            `json:"nats_total_connections"` // likewise
	Lookups    uint64            `json:"match_lookups"`          // of a subject other than that before it
	Hits       uint64            `json:"match_cache_hits"`       // of these, found in the cache
	Drops      map[string]uint64 `json:"drops"`                  // deliveries refused, by reason
	Refused    uint64            `json:"refused"`                // connections over the limit
	BadProto   uint64            `json:"protocol_errors"`        // connections ended for what they sent
	BadAuth    uint64            `json:"auth_errors"`            // connections refused for their credentials
	Panics     uint64            `json:"panics"`                 // handlers that failed; each ended one connection
	LostEvents uint64            `json:"lost_events"`            // system events that there was no room for
	MQTT       *MQTT             `json:"mqtt,omitempty"`         // nil without an MQTT listener
	Hardware   []Device          `json:"hardware,omitempty"`     // by name
}

// MQTT counts what the MQTT listener did.
type MQTT struct {
	Host             string            `json:"host"`
	Port             int               `json:"port"`
	Connections      int               `json:"connections"`
	TotalConnections uint64            `json:"total_connections"`
	Refused          uint64            `json:"refused"`
	InMsgs           uint64            `json:"in_msgs"`
	OutMsgs          uint64            `json:"out_msgs"`
	InBytes          uint64            `json:"in_bytes"`
	OutBytes         uint64            `json:"out_bytes"`
	Takeovers        uint64            `json:"takeovers"` // connections ended by another with their client id
	Wills            uint64            `json:"wills"`
	Faults           map[string]uint64 `json:"faults"` // connections ended, by reason
}

// Device is the health of one sensor, input or output.
type Device struct {
	Name      string    `json:"name"`
	Driver    string    `json:"driver"`
	Subject   string    `json:"subject"`
	Part      string    `json:"part,omitempty"`
	State     string    `json:"state"` // ok, missing, failed, skipped, starting
	Since     time.Time `json:"since,omitzero"`
	LastError string    `json:"last_error,omitempty"`
	Readings  uint64    `json:"readings"`
	Commands  uint64    `json:"commands"`
	Failures  uint64    `json:"failures"`
}

// Uplinkz is the answer of /uplinkz.
type Uplinkz struct {
	ServerName string    `json:"server_name"`
	Now        time.Time `json:"now"`
	Remotes    []Remote  `json:"remotes"`
	Outboxes   []Outbox  `json:"outboxes"` // by class
	Store      *Store    `json:"store,omitempty"`
}

// Remote is one link to a hub.
type Remote struct {
	URL         string    `json:"url"`   // that of the last attempt, without user and password
	State       string    `json:"state"` // up, connecting, waiting
	Since       time.Time `json:"since,omitzero"`
	LastError   string    `json:"last_error,omitempty"` // may be of before the link came up
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
	Attempts    uint64    `json:"attempts"`           // since the link was last up
	Sessions    uint64    `json:"sessions"`           // how often it came up
	RTT         Duration  `json:"rtt"`                // of the last ping; 0 if unknown
	HubName     string    `json:"hub_name,omitempty"` // as the hub says
	HubVersion  string    `json:"hub_version,omitempty"`
	Domain      string    `json:"domain,omitempty"` // the hub's JetStream domain
	InMsgs      uint64    `json:"in_msgs"`
	OutMsgs     uint64    `json:"out_msgs"`
	InBytes     uint64    `json:"in_bytes"`
	OutBytes    uint64    `json:"out_bytes"`
}

// Outbox is one class of messages on their way to the hub.
type Outbox struct {
	Class      string            `json:"class"`
	State      string            `json:"state"`                // draining, idle, waiting, blocked, …
	Reason     string            `json:"reason,omitempty"`     // why it is waiting or blocked
	LastError  string            `json:"last_error,omitempty"` // may be long over
	Subjects   []string          `json:"subjects"`
	Confirm    string            `json:"confirm"` // how the hub does: stream, flush
	Stream     string            `json:"stream,omitempty"`
	Domain     string            `json:"domain,omitempty"`
	Messages   int64             `json:"messages"` // not acknowledged by the hub
	Bytes      int64             `json:"bytes"`
	MaxBytes   int64             `json:"max_bytes"`
	OldestAge  Duration          `json:"oldest_age"`
	OlderStill bool              `json:"older_still,omitempty"` // the oldest is of an earlier boot, and how old nobody knows yet
	FirstSeq   uint64            `json:"first_seq"`
	LastSeq    uint64            `json:"last_seq"`
	AckedSeq   uint64            `json:"acked_seq"`
	InFlight   int               `json:"in_flight"` // sent, not acknowledged
	Sent       uint64            `json:"sent"`      // resends included
	Resent     uint64            `json:"resent"`    // of these
	Acked      uint64            `json:"acked"`
	KeptInRAM  int               `json:"kept_in_ram"`                // of these, kept for a hub that goes back, and not in store.db
	RTT        Duration          `json:"ack_rtt"`                    // of acknowledgements, smoothed; 0 if unknown
	Rejected   uint64            `json:"rejected"`                   // given up: the hub will not take them
	Junk       uint64            `json:"junk_replies"`               // that were no acknowledgement
	Shared     bool              `json:"shared_subjects"`            // others write to them on the hub
	Duplicates uint64            `json:"duplicates"`                 // acknowledged by the hub as known already
	Reordered  uint64            `json:"reordered"`                  // stored behind later ones: lost in the hub, and others write to the stream
	WentBack   uint64            `json:"hub_went_back"`              // times that it had less than it had acknowledged
	Resume     string            `json:"resume,omitempty"`           // how it goes on after an interruption: chain, readback, window, none
	ResumeWhy  string            `json:"resume_reason,omitempty"`    // why it has to rely on the window, or on nothing
	Window     Duration          `json:"duplicate_window,omitempty"` // of the stream, then
	Conflated  uint64            `json:"conflated"`                  // superseded by newer ones of their subject
	Dropped    map[string]uint64 `json:"dropped"`                    // by reason
	InDoubt    map[string]uint64 `json:"in_doubt,omitempty"`         // of these, what the hub may have after all
	Earlier    map[string]uint64 `json:"-"`                          // of the others, what an earlier run has counted
}

// Store is the disk under the outboxes.
type Store struct {
	Dir         string            `json:"dir"`
	State       string            `json:"state"` // ok, full, failed
	LastError   string            `json:"last_error,omitempty"`
	Epoch       uint64            `json:"epoch"`
	Written     map[string]uint64 `json:"written_bytes"` // by cause
	Commits     uint64            `json:"commits"`       // batches made durable
	CommitMsgs  uint64            `json:"commit_messages"`
	Folds       uint64            `json:"folds"`
	Faults      uint64            `json:"faults"`          // errors of the disk after which the files were opened anew
	Recoveries  uint64            `json:"recoveries"`      // returns from failed to acknowledging
	UnsafeMsgs  int64             `json:"unsafe_messages"` // neither on disk nor with the hub
	UnsafeBytes int64             `json:"unsafe_bytes"`
	JournalSize int64             `json:"journal_size"`
	JournalMode string            `json:"journal_mode,omitempty"` // how it is written
	FileSize    int64             `json:"file_size"`
	Salvaged    []string          `json:"salvaged,omitempty"` // what was moved aside as damaged
	Wear        *Wear             `json:"wear,omitempty"`
}

// Wear is what the store has cost the flash. It is kept with the store, and goes on
// over a restart; what was written with the last fold and after it is not counted then.
type Wear struct {
	Total   uint64            `json:"total_bytes"`    // written since the store was made
	ByCause map[string]uint64 `json:"by_cause_bytes"` // of these
	Today   uint64            `json:"today_bytes"`    // UTC
	Days    []WearDay         `json:"days,omitempty"` // the last 31 on which something was written, oldest first
	Flash   []Flash           `json:"flash,omitempty"`
}

// WearDay is one day, UTC.
type WearDay struct {
	Day   string `json:"day"` // 2026-01-31
	Bytes uint64 `json:"bytes"`
}

// Duration is shown as seconds, a number that tools can compare.
type Duration time.Duration

// MarshalJSON writes seconds with up to six decimals.
func (d Duration) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(d).Round(time.Microsecond).Seconds())
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s float64
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	*d = Duration(s * float64(time.Second))
	return nil
}
