package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/leafd/leafd/leaf"
	"github.com/nats-io/nkeys"
	"golang.org/x/crypto/bcrypt"
)

// readAuth reads who may connect, what they may do, and the accounts.
func readAuth(b *block, a *leaf.AuthConfig) {
	b.sub(func(b *block) { readAuthorization(b, &a.Credentials, &a.Timeout) }, "authorization")
	single := a.Token != "" || len(a.Users) > 0 && b.has("authorization") && !b.authorizesUsers()
	before := len(a.Users)
	readAccounts(b, a)
	if single && len(a.Users) > before {
		b.r.fail("accounts", "users of accounts and a single user or a token exclude one another", "write authorization { users: [ … ] }")
	}
	if b.has("authorization") && a.Anyone() && !b.failedUnder("authorization") {
		b.r.fail("authorization", "names neither users nor a token, so that anyone may connect", "add some, or remove the block if that is meant")
	}
	b.str(&a.NoAuthUser, "no_auth_user")
	checkNoAuthUser(b, &a.Credentials)
	b.str(&a.SystemAccount, "system_account", "system")
	if s := a.SystemAccount; s == leaf.GlobalAccount || s != "" && s != "$SYS" && !a.HasAccount(s) && !b.failedUnder("accounts") {
		b.r.fail("system_account", fmt.Sprintf("%q is not one of the accounts", s), "name one of them, or add it")
	}
}

// authorizesUsers reports whether the authorization block has a list of users.
func (b *block) authorizesUsers() bool { return b.r.places["authorization.users"] != pos{} }

// readListenerAuth reads who may connect to a listener that may have an
// authorization of its own; nil if it has that of the NATS listener.
func readListenerAuth(b *block, nats leaf.Credentials, timeout *time.Duration) *leaf.Credentials {
	own := b.has("authorization", "authentication", "no_auth_user")
	b.sub(func(b *block) {
		nats = leaf.Credentials{}
		readAuthorization(b, &nats, timeout)
		if nats.Anyone() && !b.failedUnder(b.path) {
			b.r.fail(b.path, "names neither users nor a token, so that anyone may connect", "add some, or remove the block if that is meant")
		}
	}, "authorization", "authentication")
	if b.str(&nats.NoAuthUser, "no_auth_user") {
		checkNoAuthUser(b, &nats)
	}
	if !own {
		return nil
	}
	return &nats
}

func checkNoAuthUser(b *block, c *leaf.Credentials) {
	if c.NoAuthUser == "" || b.failedUnder(b.join("authorization")) {
		return
	}
	if !slices.ContainsFunc(c.Users, func(u leaf.User) bool { return c.NoAuthUser == u.Name || c.NoAuthUser == u.NKey }) {
		b.r.fail(b.join("no_auth_user"), fmt.Sprintf("%q is not one of the users", c.NoAuthUser), "name one of them, or add it")
	}
}

// readAuthorization reads one user, or a list, or a token.
func readAuthorization(b *block, c *leaf.Credentials, timeout *time.Duration) {
	var one leaf.User
	hasUser := b.str(&one.Name, "user", "username")
	hasPass := readSecret(b, &one.Password, "password", "pass")
	hasToken := readSecret(b, &c.Token, "token")
	b.dur(timeout, 100*time.Millisecond, time.Minute, "timeout")
	c.Users = append(c.Users, readUsers(b)...)
	byDefault := readPermissions(b, "default_permissions", "default_permission", "permissions")
	permitAll(c.Users, byDefault)
	if byDefault != nil && len(c.Users) == 0 {
		b.r.fail(b.join("default_permissions"), "nats-server does not apply these to a single user or a token", "write the user as users: [ { user: …, password: … } ]")
	}
	b.notYet("auth_callout auth_hook proxy_required nkey account")
	switch {
	case hasUser && hasToken, hasUser && b.has("users"), hasToken && b.has("users"):
		b.r.fail(b.path, "user, users and token exclude one another", "keep one of them")
	case hasUser || hasPass:
		if (one.Name == "" || one.Password == "") && !b.failedUnder(b.path) {
			b.r.fail(b.path, "needs both user and password", "add the other")
		}
		c.Users = []leaf.User{one}
	}
}

// readUsers reads a list of users, each known by a password or by an nkey.
func readUsers(b *block) (users []leaf.User) {
	b.subs(func(b *block) {
		u := readUser(b)
		for _, other := range users {
			if other.Name == u.Name && other.NKey == u.NKey {
				b.r.fail(b.path, fmt.Sprintf("user %q is there twice", u.Name+u.NKey), "keep one of them")
			}
		}
		users = append(users, u)
	}, "users")
	return users
}

func readUser(b *block) (u leaf.User) {
	b.str(&u.Name, "user", "username")
	readSecret(b, &u.Password, "password", "pass")
	if b.str(&u.NKey, "nkey") && !nkeys.IsValidPublicUserKey(u.NKey) {
		b.r.fail(b.join("nkey"), "is not the public key of a user", `it starts with "U"; nk -inkey user.nk -pubout shows it`)
	}
	u.Permissions = readPermissions(b, "permissions", "permission", "authorization")
	readConnTypes(b, &u.Types)
	b.notYet("proxy_required account")
	switch {
	case b.failedUnder(b.path):
	case u.NKey != "" && (u.Name != "" || u.Password != ""):
		b.r.fail(b.path, "has both an nkey and a user or password", "keep one of them")
	case u.NKey == "" && u.Name == "":
		b.r.fail(b.path, "names neither a user nor an nkey", "add one")
	case u.NKey == "" && u.Password == "":
		b.r.warnings = append(b.r.warnings, fmt.Sprintf("user %q has no password: anyone who knows the name may connect", u.Name))
	}
	return u
}

// readSecret reads a password or token, plain or hashed.
func readSecret(b *block, dst *string, names ...string) bool {
	if !b.str(dst, names...) {
		return false
	}
	if strings.HasPrefix(*dst, "$2") {
		if _, err := bcrypt.Cost([]byte(*dst)); err != nil || len(*dst) != 60 {
			b.r.fail(b.join(names[0]), "begins as a bcrypt hash and is none", "a hash has 60 characters; nats server passwd makes one")
		}
	}
	return true
}

// readConnTypes reads by which listeners a user may come in.
func readConnTypes(b *block, dst *[]leaf.ConnType) {
	var words []string
	if !b.list(&words, "allowed_connection_types", "connection_types", "clients") {
		return
	}
	known := map[string]leaf.ConnType{"STANDARD": leaf.Standard, "MQTT": leaf.MQTT, "WEBSOCKET": leaf.WebSocket}
	for _, w := range words {
		t, ok := known[strings.ToUpper(w)]
		if !ok {
			b.r.fail(b.join("allowed_connection_types"), fmt.Sprintf("leafd has no listener for %q", w), "use STANDARD, WEBSOCKET and MQTT")
			continue
		}
		*dst = append(*dst, t)
	}
}
