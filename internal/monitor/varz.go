package monitor

import "time"

// Varz is the answer of /varz. The fields of nats-server's have its names and
// units (nats-server, "varz"), so that nats-top and exporters read them; what
// leafd alone has is under "leafd".
type Varz struct {
	ServerID   string   `json:"server_id"`
	ServerName string   `json:"server_name"`
	Version    string   `json:"version"` // of the nats-server that leafd is tested against
	Proto      int      `json:"proto"`
	GitCommit  string   `json:"git_commit,omitempty"`
	GoVersion  string   `json:"go"`
	Host       string   `json:"host"`
	Port       int      `json:"port"`
	URLs       []string `json:"connect_urls,omitempty"`
	WSURLs     []string `json:"ws_connect_urls,omitempty"`

	AuthRequired bool          `json:"auth_required,omitempty"`
	TLSRequired  bool          `json:"tls_required,omitempty"`
	TLSVerify    bool          `json:"tls_verify,omitempty"`
	TLSNotAfter  time.Time     `json:"tls_cert_not_after,omitzero"`
	MaxConn      int           `json:"max_connections"`
	MaxSubs      int           `json:"max_subscriptions,omitempty"`
	PingInterval time.Duration `json:"ping_interval"` // nanoseconds
	PingMax      int           `json:"ping_max"`

	HTTPHost      string        `json:"http_host"`
	HTTPPort      int           `json:"http_port"`
	HTTPBasePath  string        `json:"http_base_path"`
	HTTPSPort     int           `json:"https_port"`
	AuthTimeout   float64       `json:"auth_timeout"` // seconds
	MaxControl    int           `json:"max_control_line"`
	MaxPayload    int           `json:"max_payload"`
	MaxPending    int           `json:"max_pending"`
	Cluster       struct{}      `json:"cluster"`
	Gateway       struct{}      `json:"gateway"`
	Leaf          VarzLeaf      `json:"leaf"`
	MQTT          VarzMQTT      `json:"mqtt"`
	Websocket     VarzWebsocket `json:"websocket"`
	JetStream     struct{}      `json:"jetstream"`
	TLSTimeout    float64       `json:"tls_timeout"`    // seconds
	WriteDeadline time.Duration `json:"write_deadline"` // nanoseconds

	Process

	Connections      int    `json:"connections"`
	TotalConnections uint64 `json:"total_connections"`
	Routes           int    `json:"routes"`
	Remotes          int    `json:"remotes"`   // of a cluster
	Leafnodes        int    `json:"leafnodes"` // links that are up
	InMsgs           uint64 `json:"in_msgs"`
	InBytes          uint64 `json:"in_bytes"`
	InClientMsgs     uint64 `json:"in_client_msgs"`
	InClientBytes    uint64 `json:"in_client_bytes"`
	OutMsgs          uint64 `json:"out_msgs"`
	OutBytes         uint64 `json:"out_bytes"`
	OutClientMsgs    uint64 `json:"out_client_msgs"`
	OutClientBytes   uint64 `json:"out_client_bytes"`
	SlowConsumers    uint64 `json:"slow_consumers"`
	StaleConnections uint64 `json:"stale_connections"`
	StalledClients   uint64 `json:"stalled_clients"` // times that a publisher was held
	Subscriptions    int    `json:"subscriptions"`

	HTTPReqStats   map[string]uint64 `json:"http_req_stats"` // requests by page
	ConfigLoadTime time.Time         `json:"config_load_time"`
	ConfigDigest   string            `json:"config_digest"`
	Tags           []string          `json:"tags,omitempty"`
	Metadata       map[string]string `json:"metadata,omitempty"`
	SystemAccount  string            `json:"system_account,omitempty"`
	SlowStats      KindStats         `json:"slow_consumer_stats"`
	StaleStats     KindStats         `json:"stale_connection_stats"`
	DiskIOWait     DiskIOWait        `json:"disk_io_wait_stats"`

	Leafd Leafd `json:"leafd"`
}

// VarzLeaf is what the configuration says of leafnodes.
type VarzLeaf struct {
	Remotes []VarzRemote `json:"remotes,omitempty"`
}

// VarzRemote is one remote, without user and password.
type VarzRemote struct {
	LocalAccount string    `json:"local_account,omitempty"`
	URLs         []string  `json:"urls,omitempty"` // host:port
	Deny         *VarzDeny `json:"deny,omitempty"`
}

// VarzDeny is what a remote keeps back.
type VarzDeny struct {
	Exports []string `json:"exports,omitempty"`
	Imports []string `json:"imports,omitempty"`
}

// VarzMQTT is what the configuration says of MQTT.
type VarzMQTT struct {
	Host          string        `json:"host,omitempty"`
	Port          int           `json:"port,omitempty"`
	NoAuthUser    string        `json:"no_auth_user,omitempty"`
	AuthTimeout   float64       `json:"auth_timeout,omitempty"` // seconds
	TLSTimeout    float64       `json:"tls_timeout,omitempty"`  // seconds
	TLSMap        bool          `json:"tls_map,omitempty"`
	TLSPinned     []string      `json:"tls_pinned_certs,omitempty"`
	TLSNotAfter   time.Time     `json:"tls_cert_not_after,omitzero"`
	AckWait       time.Duration `json:"ack_wait,omitempty"` // nanoseconds
	MaxAckPending uint16        `json:"max_ack_pending,omitempty"`
}

// VarzWebsocket is what the configuration says of WebSocket clients.
type VarzWebsocket struct {
	Host             string        `json:"host,omitempty"`
	Port             int           `json:"port,omitempty"`
	Advertise        string        `json:"advertise,omitempty"`
	NoAuthUser       string        `json:"no_auth_user,omitempty"`
	HandshakeTimeout time.Duration `json:"handshake_timeout,omitempty"` // nanoseconds
	AuthTimeout      float64       `json:"auth_timeout,omitempty"`      // seconds
	NoTLS            bool          `json:"no_tls,omitempty"`
	SameOrigin       bool          `json:"same_origin,omitempty"`
	AllowedOrigins   []string      `json:"allowed_origins,omitempty"`
	Compression      bool          `json:"compression,omitempty"`
	TLSMap           bool          `json:"tls_map,omitempty"`
	TLSPinned        []string      `json:"tls_pinned_certs,omitempty"`
	TLSNotAfter      time.Time     `json:"tls_cert_not_after,omitzero"`
}

// KindStats counts by kind of connection. There are neither routes nor gateways
// here.
type KindStats struct {
	Clients  uint64 `json:"clients"`
	Routes   uint64 `json:"routes"`
	Gateways uint64 `json:"gateways"`
	Leafs    uint64 `json:"leafs"`
}

// DiskIOWait is always empty: nothing here takes turns at the disk.
type DiskIOWait struct {
	Waiters     int64  `json:"waiters"`
	Waits       uint64 `json:"waits"`
	WaitTime    uint64 `json:"wait_time"`
	MaxWaitTime uint64 `json:"max_wait_time"`
}
