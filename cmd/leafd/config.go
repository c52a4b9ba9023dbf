package main

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/leafd/leafd/hw"
	"github.com/leafd/leafd/internal/secure"
	"github.com/leafd/leafd/leaf"
	"github.com/leafd/leafd/storefwd"
	"github.com/nats-io/nats-server/v2/conf"
)

// Config is what the configuration file says, with the defaults filled in. Plain
// values; nobody changes it after loadConfig, but for the flags main lays over it.
type Config struct {
	File       string   // empty: no file, all defaults
	Warnings   []string // what is allowed and may be a mistake, one line each
	ServerName string   // empty: the host's name
	Listen     string   // host:port for NATS clients; port 0 is any free one
	HTTP       string   // host:port of monitoring; empty: off
	HTTPS      bool     // monitoring is over TLS, with TLS's certificate

	ServerTags      []string
	ClientAdvertise string // host or host:port that INFO tells clients; empty: the listener's own
	PidFile         string
	PortsFileDir    string // empty: no ports file

	Log             Log
	Debug           bool
	Trace           bool // what NATS clients and the server say to one another
	TraceHeaders    bool // of messages only the headers
	MaxTracedMsgLen int  // bytes of a traced message; 0: all

	LameDuckGrace    time.Duration // from the notice to the first connection closed
	LameDuckDuration time.Duration // from the notice to the last connection closed, at most

	TLS         *secure.Config // of the NATS listener; nil: none
	AllowNonTLS bool           // clients there need not use it

	Auth           leaf.AuthConfig // of all listeners
	MaxPayload     int             // bytes
	MaxControlLine int             // bytes
	MaxPending     int             // bytes waiting for one connection
	MaxMemory      int64           // bytes of the process, half of which may wait for connections; 0: as ownMemory says
	MaxConnections int
	MaxSubs        int // of one connection; 0: no limit
	MaxClosed      int // connections remembered after their end, for monitoring
	PingInterval   time.Duration
	PingMax        int // pings without an answer before a connection is cut
	WriteDeadline  time.Duration
	NoHeaders      bool // clients get no header support

	Remote   *Remote    // the hub; nil: none
	MQTT     *MQTT      // nil: no MQTT listener
	WS       *WebSocket // nil: no WebSocket listener
	Store    Store
	Outboxes []Outbox    // by name
	Clock    string      // whether the wall clock is trusted: auto, always, never
	Devices  []hw.Device // by name, checked by hw.Check

	httpHost string         // of monitoring when only a port is given; empty: that of Listen
	https    string         // as HTTP, of the key https; settleHTTP puts it in place
	flagUser leaf.User      // of --user and --pass, until lay has put it in place
	places   map[string]pos // where each key that was read stands, by path
}

// Log is where log lines go and how they look. Without File and Syslog it is
// standard error.
type Log struct {
	File         string
	SizeLimit    int64 // bytes after which a new file is begun; 0: no limit
	MaxFiles     int   // the current one included; 0: all are kept
	Time         bool  // lines begin with the time, but in the journal
	UTC          bool
	Syslog       bool
	RemoteSyslog string // udp://host:port, tcp://host:port or unix:///path; empty: this machine's
}

// Remote is the hub a leafnode link is kept to.
type Remote struct {
	Disabled         bool
	URLs             []*url.URL // scheme nats-leaf, port filled in, user and password in User
	Credentials      string     // path of a .creds file; empty: none
	NKey             string     // seed of a user; empty: none
	Account          string     // of the messages that it carries
	KeepOrder        bool       // try URLs as listed, not shuffled
	FirstInfoTimeout time.Duration
	Reconnect        time.Duration // longest delay between attempts to connect
	DenyImports      []string      // subjects not taken from the hub
	DenyExports      []string      // subjects not given to the hub
}

// MQTT is the MQTT listener.
type MQTT struct {
	Listen         string         // host:port
	TLS            *secure.Config // nil: none
	MaxPacket      int            // bytes
	MaxPending     int            // bytes waiting for one connection
	MaxConns       int
	MaxSubs        int // of one session
	WriteDeadline  time.Duration
	ConnectTimeout time.Duration // for the first CONNECT
}

// Store is where durable logs live.
type Store struct {
	Dir            string
	JournalSize    int64         // bytes, allocated at once
	SpillAfter     time.Duration // how long a record waits in memory for the hub's PubAck
	CommitInterval time.Duration // longest time a record nobody waits for is not on disk
	MaxSize        int64         // bytes that store.db may have
	Reserve        int64         // bytes let go when the disk is full; 0: none
}

// Outbox is one class of messages kept until the hub has them.
type Outbox struct {
	Name       string
	Subjects   []string
	MaxBytes   int64
	MaxMsgs    int64         // 0: no limit
	MaxAge     time.Duration // 0: no limit
	GapSubject string        // where losses are declared; empty: nowhere
	Full       storefwd.Full // what goes when a bound is reached
	Interval   time.Duration // 0: safe before the acknowledgement, at once; else written so often
	Conflate   bool          // of each subject only the newest unsent message is kept
	Grace      time.Duration // how long what the hub acknowledged is kept for a hub that goes back
	GraceBytes int64         // at most so much of it
	GraceDisk  bool          // on disk, too
	Window     int           // messages sent and not yet acknowledged, at most
	Priority   int           // 0 to 9; higher ones drain first
	DrainRate  int64         // bytes a second while a backlog drains; 0: no limit
	DailyBytes int64         // bytes sent in a UTC day; 0: no limit
	Flush      bool          // given to the hub's subscribers and confirmed by a PONG, not to a stream
	Newest     bool          // a backlog drains newest first
	LiveShare  int           // percent of the bytes for what comes while a backlog drains oldest first
	Stream     string        // the hub's stream; empty: found by subject
	Domain     string        // the hub's JetStream domain; empty: as the hub says
	AckTimeout time.Duration

	DuplicateWindow time.Duration // how long a publisher's Nats-Msg-Id is remembered; 0: not
}

// outbox is the one of that name; nil if there is none.
func (c *Config) outbox(name string) *Outbox {
	for i := range c.Outboxes {
		if c.Outboxes[i].Name == name {
			return &c.Outboxes[i]
		}
	}
	return nil
}

// storeMaxSize is the largest store.db: bbolt maps it into memory, and on 32-bit
// machines addresses are few.
const storeMaxSize = 512 << 20 << (3 * (^uint(0) >> 63))

func defaultConfig() *Config {
	return &Config{
		Listen:         "127.0.0.1:4222",
		httpHost:       "127.0.0.1",
		Auth:           leaf.AuthConfig{Timeout: 2 * time.Second},
		MaxPayload:     1 << 20,
		MaxControlLine: 4 << 10,
		MaxPending:     8 << 20,
		MaxConnections: 4096,
		MaxClosed:      256,
		PingInterval:   2 * time.Minute,
		PingMax:        2,
		WriteDeadline:  10 * time.Second,
		Clock:          "auto",
		Log:            Log{Time: true, UTC: true},

		LameDuckGrace:    10 * time.Second,
		LameDuckDuration: 2 * time.Minute,
		Store: Store{
			Dir:            "/var/lib/leafd",
			JournalSize:    8 << 20,
			SpillAfter:     250 * time.Millisecond,
			CommitInterval: time.Second,
			MaxSize:        storeMaxSize,
			Reserve:        1 << 20,
		},
	}
}

// likeNATSServer gives the defaults of nats-server where leafd's own are others, for
// when it is started under that name.
func (c *Config) likeNATSServer() {
	c.Listen = "0.0.0.0:4222"
	c.Log.UTC = false
	c.httpHost = ""
}

// mqttOverhead is what a PUBLISH packet may weigh beside its payload.
const mqttOverhead = 8 << 10

func defaultMQTT(maxPayload int) *MQTT {
	return &MQTT{
		MaxPacket:      maxPayload + mqttOverhead,
		MaxPending:     max(8<<20, maxPayload+mqttOverhead),
		MaxConns:       4096,
		MaxSubs:        4096,
		WriteDeadline:  10 * time.Second,
		ConnectTimeout: 2 * time.Second,
	}
}

func defaultRemote() *Remote {
	return &Remote{Account: leaf.GlobalAccount, FirstInfoTimeout: 5 * time.Second, Reconnect: 800 * time.Millisecond}
}

func defaultOutbox(name string) Outbox {
	return Outbox{
		Name: name, MaxBytes: 256 << 20, Grace: 5 * time.Minute, GraceBytes: 4 << 20,
		Window: 8192, AckTimeout: 5 * time.Second, DuplicateWindow: 2 * time.Minute,
	}
}

// loadConfig reads the file at path and whatever it includes. The error is a
// configErrors with everything that is wrong, not the first thing only.
func loadConfig(path string) (*Config, error) { return loadWith(path, nil) }

// loadWith is loadConfig with the flags laid over the file. Without a path the flags
// alone are the configuration.
func loadWith(path string, f *flags) (*Config, error) {
	if path == "" {
		return readConfig("", nil, nil, f)
	}
	units, errs := scanFile(path)
	if len(errs) > 0 {
		errs.sort()
		return nil, errs
	}
	m, err := parseConf(path, func() (map[string]any, error) { return conf.ParseFileWithChecks(path) })
	if err != nil {
		return nil, err
	}
	return readConfig(path, m, units, f)
}

// checkConfig is loadConfig for "-t": it says what it found, credentials included.
func checkConfig(f *flags) (string, error) {
	path := f.config
	c, err := loadWith(path, f)
	if err != nil {
		return "", err
	}
	if c.Remote != nil && c.Remote.Credentials != "" {
		if err := checkCreds(c.Remote.Credentials); err != nil {
			return "", err
		}
	}
	lines := make([]string, 0, len(c.Warnings)+1)
	for _, w := range c.Warnings {
		lines = append(lines, "warning: "+w)
	}
	return strings.Join(append(lines, fmt.Sprintf("configuration file %s is valid (%s)", path, fileDigest(path))), "\n"), nil
}

// fileDigest tells files of one name apart.
func fileDigest(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "not readable any more"
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(data))
}

// parseConf runs the conf parser and puts its error in our form. What the scanner
// let through and conf still cannot do is mostly about variables and numbers.
func parseConf(file string, parse func() (map[string]any, error)) (m map[string]any, err error) {
	defer func() {
		if p := recover(); p != nil { // a bug of the parser must not take the daemon down
			m, err = nil, configErrors{{at: pos{file: file}, reason: fmt.Sprintf("the configuration parser failed (%v)", p), remedy: "put every key on a line of its own and values in quotes"}}
		}
	}()
	if m, err = parse(); err == nil {
		return m, nil
	}
	e := &configError{at: pos{file: file}, reason: err.Error()}
	for {
		rest, ok := strings.CutPrefix(e.reason, "error parsing include file '")
		inc, tail, found := strings.Cut(rest, "', ")
		if !ok || !found {
			break
		}
		e.at.file, e.reason = inc, tail
	}
	if before, after, ok := strings.Cut(e.reason, " on line "); ok {
		if n, _ := fmt.Sscanf(after, "%d", &e.at.line); n == 1 {
			e.at.col = 1
			e.reason = strings.TrimSpace(before + " " + strings.TrimLeft(after, "0123456789"))
		}
	}
	if strings.HasPrefix(e.reason, "variable reference for ") && strings.HasSuffix(e.reason, "can not be found") {
		name := strings.Trim(strings.Fields(e.reason)[3], "'")
		e.key, e.reason = "$"+name, "is set neither in this file before here nor in the environment"
		e.remedy = "set it, or put the value in quotes if it is no variable"
	}
	return nil, configErrors{e}
}

// readConfig turns parsed tokens into a Config.
func readConfig(file string, m map[string]any, units unitSet, f *flags) (*Config, error) {
	c := defaultConfig()
	if f != nil && f.stock {
		c.likeNATSServer()
	}
	c.File = file
	r := newReader(file)
	r.units = units
	b := r.block("", pos{file: file}, m)
	readTop(b, c, f)
	b.finish()
	c.crossCheck(r)
	c.Warnings, c.places = r.warnings, r.places
	if len(r.errs) > 0 {
		r.errs.sort()
		return nil, r.errs
	}
	return c, nil
}

// crossCheck finds what is wrong between blocks.
func (c *Config) crossCheck(r *reader) {
	c.checkListeners(r)
	if c.MaxPending < c.MaxPayload {
		r.fail("max_pending", fmt.Sprintf("%s is less than max_payload, %s: such a message could not be delivered", showSize(int64(c.MaxPending)), showSize(int64(c.MaxPayload))), "raise it or lower max_payload")
	}
	if len(c.Outboxes) > 0 && c.Remote == nil && !r.block("", pos{}, nil).failedUnder("leafnodes") {
		r.fail("outbox", "an outbox needs a hub to empty into, and there is none", `add leafnodes { remotes: [ { url: "nats-leaf://hub:7422" } ] } or remove it`)
	}
	c.checkOutboxes(r)
	c.checkDevices(r)
	c.checkRemoteAccount(r)
	c.checkAccounts(r)
}

// checkRemoteAccount finds a link of an account that is not there or may have none,
// and outboxes that could not use it.
func (c *Config) checkRemoteAccount(r *reader) {
	if c.Remote == nil || c.Remote.Account == leaf.GlobalAccount {
		return
	}
	const key = "leafnodes.remotes[0].account"
	i := slices.IndexFunc(c.Auth.Accounts, func(a leaf.AccountConfig) bool { return a.Name == c.Remote.Account })
	switch {
	case i < 0:
		r.fail(key, fmt.Sprintf("%q is not one of the accounts", c.Remote.Account), "name one of them, or add it")
	case c.Auth.Accounts[i].NoLink:
		r.fail(key, fmt.Sprintf("account %q has max_leafnodes: 0", c.Remote.Account), "raise that")
	case len(c.Outboxes) > 0:
		r.fail(key, "outboxes are in the global account, whose messages this link does not carry", "remove the account, or the outboxes")
	}
}

// failedUnder reports whether an error was recorded about the block, so that a
// second error that follows from it is not.
func (b *block) failedUnder(path string) bool {
	for _, e := range b.r.errs {
		if e.key == path || strings.HasPrefix(e.key, path+".") {
			return true
		}
	}
	return false
}

// checkListeners finds two listeners on one port, and listeners open to the
// network that ask for no credentials.
func (c *Config) checkListeners(r *reader) {
	type listener struct{ key, addr string }
	ls := []listener{{"listen", c.Listen}}
	if c.MQTT != nil {
		ls = append(ls, listener{"mqtt.listen", c.MQTT.Listen})
	}
	if c.WS != nil {
		ls = append(ls, listener{"websocket.listen", c.WS.Listen})
	}
	if c.HTTP != "" {
		ls = append(ls, listener{c.httpKey(), c.HTTP})
	}
	for i, a := range ls {
		for _, b := range ls[:i] {
			if sameListener(a.addr, b.addr) {
				r.fail(a.key, fmt.Sprintf("%s is the address of %q too (%s)", a.addr, b.key, b.addr), "give each listener a port of its own")
			}
		}
	}
	open := []string{openWarning("NATS clients", c.Listen, "authorization", &c.Auth.Credentials, c.TLS)}
	if c.MQTT != nil {
		open = append(open, openWarning("MQTT clients", c.MQTT.Listen, "mqtt.authorization", c.mqttAuth(), c.MQTT.TLS))
	}
	if c.WS != nil {
		open = append(open, openWarning("websocket clients", c.WS.Listen, "websocket.authorization", c.webSocketAuth(), c.WS.TLS))
	}
	r.warnings = append(r.warnings, slices.DeleteFunc(open, func(w string) bool { return w == "" })...)
	if c.HTTP != "" && !isLoopback(c.HTTP) {
		r.warnings = append(r.warnings, fmt.Sprintf("monitoring on %s needs no credentials: anyone who reaches it may read it", c.HTTP))
	}
}

// httpKey is the key that says where monitoring is.
func (c *Config) httpKey() string {
	if c.HTTPS {
		return "https"
	}
	return "http"
}

// mqttAuth is who may connect over MQTT.
func (c *Config) mqttAuth() *leaf.Credentials { return cmp.Or(c.Auth.MQTT, &c.Auth.Credentials) }

func sameListener(a, b string) bool {
	ah, ap, _ := net.SplitHostPort(a)
	bh, bp, _ := net.SplitHostPort(b)
	if ap != bp || ap == "0" || ap == "" {
		return false
	}
	return ah == bh || isWildcardHost(ah) || isWildcardHost(bh)
}

func isWildcardHost(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

func isLoopback(addr string) bool {
	host, _, _ := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// configProblems are the lines of a configuration error, for printing one by one.
func configProblems(err error) []string {
	var es configErrors
	if !errors.As(err, &es) {
		return []string{err.Error()}
	}
	return strings.Split(es.Error(), "\n")
}
