package mqttbridge

import (
	"context"
	"testing"
	"time"
)

// A device that is connected follows a reload.
func TestReloadFollowsDevices(t *testing.T) {
	b := startBroker(t, Options{MaxSubs: 1})
	d := b.connect("dev")
	d.subscribe("a")
	d.send([]byte{0x82, 6, 0, 1, 0, 1, 'b', 0})
	d.expect(0x90, 3, 0, 1, 0x80)
	b.Reload(Options{MaxSubs: 2, MaxPacket: 20})
	d.subscribe("b")
	d.send(pub("a", "fits", 0, 0))
	d.expectMessage("a", "fits")
	d.send(pub("a", "longer than the packets that are taken now", 0, 0))
	d.expectEnd()
}

func TestLameDuck(t *testing.T) {
	b := startBroker(t, Options{})
	b.LameDuck(t.Context(), time.Hour, time.Hour) // nobody is there to wait for
	devices := []*client{b.connect("a"), b.connect("b")}
	b.LameDuck(t.Context(), time.Millisecond, 3*time.Millisecond)
	for _, d := range devices {
		d.expectEnd()
	}
	b.connect("c")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.LameDuck(ctx, time.Hour, time.Hour)
}
