package secure

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"strings"
)

func parseCerts(b []byte) (certs []*x509.Certificate, err error) {
	for {
		var p *pem.Block
		if p, b = pem.Decode(b); p == nil {
			break
		}
		if p.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(p.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("holds no certificate in PEM form")
	}
	return certs, nil
}

// CertUser finds which of users a client's certificate names: its e-mail addresses, DNS
// names and URIs are tried in this order, then its subject, as nats-server does. The
// subject is matched as a distinguished name: attributes in any order, "CN=a, OU=b"
// being the same as "OU=b,CN=a".
func CertUser(cert *x509.Certificate, users []string) (user string, ok bool) {
	known := make(map[string]bool, len(users))
	for _, u := range users {
		known[u] = true
	}
	names := append(append([]string(nil), cert.EmailAddresses...), cert.DNSNames...)
	for _, u := range cert.URIs {
		names = append(names, u.String())
	}
	for _, n := range names {
		if known[n] {
			return n, true
		}
	}
	if subject := cert.Subject.ToRDNSequence().String(); known[subject] && subject != "" {
		return subject, true
	}
	want := attributes(cert.Subject)
	for _, u := range users {
		if sameName(want, splitName(u)) {
			return u, true
		}
	}
	return "", false
}

// attributes are those of a subject as "CN=name", counted.
func attributes(n pkix.Name) map[string]int {
	out := map[string]int{}
	for _, a := range n.Names {
		one := pkix.RDNSequence{{a}}
		out[strings.TrimSpace(one.String())]++
	}
	return out
}

// splitName takes a distinguished name apart at its commas, but for those behind a "\".
// What is no distinguished name gives nil.
func splitName(s string) map[string]int {
	if !strings.Contains(s, "=") {
		return nil
	}
	out := map[string]int{}
	start := 0
	for i := 0; i <= len(s); i++ {
		switch {
		case i < len(s) && s[i] == '\\':
			i++
		case i == len(s) || s[i] == ',' || s[i] == '+':
			k, v, _ := strings.Cut(strings.TrimSpace(s[start:i]), "=")
			out[strings.ToUpper(strings.TrimSpace(k))+"="+strings.TrimSpace(v)]++
			start = i + 1
		}
	}
	return out
}

func sameName(a, b map[string]int) bool {
	if len(a) == 0 || len(a) != len(b) {
		return false
	}
	for k, n := range a {
		if b[k] != n {
			return false
		}
	}
	return true
}
