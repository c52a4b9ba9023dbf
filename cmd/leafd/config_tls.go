package main

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/leafd/leafd/internal/secure"
)

// readTLS reads a tls block, and the files it names: what is wrong with them is said
// with the line of their key. handshake_first is for NATS clients alone.
func readTLS(b *block, natsClients bool) *secure.Config {
	c := &secure.Config{}
	b.str(&c.CertFile, "cert_file")
	b.str(&c.KeyFile, "key_file")
	b.str(&c.CAFile, "ca_file")
	b.boolean(&c.Verify, "verify")
	b.boolean(&c.Map, "verify_and_map")
	b.dur(&c.Timeout, time.Microsecond, time.Minute, "timeout") // as short as clients' own tests have it
	if natsClients {
		readHandshakeFirst(b, c)
	} else {
		b.notYet("handshake_first first immediate: remove it; here clients shake hands first anyway")
	}
	readPinned(b, c)
	readMinVersion(b, c)
	for _, name := range b.words("cipher_suites") {
		readCipher(b, c, name)
	}
	for _, name := range b.words("curve_preferences") {
		id, ok := curves[strings.ToLower(name)]
		if !ok {
			b.r.fail(b.join("curve_preferences"), fmt.Sprintf("%q is not a curve that leafd knows", name), "leafd --help_tls lists them")
		}
		c.Curves = append(c.Curves, id)
	}
	b.notYet(
		"certs certificates: write cert_file and key_file",
		"insecure verify_cert_and_check_known_urls: remove it; it is for links between servers",
		"allow_insecure_cipher_suites: remove it; leafd has no insecure ones",
		"connection_rate_limit ocsp_peer cert_store cert_match cert_match_by cert_match_skip_invalid ca_certs_match",
	)
	if b.failedUnder(b.path) {
		return c
	}
	_, warnings, err := secure.Load(*c, time.Now())
	var ke *secure.KeyError
	if errors.As(err, &ke) {
		b.r.fail(b.join(ke.Key), ke.Reason, ke.Remedy)
	}
	b.r.warnings = append(b.r.warnings, warnings...)
	return c
}

// words is list for keys that may be absent.
func (b *block) words(key string) (out []string) {
	b.list(&out, key)
	return out
}

// readHandshakeFirst takes true, false, "auto" or how long to wait for a client that
// expects INFO.
func readHandshakeFirst(b *block, c *secure.Config) {
	v, ok := b.get("handshake_first", "first", "immediate")
	if !ok {
		return
	}
	switch w := v.v.(type) {
	case bool:
		c.First = w
	case string:
		switch strings.ToLower(w) {
		case "true", "on":
			c.First = true
		case "false", "off":
		case "auto", "auto_fallback":
			c.First, c.Fallback = true, secure.AutoFallback
		default:
			d, err := time.ParseDuration(w)
			if err != nil || d <= 0 || d > time.Minute {
				v.fail("is neither true, false, auto nor a duration", `write one such as "300ms", up to 1m`)
				return
			}
			c.First, c.Fallback = true, d
		}
	default:
		v.wrongType(`true, false, "auto" or a duration`)
	}
}

func readPinned(b *block, c *secure.Config) {
	for _, h := range b.words("pinned_certs") {
		h = strings.ToLower(h)
		if _, err := hex.DecodeString(h); err != nil || len(h) != 2*sha256.Size {
			b.r.fail(b.join("pinned_certs"), fmt.Sprintf("%q is not a SHA-256 in hexadecimal", h),
				"openssl x509 -in cert.pem -noout -pubkey | openssl pkey -pubin -outform der | sha256sum shows it")
			continue
		}
		c.Pinned = append(c.Pinned, h)
	}
}

func readMinVersion(b *block, c *secure.Config) {
	v, ok := b.get("min_version")
	if !ok {
		return
	}
	s, _ := v.v.(string)
	if f, isNumber := v.v.(float64); isNumber { // without quotes
		s = strconv.FormatFloat(f, 'g', -1, 64)
	}
	switch s {
	case "1.2":
		c.MinVersion = tls.VersionTLS12
	case "1.3":
		c.MinVersion = tls.VersionTLS13
	default:
		v.fail(`must be "1.2" or "1.3"`, "earlier versions are not safe")
	}
}

func readCipher(b *block, c *secure.Config, name string) {
	for _, s := range tls.CipherSuites() {
		if s.Name == name {
			c.CipherSuites = append(c.CipherSuites, s.ID)
			return
		}
	}
	b.r.fail(b.join("cipher_suites"), fmt.Sprintf("%q is not one of the secure ones", name), "leafd --help_tls lists them")
}

var curves = map[string]tls.CurveID{
	"curvep256": tls.CurveP256, "curvep384": tls.CurveP384, "curvep521": tls.CurveP521,
	"x25519": tls.X25519, "x25519mlkem768": tls.X25519MLKEM768,
	"secp256r1mlkem768": tls.SecP256r1MLKEM768, "secp384r1mlkem1024": tls.SecP384r1MLKEM1024,
}
