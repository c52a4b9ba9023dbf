package test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

// TestSubscribersOfTheHubsMQTT: a stock hub that serves MQTT, too, gives what devices publish here
// to its own subscribers, at whatever QoS either of them is.
func TestSubscribersOfTheHubsMQTT(t *testing.T) {
	port := testkit.Port(t)
	hub := testkit.StartHub(t, testkit.HubOptions{JetStream: true, Config: fmt.Sprintf("mqtt { listen: %q }\n", testkit.Addr(port))})
	stream(t, hub)
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: cableConfig, Env: map[string]string{"LEAFD_HUB_URL": hub.LeafURL()}})
	var subs [3]<-chan testkit.MQTTMessage
	for qos := range subs {
		subs[qos], _ = testkit.MosquittoSub(t, port, "-q", strconv.Itoa(qos), "-t", "cable/#")
	}
	for qos := range 3 {
		testkit.MosquittoPub(t, l.MQTTPort, "-q", strconv.Itoa(qos), "-t", "cable/x", "-m", strconv.Itoa(qos))
	}
	for asked, got := range subs {
		for qos := range 3 {
			select {
			case m := <-got:
				if m.Topic != "cable/x" || m.Payload != strconv.Itoa(qos) {
					t.Errorf("a subscriber of QoS %d: got %+v, want the message of QoS %d", asked, m, qos)
				}
			case <-time.After(testkit.Patience):
				t.Fatalf("a subscriber of QoS %d: the message of QoS %d does not come", asked, qos)
			}
		}
	}
}
