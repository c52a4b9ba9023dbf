package leaf

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"strings"

	"github.com/leafd/leafd/internal/secure"
)

// This file is about connections that are more than a socket: TLS, and WebSockets over
// either. The rest of the package sees a net.Conn.

// webSocket is a connection whose stream comes in frames.
// advertise is where others like it are told to connect, if not where this one did.
type webSocket interface {
	WebSocket() (tls bool, advertise string)
}

// certified is a connection that may have shown a certificate.
type certified interface {
	Certificate() (cert *x509.Certificate, mapped bool)
}

// TLSInfo is what monitoring shows of a connection's TLS; empty without.
type TLSInfo struct {
	Version, Cipher string // "1.3", and the suite as Go names it
	First           bool   // the client shook hands before it was greeted
}

// TLSOf describes the TLS of nc.
func TLSOf(nc net.Conn) (i TLSInfo) {
	sc, ok := nc.(interface {
		State() (st tls.ConnectionState, first, ok bool)
	})
	if !ok {
		return i
	}
	st, first, ok := sc.State()
	if !ok {
		return i
	}
	return TLSInfo{strings.TrimPrefix(tls.VersionName(st.Version), "TLS "), tls.CipherSuiteName(st.CipherSuite), first}
}

// open greets the client, and returns when the connection can be read.
func (c *conn) open() (err error) {
	defer c.srv.survive(c, &err)
	if sc, ok := c.nc.(*secure.Conn); ok {
		return sc.Open(func() []byte { return c.srv.infoLine(c, c.srv.lame.Load()) })
	}
	c.out.Append(c.srv.infoLine(c, c.srv.lame.Load()))
	c.out.Flush()
	return nil
}

// turnAway says why, in clear: nobody shakes hands with one who may not stay.
func (c *conn) turnAway(why *ProtoError) {
	if sc, ok := c.nc.(*secure.Conn); ok {
		sc.InClear()
	}
	c.out.Append([]byte("-ERR '" + why.Text + "'\r\n"))
	c.out.Flush()
	c.out.Close(nil)
}

// offer fills in what INFO says of TLS. Of a WebSocket it is as from nats-server.
func (info *clientInfo) offer(nc net.Conn) {
	switch nc := nc.(type) {
	case *secure.Conn:
		info.TLSRequired, info.TLSAvailable, info.TLSVerify = nc.Offer()
	case webSocket:
		tls, advertise := nc.WebSocket()
		info.TLSRequired, info.TLSAvailable = tls, tls
		if advertise != "" {
			info.ConnectURLs = []string{advertise}
		}
	}
}

// connType is the kind of listener that nc came in by.
func connType(nc net.Conn) ConnType {
	if _, ok := nc.(webSocket); ok {
		return WebSocket
	}
	return Standard
}

// CertificateOf is the verified certificate of a client that is to be the user it
// names ([Login.Cert]), and nil of all others.
func CertificateOf(nc net.Conn) *x509.Certificate {
	if cc, ok := nc.(certified); ok {
		if cert, mapped := cc.Certificate(); mapped {
			return cert
		}
	}
	return nil
}
