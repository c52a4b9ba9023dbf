package interop

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leafd/leafd/internal/testkit"
	"github.com/leafd/leafd/test/interop/tester"
	"github.com/nats-io/nkeys"
)

// cCase is one run of the program in c/ with the official C client.
type cCase struct {
	name string
	args []string              // what the client authenticates with
	act  func(*tester.Program) // done to the server once the client is ready; nil: nothing
}

// TestNatsC runs the official C client against nats-server and against leafd, started
// in the same way.
func TestNatsC(t *testing.T) {
	client := buildC(t)
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, _ := key.PublicKey() // a key just made has both
	seed, _ := key.Seed()
	seedFile := filepath.Join(t.TempDir(), "seed")
	if err := os.WriteFile(seedFile, seed, 0o600); err != nil {
		t.Fatal(err)
	}
	restart := func(p *tester.Program) {
		p.Stop()
		if err := p.Start(); err != nil {
			t.Error(err)
		}
	}
	lameDuck := func(p *tester.Program) {
		if out, err := exec.Command(p.Bin, "--signal", "ldm="+p.PidFile()).CombinedOutput(); err != nil {
			t.Errorf("%s --signal: %v\n%s", p.Bin, err, out)
		}
	}
	for _, bin := range []string{testkit.NATSServer(t), asNATSServer(t)} {
		for _, s := range []struct {
			name, config string
			flags        []string
			cases        []cCase
		}{
			{"open", "", nil, []cCase{
				{name: "pubsub"}, {name: "headers"}, {name: "request"}, {name: "noresponders"}, {name: "queue"},
				{name: "autounsubscribe"}, {name: "drain"}, {name: "reconnect", act: restart}, {name: "lameduck", act: lameDuck}}},
			{"user", "", []string{"--user", "u", "--pass", "p"}, []cCase{
				{name: "pubsub", args: []string{"u", "p"}}, {name: "refused", args: []string{"u", "x"}}, {name: "refused"}}},
			{"token", "", []string{"--auth", "t"}, []cCase{
				{name: "pubsub", args: []string{"t"}}, {name: "refused", args: []string{"x"}}, {name: "refused"}}},
			{"config", fmt.Sprintf(cConfig, public), nil, []cCase{
				{name: "pubsub", args: []string{public, seedFile}}, {name: "maxpayload", args: []string{public, seedFile}},
				{name: "permissions", args: []string{"u", "p"}}, {name: "refused"}}},
		} {
			p := &tester.Program{Bin: bin, Dir: t.TempDir(), Port: testkit.Port(t), Args: s.flags}
			if s.config != "" {
				path := filepath.Join(p.Dir, "server.conf")
				if err := os.WriteFile(path, []byte(s.config), 0o600); err != nil {
					t.Fatal(err)
				}
				p.Args = append(p.Args, "-c", path)
			}
			if err := p.Start(); err != nil {
				t.Fatal(err)
			}
			for _, c := range s.cases {
				runC(t, client, p, c)
			}
			p.Stop()
		}
	}
}

const cConfig = `
max_payload: 4096
authorization {
  users: [
    { nkey: %s }
    { user: u, password: p, permissions: { publish: "a.>", subscribe: ["a.>", "_INBOX.>"] } }
  ]
}
`

func buildC(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "conform")
	out, err := exec.Command("cc", "-Wall", "-Werror", "-O1", "-o", bin, "c/conform.c", "-lnats", "-lpthread").CombinedOutput()
	if err != nil {
		t.Fatalf("build the C client's program: %v; it needs a C compiler and Debian's libnats-dev\n%s", err, out)
	}
	return bin
}

// runC wants the client to find what the case says.
func runC(t *testing.T, client string, p *tester.Program, c cCase) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, client, append([]string{c.name, p.URL()}, c.args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == "ready" && c.act != nil {
			c.act(p)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: %s %s: %v\n%s", p.Bin, c.name, strings.Join(c.args, " "), err, said.String())
	}
}

// asNATSServer is leafd under the name of nats-server.
func asNATSServer(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "nats-server")
	if err := os.Rename(buildLeafd(t), bin); err != nil {
		t.Fatal(err)
	}
	return bin
}
