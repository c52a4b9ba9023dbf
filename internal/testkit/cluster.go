package testkit

import (
	"fmt"
	"strings"
)

// StartCluster starts n stock nats-servers with JetStream as one cluster and returns
// once all of them are well. They are named hub0, hub1 and so on; each can be killed
// and restarted alone, Restart then returns once its listeners accept.
func StartCluster(t T, n int) []*Hub {
	t.Helper()
	var routes []string
	var ports []int
	for range n {
		ports = append(ports, Port(t))
		routes = append(routes, "nats-route://"+Addr(ports[len(ports)-1]))
	}
	var hubs []*Hub
	for i := range n {
		name := fmt.Sprintf("hub%d", i)
		h, command := newHub(t, HubOptions{JetStream: true, name: name,
			Config: fmt.Sprintf("cluster { name: hubs, listen: %q, routes: [ %s ] }", Addr(ports[i]), strings.Join(routes, ", "))})
		h.Process = Start(t, name, command, h.listens)
		hubs = append(hubs, h)
	}
	for _, h := range hubs {
		Eventually(t, h.Well, "the cluster is well")
	}
	return hubs
}

// Well reports whether the hub and its JetStream say they are.
func (h *Hub) Well() bool { return h.get("/healthz", nil) == nil }
