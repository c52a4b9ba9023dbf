package leaf

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nkeys"
)

// hubInfo is the part of a hub's INFO that a link looks at. (NATS leafnode
// protocol, INFO.)
type hubInfo struct {
	ServerID      string             `json:"server_id"`
	ServerName    string             `json:"server_name"`
	Version       string             `json:"version"`
	Domain        string             `json:"domain"`
	Headers       bool               `json:"headers"`
	MaxPayload    int64              `json:"max_payload"`
	ClientID      uint64             `json:"client_id"`
	Nonce         string             `json:"nonce"`
	TLSRequired   bool               `json:"tls_required"`
	InfoOnConnect bool               `json:"info_on_connect"`
	ConnectInfo   bool               `json:"connect_info"` // it answers our CONNECT
	LeafnodeURLs  []string           `json:"leafnode_urls"`
	Export        *subjectPermission `json:"export"` // what we may publish to the hub
	Import        *subjectPermission `json:"import"` // what we may subscribe to at the hub
}

// leafConnect is what a leafnode says of itself. It has no "lang", by which a hub
// tells clients. (NATS leafnode protocol, CONNECT.)
type leafConnect struct {
	Version       string   `json:"version"`
	NKey          string   `json:"nkey,omitempty"`
	JWT           string   `json:"jwt,omitempty"`
	Sig           string   `json:"sig,omitempty"`
	User          string   `json:"user,omitempty"`
	Pass          string   `json:"pass,omitempty"`
	Token         string   `json:"auth_token,omitempty"`
	ServerID      string   `json:"server_id"`
	Name          string   `json:"name"`
	Headers       bool     `json:"headers"`
	JetStream     bool     `json:"jetstream"`
	DenyPub       []string `json:"deny_pub,omitempty"` // what the hub should not send us
	Compression   string   `json:"compress_mode"`
	RemoteAccount string   `json:"remote_account"`
	Protocol      int      `json:"protocol"`
}

// leafProtocol says that we do not trace messages, which needs 3.
const leafProtocol = 2

// greetVerbs are what a hub may say before it has let us in.
var greetVerbs = []verb{
	{verbKey("INFO"), opInfo, (*parser).argsLine, false},
	{verbKey("PING"), opPing, (*parser).argsNone, false},
	{verbKey("PONG"), opPong, (*parser).argsNone, false},
	{verbKey("-ERR"), opErr, (*parser).argsLine, false},
	{verbKey("+OK"), opOK, (*parser).argsNone, false},
}

// stage is how far a session has come.
type stage uint8

const (
	greeting   stage = iota // waits for the first INFO
	connecting              // has sent CONNECT and waits for the second
	joined                  // is up
)

func parseHubInfo(arg []byte) (*hubInfo, error) {
	info := &hubInfo{}
	if err := json.Unmarshal(arg, info); err != nil {
		return nil, &ProtoError{Text: "Parser Error", Detail: "INFO: " + err.Error(), Fatal: true}
	}
	return info, nil
}

// handleInfo takes the first INFO, the one that answers CONNECT, and later ones.
func (s *session) handleInfo(arg []byte) error {
	info, err := parseHubInfo(arg)
	if err != nil {
		return err
	}
	if len(info.LeafnodeURLs) > 0 {
		s.link.urls.learn(info.LeafnodeURLs, s.url)
	}
	switch {
	case s.stage == greeting:
		return s.greeted(info)
	case s.stage == connecting && info.ConnectInfo:
		return s.join(info)
	case s.stage == joined:
		s.refresh(info)
	}
	return nil
}

// greeted answers the first INFO with CONNECT.
func (s *session) greeted(info *hubInfo) error {
	switch {
	case info.ClientID == 0 || len(info.LeafnodeURLs) == 0 && !info.InfoOnConnect:
		return errWrongPort
	case info.TLSRequired:
		return errHubWantsTLS
	}
	line, err := s.link.connectLine(info.Nonce, s.url)
	if err != nil {
		return err
	}
	s.plain = !info.Headers
	s.hubName, s.hubVersion = info.ServerName, info.Version
	if s.hubName == "" {
		s.hubName = info.ServerID
	}
	s.domain = info.Domain
	s.learnLimits(info)
	s.link.facts(s)
	s.out.Append(line)
	s.stage = connecting
	s.nc.SetReadDeadline(time.Now().Add(s.link.opts.FirstInfoTimeout))
	if !info.InfoOnConnect { // an old hub, which lets us in without a word
		return s.join(info)
	}
	return nil
}

// join brings the link up: the hub has let us in.
func (s *session) join(info *hubInfo) error {
	s.nc.SetReadDeadline(time.Time{})
	s.in.Trust(nil)
	s.stage, s.parser.verbs = joined, hubVerbs
	s.refresh(info)
	s.rise()
	return nil
}

// refresh takes what may change while the link is up.
func (s *session) refresh(info *hubInfo) {
	s.learnLimits(info)
	s.link.facts(s)
	if s.perms.Load() == nil || info.ConnectInfo || info.Export != nil || info.Import != nil {
		s.info = info
		s.perms.Store(s.link.permissions(info))
		s.reannounce()
	}
}

// learnLimits takes the largest payload, for what we send and what we accept: an answer of
// JetStream may have a message of that size in base64.
func (s *session) learnLimits(info *hubInfo) {
	if info.MaxPayload <= 0 {
		return
	}
	limit := int(min(info.MaxPayload, maxHubPayload))
	s.maxPayload.Store(s.link.ceiling.under(int64(limit)))
	s.parser.maxPayload = limit + limit/3 + 2*maxHubLine
}

// maxHubPayload bounds what we believe of a hub.
const maxHubPayload = 64 << 20

// connectLine is CONNECT with what proves who we are: for credentials and nkeys
// a signature of the hub's nonce. Keys are in memory only while it is made.
func (l *Link) connectLine(nonce string, u hubURL) ([]byte, error) {
	c := leafConnect{
		Version: ProtocolVersion, ServerID: l.opts.ServerID, Name: l.opts.ServerName, Headers: true,
		DenyPub: l.opts.DenyImports, Compression: "off", RemoteAccount: "$G", Protocol: leafProtocol,
	}
	var err error
	switch {
	case l.opts.CredsFile != "":
		c.JWT, c.Sig, err = signWithCreds(l.opts.CredsFile, nonce)
	case l.opts.NKeySeed != "":
		c.NKey, c.Sig, err = signWithSeed(l.opts.NKeySeed, nonce)
	}
	if err != nil {
		return nil, err
	}
	if u.user != nil {
		var hasPass bool
		c.User = u.user.Username()
		if c.Pass, hasPass = u.user.Password(); !hasPass {
			c.Token = c.User // it may be either
		}
	}
	b, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode CONNECT: %w", err)
	}
	return append(append([]byte("CONNECT "), b...), "\r\n"...), nil
}

// signWithCreds reads the file anew, so that it can be replaced at any time.
func signWithCreds(path, nonce string) (jwt, sig string, err error) {
	fail := func(err error) (string, string, error) {
		return "", "", &linkFault{refused, fmt.Errorf("credentials %s: %w", path, err),
			"put a file with the JWT and the seed of a user there"}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return fail(err)
	}
	defer clear(data)
	if jwt, err = nkeys.ParseDecoratedJWT(data); err != nil {
		return fail(err)
	}
	kp, err := nkeys.ParseDecoratedUserNKey(data)
	if err != nil {
		return fail(err)
	}
	if sig, err = sign(kp, nonce); err != nil {
		return fail(err)
	}
	return jwt, sig, nil
}

func signWithSeed(seed, nonce string) (public, sig string, err error) {
	kp, err := nkeys.FromSeed([]byte(seed))
	if err != nil {
		return "", "", fmt.Errorf("nkey of the link: %w", err)
	}
	if public, err = kp.PublicKey(); err != nil {
		return "", "", fmt.Errorf("nkey of the link: %w", err)
	}
	sig, err = sign(kp, nonce)
	return public, sig, err
}

// sign wipes the key.
func sign(kp nkeys.KeyPair, nonce string) (string, error) {
	defer kp.Wipe()
	raw, err := kp.Sign([]byte(nonce))
	if err != nil {
		return "", fmt.Errorf("sign the hub's nonce: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(raw), nil
}
