package main

import (
	"cmp"
	"fmt"
	"net"
	"time"

	"github.com/leafd/leafd/internal/secure"
	"github.com/leafd/leafd/internal/ws"
	"github.com/leafd/leafd/leaf"
)

// WebSocket is the WebSocket listener.
type WebSocket struct {
	Listen           string // host:port
	TLS              *secure.Config
	SameOrigin       bool
	Origins          []ws.Origin // none: any
	Compression      bool
	HandshakeTimeout time.Duration // from connecting to the upgrade
	Advertise        string        // host:port that clients are told to reconnect to; empty: none
}

// readWebSocket reads the WebSocket listener. It is secured, unless no_tls says that it
// need not be, as in nats-server.
func readWebSocket(b *block, c *Config) *WebSocket {
	w := &WebSocket{HandshakeTimeout: 2 * time.Second}
	if !b.listenOn(&w.Listen, "0.0.0.0", 443) && !b.failedUnder(b.path) {
		b.r.fail(b.join("listen"), "is missing", `add listen: "0.0.0.0:8443"`)
	}
	var noTLS bool
	b.boolean(&noTLS, "no_tls")
	b.sub(func(b *block) { w.TLS = readTLS(b, false) }, "tls")
	if w.TLS == nil && !noTLS && !b.failedUnder(b.path) {
		b.r.fail(b.join("tls"), "is missing", "add it, or no_tls: true if something in front of leafd does TLS")
	}
	b.boolean(&w.SameOrigin, "same_origin")
	var origins []string
	b.list(&origins, "allowed_origins", "allowed_origin", "allow_origins", "allow_origin", "origins", "origin")
	for _, s := range origins {
		o, err := ws.ParseOrigin(s)
		if err != nil {
			b.r.fail(b.join("allowed_origins"), err.Error(), "write scheme, host and, if it is not that of the scheme, port")
			continue
		}
		w.Origins = append(w.Origins, o)
	}
	b.boolean(&w.Compression, "compression", "compress")
	b.dur(&w.HandshakeTimeout, 100*time.Millisecond, time.Minute, "handshake_timeout")
	if b.str(&w.Advertise, "advertise") {
		if _, _, err := net.SplitHostPort(w.Advertise); err != nil {
			w.Advertise = net.JoinHostPort(w.Advertise, portOf(w.Listen))
		}
	}
	timeout := c.Auth.Timeout
	c.Auth.WebSocket = readListenerAuth(b, c.Auth.Credentials, &timeout)
	if timeout != c.Auth.Timeout {
		b.r.fail(b.join("authorization.timeout"), "is that of authorization for WebSockets, too", "set it there")
	}
	b.notYet("jwt_cookie user_cookie pass_cookie token_cookie: remove it; clients log in with CONNECT", "headers ping_interval")
	return w
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// webSocketAuth is who may connect over WebSockets.
func (c *Config) webSocketAuth() *leaf.Credentials {
	return cmp.Or(c.Auth.WebSocket, &c.Auth.Credentials)
}

// openWarning is about a listener that anyone in the network may use; empty if it is not.
func openWarning(what, addr, block string, who *leaf.Credentials, t *secure.Config) string {
	if !who.Anyone() || isLoopback(addr) || t != nil && t.Verify {
		return ""
	}
	return fmt.Sprintf("%s on %s need no credentials: anyone who reaches it may publish and subscribe; add %s { … }", what, addr, block)
}
