package main

import (
	"cmp"
	"os"
	"runtime"
	"time"

	"github.com/leafd/leafd/internal/monitor"
	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/secure"
	"github.com/leafd/leafd/leaf"
	"github.com/leafd/leafd/storefwd"
)

// health says what needs a person. A hub out of reach does not, and a missing
// device is shown with the hardware.
func (d *daemon) health() []string {
	if d.store == nil {
		return nil
	}
	return d.store.Health()
}

func (d *daemon) varz() monitor.Varz {
	c, from, n := d.cfg.Load(), d.origin.Load(), d.nats.Counters()
	v := monitor.Varz{ServerID: d.id, ServerName: d.name, Version: leaf.ProtocolVersion, Proto: 1, GoVersion: runtime.Version(),
		AuthRequired: !c.Auth.Anyone(), MaxConn: c.MaxConnections, MaxSubs: c.MaxSubs, MaxPayload: c.MaxPayload,
		MaxControl: c.MaxControlLine, MaxPending: c.MaxPending, PingInterval: c.PingInterval, PingMax: c.PingMax,
		WriteDeadline: c.WriteDeadline, AuthTimeout: c.Auth.Timeout.Seconds(),
		ConfigLoadTime: from.loaded.UTC(), ConfigDigest: from.digest,
		SlowConsumers: n.SlowConsumers.Load(), StaleConnections: n.StaleConns.Load(), Leafd: monitor.Leafd{Version: "v" + version,
			Conns: d.nats.Conns(), Accepted: n.Accepted.Load(), Drops: map[string]uint64{}, Refused: n.Refused.Load(),
			BadProto: n.ProtocolErrors.Load(), BadAuth: n.AuthErrors.Load(), Panics: n.Panics.Load(), LostEvents: d.services.lost.Load()}}
	v.Host, v.Port = hostPort(d.natsLn)
	v.Tags = c.ServerTags
	v.HTTPHost, v.HTTPPort = hostPort(d.httpLn)
	v.Connections, v.TotalConnections = v.Leafd.Conns, v.Leafd.Accepted
	d.addTraffic(&v)
	if r := c.Remote; r != nil {
		v.Leaf.Remotes = []monitor.VarzRemote{remotez(r)}
	}
	if d.mqtt != nil {
		m := d.mqttz()
		v.Leafd.MQTT = m
		v.MQTT = monitor.VarzMQTT{Host: m.Host, Port: m.Port}
		v.Connections += m.Connections
		v.TotalConnections += m.TotalConnections
		v.SlowConsumers += d.mqtt.Stats().SlowConsumers
	}
	v.SlowStats.Clients, v.StaleStats.Clients = v.SlowConsumers, v.StaleConnections
	d.addTLS(&v, c)
	for _, h := range d.hw.Health() {
		v.Leafd.Hardware = append(v.Leafd.Hardware, monitor.Device{Name: h.Name, Driver: h.Driver, Subject: h.Subject,
			Part: h.Part, State: h.State.String(), Since: h.Since, LastError: h.Err, Readings: h.Readings,
			Commands: h.Commands, Failures: h.Failures})
	}
	return v
}

// addTLS shows what the configuration says of TLS and of WebSockets, and when the
// certificates in force end.
func (d *daemon) addTLS(v *monitor.Varz, c *Config) {
	v.TLSTimeout = secure.DefaultTimeout.Seconds()
	if t := c.TLS; t != nil {
		v.TLSRequired, v.TLSVerify, v.TLSNotAfter = !c.AllowNonTLS, t.Verify || t.Map, d.secured.nats.NotAfter().UTC()
		v.TLSTimeout = cmp.Or(t.Timeout, secure.DefaultTimeout).Seconds()
	}
	if c.HTTPS {
		v.HTTPPort, v.HTTPSPort = 0, v.HTTPPort
	}
	if m := c.MQTT; m != nil && m.TLS != nil {
		v.MQTT.TLSTimeout = cmp.Or(m.TLS.Timeout, secure.DefaultTimeout).Seconds()
		v.MQTT.TLSMap, v.MQTT.TLSPinned, v.MQTT.TLSNotAfter = m.TLS.Map, m.TLS.Pinned, d.secured.mqtt.NotAfter().UTC()
	}
	w := c.WS
	if w == nil {
		return
	}
	z := monitor.VarzWebsocket{Advertise: w.Advertise, HandshakeTimeout: w.HandshakeTimeout, AuthTimeout: c.Auth.Timeout.Seconds(),
		NoTLS: w.TLS == nil, SameOrigin: w.SameOrigin, Compression: w.Compression}
	z.Host, z.Port = hostPort(d.wsLn)
	if a := c.Auth.WebSocket; a != nil {
		z.NoAuthUser = a.NoAuthUser
	}
	for _, o := range w.Origins {
		z.AllowedOrigins = append(z.AllowedOrigins, o.String())
	}
	if w.TLS != nil {
		z.TLSMap, z.TLSPinned, z.TLSNotAfter = w.TLS.Map, w.TLS.Pinned, d.secured.ws.NotAfter().UTC()
	}
	v.Websocket = z
}

// addTraffic adds up what all subject spaces counted, and what of it was with
// clients.
func (d *daemon) addTraffic(v *monitor.Varz) {
	for _, s := range d.spaces() {
		st := s.router.Stats()
		v.InMsgs += st.InMsgs.Load()
		v.InBytes += st.InBytes.Load()
		v.OutMsgs += st.OutMsgs.Load()
		v.OutBytes += st.OutBytes.Load()
		v.StalledClients += st.Stalls.Load()
		v.Leafd.Lookups += st.Matches.Load()
		v.Leafd.Hits += st.CacheHits.Load()
		v.Subscriptions += s.router.Subscriptions()
		for r := msg.NoQuota; r < msg.NumDrops; r++ {
			v.Leafd.Drops[r.String()] += st.Drops[r].Load()
		}
		if s.system {
			v.SystemAccount = s.name
		}
	}
	in, out := d.nats.Traffic()
	if d.mqtt != nil {
		m := d.mqtt.Stats()
		in.Add(leaf.Traffic{Msgs: m.InMsgs, Bytes: m.InBytes})
		out.Add(leaf.Traffic{Msgs: m.OutMsgs, Bytes: m.OutBytes})
	}
	v.InClientMsgs, v.InClientBytes, v.OutClientMsgs, v.OutClientBytes = in.Msgs, in.Bytes, out.Msgs, out.Bytes
	v.Leafnodes = len(d.leafz())
}

func remotez(r *Remote) monitor.VarzRemote {
	z := monitor.VarzRemote{LocalAccount: r.Account}
	for _, u := range r.URLs {
		z.URLs = append(z.URLs, u.Host)
	}
	if len(r.DenyExports)+len(r.DenyImports) > 0 {
		z.Deny = &monitor.VarzDeny{Exports: r.DenyExports, Imports: r.DenyImports}
	}
	return z
}

func (d *daemon) mqttz() *monitor.MQTT {
	s := d.mqtt.Stats()
	m := &monitor.MQTT{Connections: s.Connections, TotalConnections: s.Accepted, Refused: s.Refused, InMsgs: s.InMsgs,
		OutMsgs: s.OutMsgs, InBytes: s.InBytes, OutBytes: s.OutBytes, Takeovers: s.Takeovers, Wills: s.Wills, Faults: s.Faults}
	m.Host, m.Port = hostPort(d.mqttLn)
	return m
}

func (d *daemon) uplinkz() monitor.Uplinkz {
	u := monitor.Uplinkz{ServerName: d.name, Now: time.Now(), Remotes: []monitor.Remote{}, Outboxes: []monitor.Outbox{}}
	d.storez(&u)
	if d.cfg.Load().Remote == nil {
		return u
	}
	s := d.link.Status()
	sessions := s.Reconnects
	if s.HubName != "" { // it was up once
		sessions++
	}
	u.Remotes = append(u.Remotes, monitor.Remote{URL: s.URL, State: s.State.String(), Since: s.Since, LastError: s.LastError,
		Attempts: uint64(s.Attempts), Sessions: uint64(sessions), RTT: monitor.Duration(s.RTT), HubName: s.HubName,
		HubVersion: s.HubVersion, Domain: s.Domain, InMsgs: s.InMsgs, OutMsgs: s.OutMsgs, InBytes: s.InBytes, OutBytes: s.OutBytes})
	return u
}

// whyHeldUp is what keeps an outbox from sending what comes. One that does has a last
// error all the same, and that was once.
func whyHeldUp(f *storefwd.ForwarderStats) string {
	if f.State == storefwd.Live {
		return f.Detail
	}
	return cmp.Or(f.Detail, f.LastError)
}

// storez adds the outboxes and the disk under them.
func (d *daemon) storez(u *monitor.Uplinkz) {
	c := d.cfg.Load()
	for _, b := range d.boxes {
		l, f := b.log.Stats(), b.fwd.Stats()
		u.Outboxes = append(u.Outboxes, monitor.Outbox{Class: b.cfg.Name, State: f.State, Reason: whyHeldUp(&f), LastError: f.LastError,
			Subjects: b.cfg.Subjects, Confirm: f.Confirm, Stream: f.Stream, Domain: c.outbox(b.cfg.Name).Domain, Messages: l.Msgs, Bytes: l.Bytes,
			MaxBytes: b.cfg.MaxBytes, OldestAge: monitor.Duration(l.OldestAge), OlderStill: l.OlderStill, FirstSeq: l.First, LastSeq: l.Last,
			AckedSeq: l.First - 1, InFlight: f.InFlight, Sent: f.Sent, Acked: f.Acked + f.Resumed, KeptInRAM: l.KeptInRAM,
			Resent: f.Resent, RTT: monitor.Duration(f.RTT), Rejected: f.Rejected, Junk: f.Junk, Shared: f.Shared,
			Duplicates: f.Duplicates, Reordered: f.Reordered, WentBack: f.WentBack, Resume: f.Resume, ResumeWhy: f.ResumeWhy,
			Window: monitor.Duration(f.DuplicateWindow), Conflated: l.Conflated, Dropped: l.Lost, InDoubt: l.InDoubt, Earlier: l.Earlier})
	}
	if d.store == nil {
		return
	}
	s := d.store.Stats()
	st := &monitor.Store{Dir: c.Store.Dir, State: "ok", Epoch: s.Epoch, FileSize: s.BoltSize, JournalSize: c.Store.JournalSize,
		Written:     map[string]uint64{"journal": uint64(s.JournalBytes), "fold": uint64(s.BoltBytes), "open": uint64(s.MetaBytes)},
		JournalMode: s.JournalMode, LastError: s.Failed, Salvaged: s.Salvaged, Wear: d.wearz(),
		Commits: uint64(s.Commits), CommitMsgs: uint64(s.CommitMsgs), Folds: uint64(s.Folds), Faults: uint64(s.Faults),
		Recoveries: uint64(s.Recoveries), UnsafeMsgs: s.UnsafeMsgs, UnsafeBytes: s.UnsafeBytes}
	switch {
	case s.Failed != "":
		st.State = "failed"
	case s.Full:
		st.State = "full"
	}
	u.Store = st
}

// wearz is the meter of the store and what flash chips say of themselves.
func (d *daemon) wearz() *monitor.Wear {
	w := d.store.Wear()
	z := &monitor.Wear{Total: uint64(w.Total()), Today: uint64(w.Today(time.Now())), ByCause: map[string]uint64{},
		Flash: monitor.ReadFlash(os.DirFS(d.sys))}
	for cause, n := range w.Causes {
		z.ByCause[cause] = uint64(n)
	}
	for _, day := range w.Days {
		z.Days = append(z.Days, monitor.WearDay{Day: time.Unix(day.Day*86400, 0).UTC().Format(time.DateOnly), Bytes: uint64(day.Bytes)})
	}
	return z
}
