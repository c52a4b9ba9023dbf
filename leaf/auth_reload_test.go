package leaf

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/leafd/leafd/internal/testkit"
)

func (c *client) hears(want string) {
	c.t.Helper()
	c.expect("", want)
}

// ends wants an -ERR and the end.
func (c *client) ends(text string) {
	c.t.Helper()
	c.cutOff("", text)
}

// endsSilently wants nothing but the end.
func (c *client) endsSilently() {
	c.t.Helper()
	if heard, err := io.ReadAll(c.r); len(heard) > 0 || err != nil {
		c.t.Errorf("hears %q %v", heard, err)
	}
}

// apply changes the configuration of a server that runs.
func apply(t *testing.T, s *Server, cfg AuthConfig) {
	t.Helper()
	if err := s.auth.Apply(cfg); err != nil {
		t.Fatal(err)
	}
}

func TestReloadOfUsers(t *testing.T) {
	key := "UBXO27DWRLD6CHOKZYXK2GURFWQMBZZ5QGBQQIWCK35DIVVBIOPFNIOX"
	cfg := AuthConfig{Accounts: []AccountConfig{{Name: "A"}}, Credentials: Credentials{NoAuthUser: "guest", Users: []User{
		{Name: "stays", Password: "p"}, {Name: "goes", Password: "p"}, {Name: "changes", Password: "p"}, {Name: "moves", Password: "p"},
		{Name: "narrows", Password: "p"}, {Name: "guest", Password: "q"}, {NKey: key}}}}
	s, addr := startAuth(t, cfg, Options{})
	clients := map[string]*client{}
	for _, name := range []string{"stays", "goes", "changes", "moves", "narrows"} {
		clients[name] = dial(t, addr, fmt.Sprintf(`{"user":%q,"pass":"p"}`, name))
	}
	clients["guest"] = dial(t, addr, `{}`)
	for _, c := range clients {
		c.expect("SUB a.> 1\r\nSUB b.> q 2\r\nSUB c 3\r\n", "")
	}
	// What cannot be used changes nothing.
	bad := cfg
	bad.Users = append([]User{{Name: "x", Account: "none"}}, cfg.Users...)
	if err := s.auth.Apply(bad); err == nil || !strings.Contains(err.Error(), `no account "none"`) {
		t.Errorf("%v", err)
	}
	for _, c := range clients {
		c.hears("")
	}
	cfg.Users = []User{{Name: "stays", Password: "p"}, {Name: "changes", Password: "new"}, {Name: "moves", Password: "p", Account: "A"},
		{Name: "guest", Password: "r"}, {Name: "narrows", Password: "p", Permissions: &Permissions{
			Publish: SubjectList{Allow: []string{"c"}}, Subscribe: SubjectList{Allow: []string{"c", "a.>"}, Deny: []string{"a.x"}}}}}
	apply(t, s, cfg)
	clients["changes"].ends("Authorization Violation")
	for _, name := range []string{"goes", "moves"} { // as with nats-server, without a word
		clients[name].endsSilently()
	}
	clients["narrows"].hears("-ERR 'Permissions Violation for Subscription to \"b.>\" using queue \"q\" (sid \"2\")'\r\n")
	clients["guest"].hears("") // by its name alone, whatever the password is
	clients["narrows"].expect("PUB d 0\r\n\r\nSUB b.1 4\r\nUNSUB 2\r\n",
		"-ERR 'Permissions Violation for Publish to \"d\"'\r\n-ERR 'Permissions Violation for Subscription to \"b.1\"'\r\n")
	clients["stays"].expect("UNSUB 2\r\nPUB a.x 1\r\n1\r\nPUB a.y 1\r\n2\r\nPUB b.y 1\r\n3\r\n", "MSG a.x 1 1\r\n1\r\nMSG a.y 1 1\r\n2\r\n")
	clients["narrows"].hears("MSG a.y 1 1\r\n2\r\n")
	clients["guest"].hears("MSG a.x 1 1\r\n1\r\nMSG a.y 1 1\r\n2\r\nMSG b.y 2 1\r\n3\r\n")
	dial(t, addr, `{"user":"changes","pass":"new"}`).hears("")
	dial(t, addr, "").cutOff("CONNECT {\"user\":\"goes\",\"pass\":\"p\"}\r\n", "Authorization Violation")

	apply(t, s, AuthConfig{}) // everyone may do everything
	clients["narrows"].expect("SUB b.1 2\r\nPUB b.1 q 0\r\n\r\n", "MSG b.1 2 q 0\r\n\r\n")
	dial(t, addr, `{}`).hears("")
	apply(t, s, AuthConfig{Credentials: Credentials{Token: "t"}})
	for _, name := range []string{"stays", "narrows", "guest"} {
		c := clients[name]
		for line := c.line(); line != "-ERR 'Authorization Violation'"; line = c.line() {
			if !strings.HasPrefix(line, "MSG ") && line != "" {
				t.Errorf("%s hears %q", name, line)
			}
		}
	}
	testkit.Eventually(t, func() bool { return s.Conns() == 0 }, "all gone")
	s.auth.mu.Lock()
	defer s.auth.mu.Unlock()
	for name, w := range s.auth.accounts {
		if w.conns != 0 {
			t.Errorf("%s still counts %d", name, w.conns)
		}
	}
	if n := s.router.guarded; n != 0 || len(s.auth.grants) != 0 {
		t.Errorf("%d ports are guarded, %d grants", n, len(s.auth.grants))
	}
}

// Imports and limits change under clients that stay.
func TestReloadOfAccounts(t *testing.T) {
	cfg := streamAndService()
	cfg.Users = []User{{Name: "a", Account: "A"}, {Name: "b", Account: "B"}}
	s, addr := startAuth(t, cfg, Options{})
	a, b := dial(t, addr, `{"user":"a"}`), dial(t, addr, `{"user":"b"}`)
	a.expect("SUB svc 1\r\n", "")
	b.expect("SUB p.> 1\r\nSUB in.* 2\r\n", "")
	talk := func(crosses bool) {
		t.Helper()
		want := ""
		if crosses {
			want = "MSG p.pub.x 1 1\r\na\r\n"
		}
		for range 3 {
			a.expect("PUB pub.x 1\r\na\r\n", "")
			b.hears(want)
		}
	}
	talk(true)
	b.expect("PUB ask in.1 1\r\nq\r\n", "")
	request := a.line()
	a.line()
	reply := strings.Fields(request)[3]

	without := cfg
	without.Accounts = []AccountConfig{cfg.Accounts[0], {Name: "B", Limits: Limits{MaxConns: 1}}}
	apply(t, s, without)
	talk(false)
	b.expect("PUB ask in.2 1\r\nq\r\n", "")
	a.expect("PUB "+reply+" 1\r\nr\r\n", "") // asked before
	b.hears("MSG in.1 2 1\r\nr\r\n")
	dial(t, addr, "").cutOff("CONNECT {\"user\":\"b\"}\r\n", "maximum account active connections exceeded")
	apply(t, s, cfg)
	talk(true)
	dial(t, addr, `{"user":"b"}`).hears("")

	gone := cfg
	gone.Accounts, gone.Users = cfg.Accounts[:1], cfg.Users[:1]
	apply(t, s, gone)
	b.endsSilently()
	a.expect("PUB pub.x 1\r\na\r\n", "")
}

// Of more clients than an account may have by now the last go, and no message
// reaches them any more.
func TestReloadOfAccountConns(t *testing.T) {
	cfg := AuthConfig{Accounts: []AccountConfig{{Name: "A", Limits: Limits{MaxConns: 3}}}}
	cfg.Users = []User{{Name: "u", Password: "p", Account: "A"}, {Name: "w", Password: "p", Account: "A"}, {Name: "x"}}
	s, addr := startAuth(t, cfg, Options{})
	first, second := dial(t, addr, `{"user":"u","pass":"p"}`), dial(t, addr, `{"user":"w","pass":"p"}`)
	other := dial(t, addr, `{"user":"x"}`)
	first.expect("SUB a 1\r\n", "")
	second.expect("", "")
	third := dial(t, addr, `{"user":"u","pass":"p"}`)
	third.expect("SUB a 1\r\n", "")
	cfg.Accounts[0].Limits.MaxConns = 1
	cfg.Users[1].Password = "q" // who goes for this does not count
	apply(t, s, cfg)
	second.ends("Authorization Violation")
	third.ends("maximum account active connections exceeded")
	first.expect("PUB a 1\r\n1\r\n", "MSG a 1 1\r\n1\r\n")
	other.expect("", "")
	testkit.Eventually(t, func() bool { return s.Conns() == 2 }, "two are gone")
	dial(t, addr, "").cutOff("CONNECT {\"user\":\"u\",\"pass\":\"p\"}\r\n", "maximum account active connections exceeded")
}

// Configurations change while clients log in, publish and subscribe; at the end
// each has the rights of the last one.
func TestReloadUnderTraffic(t *testing.T) {
	wide := AuthConfig{Credentials: Credentials{Users: []User{{Name: "u"}}}}
	narrow := AuthConfig{Credentials: Credentials{Users: []User{{Name: "u", Permissions: &Permissions{
		Publish: SubjectList{Deny: []string{"x"}}, Subscribe: SubjectList{Deny: []string{"x"}}}}}}}
	s, addr := startAuth(t, wide, Options{})
	var all sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		c := dial(t, addr, `{"user":"u"}`)
		all.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				c.send(fmt.Sprintf("SUB x %d\r\nSUB > a%d\r\nPUB x 1\r\n1\r\nPUB y 1\r\n2\r\nUNSUB %d\r\nUNSUB a%d\r\nPING\r\n", i, i, i, i))
				for c.line() != "PONG" {
				}
			}
		})
	}
	for i := range 200 {
		apply(t, s, []AuthConfig{narrow, wide}[i%2])
	}
	apply(t, s, narrow)
	close(stop)
	all.Wait()
	sub, pub := dial(t, addr, `{"user":"u"}`), dial(t, addr, `{"user":"u"}`)
	sub.expect("SUB > 1\r\nSUB x 2\r\n", "-ERR 'Permissions Violation for Subscription to \"x\"'\r\n")
	pub.expect("PUB x 1\r\n1\r\nPUB y 1\r\n2\r\n", "-ERR 'Permissions Violation for Publish to \"x\"'\r\n")
	sub.hears("MSG y 1 1\r\n2\r\n")
}
