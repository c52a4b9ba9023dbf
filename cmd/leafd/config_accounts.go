package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/leaf"
)

// readAccounts reads the accounts with their users: a block for each, or only
// their names.
func readAccounts(b *block, a *leaf.AuthConfig) {
	v, ok := b.get("accounts")
	if !ok {
		return
	}
	if _, isList := v.v.([]any); isList {
		names, _ := v.texts()
		for _, name := range names {
			addAccount(v, a, leaf.AccountConfig{Name: name})
		}
		return
	}
	v.enter(func(b *block) {
		b.each(func(name string, v value) {
			c := leaf.AccountConfig{Name: name}
			v.enter(func(b *block) { readAccount(b, a, &c) })
			addAccount(v, a, c)
		})
	})
}

func addAccount(v value, a *leaf.AuthConfig, c leaf.AccountConfig) {
	if c.Name == leaf.GlobalAccount || !msg.ValidQueue(c.Name) {
		v.fail(fmt.Sprintf("%q cannot be the name of an account", c.Name), "choose one word; $G is where everything is that has no account")
		return
	}
	a.Accounts = append(a.Accounts, c)
}

func readAccount(b *block, a *leaf.AuthConfig, c *leaf.AccountConfig) {
	users := readUsers(b)
	permitAll(users, readPermissions(b, "default_permissions"))
	for i := range users {
		users[i].Account = c.Name
	}
	a.Users = append(a.Users, users...)
	b.sub(func(b *block) { readLimits(b, c) }, "limits")
	b.subs(func(b *block) { readExport(b, c) }, "exports")
	b.subs(func(b *block) { readImport(b, c) }, "imports")
	b.notYet(
		"nkey: remove it; accounts are known by their names here",
		"jetstream: remove it; the hub keeps streams, and an outbox block keeps messages for it",
		"mappings maps: remove it; publish on the subject that is wanted, or import a stream with to",
		"msg_trace trace_dest",
	)
}

// readLimits reads what an account may use; -1 is no limit.
func readLimits(b *block, c *leaf.AccountConfig) {
	limit := func(dst *int, most int, names ...string) {
		n := -1
		if b.integer(&n, -1, most, names...); n == 0 {
			b.r.fail(b.join(names[0]), "0 lets nothing in", "write -1 for no limit, or remove the account")
		}
		*dst = max(n, 0)
	}
	limit(&c.Limits.MaxConns, 65536, "max_connections", "max_conn")
	limit(&c.Limits.MaxSubs, 1e6, "max_subscriptions", "max_subs")
	limit(&c.Limits.MaxPayload, 64<<20, "max_payload", "max_pay")
	n := -1
	if b.integer(&n, -1, 65536, "max_leafnodes", "max_leafs"); n == 0 {
		c.NoLink = true
	}
}

func readExport(b *block, c *leaf.AccountConfig) {
	var e leaf.Export
	isStream := b.str(&e.Subject, "stream")
	if e.Service = b.str(&e.Subject, "service"); e.Service == isStream && !b.failedUnder(b.path) {
		b.r.fail(b.path, "must have either stream or service", `write { stream: "a.>" } or { service: "b" }`)
		return
	}
	if !msg.ValidFilter(e.Subject) && !b.failedUnder(b.path) {
		b.r.fail(b.path, fmt.Sprintf("%q is not a subject", e.Subject), "")
	}
	b.list(&e.Accounts, "accounts")
	if !e.Service {
		for _, key := range []string{"response", "response_type", "threshold", "response_threshold", "response_max_time", "response_time"} {
			if v, ok := b.get(key); ok {
				v.fail("is for a service", "remove it")
			}
		}
	}
	word := "singleton"
	b.oneOf(&word, []string{"single", "singleton", "stream", "chunk", "chunked"}, "response_type", "response")
	e.Response = map[string]leaf.ResponseType{"stream": leaf.Streamed, "chunk": leaf.Chunked, "chunked": leaf.Chunked}[word]
	b.dur(&e.Threshold, time.Millisecond, 24*time.Hour, "threshold", "response_threshold", "response_max_time", "response_time")
	b.notYet("latency allow_trace account_token_position")
	c.Exports = append(c.Exports, e)
}

func readImport(b *block, c *leaf.AccountConfig) {
	var im leaf.Import
	from := func(b *block) {
		b.str(&im.Account, "account")
		b.str(&im.Subject, "subject")
		if (im.Account == "" || im.Subject == "") && !b.failedUnder(b.path) {
			b.r.fail(b.path, "needs account and subject", `write { account: A, subject: "a.>" }`)
		}
	}
	isStream := b.sub(from, "stream")
	if im.Service = b.sub(from, "service"); im.Service == isStream && !b.failedUnder(b.path) {
		b.r.fail(b.path, "must have either stream or service", `write { stream: { account: A, subject: "a.>" } }`)
	}
	b.str(&im.To, "to")
	if b.str(&im.Prefix, "prefix") {
		im.Prefix = strings.TrimSuffix(im.Prefix, ".")
		switch {
		case im.Service || im.To != "":
			b.r.fail(b.join("prefix"), `is for a stream without "to"`, `use to`)
		case !msg.ValidSubject(im.Prefix):
			b.r.fail(b.join("prefix"), fmt.Sprintf("%q is not a subject without wildcards", im.Prefix), "")
		}
	}
	b.notYet("share allow_trace")
	c.Imports = append(c.Imports, im)
}

// checkAccounts finds what only all accounts together show: users that are there
// twice, imports of what is not exported, cycles.
func (c *Config) checkAccounts(r *reader) {
	if len(r.errs) > 0 || c.Auth.Anyone() && len(c.Auth.Accounts) == 0 {
		return
	}
	_, err := leaf.NewAuth(c.Auth, leaf.NewRouter())
	var ae *leaf.AccountError
	switch {
	case errors.As(err, &ae):
		r.fail("accounts."+ae.Account, ae.Err.Error(), "")
	case err != nil:
		r.fail("accounts", err.Error(), "")
	}
}
