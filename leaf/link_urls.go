package leaf

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strings"
)

// defaultLeafPort is where a hub listens for leafnodes.
const defaultLeafPort = "7422"

// hubURL is one address of the hub.
type hubURL struct {
	addr    string // host:port
	user    *url.Userinfo
	learned bool // from the hub's INFO
}

// String never shows user or password.
func (u hubURL) String() string { return "nats-leaf://" + u.addr }

// parseHubURL reads nats-leaf://[user[:password]@]host[:port]. Its errors do not
// show the user either.
func parseHubURL(s string) (hubURL, error) {
	u, err := url.Parse(strings.TrimSpace(s))
	if err != nil || u.Hostname() == "" {
		return hubURL{}, errors.New("hub URL is not one; write nats-leaf://host:7422")
	}
	h := hubURL{addr: u.Host, user: u.User}
	switch {
	case u.Scheme != "nats-leaf" && u.Scheme != "nats":
		return hubURL{}, fmt.Errorf("hub URL %s://%s: leafd has no such links; write nats-leaf://", u.Scheme, u.Host)
	case u.Port() == "":
		h.addr = net.JoinHostPort(u.Hostname(), defaultLeafPort)
	}
	return h, nil
}

// urlPool says which address of the hub comes next. It belongs to Run.
type urlPool struct {
	configured []hubURL
	learned    []hubURL // what the hub named last; an address leaves when it fails
	next       int      // in configured, then learned
}

func newURLPool(urls []string, keepOrder bool) (*urlPool, error) {
	p := &urlPool{}
	for _, s := range urls {
		u, err := parseHubURL(s)
		if err != nil {
			return nil, err
		}
		p.configured = append(p.configured, u)
	}
	if len(p.configured) == 0 {
		return nil, errors.New("no hub URL")
	}
	if !keepOrder {
		rand.Shuffle(len(p.configured), func(i, j int) {
			p.configured[i], p.configured[j] = p.configured[j], p.configured[i]
		})
	}
	return p, nil
}

// take returns the address to try now.
func (p *urlPool) take() hubURL {
	if p.next >= p.size() {
		p.next = 0
	}
	u := p.configured[min(p.next, len(p.configured)-1)]
	if i := p.next - len(p.configured); i >= 0 {
		u = p.learned[i]
	}
	p.next++
	return u
}

// addrs are all that there are now, first's first.
func (p *urlPool) addrs(first hubURL) []string {
	all := []string{first.addr}
	for _, u := range slices.Concat(p.configured, p.learned) {
		if u.addr != first.addr {
			all = append(all, u.addr)
		}
	}
	return all
}

// failed forgets a learned address: hubs also name addresses that cannot be
// reached from here, and each would cost a dial timeout in every round. The hub
// names them again when it is back.
func (p *urlPool) failed(u hubURL) {
	i := slices.IndexFunc(p.learned, func(l hubURL) bool { return l.addr == u.addr })
	if !u.learned || i < 0 {
		return
	}
	p.learned = slices.Delete(p.learned, i, i+1)
	if p.next > len(p.configured)+i {
		p.next--
	}
}

// worked says that the link came up. After it is lost, the configured addresses
// come before the learned ones.
func (p *urlPool) worked() {
	if p.next >= len(p.configured) {
		p.next = 0
	}
}

// size is how many addresses there are to try.
func (p *urlPool) size() int { return len(p.configured) + len(p.learned) }

// maxLearned bounds what a hub can make us remember.
const maxLearned = 64

// learn takes the addresses that an INFO names in place of those known before.
// They have no user of their own; from is the address it came from.
func (p *urlPool) learn(addrs []string, from hubURL) {
	p.learned = p.learned[:0]
	for _, a := range addrs[:min(len(addrs), maxLearned)] {
		u, err := parseHubURL("nats-leaf://" + a)
		if err != nil || p.knows(u.addr) {
			continue
		}
		u.user, u.learned = from.user, true
		p.learned = append(p.learned, u)
	}
}

func (p *urlPool) knows(addr string) bool {
	same := func(u hubURL) bool { return u.addr == addr }
	return slices.ContainsFunc(p.configured, same) || slices.ContainsFunc(p.learned, same)
}
