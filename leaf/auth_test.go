package leaf

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/leafd/leafd/internal/testkit"
)

func tcpAddr(s string) net.Addr {
	a, err := net.ResolveTCPAddr("tcp", s)
	if err != nil {
		panic(err)
	}
	return a
}

// Guessing gets slower with each failure, is forgotten after a quiet minute, and
// is remembered by IPv4 address or IPv6 /64.
func TestGuessingIsSlowedDown(t *testing.T) {
	var a attempts
	now := time.Now()
	fail := func(addr string) time.Duration { return a.failure(tcpAddr(addr), now) }
	for i, want := range []time.Duration{0, 0, 0, 100, 200, 400, 800, 1600, 2000, 2000} {
		if d := fail("192.0.2.1:1"); d != want*time.Millisecond {
			t.Errorf("failure %d is answered after %v, want %v ms", i+1, d, int64(want))
		}
		now = now.Add(time.Second)
	}
	if d := fail("192.0.2.2:1"); d != 0 {
		t.Errorf("another address waits %v", d)
	}
	if now = now.Add(forgetFailure + time.Second); fail("192.0.2.1:1") != 0 {
		t.Error("a quiet minute is not forgotten")
	}
	for range freeFailures {
		fail("[2001:db8::1]:1")
	}
	if fail("[2001:db8::ffff:2]:9") == 0 || fail("[2001:db8:0:1::1]:1") != 0 {
		t.Error("IPv6 is not counted by /64")
	}
}

// A flood of addresses neither grows the table nor pushes out who fails most.
func TestAttemptsAreBounded(t *testing.T) {
	var a attempts
	now := time.Now()
	for range freeFailures {
		a.failure(tcpAddr("192.0.2.1:1"), now)
	}
	for i := range 3 * maxAttempts {
		a.failure(tcpAddr(fmt.Sprintf("10.1.%d.%d:1", i/256, i%256)), now)
	}
	if len(a.failed) > maxAttempts {
		t.Errorf("%d addresses are remembered", len(a.failed))
	}
	if a.failure(tcpAddr("192.0.2.1:1"), now) == 0 {
		t.Error("the one that failed most was forgotten")
	}
}

// At most 64 connections of an address may not have logged in; others go on.
func TestHalfOpenIsBounded(t *testing.T) {
	s, addr := startAuth(t, AuthConfig{Credentials: Credentials{Token: "t"}}, Options{})
	var first *client
	for i := range maxHalfOpen {
		if c := dial(t, addr, ""); i == 0 {
			first = c
		}
	}
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(testkit.Patience))
	b := make([]byte, 100)
	if n, _ := nc.Read(b); string(b[:n]) != "-ERR 'maximum connections exceeded'\r\n" {
		t.Errorf("one too many got %q", b[:n])
	}
	dialFrom(t, addr, "127.0.0.2", `{"auth_token":"t"}`).expect("", "")
	first.expect("CONNECT "+quiet(`{"auth_token":"t"}`)+"\r\n", "") // and makes room for another
	dial(t, addr, `{"auth_token":"t"}`).expect("", "")
	if n := s.Counters().Refused.Load(); n != 1 {
		t.Errorf("%d refused", n)
	}
}

// Where a password is hashed, a login fails after one hash whatever is wrong: an
// unknown user costs what a wrong password costs.
func TestUnknownUserCostsAHash(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("p"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	k, err := newKeyring(&Credentials{Users: []User{{Name: "hashed", Password: string(hash)}, {Name: "plain", Password: "p"}}}, map[string]*account{GlobalAccount: {}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		l      Login
		ok     bool
		hashes int
	}{
		{Login{User: "hashed", Pass: "p"}, true, 1}, {Login{User: "hashed", Pass: "q"}, false, 1},
		{Login{User: "plain", Pass: "p"}, true, 0}, {Login{User: "plain", Pass: "q"}, false, 1},
		{Login{User: "nobody", Pass: "p"}, false, 1}, {Login{User: "nobody"}, false, 1}, {Login{}, false, 1},
		{Login{User: "hashed", Pass: strings.Repeat("p", 100)}, false, 1},
	} {
		hashing, entered := make(chan struct{}), make(chan int)
		go func() { // each hash enters and leaves by this channel
			n := 0
			for range hashing {
				n++
				hashing <- struct{}{}
			}
			entered <- n
		}()
		_, err := k.check(&c.l, hashing)
		close(hashing)
		if n := <-entered; (err == nil) != c.ok || n != c.hashes {
			t.Errorf("%+v: %v after %d hashes, want %d", c.l, err, n, c.hashes)
		}
	}
}

func TestAuthConfigIsChecked(t *testing.T) {
	for _, c := range []struct {
		c    Credentials
		want string
	}{
		{Credentials{Users: []User{{Name: "a"}}, Token: "t"}, "exclude one another"},
		{Credentials{Users: []User{{Name: "a"}, {Name: "a"}}}, "is there twice"},
		{Credentials{Users: []User{{}}}, "neither a name nor an nkey"},
		{Credentials{Users: []User{{NKey: "UX"}}}, "not the public nkey"},
		{Credentials{Users: []User{{Name: "a", NKey: "UX"}}}, "has a name or password, too"},
		{Credentials{Users: []User{{Name: "a", Password: "$2a$11$x"}}}, "bcrypt hash and is none"},
		{Credentials{NoAuthUser: "a"}, "not one of the users"},
	} {
		if _, err := NewAuth(AuthConfig{Credentials: c.c}, NewRouter()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.c, err, c.want)
		}
	}
}

// INFO says what a client has to show, and gives no two the same nonce.
func TestInfoAsksForCredentials(t *testing.T) {
	info := func(cfg AuthConfig) (i clientInfo) {
		_, addr := startAuth(t, cfg, Options{})
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		b := make([]byte, 1000)
		n, _ := nc.Read(b)
		if err := json.Unmarshal(b[len("INFO "):n], &i); err != nil {
			t.Fatalf("%q: %v", b[:n], err)
		}
		return i
	}
	if i := info(AuthConfig{}); i.AuthRequired || i.Nonce != "" {
		t.Errorf("%+v", i)
	}
	if i := info(AuthConfig{Credentials: Credentials{Token: "t"}}); !i.AuthRequired || i.Nonce != "" {
		t.Errorf("%+v", i)
	}
	key := AuthConfig{Credentials: Credentials{Users: []User{{NKey: "UBXO27DWRLD6CHOKZYXK2GURFWQMBZZ5QGBQQIWCK35DIVVBIOPFNIOX"}}}}
	if i, j := info(key), info(key); !i.AuthRequired || len(i.Nonce) != 22 || i.Nonce == j.Nonce {
		t.Errorf("%+v", i)
	}
}
