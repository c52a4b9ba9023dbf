package tester

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/synadia-io/orbit.go/ntf-client/api"
)

// tlsFiles are the certificates of one server, signed by an authority of its own.
type tlsFiles struct {
	CAFile, CertFile, KeyFile string // what snippets call them
	verify, first             bool
	timeout                   float64 // seconds
}

// block is the configuration of the client listener.
func (f *tlsFiles) block() string {
	return fmt.Sprintf("tls {\n  cert_file: %q\n  key_file: %q\n  ca_file: %q\n  verify: %t\n  handshake_first: %t\n  timeout: %g\n}\n",
		f.CertFile, f.KeyFile, f.CAFile, f.verify, f.first, f.timeout)
}

// pair is a certificate and its key, as PEM.
type pair struct{ cert, key []byte }

func makeTLS(dir string, o api.TLSOptions) (*tlsFiles, *api.TLSMaterial, error) {
	f := &tlsFiles{
		CAFile: filepath.Join(dir, "ca.pem"), CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"),
		verify: o.Mode != api.TLSModeServer, first: o.HandshakeFirst, timeout: o.Timeout,
	}
	if f.timeout == 0 {
		f.timeout = 2
	}
	names := o.SANs
	if len(names) == 0 {
		names = []string{"localhost", "127.0.0.1", "::1"}
	}
	ca, caKey, caPEM, err := authority()
	if err != nil {
		return nil, nil, err
	}
	server, err1 := leafCert(ca, caKey, x509.ExtKeyUsageServerAuth, names)
	client, err2 := leafCert(ca, caKey, x509.ExtKeyUsageClientAuth, []string{"client"})
	if err := errors.Join(err1, err2,
		os.WriteFile(f.CAFile, caPEM, 0o600), os.WriteFile(f.CertFile, server.cert, 0o600), os.WriteFile(f.KeyFile, server.key, 0o600)); err != nil {
		return nil, nil, err
	}
	m := &api.TLSMaterial{CAPEM: string(caPEM)}
	if f.verify {
		m.ClientCertPEM, m.ClientKeyPEM = string(client.cert), string(client.key)
	}
	return f, m, nil
}

func authority() (*x509.Certificate, *ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	c := certificate("tester's authority")
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		return nil, nil, nil, err
	}
	return c, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func leafCert(ca *x509.Certificate, caKey *ecdsa.PrivateKey, usage x509.ExtKeyUsage, names []string) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, err
	}
	c := certificate(names[0])
	c.KeyUsage, c.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{usage}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, name)
		}
	}
	der, err1 := x509.CreateCertificate(rand.Reader, c, ca, &key.PublicKey, caKey)
	keyDER, err2 := x509.MarshalPKCS8PrivateKey(key)
	return pair{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})}, errors.Join(err1, err2)
}

func certificate(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62)) // never fails since Go 1.24
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
}
