package monitor

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// metrics writes the Prometheus text format, version 0.0.4. A family is its HELP
// and TYPE lines with all its samples behind them, so each is written in one go.
type metrics struct {
	b    []byte
	name string // of the open family
}

const metricsType = "text/plain; version=0.0.4; charset=utf-8"

// family opens a family. What is counted since the start is a counter, and its name
// ends in _total; the rest is a gauge.
func (w *metrics) family(name, help string) {
	kind := "gauge"
	if strings.HasSuffix(name, "_total") {
		kind = "counter"
	}
	w.name = "leafd_" + name
	w.b = append(w.b, "# HELP "+w.name+" "+help+"\n# TYPE "+w.name+" "+kind+"\n"...)
}

// add writes one sample of the open family; labels are names and values in turn.
func (w *metrics) add(v float64, labels ...string) {
	w.b = append(w.b, w.name...)
	for i := 0; i+1 < len(labels); i += 2 {
		w.b = append(w.b, "{,"[min(i, 1)])
		w.b = append(append(w.b, labels[i]...), `="`...)
		w.b = append(appendLabel(w.b, labels[i+1]), '"')
	}
	if len(labels) > 0 {
		w.b = append(w.b, '}')
	}
	w.b = strconv.AppendFloat(append(w.b, ' '), v, 'f', -1, 64)
	w.b = append(w.b, '\n')
}

// appendLabel escapes what a label value may not hold as it is, and replaces what is
// not text.
func appendLabel(b []byte, s string) []byte {
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		switch r {
		case '\\', '"':
			b = append(b, '\\', byte(r))
		case '\n':
			b = append(b, '\\', 'n')
		default:
			b = append(b, string(r)...)
		}
	}
	return b
}

// one is a family of one sample.
func (w *metrics) one(name, help string, v float64) {
	w.family(name, help)
	w.add(v)
}

// each is a family with one sample for each key of m, in their order.
func (w *metrics) each(name, help, label string, m map[string]uint64) {
	w.family(name, help)
	for _, k := range slices.Sorted(maps.Keys(m)) {
		w.add(float64(m[k]), label, k)
	}
}

// kind is a family with one sample for each of several things.
type kind[T any] struct {
	name, help string
	value      func(*T) float64
}

// all writes these families; labels are those of one thing.
func all[T any](w *metrics, things []T, labels func(*T) []string, kinds []kind[T]) {
	for i := range kinds {
		w.family(kinds[i].name, kinds[i].help)
		for j := range things {
			w.add(kinds[i].value(&things[j]), labels(&things[j])...)
		}
	}
}

func appendMetrics(b []byte, v *Varz, u *Uplinkz) []byte {
	w := &metrics{b: b}
	w.process(v)
	w.traffic(v)
	if v.Leafd.MQTT != nil {
		w.mqtt(v.Leafd.MQTT)
	}
	all(w, v.Leafd.Hardware, func(d *Device) []string { return []string{"device", d.Name} }, deviceKinds)
	all(w, u.Remotes, func(*Remote) []string { return nil }, linkKinds)
	w.outboxes(u.Outboxes)
	if u.Store != nil {
		w.store(u.Store)
	}
	return w.b
}

func (w *metrics) process(v *Varz) {
	w.family("info", "Always 1; the labels say what runs.")
	w.add(1, "server_name", v.ServerName, "version", v.Leafd.Version, "go", v.GoVersion)
	w.one("start_time_seconds", "When the process started, Unix time.", unix(v.Start))
	w.one("memory_resident_bytes", "Memory resident, files that are mapped included.", float64(v.Mem))
	w.one("memory_anonymous_bytes", "Memory resident that no file stands behind.", float64(v.Anon))
	w.one("cpu_percent", "Share of one core since the last question.", v.CPU)
	w.one("goroutines", "Goroutines.", float64(v.Goroutines))
}

func (w *metrics) traffic(v *Varz) {
	w.one("connections", "NATS clients connected.", float64(v.Leafd.Conns))
	w.one("connections_accepted_total", "NATS clients that connected.", float64(v.Leafd.Accepted))
	w.one("connections_refused_total", "NATS clients over the limit.", float64(v.Leafd.Refused))
	w.one("subscriptions", "Subscriptions of all kinds.", float64(v.Subscriptions))
	w.one("messages_in_total", "Messages published.", float64(v.InMsgs))
	w.one("messages_out_total", "Messages delivered, one for each recipient.", float64(v.OutMsgs))
	w.one("bytes_in_total", "Header and data bytes published.", float64(v.InBytes))
	w.one("bytes_out_total", "Header and data bytes delivered.", float64(v.OutBytes))
	w.one("client_messages_in_total", "Messages from NATS clients and MQTT devices.", float64(v.InClientMsgs))
	w.one("client_messages_out_total", "Messages to NATS clients and MQTT devices.", float64(v.OutClientMsgs))
	w.one("client_bytes_in_total", "Header and data bytes from them.", float64(v.InClientBytes))
	w.one("client_bytes_out_total", "Header and data bytes to them.", float64(v.OutClientBytes))
	w.one("match_lookups_total", "Times that a subject was looked up; one like that before it is not.", float64(v.Leafd.Lookups))
	w.one("match_cache_hits_total", "Of these, those found in the cache.", float64(v.Leafd.Hits))
	w.one("stalls_total", "Times that a publisher was held because a recipient was behind.", float64(v.StalledClients))
	w.each("drops_total", "Deliveries refused.", "reason", v.Leafd.Drops)
	w.one("slow_consumers_total", "NATS clients that were too slow.", float64(v.SlowConsumers))
	w.one("stale_connections_total", "NATS clients that did not answer.", float64(v.StaleConnections))
	w.one("protocol_errors_total", "NATS clients cut off for what they sent.", float64(v.Leafd.BadProto))
	w.one("auth_errors_total", "NATS clients refused for their credentials.", float64(v.Leafd.BadAuth))
	w.one("system_events_lost_total", "Events on $SYS subjects that there was no room for.", float64(v.Leafd.LostEvents))
	w.one("panics_total", "Handlers that failed.", float64(v.Leafd.Panics))
}

func (w *metrics) mqtt(m *MQTT) {
	w.one("mqtt_connections", "MQTT clients connected.", float64(m.Connections))
	w.one("mqtt_connections_accepted_total", "MQTT clients that connected.", float64(m.TotalConnections))
	w.one("mqtt_connections_refused_total", "MQTT clients over the limit.", float64(m.Refused))
	w.one("mqtt_messages_in_total", "PUBLISH packets from devices.", float64(m.InMsgs))
	w.one("mqtt_messages_out_total", "PUBLISH packets to devices.", float64(m.OutMsgs))
	w.one("mqtt_bytes_in_total", "Payload bytes from devices.", float64(m.InBytes))
	w.one("mqtt_bytes_out_total", "Payload bytes to devices.", float64(m.OutBytes))
	w.one("mqtt_takeovers_total", "Connections ended by another with their client id.", float64(m.Takeovers))
	w.one("mqtt_wills_total", "Wills published.", float64(m.Wills))
	w.each("mqtt_faults_total", "Connections refused or ended by leafd.", "reason", m.Faults)
}

var deviceKinds = []kind[Device]{
	{"device_ok", "1 while the device works.", func(d *Device) float64 { return truth(d.State == "ok") }},
	{"device_readings_total", "Readings published.", func(d *Device) float64 { return float64(d.Readings) }},
	{"device_commands_total", "Commands obeyed.", func(d *Device) float64 { return float64(d.Commands) }},
	{"device_failures_total", "Readings and commands that failed.", func(d *Device) float64 { return float64(d.Failures) }},
}

var linkKinds = []kind[Remote]{
	{"link_up", "1 while the link to the hub is up.", func(r *Remote) float64 { return truth(r.State == "up") }},
	{"link_sessions_total", "How often the link came up.", func(r *Remote) float64 { return float64(r.Sessions) }},
	{"link_attempts", "Attempts since the link was last up.", func(r *Remote) float64 { return float64(r.Attempts) }},
	{"link_rtt_seconds", "Round trip of the last ping; 0 if unknown.", func(r *Remote) float64 { return time.Duration(r.RTT).Seconds() }},
	{"link_messages_in_total", "Messages from the hub.", func(r *Remote) float64 { return float64(r.InMsgs) }},
	{"link_messages_out_total", "Messages to the hub.", func(r *Remote) float64 { return float64(r.OutMsgs) }},
	{"link_bytes_in_total", "Bytes from the hub.", func(r *Remote) float64 { return float64(r.InBytes) }},
	{"link_bytes_out_total", "Bytes to the hub.", func(r *Remote) float64 { return float64(r.OutBytes) }},
}

var outboxKinds = []kind[Outbox]{
	{"outbox_messages", "Messages that the hub has not acknowledged.", func(o *Outbox) float64 { return float64(o.Messages) }},
	{"outbox_bytes", "Bytes of these.", func(o *Outbox) float64 { return float64(o.Bytes) }},
	{"outbox_max_bytes", "Bytes that there may be.", func(o *Outbox) float64 { return float64(o.MaxBytes) }},
	{"outbox_oldest_age_seconds", "Age of the oldest; since the boot, if it is of an earlier one and the time is not known.", func(o *Outbox) float64 { return time.Duration(o.OldestAge).Seconds() }},
	{"outbox_in_flight", "Messages sent and not acknowledged.", func(o *Outbox) float64 { return float64(o.InFlight) }},
	{"outbox_sent_total", "Messages sent, repeated ones included.", func(o *Outbox) float64 { return float64(o.Sent) }},
	{"outbox_acked_total", "Messages acknowledged by the hub.", func(o *Outbox) float64 { return float64(o.Acked) }},
	{"outbox_duplicates_total", "Messages sent twice and recognised by the hub.", func(o *Outbox) float64 { return float64(o.Duplicates) }},
	{"outbox_resent_total", "Messages sent again.", func(o *Outbox) float64 { return float64(o.Resent) }},
	{"outbox_rejected_total", "Messages that the hub will not take.", func(o *Outbox) float64 { return float64(o.Rejected) }},
	{"outbox_conflated_total", "Messages superseded by newer ones of their subject before they were sent.", func(o *Outbox) float64 { return float64(o.Conflated) }},
	{"outbox_reordered_total", "Messages stored behind later ones.", func(o *Outbox) float64 { return float64(o.Reordered) }},
	{"outbox_hub_went_back_total", "Times that the hub had less than it had acknowledged.", func(o *Outbox) float64 { return float64(o.WentBack) }},
	{"outbox_ack_rtt_seconds", "Round trip of acknowledgements, smoothed; 0 if unknown.", func(o *Outbox) float64 { return time.Duration(o.RTT).Seconds() }},
}

func (w *metrics) outboxes(boxes []Outbox) {
	w.family("outbox_state", "1 for the state that the outbox is in.")
	for i := range boxes {
		w.add(1, "outbox", boxes[i].Class, "state", boxes[i].State)
	}
	all(w, boxes, func(o *Outbox) []string { return []string{"outbox", o.Class} }, outboxKinds)
	w.family("outbox_resume", "1 for the way in which the outbox goes on after an interruption.")
	for i := range boxes {
		if boxes[i].Resume != "" {
			w.add(1, "outbox", boxes[i].Class, "by", boxes[i].Resume)
		}
	}
	w.family("outbox_lost_total", "Messages that were given to the outbox and will not reach the hub.")
	for i := range boxes {
		lost, inDoubt := boxes[i].Dropped, boxes[i].InDoubt
		for _, reason := range slices.Sorted(maps.Keys(lost)) {
			w.add(float64(lost[reason]-inDoubt[reason]), "outbox", boxes[i].Class, "reason", reason)
		}
	}
}

func (w *metrics) store(s *Store) {
	w.family("store_state", "1 for the state that the store is in.")
	w.add(1, "state", s.State)
	w.one("store_file_bytes", "Size of the file behind the journal.", float64(s.FileSize))
	w.each("store_written_bytes_total", "Bytes written to the disk since the start.", "cause", s.Written)
	w.one("store_commits_total", "Batches made durable.", float64(s.Commits))
	w.one("store_commit_messages_total", "Messages in them.", float64(s.CommitMsgs))
	w.one("store_folds_total", "Transactions from the journal into the file behind it.", float64(s.Folds))
	w.one("store_faults_total", "Errors of the disk after which the files were opened anew.", float64(s.Faults))
	w.one("store_recoveries_total", "Returns from failed to acknowledging.", float64(s.Recoveries))
	w.one("store_unsafe_messages", "Messages neither on disk nor with the hub.", float64(s.UnsafeMsgs))
	w.one("store_unsafe_bytes", "Bytes of these.", float64(s.UnsafeBytes))
	if s.Wear == nil {
		return
	}
	// No counter, though it grows: after a crash it is back at its last fold, and a rate
	// would take that for a restart from 0 and add all of it once more.
	w.one("wear_written_bytes", "Bytes written to the disk since the store was made; less by the last of them after a crash.", float64(s.Wear.Total))
	w.one("wear_today_bytes", "Bytes written to the disk today, UTC.", float64(s.Wear.Today))
	w.family("flash_life_used_percent", "Life used up as the flash chip says, upper end of its step of ten.")
	for _, f := range s.Wear.Flash {
		w.add(float64(f.LifeUsed), "disk", f.Disk, "type", f.Type)
	}
	w.family("flash_spare_used", "Spare blocks as the flash chip says: 1 normal, 2 four fifths used, 3 nine tenths used.")
	for _, f := range s.Wear.Flash {
		if f.Spare > 0 && f.Type == "a" {
			w.add(float64(f.Spare), "disk", f.Disk)
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
