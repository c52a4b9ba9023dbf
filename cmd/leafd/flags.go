package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/leafd/leafd/leaf"
)

// The command line is nats-server's: one or two dashes, "-f v" and "-f=v", and what
// a flag says goes before what the file says, also when the file is read again. A
// flag of nats-server that leafd has no use for is refused by name.

// flags is a parsed command line. Static after parseFlags.
type flags struct {
	stock  bool   // the program was started as nats-server
	config string // path; empty: no file
	signal string // of --signal
	check  bool
	show   bool // the version

	help, helpTLS bool

	tls  tlsFlags
	lays []func(*Config) // the others laid over a Config, in the order given
	err  error           // while parsing: why a flag is refused
}

// option is one flag under all its names. Exactly one of text, toggle and refuse is
// set.
type option struct {
	names  string // without dashes
	arg    string // what stands for the value in the usage; empty: none is taken
	help   string
	text   func(f *flags, v string) error
	toggle func(f *flags, on bool) error
	refuse string // why leafd does not have it, and what to do
}

// optionGroups are the flags as the usage shows them.
var optionGroups = []struct {
	title   string
	options []option
}{
	{"Server", []option{
		{names: "a addr net", arg: "host", help: "listen for NATS clients on this address", text: (*flags).setHost},
		{names: "p port", arg: "port", help: "and port; -1 is any free one", text: portFlag((*Config).setPort)},
		{names: "n name server_name", arg: "name", help: "what the server calls itself", text: textFlag(func(c *Config) *string { return &c.ServerName })},
		{names: "P pid", arg: "file", help: "write the process id to this file", text: textFlag(func(c *Config) *string { return &c.PidFile })},
		{names: "m http_port", arg: "port", help: "serve monitoring on this port", text: portFlag((*Config).setHTTPPort)},
		{names: "ms https_port", arg: "port", help: "serve monitoring over TLS on this port, in place of that", text: portFlag((*Config).setHTTPSPort)},
		{names: "c config", arg: "file", help: "the configuration file", text: func(f *flags, v string) error { f.config = v; return nil }},
		{names: "t", help: "check the configuration and end", toggle: func(f *flags, on bool) error { f.check = on; return nil }},
		{names: "sl signal", arg: "signal[=pid]", help: "send ldm, stop, quit, term, reopen or reload to a running server,\n" +
			"named by its pid or its pid file", text: func(f *flags, v string) error { f.signal = v; return nil }},
		{names: "client_advertise", arg: "address", help: "the address that INFO tells clients", text: addressFlag(func(c *Config) *string { return &c.ClientAdvertise })},
		{names: "ports_file_dir", arg: "dir", help: "write NAME_PID.ports with all listeners into this directory", text: textFlag(func(c *Config) *string { return &c.PortsFileDir })},
	}},
	{"Logging", []option{
		{names: "l log", arg: "file", help: "log to this file, not to standard error", text: textFlag(func(c *Config) *string { return &c.Log.File })},
		{names: "T logtime", help: "begin lines with the time; -T=false: without", toggle: boolFlag(func(c *Config) *bool { return &c.Log.Time })},
		{names: "logtime_utc", help: "in UTC", toggle: boolFlag(func(c *Config) *bool { return &c.Log.UTC })},
		{names: "s syslog", help: "log to the system log", toggle: boolFlag(func(c *Config) *bool { return &c.Log.Syslog })},
		{names: "r remote_syslog", arg: "url", help: "log to udp://host:514, tcp://host:514 or unix:///path", text: (*flags).setRemoteSyslog},
		{names: "D debug", help: "log more", toggle: boolFlag(func(c *Config) *bool { return &c.Debug })},
		{names: "V trace", help: "log what clients and server say", toggle: boolFlag(func(c *Config) *bool { return &c.Trace })},
		{names: "VV", help: "the same", toggle: boolFlag(func(c *Config) *bool { return &c.Trace })},
		{names: "DV", help: "-D and -V", toggle: both(func(c *Config, on bool) { c.Debug, c.Trace = on, on })},
		{names: "DVV", help: "the same as -DV", toggle: both(func(c *Config, on bool) { c.Debug, c.Trace = on, on })},
		{names: "log_size_limit", arg: "bytes", help: "begin a new log file at this size", text: countFlag(func(c *Config, n int64) { c.Log.SizeLimit = n })},
		{names: "max_traced_msg_len", arg: "bytes", help: "show so much of a traced message; 0 is all", text: countFlag(func(c *Config, n int64) { c.MaxTracedMsgLen = int(n) })},
	}},
	{"JetStream", []option{
		{names: "js jetstream", help: "refused", refuse: "leafd has no JetStream yet; the hub keeps streams, and an outbox block keeps messages for it"},
		{names: "sd store_dir", arg: "dir", help: "where JetStream would be; means nothing without -js", text: func(*flags, string) error { return nil }},
	}},
	{"Authorization", []option{
		{names: "user", arg: "user", help: "the user that clients connect as", text: textFlag(func(c *Config) *string { return &c.flagUser.Name })},
		{names: "pass", arg: "password", help: "and the password", text: textFlag(func(c *Config) *string { return &c.flagUser.Password })},
		{names: "auth", arg: "token", help: "the token that clients connect with", text: textFlag(func(c *Config) *string { return &c.Auth.Token })},
	}},
	{"TLS", []option{
		{names: "tls", help: "TLS for NATS clients; -tls=false: none, whatever the file says", toggle: (*flags).setTLS},
		{names: "tlscert", arg: "file", help: "with this certificate", text: tlsFile(func(t *tlsFlags) *string { return &t.cert })},
		{names: "tlskey", arg: "file", help: "and its private key", text: tlsFile(func(t *tlsFlags) *string { return &t.key })},
		{names: "tlsverify", help: "and clients need a certificate, too", toggle: (*flags).setTLSVerify},
		{names: "tlscacert", arg: "file", help: "signed by one of these", text: tlsFile(func(t *tlsFlags) *string { return &t.ca })},
	}},
	{"Cluster", []option{
		{names: "routes cluster cluster_listen cluster_name cluster_advertise connect_retries", arg: "value", help: "refused", refuse: noCluster},
		{names: "no_advertise", help: "refused", refuse: noCluster},
	}},
	{"Profiling", []option{
		{names: "profile", arg: "port", help: "refused", refuse: "leafd does not serve profiles; the monitoring port has /stacksz and /debug/vars"},
	}},
	{"Common", []option{
		{names: "h help", help: "show this", toggle: func(f *flags, on bool) error { f.help = on; return nil }},
		{names: "v version", help: "show the version", toggle: func(f *flags, on bool) error { f.show = on; return nil }},
		{names: "help_tls", help: "show what TLS can be told", toggle: func(f *flags, on bool) error { f.helpTLS = on; return nil }},
	}},
}

const noCluster = "a leaf is no member of a cluster; leave it out and connect to one with leafnodes { remotes: [ … ] }"

// parseFlags reads a command line without the program's name.
func parseFlags(program string, args []string) (*flags, error) {
	f := &flags{stock: program == stockName}
	fs := flag.NewFlagSet("leafd", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	for _, g := range optionGroups {
		for _, o := range g.options {
			for _, name := range strings.Fields(o.names) {
				o.define(fs, f, name)
			}
		}
	}
	if err := fs.Parse(args); err != nil {
		switch {
		case f.err != nil:
			return nil, f.err
		case errors.Is(err, flag.ErrHelp):
			f.help = true
			return f, nil
		}
		return nil, fmt.Errorf("%w; -h shows all flags", err)
	}
	switch rest := fs.Args(); {
	case len(rest) == 0:
	case slices.Equal(rest, []string{"help"}):
		f.help = true
	case slices.Equal(rest, []string{"version"}):
		f.show = true
	default:
		return nil, fmt.Errorf("unexpected argument %q; a configuration file is given with -c", rest[0])
	}
	return f, nil
}

// define adds one name of the option. What is wrong with a value goes into f.err:
// package flag would show the value, which may be a password.
func (o *option) define(fs *flag.FlagSet, f *flags, name string) {
	keep := func(err error) error {
		if err != nil {
			dashes := "--"[:min(len(name), 2)]
			f.err = fmt.Errorf("%s%s: %w", dashes, name, err)
		}
		return err
	}
	refused := errors.New(o.refuse)
	value := flagValue{bool: o.arg == ""}
	switch {
	case o.refuse != "" && value.bool:
		value.set = func(v string) error {
			if on, err := strconv.ParseBool(v); err == nil && !on {
				return nil // that is how leafd is
			}
			return keep(refused)
		}
	case o.refuse != "":
		value.set = func(string) error { return keep(refused) }
	case value.bool:
		value.set = func(v string) error {
			on, err := strconv.ParseBool(v)
			if err != nil {
				return keep(errors.New("takes true or false"))
			}
			return keep(o.toggle(f, on))
		}
	default:
		value.set = func(v string) error { return keep(o.text(f, v)) }
	}
	fs.Var(value, name, "")
}

// flagValue implements flag.Value.
type flagValue struct {
	bool bool
	set  func(string) error
}

func (v flagValue) Set(s string) error { return v.set(s) }
func (v flagValue) String() string     { return "" }
func (v flagValue) IsBoolFlag() bool   { return v.bool }

// usage is the text of -h.
func usage(program string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "usage: %s [flags]\n       %s outbox help, for what is kept\n", program, program)
	for _, g := range optionGroups {
		fmt.Fprintf(&s, "\n%s:\n", g.title)
		for _, o := range g.options {
			if o.refuse != "" {
				continue
			}
			names := "-" + strings.Join(strings.Fields(o.names), ", -")
			if o.arg != "" {
				names += " <" + o.arg + ">"
			}
			fmt.Fprintf(&s, "    %-34s %s\n", names, strings.ReplaceAll(o.help, "\n", "\n"+strings.Repeat(" ", 39)))
		}
	}
	return s.String()
}

// lay puts the flags over what the file says. A nil f is an empty command line.
func (f *flags) lay(c *Config, r *reader) {
	if f == nil {
		return
	}
	for _, lay := range f.lays {
		lay(c)
	}
	switch u := c.flagUser; {
	case u.Name == "" && u.Password == "":
	case u.Name == "" || u.Password == "":
		r.fail("authorization", "of --user and --pass one is missing", "give both")
	default:
		c.Auth.Users, c.Auth.Token = []leaf.User{u}, ""
	}
	c.flagUser = leaf.User{}
	f.tls.lay(c, r)
}

// settleHTTP finds where monitoring is and whether over TLS, and gives the address the
// host that was left out.
func (c *Config) settleHTTP(b *block) {
	if c.https != "" {
		switch {
		case c.HTTP != "":
			b.r.fail("https", "excludes http, which is set too", "keep one of them")
		case c.TLS == nil && !b.failedUnder("tls"):
			b.r.fail("https", "needs a certificate", "add tls { cert_file: …, key_file: … }")
		}
		c.HTTP, c.HTTPS, c.https = c.https, true, ""
	}
	host, port, err := net.SplitHostPort(c.HTTP)
	if err != nil || host != "" {
		return
	}
	if host = c.httpHost; host == "" {
		host, _, _ = net.SplitHostPort(c.Listen)
	}
	c.HTTP = net.JoinHostPort(host, port)
}

func (f *flags) later(lay func(*Config)) { f.lays = append(f.lays, lay) }

// An empty value is as good as none, as a script gives it with an unset variable.

func textFlag(field func(*Config) *string) func(*flags, string) error {
	return func(f *flags, v string) error {
		if v != "" {
			f.later(func(c *Config) { *field(c) = v })
		}
		return nil
	}
}

func boolFlag(field func(*Config) *bool) func(*flags, bool) error {
	return both(func(c *Config, on bool) { *field(c) = on })
}

func both(set func(*Config, bool)) func(*flags, bool) error {
	return func(f *flags, on bool) error {
		f.later(func(c *Config) { set(c, on) })
		return nil
	}
}

func countFlag(set func(*Config, int64)) func(*flags, string) error {
	return func(f *flags, v string) error {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 0 || n > 1<<40 {
			return fmt.Errorf("%q is not a number of bytes", v)
		}
		f.later(func(c *Config) { set(c, n) })
		return nil
	}
}

// portFlag reads a port. 0 is as good as none, as in nats-server.
func portFlag(set func(c *Config, port string)) func(*flags, string) error {
	return func(f *flags, v string) error {
		n, err := strconv.Atoi(v)
		switch {
		case err != nil || n < -1 || n > 65535:
			return fmt.Errorf("port %q is out of range; use 1 to 65535, or -1 for any free port", v)
		case n != 0:
			f.later(func(c *Config) { set(c, strconv.Itoa(max(n, 0))) })
		}
		return nil
	}
}

func (f *flags) setHost(v string) error {
	if v == "" {
		return nil
	}
	host := strings.TrimSuffix(strings.TrimPrefix(v, "["), "]")
	if strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r == '/' }) {
		return fmt.Errorf("%q is not a host; write a name or an IP address", v)
	}
	f.later(func(c *Config) {
		_, port, _ := net.SplitHostPort(c.Listen)
		c.Listen = net.JoinHostPort(host, port)
	})
	return nil
}

func (f *flags) setRemoteSyslog(v string) error {
	if v == "" {
		return nil
	}
	if _, _, err := parseSyslogURL(v); err != nil {
		return err
	}
	f.later(func(c *Config) { c.Log.Syslog, c.Log.RemoteSyslog = true, v })
	return nil
}

func addressFlag(field func(*Config) *string) func(*flags, string) error {
	return func(f *flags, v string) error {
		if v == "" {
			return nil
		}
		if _, _, err := splitAdvertise(v); err != nil {
			return err
		}
		f.later(func(c *Config) { *field(c) = v })
		return nil
	}
}

func (c *Config) setPort(port string) {
	host, _, _ := net.SplitHostPort(c.Listen)
	c.Listen = net.JoinHostPort(host, port)
}

func (c *Config) setHTTPPort(port string) {
	host, _, _ := net.SplitHostPort(c.HTTP)
	c.HTTP = net.JoinHostPort(host, port)
}

func (c *Config) setHTTPSPort(port string) {
	host, _, _ := net.SplitHostPort(c.https)
	c.https = net.JoinHostPort(host, port)
}

// splitAdvertise reads host or host:port; port is 0 if it is left out.
func splitAdvertise(v string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(v)
	if err != nil {
		host, p, err = strings.Trim(v, "[]"), "0", nil
	}
	port, perr := strconv.Atoi(p)
	if perr != nil || port < 0 || port > 65535 || host == "" || strings.ContainsAny(host, " \t/") {
		return "", 0, fmt.Errorf("%q is not an address; write host:port", v)
	}
	return host, port, nil
}
