package main

import (
	"cmp"
	"net"
	"slices"
	"strconv"

	"github.com/leafd/leafd/internal/monitor"
	"github.com/leafd/leafd/leaf"
)

// space is one account: a name and its subject space.
type space struct {
	name   string
	router *leaf.Router
	system bool
}

// spaces are all accounts there are, the global one first.
func (d *daemon) spaces() []space {
	all := []space{{leaf.GlobalAccount, d.router, false}}
	for _, name := range d.auth.Accounts() {
		if r, ok := d.auth.Router(name); ok && r != d.router { // a reload may have removed it meanwhile
			all = append(all, space{name, r, name == d.auth.SystemAccount()})
		}
	}
	return all
}

func (d *daemon) monitorOptions() monitor.Options {
	o := monitor.Options{ServerID: d.id, ServerName: d.name, Version: leaf.ProtocolVersion, Health: d.health, Varz: d.varz, Uplinkz: d.uplinkz,
		Conns: d.conns, Closed: d.closedConns, Leafs: d.leafz, Accounts: d.accounts, Subs: d.subs, Logger: d.log}
	o.Host, _ = hostPort(d.natsLn)
	return o
}

// accountOf names the account of a connection. One that has none is in the global
// one, or will be.
func accountOf(i *leaf.ConnInfo) string {
	return cmp.Or(i.Account, leaf.GlobalAccount)
}

// infos describes all clients and devices.
func (d *daemon) infos() []leaf.ConnInfo {
	all := d.nats.ConnInfos()
	if d.mqtt != nil {
		all = append(all, d.mqtt.Conns()...)
	}
	return all
}

func (d *daemon) conns() []monitor.Conn       { return connz(d.infos()) }
func (d *daemon) closedConns() []monitor.Conn { return connz(d.closed.List()) }

// connz are connections in the words of monitoring.
func connz(infos []leaf.ConnInfo) []monitor.Conn {
	all := make([]monitor.Conn, len(infos))
	for k := range infos {
		i := &infos[k]
		all[k] = monitor.Conn{Cid: i.ID, Kind: "Client", Type: i.Type, IP: i.IP, Port: i.Port, Start: i.Start.UTC(), LastActivity: i.LastActivity.UTC(),
			Reason: i.Reason, RTT: i.RTT, Pending: i.Pending, InMsgs: i.In.Msgs, InBytes: i.In.Bytes, OutMsgs: i.Out.Msgs, OutBytes: i.Out.Bytes,
			Stalls: i.Stalls, NumSubs: i.NumSubs, Name: i.Name, Lang: i.Lang, Version: i.Version, MQTTClient: i.MQTTClient,
			User: i.User, NKey: i.NKey, Account: accountOf(i), TLSVersion: i.TLS.Version, TLSCipher: i.TLS.Cipher, TLSFirst: i.TLS.First}
		account := ""
		if stop := i.Stop.UTC(); !i.Stop.IsZero() {
			all[k].Stop, account = &stop, accountOf(i)
		}
		if subs := i.Subs; subs != nil {
			all[k].List = func() []monitor.SubDetail { return subDetails(subs(), account) }
		}
	}
	return all
}

func subDetails(infos []leaf.SubInfo, account string) []monitor.SubDetail {
	all := make([]monitor.SubDetail, len(infos))
	for k, i := range infos {
		all[k] = monitor.SubDetail{Account: account, Tag: account, Subject: i.Subject, Queue: i.Queue, SID: i.SID, Msgs: i.Msgs, Max: i.Max, Cid: i.ConnID}
	}
	return all
}

// subs lists the subscriptions of one account, or of all.
func (d *daemon) subs(account string) (all []monitor.SubDetail) {
	for _, s := range d.spaces() {
		if account == "" || account == s.name {
			all = append(all, subDetails(s.router.SubInfos(), s.name)...)
		}
	}
	return all
}

// leafz is the link, if it is up.
func (d *daemon) leafz() []monitor.Leaf {
	s := d.link.Status()
	if s.State != leaf.LinkUp {
		return nil
	}
	l := monitor.Leaf{ID: s.ConnID, Name: s.HubName, IsSpoke: true, Account: linkAccount(d.cfg.Load()), Start: s.Since.UTC(), RTT: s.RTT, Pending: s.Pending,
		InMsgs: s.InMsgs, OutMsgs: s.OutMsgs, InBytes: s.InBytes, OutBytes: s.OutBytes, NumSubs: s.HubInterest, Compression: "off", List: d.link.Subjects}
	l.IP, l.Port = addrPort(s.Remote)
	return []monitor.Leaf{l}
}

// accounts describes all accounts.
func (d *daemon) accounts() (all []monitor.Account) {
	infos, leafs, c := d.infos(), d.leafz(), d.cfg.Load()
	for _, s := range d.spaces() {
		a := monitor.Account{Name: s.name, System: s.system, Updated: d.origin.Load().loaded, Subs: sublistStats(s.router)}
		st := s.router.Stats()
		a.In = monitor.Counts{Msgs: st.InMsgs.Load(), Bytes: st.InBytes.Load()}
		a.Out = monitor.Counts{Msgs: st.OutMsgs.Load(), Bytes: st.OutBytes.Load()}
		for k := range infos {
			if infos[k].Account == s.name {
				a.Conns++
			}
		}
		for _, l := range leafs {
			if l.Account == s.name {
				a.Leafs++
				a.LeafIn, a.LeafOut = monitor.Counts{Msgs: l.InMsgs, Bytes: l.InBytes}, monitor.Counts{Msgs: l.OutMsgs, Bytes: l.OutBytes}
			}
		}
		a.SlowConsumers = st.SlowConsumers.Load()
		a.Imports, a.Exports = shared(c, s.name)
		all = append(all, a)
	}
	return all
}

// shared is what an account has from others and offers them.
func shared(c *Config, account string) (imports []monitor.Import, exports []monitor.Export) {
	i := slices.IndexFunc(c.Auth.Accounts, func(a leaf.AccountConfig) bool { return a.Name == account })
	if i < 0 {
		return nil, nil
	}
	for _, im := range c.Auth.Accounts[i].Imports {
		local := cmp.Or(im.To, im.Subject)
		if im.Prefix != "" {
			local = im.Prefix + "." + im.Subject
		}
		z := monitor.Import{Subject: im.Subject, Account: im.Account, LocalSubject: local, Type: shareKind(im.Service)}
		if im.Service {
			z.To = local
		}
		imports = append(imports, z)
	}
	for _, e := range c.Auth.Accounts[i].Exports {
		x := monitor.Export{Subject: e.Subject, Type: shareKind(e.Service), Approved: e.Accounts}
		if e.Service {
			x.Response = [...]string{leaf.Singleton: "Singleton", leaf.Streamed: "Streamed", leaf.Chunked: "Chunked"}[e.Response]
		}
		exports = append(exports, x)
	}
	return imports, exports
}

func shareKind(service bool) string {
	if service {
		return "service"
	}
	return "stream"
}

func sublistStats(r *leaf.Router) monitor.SublistStats {
	st, c := r.Stats(), r.CacheInfo()
	return monitor.SublistStats{NumSubs: uint32(r.Subscriptions()), NumCache: uint32(c.Subjects), NumInserts: st.Inserts.Load(),
		NumRemoves: st.Removes.Load(), NumMatches: st.Matches.Load(), CacheHits: st.CacheHits.Load(),
		MaxFanout: uint32(c.MaxFanout), Fanout: uint64(c.Fanout)}
}

func hostPort(ln *listener) (host string, port int) {
	if ln == nil {
		return "", 0
	}
	host, p, _ := net.SplitHostPort(ln.String())
	port, _ = strconv.Atoi(p)
	return host, port
}

func addrPort(a net.Addr) (host string, port int) {
	if a == nil {
		return "", 0
	}
	host, p, _ := net.SplitHostPort(a.String())
	port, _ = strconv.Atoi(p)
	return host, port
}
