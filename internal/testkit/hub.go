package testkit

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// HubOptions describe a stock nats-server that leafd connects to. The zero value
// is one without JetStream that lets everybody in.
type HubOptions struct {
	JetStream bool
	Domain    string // of its JetStream; empty for none
	Leafnodes string // more lines for its leafnodes block, such as an authorization block
	Config    string // more of its configuration, at the top level: accounts, users, mqtt, limits

	Network *Network // where it runs; nil: on this machine

	name string // default "hub"
}

// Hub is a stock nats-server in a subprocess. Killed and restarted it has the same
// ports and the same store.
type Hub struct {
	*Process
	StoreDir              string // of its JetStream
	client, leaf, monitor int    // ports
	network               *Network
}

// StartHub starts a hub and returns once all its listeners accept.
func StartHub(t T, o HubOptions) *Hub {
	t.Helper()
	h, command := newHub(t, o)
	h.Process = Start(t, "hub", command, func() bool { return h.listens() && h.get("/healthz", nil) == nil })
	return h
}

// newHub writes the configuration of a hub and returns how to start it.
func newHub(t T, o HubOptions) (h *Hub, command func() *exec.Cmd) {
	t.Helper()
	h = &Hub{client: Port(t), leaf: Port(t), monitor: Port(t), network: o.Network}
	dir := t.TempDir()
	h.StoreDir = filepath.Join(dir, "store")
	var conf strings.Builder
	fmt.Fprintf(&conf, "server_name: %s\nlisten: %q\nhttp: %q\n", cmp.Or(o.name, "hub"), h.addr(h.client), h.addr(h.monitor))
	fmt.Fprintf(&conf, "leafnodes {\n  listen: %q\n  no_advertise: true\n%s\n}\n", h.addr(h.leaf), o.Leafnodes)
	if o.JetStream {
		fmt.Fprintf(&conf, "jetstream {\n  store_dir: %q\n", h.StoreDir)
		if o.Domain != "" {
			fmt.Fprintf(&conf, "  domain: %q\n", o.Domain)
		}
		conf.WriteString("}\n")
	}
	conf.WriteString(o.Config + "\n")
	path := filepath.Join(dir, "hub.conf")
	if err := os.WriteFile(path, []byte(conf.String()), 0o600); err != nil {
		t.Fatalf("start hub: %v", err)
	}
	server := NATSServer(t)
	return h, func() *exec.Cmd { return o.Network.command(server, "-c", path) }
}

// addr is host and port of one of its listeners.
func (h *Hub) addr(port int) string {
	if h.network == nil {
		return Addr(port)
	}
	return net.JoinHostPort(networkHost, strconv.Itoa(port))
}

func (h *Hub) listens() bool { return listening(h.addr(h.client)) && listening(h.addr(h.leaf)) }

// ClientURL is for NATS clients.
func (h *Hub) ClientURL() string { return "nats://" + h.addr(h.client) }

// LeafURL is for leafnodes.
func (h *Hub) LeafURL() string { return "nats-leaf://" + h.addr(h.leaf) }

// LeafAddr is the host and port of LeafURL, for a [Proxy].
func (h *Hub) LeafAddr() string { return h.addr(h.leaf) }

// MonitorURL is the HTTP endpoint, without a path.
func (h *Hub) MonitorURL() string { return "http://" + h.addr(h.monitor) }

// Get reads the answer of a monitoring path, such as "/jsz?streams=true", into v.
func (h *Hub) Get(path string, v any) {
	h.t.Helper()
	if err := h.get(path, v); err != nil {
		h.t.Fatalf("hub: %v", err)
	}
}

func (h *Hub) get(path string, v any) error { return getJSON(h.MonitorURL()+path, v) }

// getJSON reads the answer of a URL into v, or ignores it if v is nil.
func getJSON(url string, v any) error {
	res, err := http.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: %s", url, res.Status)
	}
	if v == nil {
		return nil
	}
	if err := json.NewDecoder(res.Body).Decode(v); err != nil {
		return fmt.Errorf("get %s: %w", url, err)
	}
	return nil
}

// Varz is the part of nats-server's /varz that tests look at.
type Varz struct {
	Connections   int    `json:"connections"`
	Leafs         int    `json:"leafnodes"`
	Subscriptions uint32 `json:"subscriptions"`
	SlowConsumers int64  `json:"slow_consumers"`
	InMsgs        int64  `json:"in_msgs"`
	OutMsgs       int64  `json:"out_msgs"`
	InBytes       int64  `json:"in_bytes"`
	OutBytes      int64  `json:"out_bytes"`
}

// Varz asks the hub for its totals.
func (h *Hub) Varz() (v Varz) {
	h.t.Helper()
	h.Get("/varz", &v)
	return v
}

// Leaf is one leafnode connection as nats-server's /leafz tells it.
type Leaf struct {
	Name     string   `json:"name"`
	Account  string   `json:"account"`
	RTT      string   `json:"rtt"`
	InMsgs   int64    `json:"in_msgs"`
	OutMsgs  int64    `json:"out_msgs"`
	NumSubs  uint32   `json:"subscriptions"`
	Subjects []string `json:"subscriptions_list"`
}

// Leafz asks the hub for its leafnode connections and their subscriptions.
func (h *Hub) Leafz() []Leaf {
	h.t.Helper()
	var v struct {
		Leafs []Leaf `json:"leafs"`
	}
	h.Get("/leafz?subs=true", &v)
	return v.Leafs
}
