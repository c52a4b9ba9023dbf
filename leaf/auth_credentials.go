package leaf

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"

	"github.com/nats-io/nkeys"
	"golang.org/x/crypto/bcrypt"

	"github.com/leafd/leafd/internal/secure"
)

// identity is one who may connect. It does not change.
type identity struct {
	name    string // or nkey; empty for a token and for anyone
	nkey    bool   // name is one
	guest   bool   // showed nothing, and is this user by no_auth_user
	secret  string // password or token, plain or bcrypt; empty for an nkey
	types   []ConnType
	rights  *rights
	allowed *Permissions // what rights were made of
	account *account
}

func (w *identity) mayUse(t ConnType) bool { return len(w.types) == 0 || slices.Contains(w.types, t) }

// asGuest is the same user for one who showed nothing.
func (w *identity) asGuest() *identity {
	if w == nil {
		return nil
	}
	g := *w
	g.guest = true
	return &g
}

// keyring is what one listener accepts. It does not change.
type keyring struct {
	users, nkeys map[string]*identity
	token        *identity // nil if there is none
	noAuth       *identity // who a client that shows nothing is; nil if it is nobody
	anyone       *identity // who a client is where nothing is asked for; else nil
	decoy        string    // a hash that takes as long as the slowest of them; empty if none is hashed
}

func newKeyring(c *Credentials, accounts map[string]*account) (*keyring, error) {
	k := &keyring{users: map[string]*identity{}, nkeys: map[string]*identity{}}
	for i := range c.Users {
		if err := k.add(&c.Users[i], accounts); err != nil {
			return nil, err
		}
	}
	secrets := []string{c.Token}
	for _, w := range k.users {
		secrets = append(secrets, w.secret)
	}
	var err error
	if k.decoy, err = decoyOf(secrets); err != nil {
		return nil, err
	}
	switch {
	case c.Token != "" && len(c.Users) > 0:
		return nil, fmt.Errorf("a token and users exclude one another")
	case c.Token != "":
		k.token = &identity{secret: c.Token, account: accounts[GlobalAccount]}
	case len(c.Users) == 0:
		k.anyone = &identity{account: accounts[GlobalAccount]}
	}
	if c.NoAuthUser != "" {
		if k.noAuth = k.users[c.NoAuthUser]; k.noAuth == nil {
			k.noAuth = k.nkeys[c.NoAuthUser]
		}
		if k.noAuth == nil {
			return nil, fmt.Errorf("no_auth_user %q is not one of the users", c.NoAuthUser)
		}
	}
	return k, nil
}

func (k *keyring) add(u *User, accounts map[string]*account) error {
	rt, err := newRights(u.Permissions)
	if err != nil {
		return fmt.Errorf("permissions of user %q: %w", u.Name+u.NKey, err)
	}
	w := &identity{name: u.Name, secret: u.Password, types: u.Types, rights: rt, allowed: u.Permissions, account: accounts[cmp.Or(u.Account, GlobalAccount)]}
	if w.account == nil {
		return fmt.Errorf("user %q: there is no account %q", u.Name+u.NKey, u.Account)
	}
	known := k.users
	if u.NKey != "" {
		if u.Name != "" || u.Password != "" {
			return fmt.Errorf("user with nkey %q has a name or password, too", u.NKey)
		}
		if !nkeys.IsValidPublicUserKey(u.NKey) {
			return fmt.Errorf("%q is not the public nkey of a user", u.NKey)
		}
		w.name, w.nkey, known = u.NKey, true, k.nkeys
	}
	if w.name == "" {
		return fmt.Errorf("a user has neither a name nor an nkey")
	}
	if known[w.name] != nil {
		return fmt.Errorf("user %q is there twice", w.name)
	}
	known[w.name] = w
	return nil
}

// check finds out who a client is. Where passwords are hashed, a failure takes the
// time of one hash whatever was wrong.
func (k *keyring) check(l *Login, hashing chan struct{}) (*identity, error) {
	if k.anyone != nil {
		return k.anyone, nil
	}
	if l.Cert != nil {
		return k.byCertificate(l)
	}
	if l.empty() && k.noAuth != nil && k.noAuth.mayUse(l.Type) {
		return k.noAuth.asGuest(), nil
	}
	if l.NKey != "" && len(k.nkeys) > 0 {
		w := k.nkeys[l.NKey]
		if ok := signed(l); !ok || w == nil || !w.mayUse(l.Type) {
			return nil, ErrNotAuthorized
		}
		return w, nil
	}
	w, shown := k.users[l.User], l.Pass
	if k.token != nil {
		w, shown = k.token, l.Token
	}
	secret := k.decoy
	if w != nil {
		secret = w.secret
	}
	ok := matches(secret, shown, hashing)
	if !ok && !isHash(secret) && k.decoy != "" {
		matches(k.decoy, shown, hashing)
	}
	if !ok || w == nil || !w.mayUse(l.Type) {
		return nil, ErrNotAuthorized
	}
	return w, nil
}

// byCertificate is the user that a certificate names.
func (k *keyring) byCertificate(l *Login) (*identity, error) {
	name, ok := secure.CertUser(l.Cert, slices.Collect(maps.Keys(k.users)))
	if !ok || !k.users[name].mayUse(l.Type) {
		return nil, ErrNotAuthorized
	}
	return k.users[name], nil
}

// signed reports whether the nonce was signed with the nkey that l shows.
func signed(l *Login) bool {
	sig, err := base64.RawURLEncoding.DecodeString(l.Sig)
	if err != nil {
		sig, err = base64.StdEncoding.DecodeString(l.Sig)
	}
	if err != nil || l.Nonce == "" {
		return false
	}
	key, err := nkeys.FromPublicKey(l.NKey)
	return err == nil && key.Verify([]byte(l.Nonce), sig) == nil
}

// isHash reports whether a configured secret is a bcrypt hash.
func isHash(secret string) bool {
	return slices.ContainsFunc([]string{"$2a$", "$2b$", "$2x$", "$2y$"}, func(p string) bool { return strings.HasPrefix(secret, p) })
}

// matches compares in a time that says nothing about the secret.
func matches(secret, shown string, hashing chan struct{}) bool {
	if isHash(secret) {
		hashing <- struct{}{}
		defer func() { <-hashing }()
		return bcrypt.CompareHashAndPassword([]byte(secret), []byte(shown)) == nil
	}
	a, b := sha256.Sum256([]byte(secret)), sha256.Sum256([]byte(shown))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// hashers is how many passwords are hashed at once: half the cores.
func hashers() int { return max(1, runtime.GOMAXPROCS(0)/2) }

// decoyOf returns a hash of nothing in particular, as costly as the most costly
// of the secrets.
func decoyOf(secrets []string) (string, error) {
	most := 0
	for _, s := range secrets {
		if !isHash(s) {
			continue
		}
		cost, err := bcrypt.Cost([]byte(s))
		if err != nil {
			return "", fmt.Errorf("a password begins as a bcrypt hash and is none: %w", err)
		}
		most = max(most, cost)
	}
	if most == 0 {
		return "", nil
	}
	// The salt and the hash are in bcrypt's own base64; no password is known to give them.
	return fmt.Sprintf("$2a$%02d$%s", most, strings.Repeat("leafd", 10)+"leaf"[:3]), nil
}
