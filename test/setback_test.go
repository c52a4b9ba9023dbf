package test

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// TestStoreRestoredFromACopy puts an old copy of the store back, as who restores an image of
// the card does. What is published after that has sequences that were used before; it must not
// be taken for what they were used for.
func TestStoreRestoredFromACopy(t *testing.T) {
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
	js := stream(t, hub)
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: refusedConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	n := 0
	publish := func(k int) {
		t.Helper()
		n = publishOn(t, l, n, k)
	}
	publish(100)
	l.Stop()
	image := t.TempDir()
	if err := os.CopyFS(image, os.DirFS(l.StoreDir)); err != nil {
		t.Fatal(err)
	}
	for _, k := range []int{100, 50, 150} {
		l.Restart()
		publish(k)
		l.Stop()
		if err := os.RemoveAll(l.StoreDir); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(l.StoreDir, os.DirFS(image)); err != nil {
			t.Fatal(err)
		}
	}
	l.Restart()
	publish(100)
	s, err := js.Stream(t.Context(), "CABLE")
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if m, err := s.GetMsg(t.Context(), uint64(i+1)); err != nil || string(m.Data) != fmt.Sprint(i) {
			t.Fatalf("message %d of %d: %v %v", i+1, n, m, err)
		}
	}
}

// publishOn publishes k messages that are numbered from n on, and waits until the hub has them. It returns the next number.
func publishOn(t *testing.T, l *testkit.Leafd, n, k int) int {
	t.Helper()
	nc := connect(t, l.NATSURL())
	defer nc.Close()
	for range k {
		if _, err := nc.Request("cable.x", fmt.Append(nil, n), testkit.Patience); err != nil {
			t.Fatalf("%d: %v", n, err)
		}
		n++
	}
	var u outboxState
	testkit.Eventually(t, func() bool { u = uplinkBox(l); return u.Messages == 0 }, "nothing waits: %+v", &u)
	return n
}

// TestHubLosesWhileLeafdIsAway sets the hub back by half of what it acknowledged, while leafd is stopped, or
// killed with a hub that writes behind its acknowledgements: it has what was in its RAM on the disk by then.
func TestHubLosesWhileLeafdIsAway(t *testing.T) {
	for _, c := range []struct {
		name string
		mode jetstream.PersistModeType
		end  func(t *testing.T, l *testkit.Leafd)
	}{
		{"stopped", jetstream.DefaultPersistMode, func(t *testing.T, l *testkit.Leafd) {
			testkit.Eventually(t, func() bool { return uplinkBox(l).State == "connecting" }, "the hub is lost")
			l.Stop()
		}},
		{"killed", jetstream.AsyncPersistMode, func(t *testing.T, l *testkit.Leafd) {
			testkit.Eventually(t, func() bool { return uplinkBox(l).InRAM == 0 }, "what the hub acknowledged is on the disk")
			l.Kill()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true})
			nc := connect(t, hub.ClientURL())
			js, err := jetstream.New(nc)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "CABLE", Subjects: []string{"cable.>"}, PersistMode: c.mode}); err != nil {
				t.Fatal(err)
			}
			l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: refusedConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
			n := 0
			publish := func(k int) {
				t.Helper()
				n = publishOn(t, l, n, k)
			}
			publish(50)
			hub.Stop()
			image := t.TempDir()
			if err := os.CopyFS(image, os.DirFS(hub.StoreDir)); err != nil {
				t.Fatal(err)
			}
			hub.Restart()
			publish(50)
			hub.Kill()
			c.end(t, l)
			if err := errors.Join(os.RemoveAll(hub.StoreDir), os.CopyFS(hub.StoreDir, os.DirFS(image))); err != nil {
				t.Fatal(err)
			}
			hub.Restart()
			l.Restart()
			publish(1)
			var s jetstream.Stream
			testkit.Eventually(t, func() bool { s, err = js.Stream(t.Context(), "CABLE"); return err == nil }, "the stream: %v", &err)
			for i := range n {
				if m, err := s.GetMsg(t.Context(), uint64(i+1)); err != nil || string(m.Data) != fmt.Sprint(i) {
					t.Fatalf("message %d of %d: %v %v", i+1, n, m, err)
				}
			}
			if last := s.CachedInfo().State.LastSeq; last != uint64(n) {
				t.Errorf("the stream has %d messages", last)
			}
		})
	}
}
