package leaf

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// ProtocolVersion is the nats-server release whose behaviour this package is
// tested against; clients switch features by it.
const ProtocolVersion = "2.15.2"

// Connect is what a client says of itself. (NATS client protocol, CONNECT.)
type Connect struct {
	Verbose      bool   `json:"verbose"`
	Pedantic     bool   `json:"pedantic"`
	Echo         *bool  `json:"echo"` // absent means true
	Headers      bool   `json:"headers"`
	NoResponders bool   `json:"no_responders"`
	Name         string `json:"name"`
	Lang         string `json:"lang"`
	Version      string `json:"version"`
	Protocol     int    `json:"protocol"`
	User         string `json:"user"`
	Pass         string `json:"pass"`
	Token        string `json:"auth_token"`
	NKey         string `json:"nkey"`
	Sig          string `json:"sig"` // of INFO's nonce, in base64
	TLSRequired  bool   `json:"tls_required"`
}

func parseConnect(arg []byte) (*Connect, error) {
	c := &Connect{Verbose: true, Pedantic: true} // unless it says otherwise
	if err := json.Unmarshal(arg, c); err != nil {
		return nil, &ProtoError{Text: "Parser Error", Detail: "CONNECT: " + err.Error(), Fatal: true}
	}
	if c.Protocol < 0 || c.Protocol > 1 {
		return nil, &ProtoError{Text: "invalid client protocol", Fatal: true}
	}
	if c.NoResponders && !c.Headers {
		return nil, errNoRespondersNeedHeaders
	}
	return c, nil
}

// clientInfo is the INFO line to a client. (NATS client protocol, INFO.)
type clientInfo struct {
	ServerID     string   `json:"server_id"`
	ServerName   string   `json:"server_name"`
	Version      string   `json:"version"`
	Proto        int      `json:"proto"`
	Go           string   `json:"go"`
	Host         string   `json:"host"`
	Port         int      `json:"port"`
	Headers      bool     `json:"headers"`
	AuthRequired bool     `json:"auth_required,omitempty"`
	TLSRequired  bool     `json:"tls_required,omitempty"`
	TLSVerify    bool     `json:"tls_verify,omitempty"`
	TLSAvailable bool     `json:"tls_available,omitempty"`
	MaxPayload   int      `json:"max_payload"`
	ClientID     uint64   `json:"client_id"`
	ClientIP     string   `json:"client_ip,omitempty"`
	Nonce        string   `json:"nonce,omitempty"`
	LameDuck     bool     `json:"ldm,omitempty"`
	ConnectURLs  []string `json:"connect_urls,omitempty"`

	// In the one INFO that follows the first PONG.
	ConnectInfo bool   `json:"connect_info,omitempty"`
	Account     string `json:"remote_account,omitempty"`
	System      bool   `json:"acc_is_sys,omitempty"`
}

// newNonce is what one client has to sign with its nkey: 16 random bytes.
func newNonce() string {
	var b [16]byte
	rand.Read(b[:]) // which does not fail
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// infoLine is what c is told of the server; lame, that it is to look for another.
// Safe for all goroutines.
func (s *Server) infoLine(c *conn, lame bool) []byte { return s.info(c, lame).line() }

func (s *Server) info(c *conn, lame bool) *clientInfo {
	o := s.opts.Load()
	info := &clientInfo{ServerID: o.ServerID, ServerName: o.ServerName, Version: ProtocolVersion, Proto: 1,
		Go: runtime.Version(), Headers: !o.NoHeaders, AuthRequired: s.auth.Required(connType(c.nc)),
		MaxPayload: o.MaxPayload, ClientID: c.id, Nonce: c.nonce, LameDuck: lame}
	info.Host, info.Port = splitAddr(c.nc.LocalAddr())
	info.Host, info.Port = cmp.Or(o.AdvertiseHost, info.Host), cmp.Or(o.AdvertisePort, info.Port)
	info.ClientIP, _ = splitAddr(c.nc.RemoteAddr())
	info.offer(c.nc)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.grant != nil {
		info.MaxPayload = least(o.MaxPayload, c.grant.Limits.MaxPayload)
	}
	return info
}

func (info *clientInfo) line() []byte {
	b, err := json.Marshal(info)
	if err != nil {
		panic("leaf: INFO does not marshal: " + err.Error())
	}
	return append(append([]byte("INFO "), b...), "\r\n"...)
}

func splitAddr(a net.Addr) (host string, port int) {
	if a == nil {
		return "", 0
	}
	host, p, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String(), 0
	}
	port, _ = strconv.Atoi(p)
	return host, port
}

// maxLoginLine bounds what one who has not said who they are can make the server
// remember, in bytes.
const maxLoginLine = 8 << 10

// handleConnect accepts the client or ends the connection. A second CONNECT may
// change options, as in nats-server, but not who the client is.
func (c *conn) handleConnect(arg []byte) error {
	info, err := parseConnect(arg)
	if err != nil {
		return err
	}
	if !c.ready {
		l := &Login{Type: connType(c.nc), User: info.User, Pass: info.Pass, Token: info.Token, NKey: info.NKey, Sig: info.Sig, Nonce: c.nonce,
			Cert: CertificateOf(c.nc)}
		if err := c.enter(l); err != nil {
			return c.refuse(l, info, err)
		}
		if l.Cert != nil { // which names the user, whatever CONNECT says
			info.User = c.grant.User
		}
	}
	c.headers = info.Headers && !c.srv.opts.Load().NoHeaders
	c.noResponders = info.NoResponders && c.headers
	c.out.mu.Lock() // Deliver reads headers under it
	c.plain = !c.headers
	c.out.mu.Unlock()
	c.verbose, c.pedantic = info.Verbose, info.Pedantic
	c.port.Echo(info.Echo == nil || *info.Echo)
	c.in.Trust(c.srv.opts.Load().Outbound.Budget)
	c.asyncInfo.Store(info.Protocol >= 1)
	if c.identify(info) {
		c.watch(Watcher.Connected)
	}
	return nil
}

// handlePing answers. Behind the first answer a client that takes an INFO at any
// time learns where it is, as from nats-server: not before, for some take nothing
// but PONG then.
func (c *conn) handlePing() {
	c.out.Append([]byte("PONG\r\n"))
	if c.grant == nil || c.placed || !c.asyncInfo.Load() {
		return
	}
	c.placed = true
	info := c.srv.info(c, c.srv.lame.Load())
	info.ConnectInfo, info.Account, info.System = true, c.grant.Account, c.grant.Account == c.srv.auth.SystemAccount()
	c.out.Append(info.line())
}

// enter gives the client its place, if it may have one.
func (c *conn) enter(l *Login) error {
	grant, err := c.srv.auth.Login(l, c.name(), c)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.grant, c.port, c.ready = grant, grant.Port, true
	c.mu.Unlock()
	if c.parser == nil { // before the first word, where none has to log in
		return nil
	}
	c.limit(c.parser)
	c.endHalfOpen()
	c.nc.SetReadDeadline(time.Time{})
	c.in.MayPark(c.srv.parking, c)
	return nil
}

// least is the lower of two limits, 0 being none.
func least(a, b int) int {
	if a == 0 || b == 0 {
		return a + b
	}
	return min(a, b)
}

// Revoked implements [Client]. What the client is told reaches it before the end.
func (c *conn) Revoked(why error) {
	if why == nil {
		c.drop(errUserGone)
		return
	}
	c.cut(why.(*ProtoError))
}

// Ended implements [Client].
func (c *conn) Ended(subs []*msg.Sub) {
	for _, sub := range subs {
		c.retire(sub)
		c.out.Append(fmt.Appendf(nil, "-ERR 'Permissions Violation for %s (sid %q)'\r\n", subscriptionTo(sub), sub.SID))
		c.log().Info("subscription ended; permissions forbid it now", "user", c.grant.User, "what", subscriptionTo(sub))
	}
	c.out.Flush()
}

// refuse ends the connection of one who may not enter, later the more often its
// address has failed.
func (c *conn) refuse(l *Login, info *Connect, err error) error {
	c.srv.counters.AuthErrors.Add(1)
	c.log().Warn("client refused", "name", info.Name, "user", l.Who(), "remote", c.nc.RemoteAddr(), "err", err)
	c.identify(info)
	c.watch(Watcher.Refused)
	if err == ErrNotAuthorized {
		c.srv.pause(c.srv.auth.Refused(c.nc.RemoteAddr()))
	}
	return err
}

// beginWithout lets in a client that begins with anything but CONNECT, where one
// who shows nothing is somebody.
func (c *conn) beginWithout(b []byte) error {
	if len(c.parser.carry) > 0 || b[0]|0x20 == 'c' || !c.srv.auth.trusting(connType(c.nc)) {
		return nil
	}
	l := &Login{Type: connType(c.nc), Cert: CertificateOf(c.nc)}
	if err := c.enter(l); err != nil {
		return c.tell(c.refuse(l, &Connect{}, err))
	}
	if c.identify(&Connect{}) {
		c.watch(Watcher.Connected)
	}
	return nil
}

func (c *conn) endHalfOpen() {
	if c.halfOpen {
		c.halfOpen = false
		c.srv.auth.Leave(c.nc.RemoteAddr())
	}
}

// release gives back what auth counts.
func (c *conn) release() {
	c.endHalfOpen()
	if c.grant != nil {
		c.grant.Close()
	}
}
