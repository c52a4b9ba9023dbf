package monitor

import (
	"crypto/rand"
	"time"
)

// ClientInfo says whom an event is about.
type ClientInfo struct {
	Start      *time.Time    `json:"start,omitempty"`
	Host       string        `json:"host,omitempty"`
	ID         uint64        `json:"id,omitempty"`
	Account    string        `json:"acc,omitempty"`
	User       string        `json:"user,omitempty"`
	Name       string        `json:"name,omitempty"`
	Lang       string        `json:"lang,omitempty"`
	Version    string        `json:"ver,omitempty"`
	RTT        time.Duration `json:"rtt,omitempty"` // nanoseconds
	Stop       *time.Time    `json:"stop,omitempty"`
	IssuerKey  string        `json:"issuer_key,omitempty"`
	NameTag    string        `json:"name_tag,omitempty"`
	Kind       string        `json:"kind,omitempty"`
	Type       string        `json:"client_type,omitempty"`
	MQTTClient string        `json:"client_id,omitempty"`
}

type typed struct {
	Type string    `json:"type"`
	ID   string    `json:"id"`
	Time time.Time `json:"timestamp"`
}

type connectMsg struct {
	typed
	Server ServerInfo `json:"server"`
	Client ClientInfo `json:"client"`
}

type disconnectMsg struct {
	typed
	Server   ServerInfo `json:"server"`
	Client   ClientInfo `json:"client"`
	Sent     DataStats  `json:"sent"`     // by the client
	Received DataStats  `json:"received"` // by it
	Reason   string     `json:"reason"`
}

func newTyped(kind string, at time.Time) typed {
	return typed{"io.nats.server.advisory.v1." + kind, rand.Text(), at.UTC()}
}

// ConnectEvent tells that a client has come.
func (m *Monitor) ConnectEvent(c *Conn) []byte {
	return marshal(connectMsg{newTyped("client_connect", time.Now()), m.serverInfo(), c.client()})
}

// DisconnectEvent tells that a client has gone, or was not let in.
func (m *Monitor) DisconnectEvent(c *Conn, reason string) []byte {
	client, now := c.client(), time.Now().UTC()
	if client.Stop == nil {
		client.Stop = &now
	}
	client.RTT = c.RTT
	return marshal(disconnectMsg{newTyped("client_disconnect", *client.Stop), m.serverInfo(), client,
		DataStats{Counts: Counts{c.InMsgs, c.InBytes}}, DataStats{Counts: Counts{c.OutMsgs, c.OutBytes}}, reason})
}

func (c *Conn) client() ClientInfo {
	return ClientInfo{Start: &c.Start, Host: c.IP, ID: c.Cid, Account: c.Account, User: c.User, Name: c.Name, Lang: c.Lang, Version: c.Version,
		Stop: c.Stop, IssuerKey: c.issuer(), NameTag: c.Account, Kind: c.Kind, Type: c.Type, MQTTClient: c.MQTTClient}
}
