package test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/leafd/leafd/internal/testkit"
)

func login(user, pass string) string {
	return fmt.Sprintf("CONNECT {\"verbose\":false,\"user\":%q,\"pass\":%q}\r\n", user, pass)
}

// hashed is the bcrypt hash of a password; the lowest cost, for the tests' sake.
func hashed(t testing.TB, pass string) string {
	h, err := bcrypt.GenerateFromPassword([]byte(pass), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(h)
}

const talk = "SUB a 1\r\nPUB a 2\r\nhi\r\n"

func TestTwinAuthentication(t *testing.T) {
	nkey := func(sig string) string {
		return fmt.Sprintf("CONNECT {\"nkey\":%q,\"sig\":%q}\r\n", twinUser, sig)
	}
	for _, c := range []struct {
		name, config string
		says         []string
	}{
		{"none", "", []string{"CONNECT {}\r\n" + talk, talk, login("x", "y") + talk, `CONNECT {"auth_token":"t"}` + "\r\n" + talk}},
		{"one user", `authorization { user: u, password: p }`,
			[]string{login("u", "p") + talk, login("u", "q"), login("v", "p"), login("", ""), "CONNECT {}\r\n", talk}},
		{"hashed", `authorization { username: u, pass: ` + hashed(t, "p") + ` }`,
			[]string{login("u", "p") + talk, login("u", "q"), login("v", "p"), "CONNECT {}\r\n"}},
		{"token", `authorization { token: t }`,
			[]string{"CONNECT {\"auth_token\":\"t\"}\r\n" + talk, "CONNECT {\"auth_token\":\"x\"}\r\n", login("t", ""), login("", "t"), "CONNECT {}\r\n"}},
		{"hashed token", `authorization { token: ` + hashed(t, "t") + ` }`,
			[]string{"CONNECT {\"auth_token\":\"t\"}\r\n" + talk, "CONNECT {\"auth_token\":\"x\"}\r\n"}},
		{"users and nkeys", `authorization { users: [ { user: u, password: p }, { user: h, password: ` + hashed(t, "p") + ` }, { nkey: ` + twinUser + ` } ] }`,
			[]string{login("u", "p") + talk, login("h", "p") + talk, login("h", "q"), login("u", "q"), login("", "p"), nkey("{sig}") + talk,
				nkey(""), nkey("AAAA"), nkey("*"), `CONNECT {"nkey":"UAAAA","sig":"{sig}"}` + "\r\n", `CONNECT {"sig":"{sig}"}` + "\r\n",
				`CONNECT {"nkey":"UAAAA","user":"u","pass":"p"}` + "\r\n"}},
		{"no_auth_user", `authorization { users: [ { user: u, password: p }, { user: g, password: q } ] }, no_auth_user: g`,
			[]string{"CONNECT {}\r\n" + talk, talk, "PING\r\n" + talk, login("u", "p") + talk, login("u", "q"), login("", "q")}},
		{"no_auth_user with an nkey", `authorization { users: [ { nkey: ` + twinUser + ` } ] }, no_auth_user: ` + twinUser,
			[]string{"CONNECT {}\r\n" + talk, login("u", "q"), nkey("{sig}") + talk}},
		{"connection types", `authorization { users: [ { user: u, password: p, allowed_connection_types: [ MQTT ] }, { user: v, password: p, clients: [ "standard" ] } ] }`,
			[]string{login("u", "p"), login("v", "p") + talk}},
	} {
		w := startTwins(t, c.config)
		for _, say := range c.says {
			w.run(c.name, step{"a", say})
		}
	}
}

// The signature of another connection's nonce lets nobody in.
func TestTwinOldNonce(t *testing.T) {
	w := startTwins(t, `authorization { users: [ { nkey: `+twinUser+` } ] }`)
	for _, addr := range w.addr {
		hear := func() (net.Conn, *bufio.Reader, string) {
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { nc.Close() })
			nc.SetDeadline(time.Now().Add(testkit.Patience))
			r := bufio.NewReader(nc)
			line, err := r.ReadString('\n')
			var info struct {
				Nonce string `json:"nonce"`
			}
			if err != nil || json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info) != nil || info.Nonce == "" {
				t.Fatalf("%v %s", err, line)
			}
			return nc, r, info.Nonce
		}
		_, _, old := hear()
		nc, r, own := hear()
		sig, err := twinKey.Sign([]byte(old))
		if err != nil || old == own {
			t.Fatal(err, old, own)
		}
		fmt.Fprintf(nc, "CONNECT {\"nkey\":%q,\"sig\":%q}\r\nPING\r\n", twinUser, base64.RawURLEncoding.EncodeToString(sig))
		if line, err := r.ReadString('\n'); line != "-ERR 'Authorization Violation'\r\n" {
			t.Errorf("%s: %q, %v", addr, line, err)
		}
	}
}
