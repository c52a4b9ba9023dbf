package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/leafd/leafd/internal/secure"
)

// tlsFlags are --tls and its like, for NATS clients and for monitoring. As in
// nats-server any of them switches TLS on and replaces the file's certificate, and
// --tls=false switches it off whatever else is given.
type tlsFlags struct {
	given, off    bool
	cert, key, ca string
	verify        bool
}

func (f *flags) setTLS(on bool) error {
	f.tls.given, f.tls.off = on, !on
	return nil
}

func (f *flags) setTLSVerify(on bool) error {
	f.tls.given, f.tls.verify = true, on
	return nil
}

func tlsFile(field func(*tlsFlags) *string) func(*flags, string) error {
	return func(f *flags, v string) error {
		if v != "" {
			f.tls.given, *field(&f.tls) = true, v
		}
		return nil
	}
}

// tlsFlagOf is the flag that stands for a key of the block, if there is one.
func tlsFlagOf(key string) string {
	switch key {
	case "cert_file":
		return "--tlscert"
	case "key_file":
		return "--tlskey"
	case "ca_file":
		return "--tlscacert"
	}
	return ""
}

// lay puts them over the file's tls block. What no flag can say, such as timeout,
// pinned_certs or min_version, stays as it is there.
func (f *tlsFlags) lay(c *Config, r *reader) {
	if f.off {
		c.TLS = nil
	}
	if f.off || !f.given {
		return
	}
	t := secure.Config{}
	if c.TLS != nil {
		t = *c.TLS
	}
	t.CertFile, t.KeyFile, t.CAFile, t.Verify = f.cert, f.key, f.ca, f.verify
	c.TLS = &t
	_, warnings, err := secure.Load(t, time.Now())
	var ke *secure.KeyError
	if errors.As(err, &ke) {
		r.fail("tls", strings.TrimSpace(tlsFlagOf(ke.Key)+" "+ke.Reason), ke.Remedy)
	}
	r.warnings = append(r.warnings, warnings...)
}

// tlsUsage is the text of --help_tls.
func tlsUsage() string {
	var s strings.Builder
	s.WriteString(`TLS is set in a tls block of the configuration file, and in those of mqtt and websocket:

    tls {
        cert_file: "cert.pem"
        key_file: "key.pem"
        ca_file: "ca.pem"
        verify: true
        min_version: "1.3"
    }

leafd.conf shows all keys. --tls, --tlscert and the like stand for the block at the top.
Certificates are read again at a reload.

cipher_suites, of TLS 1.2:
`)
	for _, c := range tls.CipherSuites() {
		if slices.Contains(c.SupportedVersions, tls.VersionTLS12) {
			fmt.Fprintf(&s, "    %s\n", c.Name)
		}
	}
	s.WriteString("\ncurve_preferences:\n")
	ids := slices.Collect(maps.Values(curves))
	sort.SliceStable(ids, func(i, j int) bool { return ids[i] < ids[j] })
	for _, id := range ids {
		fmt.Fprintf(&s, "    %s\n", id)
	}
	return s.String()
}
