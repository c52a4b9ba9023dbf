package testkit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// CA is an authority that lives as long as the test.
type CA struct {
	File string // its certificate, PEM
	Pool *x509.CertPool

	t    T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	n    int64
}

// NewCA makes one.
func NewCA(t T) *CA {
	t.Helper()
	ca := &CA{t: t, File: filepath.Join(t.TempDir(), "ca.pem"), Pool: x509.NewCertPool()}
	ca.key = newKey(t)
	der := ca.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "leafd test CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign}, &ca.key.PublicKey)
	var err error
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatalf("make a CA: %v", err)
	}
	ca.Pool.AddCert(ca.cert)
	writePEM(t, ca.File, "CERTIFICATE", der)
	return ca
}

// Issue makes a certificate from a template, and writes it and its key to files. Of the
// template what matters is the subject, the names and, if set, the validity; without names
// it is for 127.0.0.1 and localhost.
func (ca *CA) Issue(c x509.Certificate) (certFile, keyFile string) {
	ca.t.Helper()
	if c.DNSNames == nil && c.EmailAddresses == nil && c.URIs == nil {
		c.DNSNames, c.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	c.KeyUsage = x509.KeyUsageDigitalSignature
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	key := newKey(ca.t)
	dir := ca.t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writePEM(ca.t, certFile, "CERTIFICATE", ca.sign(&c, &key.PublicKey))
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		ca.t.Fatalf("issue a certificate: %v", err)
	}
	writePEM(ca.t, keyFile, "PRIVATE KEY", der)
	return certFile, keyFile
}

// Client is what a client needs that trusts this CA and shows a certificate of its own,
// unless the files are empty.
func (ca *CA) Client(certFile, keyFile string) *tls.Config {
	ca.t.Helper()
	c := &tls.Config{RootCAs: ca.Pool, ServerName: "localhost", MinVersion: tls.VersionTLS12}
	if certFile != "" {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			ca.t.Fatalf("%v", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}

func (ca *CA) sign(c *x509.Certificate, pub *ecdsa.PublicKey) []byte {
	ca.n++
	c.SerialNumber = big.NewInt(ca.n)
	if c.NotAfter.IsZero() {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	}
	parent := ca.cert
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, ca.key)
	if err != nil {
		ca.t.Fatalf("sign a certificate: %v", err)
	}
	return der
}

func newKey(t T) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("make a key: %v", err)
	}
	return key
}

func writePEM(t T, path, kind string, der []byte) {
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatalf("%v", err)
	}
}
