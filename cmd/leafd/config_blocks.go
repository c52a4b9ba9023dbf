package main

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/storefwd"
	"github.com/nats-io/nkeys"
)

// One function a block of the file, in the order of deploy/leafd.conf.

func readTop(b *block, c *Config, f *flags) {
	b.str(&c.ServerName, "server_name")
	if strings.ContainsAny(c.ServerName, " \t\r\n") || len(c.ServerName) > 128 {
		b.r.fail("server_name", "must be one word of at most 128 bytes", "")
	}
	b.listenOn(&c.Listen, "0.0.0.0", 4222)
	b.sizeInt(&c.MaxPayload, 1, 64<<20, "max_payload")
	b.sizeInt(&c.MaxControlLine, 512, 1<<20, "max_control_line")
	c.MaxPending = max(c.MaxPending, c.MaxPayload) // unless it is set
	b.sizeInt(&c.MaxPending, 64<<10, 1<<30, "max_pending")
	b.size(&c.MaxMemory, 32<<20, 1<<40, "max_memory")
	b.integer(&c.MaxConnections, 1, 65536, "max_connections", "max_conn")
	b.integer(&c.MaxSubs, 0, 1e6, "max_subscriptions", "max_subs")
	b.integer(&c.MaxClosed, 0, 10000, "max_closed_clients")
	b.dur(&c.PingInterval, time.Second, time.Hour, "ping_interval")
	b.integer(&c.PingMax, 1, 100, "ping_max")
	b.dur(&c.WriteDeadline, 100*time.Millisecond, 5*time.Minute, "write_deadline")
	readAuth(b, &c.Auth)
	b.sub(func(b *block) { c.TLS = readTLS(b, true) }, "tls")
	b.boolean(&c.AllowNonTLS, "allow_non_tls")

	b.boolean(&c.NoHeaders, "no_header_support")
	readLameDuck(b, c)

	b.addr(&c.HTTP, "", "http", "http_port", "monitor_port")
	b.addr(&c.https, "", "https", "https_port")
	readNames(b, c)
	readLog(b, c)
	f.lay(c, b.r)
	c.settleHTTP(b)

	b.sub(func(b *block) { c.Remote = readLeafnodes(b) }, "leafnodes", "leaf")
	b.sub(func(b *block) { c.MQTT = readMQTT(b, c) }, "mqtt")
	b.sub(func(b *block) { c.WS = readWebSocket(b, c) }, "websocket", "ws")
	b.sub(func(b *block) { readStore(b, &c.Store) }, "store")
	b.sub(func(b *block) { c.Outboxes = readOutboxes(b) }, "outbox")
	b.sub(func(b *block) { b.oneOf(&c.Clock, []string{"auto", "always", "never"}, "trust") }, "clock")
	b.sub(func(b *block) { c.Devices = readHardware(b) }, "hardware")
	b.notYet(
		"cluster gateway mappings maps no_system_account no_system no_sys_acc",
		"operator operators roots root root_operators root_operator trusted trusted_keys default_sentinel: remove it; leafd knows users with passwords and a token",
		"resolver account_resolver accounts_resolver resolver_tls resolver_preload resolver_pinned_accounts",
		"ocsp ocsp_cache proxies proxy_protocol",
		"store_dir storedir default_js_domain: remove it; the hub keeps streams, and an outbox block keeps messages for it",
		"server_metadata http_base_path prof_port prof_block_rate max_sub_tokens max_subscription_tokens feature_flags",
		"disable_sublist_cache no_sublist_cache: remove it; leafd's cache of matches is small and follows every change",
		"write_timeout no_fast_producer_stall: remove it; a publisher is read on more slowly while a recipient is behind, and one that takes nothing for write_deadline is cut off",
		"connect_error_reports reconnect_error_reports: remove it; a link that fails is logged when the reason changes, and counted",
	)
	readNoJetStream(b)
}

// readNames reads what the server tells of itself, and where.
func readNames(b *block, c *Config) {
	if b.str(&c.ClientAdvertise, "client_advertise") {
		if _, _, err := splitAdvertise(c.ClientAdvertise); err != nil {
			b.r.fail("client_advertise", err.Error(), "")
		}
	}
	b.list(&c.ServerTags, "server_tags")
	b.str(&c.PidFile, "pid_file", "pidfile")
	b.str(&c.PortsFileDir, "ports_file_dir")
}

// readLameDuck reads how connections are closed before a stop that gives notice.
func readLameDuck(b *block, c *Config) {
	b.dur(&c.LameDuckDuration, time.Second, 24*time.Hour, "lame_duck_duration")
	b.dur(&c.LameDuckGrace, 0, time.Hour, "lame_duck_grace_period")
	if c.LameDuckGrace >= c.LameDuckDuration {
		b.r.fail("lame_duck_grace_period", fmt.Sprintf("%v is not less than lame_duck_duration, %v", c.LameDuckGrace, c.LameDuckDuration), "lower it or raise lame_duck_duration")
	}
}

// readLog reads what is logged, and where to.
func readLog(b *block, c *Config) {
	b.boolean(&c.Debug, "debug")
	b.boolean(&c.Trace, "trace")
	verbose := false
	b.boolean(&verbose, "trace_verbose")
	b.boolean(&c.TraceHeaders, "trace_headers")
	c.Trace = c.Trace || verbose || c.TraceHeaders
	b.sizeInt(&c.MaxTracedMsgLen, 0, 64<<20, "max_traced_msg_len")
	l := &c.Log
	b.str(&l.File, "log_file", "logfile")
	b.size(&l.SizeLimit, 0, 1<<40, "log_size_limit", "logfile_size_limit")
	b.integer(&l.MaxFiles, 0, 10000, "logfile_max_num", "log_max_num")
	b.boolean(&l.Time, "logtime")
	b.boolean(&l.UTC, "logtime_utc")
	b.boolean(&l.Syslog, "syslog")
	if b.str(&l.RemoteSyslog, "remote_syslog") {
		l.Syslog = true
		if _, _, err := parseSyslogURL(l.RemoteSyslog); err != nil {
			b.r.fail("remote_syslog", err.Error(), "")
		}
	}
}

// readNoJetStream takes a jetstream key that switches it off, which is how leafd is.
func readNoJetStream(b *block) {
	v, ok := b.get("jetstream")
	if !ok {
		return
	}
	off := v.v == false || v.v == "disabled" || v.v == "disable"
	if m, isMap := v.v.(map[string]any); isMap && len(m) == 1 {
		for key, raw := range m {
			inner := b.unwrap(b.join("jetstream."+key), raw, v.at).v
			off = strings.EqualFold(key, "enabled") && inner == false || strings.EqualFold(key, "disabled") && inner == true
		}
	}
	if !off {
		v.fail("leafd does not have this nats-server key yet", "remove it; the hub keeps streams, and an outbox block keeps messages for it")
	}
}

// readLeafnodes reads the one hub.
func readLeafnodes(b *block) *Remote {
	var remotes []*Remote
	reconnect := defaultRemote().Reconnect
	b.dur(&reconnect, 100*time.Millisecond, 5*time.Minute, "reconnect", "reconnect_delay", "reconnect_interval")
	b.subs(func(b *block) { remotes = append(remotes, readRemote(b)) }, "remotes")
	b.notYet(
		"listen host net port advertise leafnode_advertise no_advertise authorization min_version minimum_version: remove it; leafd connects to a hub and takes no leafnodes itself",
		"tls compression isolate isolate_leafnode_interest dial_timeout write_deadline write_timeout",
	)
	if len(remotes) > 1 {
		b.r.fail(b.join("remotes"), fmt.Sprintf("names %d hubs; leafd has one link for now", len(remotes)), "keep one, with all the hub's addresses in its urls")
	}
	if len(remotes) == 0 {
		if !b.failedUnder(b.path) {
			b.r.fail(b.join("remotes"), "names no hub", `add remotes: [ { url: "nats-leaf://hub:7422" } ] or remove the block`)
		}
		return nil
	}
	remotes[0].Reconnect = reconnect
	return remotes[0]
}

func readRemote(b *block) *Remote {
	rem := defaultRemote()
	var urls []string
	if b.list(&urls, "urls", "url") {
		for _, u := range urls {
			if parsed, reason, remedy := parseHubURL(u); reason != "" {
				b.r.fail(b.join("urls"), reason, remedy)
			} else {
				rem.URLs = append(rem.URLs, parsed)
			}
		}
	} else if !b.failedUnder(b.path) {
		b.r.fail(b.join("url"), "is missing", `add url: "nats-leaf://hub:7422"`)
	}
	if b.str(&rem.Credentials, "credentials", "creds") {
		rem.Credentials = expandPath(rem.Credentials)
		if w := credsWarning(rem.Credentials); w != "" {
			b.r.warnings = append(b.r.warnings, w)
		}
	}
	if b.str(&rem.NKey, "nkey", "seed") {
		if prefix, _, err := nkeys.DecodeSeed([]byte(rem.NKey)); err != nil || prefix != nkeys.PrefixByteUser {
			b.r.fail(b.join("nkey"), "is not the seed of a user", `it starts with "SU"; nk -gen user makes one`)
		}
	}
	if rem.Credentials != "" && rem.NKey != "" {
		b.r.fail(b.join("nkey"), "excludes credentials, which is set too", "keep one of them")
	}
	b.str(&rem.Account, "account", "local")
	b.boolean(&rem.Disabled, "disabled")
	compression := "off"
	b.compression(&compression)
	b.boolean(&rem.KeepOrder, "no_randomize", "dont_randomize")
	b.dur(&rem.FirstInfoTimeout, 100*time.Millisecond, time.Minute, "first_info_timeout")
	b.filters(&rem.DenyImports, "deny_imports", "deny_import")
	b.filters(&rem.DenyExports, "deny_exports", "deny_export")
	b.notYet(
		"tls hub isolate isolate_leafnode_interest request_isolation ignore_discovered_servers dial_timeout proxy",
		"ws_compress ws_compression websocket_compress websocket_compression ws_no_masking websocket_no_masking",
		"jetstream_cluster_migrate js_cluster_migrate",
	)
	return rem
}

// compression takes "off" in each way nats-server does, and refuses the rest.
func (b *block) compression(dst *string) {
	v, ok := b.get("compression")
	if !ok {
		return
	}
	if v.v == false || v.v == "off" || v.v == "disabled" {
		*dst = "off"
		return
	}
	v.fail("leafd does not have compression yet", `write compression: off, or remove it`)
}

// filters reads subjects that may have wildcards.
func (b *block) filters(dst *[]string, names ...string) bool {
	if !b.list(dst, names...) {
		return false
	}
	for _, s := range *dst {
		if !msg.ValidFilter(s) {
			b.r.fail(b.join(names[0]), fmt.Sprintf("%q is not a subject", s), `subjects are words joined by dots; "*" is one word, ">" the rest`)
			return false
		}
	}
	return true
}

// parseHubURL never shows user or password.
func parseHubURL(s string) (u *url.URL, reason, remedy string) {
	const remedyURL = `write "nats-leaf://hub.example.com:7422"`
	u, err := url.Parse(strings.TrimSpace(s))
	if err != nil || u.Host == "" || u.Hostname() == "" {
		return nil, "is not the URL of a hub", remedyURL
	}
	switch u.Scheme {
	case "nats-leaf", "nats":
	case "tls", "ws", "wss":
		return nil, fmt.Sprintf("leafd does not have %s:// links yet", u.Scheme), remedyURL
	default:
		return nil, fmt.Sprintf("scheme %q is not one of a leafnode link", u.Scheme), remedyURL
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Sprintf("%s has something after the port", u.Redacted()), remedyURL
	}
	out := &url.URL{Scheme: "nats-leaf", User: u.User, Host: net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "7422"))}
	if _, err := net.LookupPort("tcp", out.Port()); err != nil || out.Port() == "0" {
		return nil, fmt.Sprintf("port %s is out of range", out.Port()), "use 1 to 65535"
	}
	return out, "", ""
}

// expandPath replaces a leading "~" and environment variables, as nats-server does.
func expandPath(p string) string {
	p = os.ExpandEnv(p)
	if rest, ok := strings.CutPrefix(p, "~"); ok && (rest == "" || rest[0] == '/') {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	return p
}

// readMQTT reads the MQTT listener. Without an authorization of its own it has
// that of the NATS listener, as in nats-server.
func readMQTT(b *block, c *Config) *MQTT {
	q := defaultMQTT(c.MaxPayload)
	if !b.listenOn(&q.Listen, "0.0.0.0", 1883) && !b.failedUnder(b.path) {
		b.r.fail(b.join("listen"), "is missing", `add listen: "0.0.0.0:1883", or "127.0.0.1:1883" for this machine alone`)
	}
	b.sizeInt(&q.MaxPacket, 1<<10, 268435455, "max_packet")
	b.sizeInt(&q.MaxPending, 64<<10, 1<<30, "max_pending_bytes")
	b.integer(&q.MaxConns, 1, 65536, "max_connections")
	b.integer(&q.MaxSubs, 1, 1e6, "max_subscriptions", "max_subs")
	b.dur(&q.WriteDeadline, 100*time.Millisecond, 5*time.Minute, "write_deadline")
	b.dur(&q.ConnectTimeout, 100*time.Millisecond, time.Minute, "connect_timeout")
	b.sub(func(b *block) { q.TLS = readTLS(b, false) }, "tls")
	c.Auth.MQTT = readListenerAuth(b, c.Auth.Credentials, &q.ConnectTimeout)
	if q.MaxPending < q.MaxPacket {
		b.r.fail(b.join("max_pending_bytes"), fmt.Sprintf("%s is less than max_packet, %s", showSize(int64(q.MaxPending)), showSize(int64(q.MaxPacket))), "raise it or lower max_packet")
	}
	if q.MaxPacket > c.MaxPayload+mqttOverhead {
		b.r.fail(b.join("max_packet"), fmt.Sprintf("%s lets in messages larger than max_payload, %s", showSize(int64(q.MaxPacket)), showSize(int64(c.MaxPayload))), "raise max_payload or lower it")
	}
	b.notYet(
		"ack_wait ackwait js_api_timeout api_timeout js_domain stream_replicas consumer_replicas",
		"max_ack_pending max_pending max_inflight: remove it; it counts messages, max_pending_bytes bounds the bytes waiting for one client",
		"consumer_memory_storage consumer_inactive_threshold consumer_auto_cleanup reject_qos2_publish downgrade_qos2_subscribe",
	)
	return q
}

func readStore(b *block, s *Store) {
	b.str(&s.Dir, "dir")
	if !filepath.IsAbs(s.Dir) {
		b.r.fail(b.join("dir"), fmt.Sprintf("%q is not an absolute path", s.Dir), "start it with /")
	}
	b.size(&s.JournalSize, 256<<10, 1<<30, "journal_size")
	b.dur(&s.SpillAfter, time.Millisecond, time.Minute, "spill_after")
	b.dur(&s.CommitInterval, 10*time.Millisecond, time.Minute, "commit_interval")
	b.size(&s.MaxSize, 16<<20, storeMaxSize, "max_size")
	b.size(&s.Reserve, 0, 1<<30, "reserve")
}

// readOutboxes reads one block for each class of messages.
func readOutboxes(b *block) []Outbox {
	var out []Outbox
	b.each(func(name string, v value) {
		if !validName(name) {
			v.fail("is not a name for an outbox", "use letters, digits, - and _, at most 32")
			return
		}
		v.enter(func(b *block) { out = append(out, readOutbox(b, name)) })
	})
	if len(b.m) == 0 {
		b.r.fail(b.path, "names no outbox", `add telemetry { subjects: [ "telemetry.>" ] } or remove the block`)
	}
	return out
}

func readOutbox(b *block, name string) Outbox {
	o := defaultOutbox(name)
	if !b.filters(&o.Subjects, "subjects", "subject") && !b.failedUnder(b.path) {
		b.r.fail(b.join("subjects"), "is missing", `add subjects: [ "telemetry.>" ]`)
	}
	for _, s := range o.Subjects {
		if reason, remedy := matchesNothing(s); reason != "" {
			b.r.fail(b.join("subjects"), reason, remedy)
		}
	}
	b.size(&o.MaxBytes, 64<<10, 1<<40, "max_bytes")
	b.count(&o.MaxMsgs, 0, 1e12, "messages", "max_msgs")
	b.dur(&o.Grace, 0, 24*time.Hour, "grace")
	b.size(&o.GraceBytes, 0, 1<<30, "grace_bytes")
	b.boolean(&o.GraceDisk, "grace_on_disk")
	if o.GraceDisk && o.Grace == 0 {
		b.r.fail(b.join("grace_on_disk"), `has nothing to write with grace: "0s"`, "remove one of them")
	}
	b.integer(&o.Window, 1, 65536, "window")
	b.integer(&o.Priority, 0, 9, "priority")
	b.size(&o.DrainRate, 0, 1<<40, "drain_rate")
	b.size(&o.DailyBytes, 0, 1<<50, "daily_bytes")
	readOrder(b, &o)
	b.dur(&o.AckTimeout, 100*time.Millisecond, 5*time.Minute, "ack_timeout")
	b.dur(&o.DuplicateWindow, 0, 24*time.Hour, "duplicate_window")
	readGapSubject(b, &o)
	b.dur(&o.MaxAge, 0, 10*365*24*time.Hour, "max_age")
	full := "old"
	b.oneOf(&full, []string{"old", "new", "refuse"}, "full")
	o.Full = map[string]storefwd.Full{"old": storefwd.DropOldest, "new": storefwd.DropNewest, "refuse": storefwd.Refuse}[full]
	durability, every := "ack", time.Second
	b.oneOf(&durability, []string{"ack", "interval"}, "durability")
	b.dur(&every, 10*time.Millisecond, time.Minute, "commit_interval")
	if b.has("commit_interval") && durability == "ack" {
		b.r.fail(b.join("commit_interval"), `is for durability: "interval"`, "add that, or remove it")
	}
	if durability == "interval" {
		o.Interval = every
	}
	b.boolean(&o.Conflate, "conflate")
	b.hubName(&o.Stream, "stream")
	b.hubName(&o.Domain, "domain")
	readConfirm(b, &o)
	return o
}

// matchesNothing finds a filter that is valid and that no message will ever match: one in
// the notation of MQTT, or with a wildcard inside a word, where it stands for itself. What
// was meant for the outbox would be acknowledged to its sender, and not be kept.
func matchesNothing(s string) (reason, remedy string) {
	levels := strings.Split(s, "/")
	if slices.Contains(levels, "+") || slices.Contains(levels, "#") {
		return fmt.Sprintf("%q is a topic filter of MQTT, not a subject", s), fmt.Sprintf("write %q; topic a/b is subject a.b", topicSubject(levels))
	}
	for token := range strings.SplitSeq(s, ".") {
		if len(token) > 1 && strings.ContainsAny(token, "*>") {
			return fmt.Sprintf("%q has a wildcard inside the word %q, where it stands for itself", s, token), `"*" is a whole word and ">" the rest, as in "barn.*.heat" and "barn.>"`
		}
	}
	return "", ""
}

// topicSubject is what the MQTT listener makes of a topic filter (mqttbridge/topic.go).
func topicSubject(levels []string) string {
	var tokens []string
	for _, level := range levels {
		switch level {
		case "+":
			level = "*"
		case "#":
			level = ">"
		case "":
			level = "/"
		}
		tokens = append(tokens, strings.ReplaceAll(level, ".", "//"))
	}
	return strings.Join(tokens, ".")
}

// readConfirm reads how the hub confirms. What is about its streams does not go with a
// hub that need not have any.
func readConfirm(b *block, o *Outbox) {
	confirm := storefwd.ByStream
	b.oneOf(&confirm, []string{storefwd.ByStream, storefwd.ByFlush}, "confirm")
	if o.Flush = confirm == storefwd.ByFlush; !o.Flush {
		return
	}
	for _, key := range []string{"stream", "domain", "grace", "grace_bytes", "grace_on_disk"} {
		if b.has(key) {
			b.r.fail(b.join(key), `is for confirm: "stream"; with "flush" the hub keeps no messages that could be asked for`, "remove one of them")
		}
	}
	o.Grace, o.GraceBytes = 0, 0
}

// readOrder reads in which order a backlog drains.
func readOrder(b *block, o *Outbox) {
	order := "oldest"
	b.oneOf(&order, []string{"oldest", "newest"}, "order")
	o.Newest = order == "newest"
	b.percent(&o.LiveShare, "live_share")
	if o.Newest && o.LiveShare > 0 {
		b.r.fail(b.join("live_share"), `is for order: "oldest"; with "newest" what comes goes first anyway`, "remove it")
	}
}

// readGapSubject reads where losses are declared: by default the first subject that has
// wildcards, with "gap" in their place.
func readGapSubject(b *block, o *Outbox) {
	for _, s := range o.Subjects {
		if msg.HasWildcard(s) && o.GapSubject == "" {
			o.GapSubject = strings.NewReplacer("*", "gap", ">", "gap").Replace(s)
		}
	}
	set := ""
	if b.str(&set, "gap_subject"); set == "off" {
		o.GapSubject = ""
	} else if set != "" {
		o.GapSubject = set
	}
	if s := o.GapSubject; s != "" && (!msg.ValidSubject(s) || !slices.ContainsFunc(o.Subjects, func(f string) bool { return msg.Match(f, s) })) {
		b.r.fail(b.join("gap_subject"), fmt.Sprintf("%q is not a subject of this outbox", s), `choose one that its subjects cover, or "off"`)
	}
}

// hubName reads the name of something of JetStream's, which is one token.
func (b *block) hubName(dst *string, key string) {
	if b.str(dst, key); strings.ContainsAny(*dst, " \t\r\n.*>/\\") {
		b.r.fail(b.join(key), fmt.Sprintf("%q is not a %s name", *dst, key), "it has no space, dot, *, >, / or \\")
	}
}

// checkOutboxes finds subjects that an outbox cannot have: a message is in one
// outbox or none, and replies and the hub's own subjects are never stored.
func (c *Config) checkOutboxes(r *reader) {
	for i, o := range c.Outboxes {
		key := "outbox." + o.Name + ".subjects"
		if o.MaxBytes < int64(c.MaxPayload) {
			r.fail("outbox."+o.Name+".max_bytes", fmt.Sprintf("%s is less than max_payload, %s", showSize(o.MaxBytes), showSize(int64(c.MaxPayload))), "raise it or lower max_payload")
		}
		for j, s := range o.Subjects {
			switch first, _, _ := strings.Cut(s, "."); {
			case strings.HasPrefix(first, "$") || first == "_INBOX":
				r.fail(key, fmt.Sprintf("%q is reserved for NATS itself", s), "store subjects of your own")
			case first == "*" || first == ">":
				r.fail(key, fmt.Sprintf("%q takes replies and subjects of NATS itself too", s), `start it with a word, as "telemetry.>"`)
			}
			for _, t := range o.Subjects[:j] {
				if msg.Overlap(s, t) {
					r.fail(key, fmt.Sprintf("%q and %q overlap", t, s), "keep the wider one")
				}
			}
			if c.Remote != nil {
				for _, t := range c.Remote.DenyExports {
					if msg.Overlap(s, t) {
						r.fail(key, fmt.Sprintf("%q overlaps %q of deny_exports: what is in both would wait for ever", s, t), "make them disjoint")
					}
				}
			}
			for _, other := range c.Outboxes[:i] {
				for _, t := range other.Subjects {
					if msg.Overlap(s, t) {
						r.fail(key, fmt.Sprintf("%q overlaps %q of outbox %q: a message would be stored twice", s, t, other.Name), "make them disjoint")
					}
				}
			}
		}
	}
}

// validName reports whether s may name an outbox or a device.
func validName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 32
}
