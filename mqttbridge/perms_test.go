package mqttbridge

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/testkit"
	"github.com/leafd/leafd/leaf"
	"github.com/leafd/leafd/mqttbridge/packet"
)

// Every way into and out of a device obeys the permissions of its user.
func TestPermissions(t *testing.T) {
	b := startBroker(t, Options{})
	user := func(name string, p *leaf.Permissions) leaf.User {
		return leaf.User{Name: name, Password: "p", Permissions: p}
	}
	if err := b.opts.Load().Auth.Apply(leaf.AuthConfig{Credentials: leaf.Credentials{Users: []leaf.User{
		user("free", nil),
		user("dev", &leaf.Permissions{
			Publish:   leaf.SubjectList{Allow: []string{"up.>", "log.>"}, Deny: []string{"up.secret", "log.no"}},
			Subscribe: leaf.SubjectList{Allow: []string{"down.>", "x"}, Deny: []string{"down.*.key"}}}),
	}}}); err != nil {
		t.Fatal(err)
	}
	login := func(name string, change func(*packet.Connect)) *client {
		p := packet.Connect{Version: packet.V311, CleanStart: true, ClientID: []byte(name),
			HasUser: true, Username: []byte(name), HasPass: true, Password: []byte("p")}
		change(&p)
		return b.connectWith(p)
	}
	free, dev := login("free", nothing), login("dev", nothing)
	seen := b.watch(">")
	dev.send([]byte{
		0x82, 40, 0, 1,
		0, 6, 'd', 'o', 'w', 'n', '/', '#', 0,
		0, 1, 'x', 1,
		0, 1, '#', 2,
		0, 1, 'y', 0,
		0, 10, 'd', 'o', 'w', 'n', '/', '+', '/', 'k', 'e', 'y', 0,
		0, 1, 'x', 0,
	})
	dev.expect(0x90, 8, 0, 1, 0, 0, 0x80, 0x80, 0x80, 0)
	for _, m := range []struct {
		topic string
		comes bool
	}{{"down/a", true}, {"down/a/key", false}, {"down/a/key", false}, {"down/a/key", false}, {"down", false}, {"x", true}, {"y", false}, {"down/a/b", true}} {
		free.send(pub(m.topic, "1", 0, 0))
		free.ping()
		if m.comes {
			dev.expectMessage(m.topic, "1")
		}
		dev.ping()
	}
	n := len(seen.Got())
	for range 3 { // what is forbidden is acknowledged and goes nowhere, also to no durable log
		dev.send(pub("up/secret", "1", 0, 0))
		dev.send(pub("other", "1", 1, 7))
		dev.expect(puback(7)...)
		dev.send(pub("log/no", "1", 1, 8))
		dev.expect(puback(8)...)
		dev.send(pub("log/no", "1", 2, 9))
		dev.expect(qos2(packet.PUBREC, 9)...)
	}
	dev.send(pub("up/a", "1", 0, 0))
	dev.ping()
	if got := seen.Subjects()[n:]; len(got) != 1 || got[0] != "up.a" || len(b.log.Got()) != 0 {
		t.Errorf("it published %q; the log has %q", got, b.log.Subjects())
	}
	for _, subject := range []string{"up.secret", "other", "log.no"} {
		if n := strings.Count(b.logged.String(), "conn=mqtt:dev user=dev subject="+subject+"\n"); n != 1 {
			t.Errorf("%d lines say that it may not publish to %s, want one:\n%s", n, subject, b.logged)
		}
	}
	for _, topic := range []string{"up/secret", "no/will", "up/will"} {
		w := login("dev", func(p *packet.Connect) { // takes over from the one before
			p.HasWill, p.Will.Topic, p.Will.Payload = true, []byte(topic), []byte("gone")
		})
		w.nc.Close()
	}
	testkit.Eventually(t, func() bool { return b.Stats().Wills == 3 }, "all wills")
	if got := seen.Subjects()[n+1:]; len(got) != 1 || got[0] != "up.will" {
		t.Errorf("wills on %q", got)
	}
	if !strings.Contains(b.logged.String(), "user=dev subject=no.will") {
		t.Errorf("no line says that the will went nowhere:\n%s", b.logged)
	}
}

// Each client and subject is named once in a while, and no more than some in all.
func TestViolationsDoNotFlood(t *testing.T) {
	var v violations
	for i := range 3 * maxViolations {
		if got, want := v.note("A", "dev", fmt.Append(nil, i), 0), i < maxViolations; got != want {
			t.Fatalf("subject %d: %v, want %v", i, got, want)
		}
	}
	for _, c := range []struct {
		client, subject string
		at              time.Duration
		want            bool
	}{
		{"dev", "0", violationPeriod - 1, false},
		{"dev", "x", violationPeriod - 1, false},
		{"dev", "x", violationPeriod, true},
		{"dev", "x", violationPeriod, false},
		{"dev", "0", violationPeriod, true},
		{"other", "0", violationPeriod, true},
		{"other", strings.Repeat("y", 500), violationPeriod, true},
		{"other", strings.Repeat("y", 501), violationPeriod, false}, // so much is not told apart
	} {
		if got := v.note("A", c.client, []byte(c.subject), c.at); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// A new configuration ends who may not stay, and takes subscriptions away from who
// may; a device in another account is apart, even with the same client id.
func TestReload(t *testing.T) {
	b := startBroker(t, Options{})
	users := func(deny ...string) []leaf.User {
		return []leaf.User{{Name: "a", Password: "p", Permissions: &leaf.Permissions{Subscribe: leaf.SubjectList{Deny: deny}}}}
	}
	cfg := leaf.AuthConfig{Accounts: []leaf.AccountConfig{{Name: "B"}}}
	cfg.Users = append(users(), leaf.User{Name: "b", Account: "B"}, leaf.User{Name: "gone"})
	if err := b.opts.Load().Auth.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	connect := func(user, pass, id string) *client {
		return b.connectWith(packet.Connect{Version: packet.V311, CleanStart: true, ClientID: []byte(id),
			HasUser: true, Username: []byte(user), HasPass: true, Password: []byte(pass)})
	}
	a, other, gone := connect("a", "p", "same"), connect("b", "", "same"), connect("gone", "", "gone")
	for _, c := range []*client{a, other} {
		c.subscribe("x/#", "y")
	}
	a.send(pub("y", "1", 0, 0))
	a.expectMessage("y", "1")
	other.ping() // and nothing before
	cfg.Users = append(users("x.>"), leaf.User{Name: "b", Account: "B"})
	if err := b.opts.Load().Auth.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	gone.expectEnd()
	b.publish("x.1", "no")
	b.publish("y", "2")
	a.expectMessage("y", "2")
	a.send([]byte{0x82, 8, 0, 1, 0, 3, 'x', '/', '#', 0})
	a.expect(0x90, 3, 0, 1, 0x80)
	cfg.Users = append(users(), leaf.User{Name: "b", Account: "B"})
	if err := b.opts.Load().Auth.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	a.subscribe("x/#")
	b.publish("x.1", "3")
	a.expectMessage("x/1", "3")
	late := connect("b", "", "late")
	cfg.Accounts = []leaf.AccountConfig{{Name: "B", Limits: leaf.Limits{MaxConns: 1}}}
	if err := b.opts.Load().Auth.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	late.expectEnd() // it came last
	other.ping()
}
