package main

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/leafd/leafd/internal/secure"
)

// change is one key whose value a reload would change.
type change struct {
	key      string
	old, new string // for people; secrets are left out
	restart  string // why it cannot change while leafd runs; empty: it can
}

// setting is one key, or one block of keys that change together.
type setting struct {
	key     string
	get     func(*Config) any // compared by reflect.DeepEqual
	secret  bool
	restart string
}

const (
	restartStore = "the store is open with it"
	restartTLS   = "a listener has TLS or not from the start"
	restartPart  = "the parts of the gateway are wired once, at the start"
)

// settings are all keys outside the blocks with names of the user's own, which
// outboxChanges compares.
var settings = []setting{
	{key: "server_name", get: func(c *Config) any { return c.ServerName }, restart: "the hub and the message ids know it"},
	{key: "listen", get: func(c *Config) any { return c.Listen }},
	{key: "max_payload", get: func(c *Config) any { return c.MaxPayload }},
	{key: "max_control_line", get: func(c *Config) any { return c.MaxControlLine }},
	{key: "max_pending", get: func(c *Config) any { return c.MaxPending }},
	{key: "max_connections", get: func(c *Config) any { return c.MaxConnections }},
	{key: "max_subscriptions", get: func(c *Config) any { return c.MaxSubs }},
	{key: "max_memory", get: func(c *Config) any { return c.MaxMemory }, restart: "what all connections share is made with it"},
	{key: "max_closed_clients", get: func(c *Config) any { return c.MaxClosed }, restart: "what ended is kept in a ring of that size"},
	{key: "ping_interval", get: func(c *Config) any { return c.PingInterval }},
	{key: "ping_max", get: func(c *Config) any { return c.PingMax }},
	{key: "write_deadline", get: func(c *Config) any { return c.WriteDeadline }},
	{key: "no_header_support", get: func(c *Config) any { return c.NoHeaders }},
	{key: "client_advertise", get: func(c *Config) any { return c.ClientAdvertise }},
	{key: "server_tags", get: func(c *Config) any { return c.ServerTags }},
	{key: "lame_duck_duration", get: func(c *Config) any { return c.LameDuckDuration }},
	{key: "lame_duck_grace_period", get: func(c *Config) any { return c.LameDuckGrace }},
	{key: "authorization", get: func(c *Config) any { return c.Auth.Credentials }, secret: true},
	{key: "authorization.timeout", get: func(c *Config) any { return c.Auth.Timeout }},
	{key: "accounts", get: func(c *Config) any { return c.Auth.Accounts }, secret: true},
	{key: "system_account", get: func(c *Config) any { return c.Auth.SystemAccount }, restart: restartPart},
	{key: "tls", get: func(c *Config) any { return c.TLS }, secret: true},
	{key: "allow_non_tls", get: func(c *Config) any { return c.AllowNonTLS }},
	{key: "https", get: func(c *Config) any { return c.HTTPS }, restart: restartTLS},
	{key: "http", get: func(c *Config) any { return c.HTTP }},
	{key: "pid_file", get: func(c *Config) any { return c.PidFile }},
	{key: "ports_file_dir", get: func(c *Config) any { return c.PortsFileDir }},
	{key: "debug", get: func(c *Config) any { return c.Debug }},
	{key: "trace", get: func(c *Config) any { return c.Trace }},
	{key: "trace_headers", get: func(c *Config) any { return c.TraceHeaders }},
	{key: "max_traced_msg_len", get: func(c *Config) any { return c.MaxTracedMsgLen }},
	{key: "log_file", get: func(c *Config) any { return c.Log.File }},
	{key: "log_size_limit", get: func(c *Config) any { return c.Log.SizeLimit }},
	{key: "logfile_max_num", get: func(c *Config) any { return c.Log.MaxFiles }},
	{key: "logtime", get: func(c *Config) any { return c.Log.Time }},
	{key: "logtime_utc", get: func(c *Config) any { return c.Log.UTC }},
	{key: "syslog", get: func(c *Config) any { return c.Log.Syslog }},
	{key: "remote_syslog", get: func(c *Config) any { return c.Log.RemoteSyslog }},
	{key: "leafnodes.remotes[0].account", get: func(c *Config) any { return linkAccount(c) }, restart: restartPart},
	{key: "leafnodes.remotes", get: func(c *Config) any { return c.Remote }, secret: true},
	{key: "mqtt.listen", get: func(c *Config) any { return mqttOf(c).Listen }},
	{key: "mqtt.max_packet", get: func(c *Config) any { return mqttOf(c).MaxPacket }},
	{key: "mqtt.max_pending_bytes", get: func(c *Config) any { return mqttOf(c).MaxPending }},
	{key: "mqtt.max_connections", get: func(c *Config) any { return mqttOf(c).MaxConns }},
	{key: "mqtt.max_subscriptions", get: func(c *Config) any { return mqttOf(c).MaxSubs }},
	{key: "mqtt.write_deadline", get: func(c *Config) any { return mqttOf(c).WriteDeadline }},
	{key: "mqtt.connect_timeout", get: func(c *Config) any { return mqttOf(c).ConnectTimeout }},
	{key: "mqtt.authorization", get: func(c *Config) any { return c.Auth.MQTT }, secret: true},
	{key: "mqtt.tls", get: func(c *Config) any { return mqttOf(c).TLS }, secret: true},
	{key: "websocket.tls", get: func(c *Config) any { return webSocketOf(c).TLS }, secret: true},
	{key: "websocket", get: func(c *Config) any { w := webSocketOf(c); w.TLS = nil; return w }, secret: true, restart: restartPart},
	{key: "websocket.authorization", get: func(c *Config) any { return c.Auth.WebSocket }, secret: true},
	{key: "store.dir", get: func(c *Config) any { return c.Store.Dir }, restart: restartStore},
	{key: "store.journal_size", get: func(c *Config) any { return c.Store.JournalSize }, restart: restartStore},
	{key: "store.spill_after", get: func(c *Config) any { return c.Store.SpillAfter }, restart: restartStore},
	{key: "store.commit_interval", get: func(c *Config) any { return c.Store.CommitInterval }, restart: restartStore},
	{key: "store.max_size", get: func(c *Config) any { return c.Store.MaxSize }, restart: restartStore},
	{key: "store.reserve", get: func(c *Config) any { return c.Store.Reserve }, restart: restartStore},
	{key: "clock.trust", get: func(c *Config) any { return c.Clock }, restart: restartStore},
	{key: "hardware.devices", get: func(c *Config) any { return c.Devices }, restart: restartPart},
}

// mqttOf is the MQTT block, an empty one if there is none.
func mqttOf(c *Config) *MQTT {
	if c.MQTT == nil {
		return &MQTT{}
	}
	return c.MQTT
}

// webSocketOf is a copy of the WebSocket block, an empty one if there is none.
func webSocketOf(c *Config) WebSocket {
	if c.WS == nil {
		return WebSocket{}
	}
	return *c.WS
}

// outboxSettings are those of one outbox.
var outboxSettings = []struct {
	key  string
	get  func(*Outbox) any
	live bool
}{
	{"subjects", func(o *Outbox) any { return o.Subjects }, false},
	{"max_bytes", func(o *Outbox) any { return o.MaxBytes }, false},
	{"max_msgs", func(o *Outbox) any { return o.MaxMsgs }, false},
	{"max_age", func(o *Outbox) any { return o.MaxAge }, false},
	{"gap_subject", func(o *Outbox) any { return o.GapSubject }, false},
	{"full", func(o *Outbox) any { return o.Full }, false},
	{"durability", func(o *Outbox) any { return o.Interval }, false},
	{"confirm", func(o *Outbox) any { return o.Flush }, false},
	{"order", func(o *Outbox) any { return o.Newest }, false},
	{"live_share", func(o *Outbox) any { return o.LiveShare }, false},
	{"conflate", func(o *Outbox) any { return o.Conflate }, false},
	{"grace", func(o *Outbox) any { return o.Grace }, false},
	{"grace_bytes", func(o *Outbox) any { return o.GraceBytes }, false},
	{"grace_on_disk", func(o *Outbox) any { return o.GraceDisk }, false},
	{"duplicate_window", func(o *Outbox) any { return o.DuplicateWindow }, false},
	{"window", func(o *Outbox) any { return o.Window }, true},
	{"priority", func(o *Outbox) any { return o.Priority }, true},
	{"drain_rate", func(o *Outbox) any { return o.DrainRate }, true},
	{"daily_bytes", func(o *Outbox) any { return o.DailyBytes }, true},
	{"stream", func(o *Outbox) any { return o.Stream }, true},
	{"domain", func(o *Outbox) any { return o.Domain }, true},
	{"ack_timeout", func(o *Outbox) any { return o.AckTimeout }, true},
}

// diff lists what changes from a to b, in the order of deploy/leafd.conf.
func diff(a, b *Config) (changes []change) {
	for _, s := range settings {
		was, is := s.get(a), s.get(b)
		if reflect.DeepEqual(was, is) {
			continue
		}
		ch := change{s.key, showValue(was), showValue(is), s.restart}
		if s.secret {
			ch.old, ch.new = "(old)", "(new)"
		}
		changes = append(changes, ch)
	}
	if (a.MQTT == nil) != (b.MQTT == nil) {
		changes = append(changes, change{"mqtt", yesNo(a.MQTT != nil), yesNo(b.MQTT != nil), restartPart})
	}
	changes = append(changes, tlsChanges(a, b)...)
	if (a.HTTP == "") != (b.HTTP == "") {
		changes = append(changes, change{"http", showValue(a.HTTP), showValue(b.HTTP), restartPart})
	}
	return append(changes, outboxChanges(a, b)...)
}

// tlsChanges are of listeners that stay and would have TLS, or have it no more.
func tlsChanges(a, b *Config) (changes []change) {
	for _, l := range []struct {
		key     string
		stays   bool
		was, is *secure.Config
	}{
		{"tls", true, a.TLS, b.TLS},
		{"mqtt.tls", a.MQTT != nil && b.MQTT != nil, mqttOf(a).TLS, mqttOf(b).TLS},
		{"websocket.tls", a.WS != nil && b.WS != nil, webSocketOf(a).TLS, webSocketOf(b).TLS},
	} {
		if l.stays && (l.was == nil) != (l.is == nil) {
			changes = append(changes, change{l.key, yesNo(l.was != nil), yesNo(l.is != nil), restartTLS})
		}
	}
	return changes
}

func outboxChanges(a, b *Config) (changes []change) {
	for i := range b.Outboxes {
		is := &b.Outboxes[i]
		was := a.outbox(is.Name)
		if was == nil {
			changes = append(changes, change{"outbox." + is.Name, yesNo(false), yesNo(true), restartPart})
			continue
		}
		for _, s := range outboxSettings {
			if x, y := s.get(was), s.get(is); !reflect.DeepEqual(x, y) {
				ch := change{key: "outbox." + is.Name + "." + s.key, old: showValue(x), new: showValue(y)}
				if !s.live {
					ch.restart = restartStore
				}
				changes = append(changes, ch)
			}
		}
	}
	for i := range a.Outboxes {
		if name := a.Outboxes[i].Name; b.outbox(name) == nil {
			changes = append(changes, change{"outbox." + name, yesNo(true), yesNo(false), restartPart})
		}
	}
	return changes
}

func yesNo(present bool) string {
	if present {
		return "present"
	}
	return "absent"
}

// showValue is a value as the file could have it.
func showValue(v any) string {
	switch v := v.(type) {
	case string:
		if v == "" {
			return "unset"
		}
		return v
	case []string:
		return strings.Join(v, ",")
	case time.Duration:
		return v.String()
	}
	return fmt.Sprint(v)
}
