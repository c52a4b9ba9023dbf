package secure

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// Config is one tls block. Paths are relative to the working directory. The zero value
// of a field is its default, but for the two files that must be named.
type Config struct {
	CertFile, KeyFile string // PEM; the chain, leaf first
	CAFile            string // PEM; who signs clients' certificates; empty: those the system trusts

	Verify bool // a client needs a certificate
	Map    bool // and is the user it names; implies Verify

	Timeout time.Duration // of the handshake; 0 means 2 s

	// First is set if NATS clients shake hands before INFO; with a Fallback, one that
	// says nothing for so long is greeted in clear after all.
	First    bool
	Fallback time.Duration
	AllowNon bool // NATS clients need no TLS (allow_non_tls)

	Pinned       []string // SHA-256 of the public keys that clients may have, in hexadecimal; none: any
	MinVersion   uint16   // as in crypto/tls; 0 means TLS 1.2
	CipherSuites []uint16 // of TLS 1.2; nil: Go's
	Curves       []tls.CurveID
}

const (
	// DefaultTimeout is that of the handshake. (nats-server's.)
	DefaultTimeout = 2 * time.Second
	// AutoFallback is what handshake_first: auto waits. (nats-server's.)
	AutoFallback = 50 * time.Millisecond
)

// KeyError is what is wrong with a Config, by key of the block.
type KeyError struct{ Key, Reason, Remedy string }

func (e *KeyError) Error() string {
	if e.Remedy == "" {
		return e.Key + ": " + e.Reason
	}
	return e.Key + ": " + e.Reason + "; " + e.Remedy
}

// Identity is a Config whose files were read. It does not change.
type Identity struct {
	cfg Config
	tls *tls.Config
}

// Load reads the files. Warnings are about what works and may be a mistake: a
// certificate that has expired, or is not valid yet at now. The error is a *KeyError.
func Load(c Config, now time.Time) (id *Identity, warnings []string, err error) {
	c.Verify = c.Verify || c.Map
	if c.Timeout <= 0 {
		c.Timeout = DefaultTimeout
	}
	if c.MinVersion == 0 {
		c.MinVersion = tls.VersionTLS12
	}
	cert, err := loadPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, nil, err
	}
	t := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: c.MinVersion, CipherSuites: c.CipherSuites, CurvePreferences: c.Curves}
	if c.CAFile != "" {
		if t.ClientCAs, err = loadCA(c.CAFile); err != nil {
			return nil, nil, err
		}
	}
	if c.Verify {
		t.ClientAuth = tls.RequireAndVerifyClientCert
	}
	if len(c.Pinned) > 0 {
		if t.ClientAuth == tls.NoClientCert {
			return nil, nil, &KeyError{"pinned_certs", "needs verify: true, without which clients show no certificate", "add it"}
		}
		t.VerifyConnection = pinnedTo(c.Pinned)
	}
	leaf := cert.Leaf
	switch {
	case now.After(leaf.NotAfter):
		warnings = append(warnings, fmt.Sprintf("certificate %s expired on %s; clients will refuse it", c.CertFile, leaf.NotAfter.Format(time.DateOnly)))
	case now.Before(leaf.NotBefore):
		warnings = append(warnings, fmt.Sprintf("certificate %s is not valid before %s; clients will refuse it, unless this clock is wrong", c.CertFile, leaf.NotBefore.Format(time.DateOnly)))
	}
	return &Identity{cfg: c, tls: t}, warnings, nil
}

func loadPair(certFile, keyFile string) (cert tls.Certificate, err error) {
	if certFile == "" {
		return cert, &KeyError{"cert_file", "is missing", "name the PEM file with the certificate"}
	}
	if keyFile == "" {
		return cert, &KeyError{"key_file", "is missing", "name the PEM file with the certificate's private key"}
	}
	certPEM, err := readFile("cert_file", certFile)
	if err != nil {
		return cert, err
	}
	keyPEM, err := readFile("key_file", keyFile)
	if err != nil {
		return cert, err
	}
	defer clear(keyPEM)
	cert, err = tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		if _, certErr := parseCerts(certPEM); certErr != nil {
			return cert, &KeyError{"cert_file", certFile + ": " + certErr.Error(), "put a certificate in PEM form there"}
		}
		return cert, &KeyError{"key_file", keyFile + " does not go with " + certFile + ": " + err.Error(), "put the private key of that certificate there, in PEM form, not encrypted"}
	}
	return cert, nil
}

func readFile(key, path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err == nil {
		return b, nil
	}
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return nil, &KeyError{key, path + ": " + err.Error(), "name a file that this user may read; paths are relative to the working directory"}
}

func loadCA(path string) (*x509.CertPool, error) {
	b, err := readFile("ca_file", path)
	if err != nil {
		return nil, err
	}
	certs, err := parseCerts(b)
	if err != nil {
		return nil, &KeyError{"ca_file", path + ": " + err.Error(), "put the certificates of the authorities there, in PEM form"}
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool, nil
}

var errNotPinned = errors.New("the client's certificate is not one of pinned_certs")

// pinnedTo accepts clients with one of these keys.
func pinnedTo(hashes []string) func(tls.ConnectionState) error {
	known := make(map[string]bool, len(hashes))
	for _, h := range hashes {
		known[h] = true
	}
	return func(st tls.ConnectionState) error {
		if len(st.PeerCertificates) > 0 {
			sum := sha256.Sum256(st.PeerCertificates[0].RawSubjectPublicKeyInfo)
			if known[hex.EncodeToString(sum[:])] {
				return nil
			}
		}
		return errNotPinned
	}
}

// Source is the identity in force. Safe for all goroutines.
type Source struct{ now atomic.Pointer[Identity] }

// NewSource makes one; nil of a nil Identity.
func NewSource(id *Identity) *Source {
	if id == nil {
		return nil
	}
	s := &Source{}
	s.now.Store(id)
	return s
}

// NotAfter is when the certificate in force ends; zero of a nil Source.
func (s *Source) NotAfter() (end time.Time) {
	if s != nil {
		end = s.now.Load().tls.Certificates[0].Leaf.NotAfter
	}
	return end
}

// Swap puts another identity in force: for connections that come from now on. What is
// nil changes nothing: whether a listener uses TLS at all is settled when it starts.
func (s *Source) Swap(id *Identity) {
	if s != nil && id != nil {
		s.now.Store(id)
	}
}
