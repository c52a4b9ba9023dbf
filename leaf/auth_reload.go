package leaf

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/leafd/leafd/internal/msg"
)

// Apply replaces the configuration: who may connect to which listener, what each
// user may do, the accounts, their limits, and what they share. It is for all
// goroutines, and may run while clients log in, publish and subscribe.
//
// If cfg cannot be used it changes nothing and says why. Else, when it returns,
// the following is so for everyone who is connected, as with nats-server:
//
//   - Who would not be let in any more with what they showed, or is in another
//     account now, is being disconnected ([Client.Revoked]). A user whose password or
//     token reads differently in cfg is one of them, for what the client showed is
//     not kept to be checked again. It is told so, as are those who need credentials
//     now; where the user is gone or has moved the connection just ends.
//   - The others have the permissions of their user in cfg. Their subscriptions
//     that it forbids have ended ([Client.Ended]); no message is delivered to them
//     that was published after Apply returned.
//   - Messages and requests cross accounts as cfg says. Answers to requests under
//     way still find their way back.
//
// Of more clients than an account may have, those that came last are cut off, too;
// its other limits hold for those who connect from now on. Connections that nothing
// of this is about notice nothing.
func (a *Auth) Apply(cfg AuthConfig) error {
	a.mu.Lock()
	accounts, sh, err := a.newAccounts(&cfg, a.accounts)
	var st *authState
	if err == nil {
		st, err = compile(&cfg, accounts)
	}
	if err != nil {
		a.mu.Unlock()
		return fmt.Errorf("authorization: %w", err)
	}
	all := []*account{}
	for _, w := range accounts {
		all = append(all, w)
	}
	for name, w := range a.accounts {
		if accounts[name] == nil {
			all = append(all, w)
		}
	}
	a.accounts = accounts
	for _, w := range accounts {
		w.limits = Limits{}
	}
	for i := range cfg.Accounts {
		accounts[cfg.Accounts[i].Name].limits = cfg.Accounts[i].Limits
	}
	a.state.Store(st)
	a.share(all, sh)
	revoked, ended := a.review(st)
	crowd := a.crowd(revoked)
	a.mu.Unlock()
	for g, why := range revoked {
		g.client.Revoked(why)
	}
	for _, g := range crowd {
		delete(ended, g)
		g.client.Revoked(ErrAccountFull)
	}
	for g, subs := range ended {
		g.client.Ended(subs)
	}
	return nil
}

// review needs mu. It gives everyone the rights that they have now, and returns who
// may not stay, and which subscriptions were taken away from whom.
func (a *Auth) review(st *authState) (revoked map[*Grant]error, ended map[*Grant][]*msg.Sub) {
	revoked, ended = map[*Grant]error{}, map[*Grant][]*msg.Sub{}
	for g := range a.grants {
		was := g.who
		now, holds := st.lists[g.by].again(was)
		gone := now == nil && was.name != "" && !was.guest || now != nil && now.account != was.account
		if gone || now == nil || !holds || !now.mayUse(g.by) {
			g.Port.setRights(nothing)
			if revoked[g] = nil; !gone {
				revoked[g] = ErrNotAuthorized
			}
			continue
		}
		g.who = now
		if now.rights == nil && was.rights == nil {
			continue
		}
		if subs := g.Port.setRights(now.rights); len(subs) > 0 {
			ended[g] = subs
		}
	}
	return revoked, ended
}

// crowd needs mu. It returns who came last of those that are too many for their
// account, without those that go anyway.
func (a *Auth) crowd(revoked map[*Grant]error) (late []*Grant) {
	stay := map[*account][]*Grant{}
	for g := range a.grants {
		if _, goes := revoked[g]; !goes && g.account.limits.MaxConns > 0 {
			stay[g.account] = append(stay[g.account], g)
		}
	}
	for w, all := range stay {
		if len(all) <= w.limits.MaxConns {
			continue
		}
		slices.SortFunc(all, func(x, y *Grant) int { return cmp.Compare(x.nth, y.nth) })
		for _, g := range all[w.limits.MaxConns:] {
			late = append(late, g)
			g.Port.setRights(nothing)
		}
	}
	return late
}

// nothing is what one may do who is being disconnected.
var nothing = &rights{publish: direction{allow: &node{}}}

// again returns who somebody is now who was let in as w, nil if nobody is, and
// whether what they showed then still holds.
func (k *keyring) again(w *identity) (now *identity, holds bool) {
	switch {
	case k.anyone != nil:
		return k.anyone, true
	case w.guest:
		return k.noAuth.asGuest(), true
	case w.nkey:
		return k.nkeys[w.name], true
	}
	now = k.users[w.name]
	if w.name == "" {
		now = k.token
	}
	return now, now != nil && now.secret == w.secret
}
