package leaf

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// An account is a subject space of its own: a Router. What passes from one to
// another was exported by the one and imported by the other.
//
// Reading order: account_map.go (subjects from one space to another),
// account_imports.go (who may have what), account_cross.go (how messages get
// there), interest.go (how hubs learn of it), account_replies.go.

// GlobalAccount is where everything is that has no account.
const GlobalAccount = "$G"

// AccountConfig is an account, and what it shares.
type AccountConfig struct {
	Name    string
	Limits  Limits
	Exports []Export
	Imports []Import
	NoLink  bool // no link may be of this account
}

// AccountError says which account of a configuration is wrong, and why.
type AccountError struct {
	Account string
	Err     error
}

func (e *AccountError) Error() string { return fmt.Sprintf("account %q: %v", e.Account, e.Err) }
func (e *AccountError) Unwrap() error { return e.Err }

// Limits of an account; 0 means no limit but that of the server.
type Limits struct {
	MaxConns   int // clients
	MaxSubs    int // of one client
	MaxPayload int // bytes of header and data
}

// Export offers other accounts messages, or to answer their requests.
type Export struct {
	Subject   string // may have wildcards
	Service   bool
	Accounts  []string      // who may import it; none: everyone
	Response  ResponseType  // of a service
	Threshold time.Duration // how long a service may take to answer, or between answers; 0 means 2 minutes
}

// ResponseType says how many answers a service gives to one request.
type ResponseType uint8

const (
	Singleton ResponseType = iota // one
	Streamed                      // any number
	Chunked                       // any number, up to an empty one
)

// Import takes what another account exports.
type Import struct {
	Account, Subject string // there
	Service          bool
	To               string // the subject here, with "*" or "$1", "$2" for the wildcards of Subject; empty: the same
	Prefix           string // of a stream: what comes before Subject here; excludes To
}

// account is one subject space at run time.
type account struct {
	name   string // static
	router *Router

	limits Limits // guarded by Auth.mu
	conns  int    // guarded by Auth.mu
}

// newAccounts makes the accounts that a configuration names, keeping those that
// are in old already, and checks what they share. It changes none of them.
func (a *Auth) newAccounts(cfg *AuthConfig, old map[string]*account) (map[string]*account, *shares, error) {
	all := map[string]*account{}
	add := func(name string) {
		if w := old[name]; w != nil {
			all[name] = w
		} else {
			all[name] = &account{name: name, router: a.global.sibling(name)}
		}
	}
	if all[GlobalAccount] = old[GlobalAccount]; all[GlobalAccount] == nil {
		all[GlobalAccount] = &account{name: GlobalAccount, router: a.global}
	}
	for i := range cfg.Accounts {
		c := &cfg.Accounts[i]
		if c.Name == "" || c.Name == GlobalAccount || !msg.ValidQueue(c.Name) {
			return nil, nil, &AccountError{c.Name, errors.New("the name is reserved or has white space")}
		}
		if all[c.Name] != nil {
			return nil, nil, &AccountError{c.Name, errors.New("it is there twice")}
		}
		add(c.Name)
	}
	if sys := systemAccount(cfg); all[sys] == nil {
		if cfg.SystemAccount != "" && sys != "$SYS" {
			return nil, nil, fmt.Errorf("system_account %q is not one of the accounts", sys)
		}
		add(sys)
	}
	sh, err := newShares(cfg.Accounts, all)
	return all, sh, err
}

func systemAccount(cfg *AuthConfig) string { return cmp.Or(cfg.SystemAccount, "$SYS") }

// Router returns the subject space of an account, "" being [GlobalAccount].
func (a *Auth) Router(name string) (*Router, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.accounts[cmp.Or(name, GlobalAccount)]
	if w == nil {
		return nil, false
	}
	return w.router, true
}

// SystemAccount is the name of the account of the server's own events.
func (a *Auth) SystemAccount() string { return a.state.Load().system }

// Accounts returns the names of all accounts, sorted.
func (a *Auth) Accounts() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var names []string
	for name := range a.accounts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// sibling returns an empty subject space that may share with r: they have one lock,
// so that a match can look into several.
func (r *Router) sibling(name string) *Router {
	s := NewRouter()
	s.mu, s.account = r.mu, name
	return s
}
