package leaf

import (
	"strings"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

// A link goes to another hub, rests, and comes back, and whoever waits for it to be
// up or down sees each step.
func TestLinkReconfigure(t *testing.T) {
	a, b := testkit.StartHub(t, testkit.HubOptions{}), testkit.StartHub(t, testkit.HubOptions{})
	l := linkTo(t, LinkOptions{URLs: []string{a.LeafURL()}})
	if err := l.Reconfigure(LinkOptions{URLs: []string{"nonsense"}}); err == nil {
		t.Fatal("nonsense is taken")
	}
	down := l.Down()
	to := func(h *testkit.Hub) {
		t.Helper()
		if err := l.Reconfigure(LinkOptions{URLs: []string{h.LeafURL()}, ServerName: "edge"}); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, func() bool { return len(h.Leafz()) == 1 }, "the link at the other hub")
	}
	to(b)
	<-down
	waitUp(t, l)
	testkit.Eventually(t, func() bool { return len(a.Leafz()) == 0 }, "the link away from the first hub")
	down = l.Down()
	if err := l.Reconfigure(LinkOptions{Disabled: true}); err != nil {
		t.Fatal(err)
	}
	<-down
	testkit.Eventually(t, func() bool { return l.Status().State == LinkStopped && len(b.Leafz()) == 0 }, "a link at rest")
	to(a)
	waitUp(t, l)
}

// A link that waits for its next attempt does not wait when it is sent elsewhere.
func TestLinkReconfigureWhileBackingOff(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{})
	l := newTestLink(t, LinkOptions{URLs: []string{"nats-leaf://127.0.0.1:1"}, ReconnectMin: time.Hour, ReconnectMax: time.Hour})
	runLink(t, l)
	testkit.Eventually(t, func() bool { return l.Status().State == LinkBackingOff }, "a link that backs off")
	if !strings.Contains(l.Status().LastError, "refused") {
		t.Error(l.Status().LastError)
	}
	if err := l.Reconfigure(LinkOptions{URLs: []string{hub.LeafURL()}, ServerName: "edge"}); err != nil {
		t.Fatal(err)
	}
	waitUp(t, l)
}

func TestLinkDisabledFromTheStart(t *testing.T) {
	l := newTestLink(t, LinkOptions{Disabled: true})
	stop := runLink(t, l)
	testkit.Eventually(t, func() bool { return l.Status().State == LinkStopped }, "a link at rest")
	stop()
}
