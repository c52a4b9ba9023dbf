package main

import (
	"context"
	"fmt"
	"time"

	"github.com/leafd/leafd/internal/secure"
	"github.com/leafd/leafd/internal/ws"
)

// identities are the certificates of a configuration, read and checked; nil where a
// listener has none.
type identities struct{ nats, mqtt, ws, http *secure.Identity }

// loadIdentities reads the certificates that c names. It changes nothing.
func loadIdentities(c *Config) (ids identities, err error) {
	var nats, monitoring, mqtt, web *secure.Config
	if c.TLS != nil {
		own, shown := *c.TLS, *c.TLS
		own.AllowNon = c.AllowNonTLS
		nats = &own
		if c.HTTPS { // a browser has no certificate, and needs none, as with nats-server
			shown.Verify, shown.Map, shown.Pinned = false, false, nil
			monitoring = &shown
		}
	}
	if c.MQTT != nil {
		mqtt = c.MQTT.TLS
	}
	if c.WS != nil {
		web = c.WS.TLS
	}
	for _, l := range []struct {
		key string
		cfg *secure.Config
		dst **secure.Identity
	}{{"tls", nats, &ids.nats}, {"tls", monitoring, &ids.http}, {"mqtt.tls", mqtt, &ids.mqtt}, {"websocket.tls", web, &ids.ws}} {
		if l.cfg == nil {
			continue
		}
		if *l.dst, _, err = secure.Load(*l.cfg, time.Now()); err != nil {
			return identities{}, fmt.Errorf("%s.%w", l.key, err)
		}
	}
	return ids, nil
}

// secured is what the listeners show of themselves; nil: that one has no TLS.
type secured struct{ nats, mqtt, ws, http *secure.Source }

func newSecured(ids identities) secured {
	return secured{secure.NewSource(ids.nats), secure.NewSource(ids.mqtt), secure.NewSource(ids.ws), secure.NewSource(ids.http)}
}

// swap puts other certificates and rules in force, for connections from now on. A
// listener that has no TLS goes on without.
func (s *secured) swap(ids identities) {
	s.nats.Swap(ids.nats)
	s.mqtt.Swap(ids.mqtt)
	s.ws.Swap(ids.ws)
	s.http.Swap(ids.http)
}

func (d *daemon) wsOptions() ws.Options {
	c := d.cfg.Load().WS
	return ws.Options{TLS: d.secured.ws, SameOrigin: c.SameOrigin, Origins: c.Origins, Compression: c.Compression,
		HandshakeTimeout: c.HandshakeTimeout, Advertise: c.Advertise, MQTT: d.mqtt != nil, Logger: d.log}
}

// serveWebSockets runs the listener, and the servers of the two protocols on what comes
// out of it.
func (d *daemon) serveWebSockets(s *stage) {
	s.run(func(ctx context.Context) error { return d.ws.Serve(ctx, d.wsLn) })
	s.run(func(ctx context.Context) error { return d.nats.Serve(ctx, d.ws.NATS()) })
	if d.mqtt != nil {
		s.run(func(ctx context.Context) error { return d.mqtt.Serve(ctx, d.ws.MQTT()) })
	}
}
