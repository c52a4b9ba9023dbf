package tester

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/synadia-io/orbit.go/ntf-client/api"
)

// server is one that was asked for. Owned by whoever holds Tester.mu.
type server struct {
	Program
	name, about string
	snippets    map[string]string // parts of the configuration, by name
	ports       map[string]int    // of the other listeners
	tls         *tlsFiles         // nil: none
}

func (s *server) state() *api.ManagedServer {
	return &api.ManagedServer{Name: s.name, Port: s.Port, Ports: s.ports, Running: s.cmd != nil}
}

// defaults are the parts of a configuration that the tests expect where they give
// none of their own: five accounts with one user each, and a system account.
var defaults = map[string]string{
	"system_account": `system_account: "$SYS"`,
	"authorization":  "no_auth_user: user1",
	"accounts":       defaultAccounts(),
}

func defaultAccounts() string {
	var b strings.Builder
	b.WriteString("accounts {\n")
	for i := 1; i <= 5; i++ {
		fmt.Fprintf(&b, "  USERS%d { users: [ { user: user%[1]d, password: password } ] }\n", i)
	}
	b.WriteString("  $SYS { users: [ { user: system, password: password } ] }\n}")
	return b.String()
}

func (s *server) configPath() string { return filepath.Join(s.Dir, "server.conf") }

// configure writes the configuration file from the snippets, each of which is a
// template that may name the ports and certificates given to this server.
func (s *server) configure() error {
	env := struct {
		ServerName string
		ServerDir  string
		ClientPort int
		Ports      map[string]int
		TLS        *tlsFiles
	}{s.name, s.Dir, s.Port, s.ports, s.tls}
	var conf strings.Builder
	fmt.Fprintf(&conf, "server_name: %s\n", s.name)
	if s.tls != nil {
		fmt.Fprintf(&conf, "client_advertise: \"localhost:%d\"\n%s", s.Port, s.tls.block())
	}
	for _, part := range []string{"top", "tls", "websocket", "mqtt", "leafnode", "system_account", "authorization", "accounts"} {
		text, ok := s.snippets[part]
		if !ok {
			text = defaults[part]
		}
		t, err := template.New(part).Parse(text)
		if err != nil {
			return err
		}
		if err := t.Execute(&conf, env); err != nil {
			return err
		}
		conf.WriteByte('\n')
	}
	return os.WriteFile(s.configPath(), []byte(conf.String()), 0o600)
}
