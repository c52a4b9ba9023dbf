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

// count is a family of one sample, which is whole. In line its conversion would be there forty times.
//
//go:noinline
func (w *metrics) count(name, help string, v uint64) { w.one(name, help, float64(v)) }

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
	w.count("memory_resident_bytes", "Memory resident, files that are mapped included.", uint64(v.Mem))
	w.count("memory_anonymous_bytes", "Memory resident that no file stands behind.", uint64(v.Anon))
	w.one("cpu_percent", "Share of one core since the last question.", v.CPU)
	w.count("goroutines", "Goroutines.", uint64(v.Goroutines))
}

func (w *metrics) traffic(v *Varz) {
	w.count("connections", "NATS clients connected.", uint64(v.Leafd.Conns))
	w.count("connections_accepted_total", "NATS clients that connected.", v.Leafd.Accepted)
	w.count("connections_refused_total", "NATS clients over the limit.", v.Leafd.Refused)
	w.count("subscriptions", "Subscriptions of all kinds.", uint64(v.Subscriptions))
	w.count("messages_in_total", "Messages published.", v.InMsgs)
	w.count("messages_out_total", "Messages delivered, one for each recipient.", v.OutMsgs)
	w.count("bytes_in_total", "Header and data bytes published.", v.InBytes)
	w.count("bytes_out_total", "Header and data bytes delivered.", v.OutBytes)
	w.count("client_messages_in_total", "Messages from NATS clients and MQTT devices.", v.InClientMsgs)
	w.count("client_messages_out_total", "Messages to NATS clients and MQTT devices.", v.OutClientMsgs)
	w.count("client_bytes_in_total", "Header and data bytes from them.", v.InClientBytes)
	w.count("client_bytes_out_total", "Header and data bytes to them.", v.OutClientBytes)
	w.count("match_lookups_total", "Times that a subject was looked up; one like that before it is not.", v.Leafd.Lookups)
	w.count("match_cache_hits_total", "Of these, those found in the cache.", v.Leafd.Hits)
	w.count("stalls_total", "Times that a publisher was held because a recipient was behind.", v.StalledClients)
	w.each("drops_total", "Deliveries refused.", "reason", v.Leafd.Drops)
	w.count("slow_consumers_total", "NATS clients that were too slow.", v.SlowConsumers)
	w.count("stale_connections_total", "NATS clients that did not answer.", v.StaleConnections)
	w.count("protocol_errors_total", "NATS clients cut off for what they sent.", v.Leafd.BadProto)
	w.count("auth_errors_total", "NATS clients refused for their credentials.", v.Leafd.BadAuth)
	w.count("system_events_lost_total", "Events on $SYS subjects that there was no room for.", v.Leafd.LostEvents)
	w.count("panics_total", "Handlers that failed.", v.Leafd.Panics)
}

func (w *metrics) mqtt(m *MQTT) {
	w.count("mqtt_connections", "MQTT clients connected.", uint64(m.Connections))
	w.count("mqtt_connections_accepted_total", "MQTT clients that connected.", m.TotalConnections)
	w.count("mqtt_connections_refused_total", "MQTT clients over the limit.", m.Refused)
	w.count("mqtt_messages_in_total", "PUBLISH packets from devices.", m.InMsgs)
	w.count("mqtt_messages_out_total", "PUBLISH packets to devices.", m.OutMsgs)
	w.count("mqtt_bytes_in_total", "Payload bytes from devices.", m.InBytes)
	w.count("mqtt_bytes_out_total", "Payload bytes to devices.", m.OutBytes)
	w.count("mqtt_takeovers_total", "Connections ended by another with their client id.", m.Takeovers)
	w.count("mqtt_wills_total", "Wills published.", m.Wills)
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
	{"outbox_kept_in_ram_messages", "Messages acknowledged by the hub, kept for one that goes back, and not in store.db.", func(o *Outbox) float64 { return float64(o.KeptInRAM) }},
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
		lost, inDoubt, earlier := boxes[i].Dropped, boxes[i].InDoubt, boxes[i].Earlier
		for _, reason := range slices.Sorted(maps.Keys(lost)) {
			w.add(float64(lost[reason]-inDoubt[reason]-earlier[reason]), "outbox", boxes[i].Class, "reason", reason)
		}
	}
}

func (w *metrics) store(s *Store) {
	w.family("store_state", "1 for the state that the store is in.")
	w.add(1, "state", s.State)
	w.count("store_file_bytes", "Size of the file behind the journal.", uint64(s.FileSize))
	w.each("store_written_bytes_total", "Bytes written to the disk since the start.", "cause", s.Written)
	w.count("store_commits_total", "Batches made durable.", s.Commits)
	w.count("store_commit_messages_total", "Messages in them.", s.CommitMsgs)
	w.count("store_folds_total", "Transactions from the journal into the file behind it.", s.Folds)
	w.count("store_faults_total", "Errors of the disk after which the files were opened anew.", s.Faults)
	w.count("store_recoveries_total", "Returns from failed to acknowledging.", s.Recoveries)
	w.count("store_unsafe_messages", "Messages neither on disk nor with the hub.", uint64(s.UnsafeMsgs))
	w.count("store_unsafe_bytes", "Bytes of these.", uint64(s.UnsafeBytes))
	if s.Wear == nil {
		return
	}
	// No counter, though it grows: after a crash it is back at its last fold, and a rate
	// would take that for a restart from 0 and add all of it once more.
	w.count("wear_written_bytes", "Bytes written to the disk since the store was made; less by the last of them after a crash.", s.Wear.Total)
	w.count("wear_today_bytes", "Bytes written to the disk today, UTC.", s.Wear.Today)
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
