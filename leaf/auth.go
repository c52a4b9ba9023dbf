package leaf

import (
	"cmp"
	"crypto/x509"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// ConnType is the kind of listener that a client came in by.
type ConnType uint8

const (
	Standard ConnType = iota // NATS over TCP
	MQTT
	WebSocket
	numConnTypes
)

func (t ConnType) String() string { return [...]string{"STANDARD", "MQTT", "WEBSOCKET"}[t] }

// AuthConfig says who may connect. The zero value lets everyone in.
type AuthConfig struct {
	Credentials               // of the NATS listener, and of the others unless they have their own
	MQTT        *Credentials  // nil: the same
	WebSocket   *Credentials  // nil: the same
	Timeout     time.Duration // for CONNECT on the NATS listener; 0 means 2 s

	Accounts      []AccountConfig // beside GlobalAccount
	SystemAccount string          // one of them; empty: "$SYS", which is there in any case
}

// HasAccount reports whether an account is configured. "" is [GlobalAccount], which
// always is.
func (c *AuthConfig) HasAccount(name string) bool {
	return name == "" || name == GlobalAccount || slices.ContainsFunc(c.Accounts, func(a AccountConfig) bool { return a.Name == name })
}

// Credentials are what a listener accepts: users, or a token, or, if there is
// neither, anything. Passwords and the token may be bcrypt hashes, "$2a$…".
type Credentials struct {
	Users      []User
	Token      string
	NoAuthUser string // name or nkey of the user that a client without credentials is; empty: it is refused
}

// Anyone reports whether no credentials are asked for.
func (c *Credentials) Anyone() bool { return len(c.Users) == 0 && c.Token == "" }

// User is one who may connect, known by a password or by an nkey.
type User struct {
	Name, Password string
	NKey           string       // a public nkey of a user; excludes Name and Password
	Types          []ConnType   // listeners it may use; none means all
	Permissions    *Permissions // nil: all
	Account        string       // empty: GlobalAccount
}

// Why a login fails; the texts are what a NATS client is told.
var (
	ErrNotAuthorized error = &ProtoError{Text: "Authorization Violation", Fatal: true, ended: "Authentication Failure"}
	ErrAccountFull   error = &ProtoError{Text: "maximum account active connections exceeded", Fatal: true, ended: "Maximum Account Connections Exceeded"}
)

// Login is what a client shows of itself.
type Login struct {
	Type              ConnType
	User, Pass, Token string
	NKey, Sig, Nonce  string // Sig is the signature of Nonce, in base64

	// Cert is a verified certificate that says who the client is, whatever else it
	// shows; nil if none does. See [CertificateOf].
	Cert *x509.Certificate
}

// Who is the name that is shown, for people to read.
func (l *Login) Who() string {
	if l.Cert != nil {
		return l.Cert.Subject.String()
	}
	return cmp.Or(l.User, l.NKey)
}

// empty reports whether nothing is shown.
func (l *Login) empty() bool { return l.User == "" && l.Pass == "" && l.Token == "" && l.NKey == "" }

// Auth decides who may connect, for all listeners of the gateway, and remembers
// who is. It is safe for all goroutines.
//
// Reading order: auth_credentials.go (is it them?), auth_throttle.go (how often
// may one try?), perms.go (what may they do?), account.go (where are they?),
// auth_reload.go (what if that changes?).
type Auth struct {
	global   *Router // of GlobalAccount; all routers have its lock
	attempts attempts
	hashing  chan struct{} // bounds the passwords being hashed, so that logins leave a core to messages

	state atomic.Pointer[authState] // replaced under mu

	mu       sync.Mutex
	grants   map[*Grant]struct{} // guarded by mu; who is logged in
	accounts map[string]*account // guarded by mu
	entered  uint64              // guarded by mu; how many have ever logged in
}

// authState is a configuration that was checked. It does not change.
type authState struct {
	lists   [numConnTypes]*keyring
	timeout time.Duration
	system  string
}

// NewAuth checks a configuration. global becomes the subject space of
// [GlobalAccount].
func NewAuth(cfg AuthConfig, global *Router) (*Auth, error) {
	a := &Auth{global: global, hashing: make(chan struct{}, hashers()), grants: map[*Grant]struct{}{}}
	if err := a.Apply(cfg); err != nil {
		return nil, err
	}
	return a, nil
}

// OpenAuth lets everyone into the subject space r.
func OpenAuth(r *Router) *Auth {
	a, err := NewAuth(AuthConfig{}, r)
	if err != nil {
		panic("leaf: the configuration that lets everyone in is refused: " + err.Error())
	}
	return a
}

func compile(cfg *AuthConfig, accounts map[string]*account) (*authState, error) {
	st := &authState{timeout: cmp.Or(cfg.Timeout, 2*time.Second), system: systemAccount(cfg)}
	for t, c := range [numConnTypes]*Credentials{&cfg.Credentials, cmp.Or(cfg.MQTT, &cfg.Credentials), cmp.Or(cfg.WebSocket, &cfg.Credentials)} {
		list, err := newKeyring(c, accounts)
		if err != nil {
			return nil, err
		}
		st.lists[t] = list
	}
	return st, nil
}

// Required reports whether clients of a listener have to show credentials.
func (a *Auth) Required(t ConnType) bool { return a.state.Load().lists[t].anyone == nil }

// challenges reports whether INFO needs a nonce for nkeys to sign.
func (a *Auth) challenges(t ConnType) bool { return len(a.state.Load().lists[t].nkeys) > 0 }

// trusting reports whether a client may begin without CONNECT.
func (a *Auth) trusting(t ConnType) bool { return a.state.Load().lists[t].noAuth != nil }

func (a *Auth) timeout() time.Duration { return a.state.Load().timeout }

// Client is one who logs in: the sink of its subscriptions. Its other methods are
// called by [Auth.Apply] on any goroutine, and do not block.
type Client interface {
	msg.Sink
	// Revoked says that the client may not stay: its connection is to end. why is what it
	// is told, in the terms of [Auth.Login], nil if nothing: its user is there no more, or
	// in another account.
	Revoked(why error)
	// Ended says that permissions took subscriptions away, which have ended.
	Ended(subs []*msg.Sub)
}

// Grant is one client that was let in. Its exported fields do not change.
type Grant struct {
	User    string // name or nkey; empty for a token, or if none was asked for
	NKey    bool   // User is one
	Account string
	Port    *Port // its place in the account's subject space
	Limits  Limits

	// Static.
	auth    *Auth
	client  Client
	by      ConnType
	account *account
	nth     uint64 // of all who logged in

	who *identity // guarded by auth.mu
}

// Login lets a client in, or says why not: [ErrNotAuthorized] and others that are
// a [ProtoError]. It may take as long as a password takes to hash. name is that of
// the client's port, see [Router.Attach]. Close must follow once it has left.
func (a *Auth) Login(l *Login, name string, c Client) (*Grant, error) {
	for {
		st := a.state.Load()
		who, err := st.lists[l.Type].check(l, a.hashing)
		if err != nil {
			return nil, err
		}
		if g, err := a.enroll(st, who, &Grant{auth: a, client: c, by: l.Type}, name); g != nil || err != nil {
			return g, err
		}
	}
}

// enroll notes a client that showed who it is. It returns nil if the configuration
// was replaced meanwhile.
func (a *Auth) enroll(st *authState, who *identity, g *Grant, name string) (*Grant, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := who.account
	switch {
	case a.state.Load() != st:
		return nil, nil
	case w.limits.MaxConns > 0 && w.conns >= w.limits.MaxConns:
		return nil, ErrAccountFull
	}
	w.conns++
	a.entered++
	g.nth = a.entered
	g.User, g.NKey, g.Account, g.Limits, g.who, g.account = who.name, who.nkey, w.name, w.limits, who, w
	g.Port = w.router.Attach(name, g.client, EachSub)
	if who.rights != nil {
		g.Port.setRights(who.rights)
	}
	a.grants[g] = struct{}{}
	return g, nil
}

// Permissions are what the client may do now; nil: everything.
func (g *Grant) Permissions() *Permissions {
	g.auth.mu.Lock()
	defer g.auth.mu.Unlock()
	return g.who.allowed
}

// LastWord gives a client that was revoked its rights back, once it can say nothing
// itself any more: what it left to be said at its end is said by those it had.
func (g *Grant) LastWord() {
	g.auth.mu.Lock()
	defer g.auth.mu.Unlock()
	if g.Port.rights.Load() == nothing {
		g.Port.setRights(g.who.rights) // which empties the cache of matches: not for those who just leave
	}
}

// Close is called once the client has left. The port is its owner's to close.
func (g *Grant) Close() {
	g.auth.mu.Lock()
	defer g.auth.mu.Unlock()
	if _, ok := g.auth.grants[g]; ok {
		delete(g.auth.grants, g)
		g.account.conns--
	}
}

// Refused notes that a login from addr failed and returns how long the answer
// should take, so that guessing is slow.
func (a *Auth) Refused(addr net.Addr) time.Duration { return a.attempts.failure(addr, time.Now()) }

// Enter counts a connection that has not logged in yet. It returns false if too
// many of its address have not either; else Leave must follow, once it has
// logged in or left.
func (a *Auth) Enter(addr net.Addr) bool { return a.attempts.enter(addr) }

// Leave undoes Enter.
func (a *Auth) Leave(addr net.Addr) { a.attempts.leave(addr) }
