package secure

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

func TestLoadSaysWhatIsWrong(t *testing.T) {
	ca := testkit.NewCA(t)
	cert, key := ca.Issue(x509.Certificate{})
	_, otherKey := ca.Issue(x509.Certificate{})
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cfg         Config
		key, reason string
	}{
		{Config{}, "cert_file", "is missing"},
		{Config{CertFile: cert}, "key_file", "is missing"},
		{Config{CertFile: "/nowhere", KeyFile: key}, "cert_file", "/nowhere: no such file"},
		{Config{CertFile: cert, KeyFile: "/nowhere"}, "key_file", "/nowhere: no such file"},
		{Config{CertFile: cert, KeyFile: otherKey}, "key_file", "does not go with"},
		{Config{CertFile: junk, KeyFile: key}, "cert_file", "no certificate"},
		{Config{CertFile: cert, KeyFile: junk}, "key_file", "does not go with"},
		{Config{CertFile: cert, KeyFile: key, CAFile: "/nowhere"}, "ca_file", "no such file"},
		{Config{CertFile: cert, KeyFile: key, CAFile: junk}, "ca_file", "no certificate"},
		{Config{CertFile: cert, KeyFile: key, Pinned: []string{"00"}}, "pinned_certs", "needs verify"},
	} {
		_, _, err := Load(c.cfg, time.Now())
		var ke *KeyError
		if !errors.As(err, &ke) || ke.Key != c.key || !strings.Contains(ke.Reason, c.reason) || ke.Remedy == "" {
			t.Errorf("%+v: %v", c.cfg, err)
		}
	}
}

func TestLoadWarnsOfDates(t *testing.T) {
	cert, key := testkit.NewCA(t).Issue(x509.Certificate{})
	for days, want := range map[int]string{0: "", -10: "is not valid before", 10: "expired on"} {
		_, warnings, err := Load(Config{CertFile: cert, KeyFile: key}, time.Now().AddDate(0, 0, days))
		if got := strings.Join(warnings, "\n"); err != nil || !strings.Contains(got, want) || (want == "") != (got == "") {
			t.Errorf("%d days later: %q, %v", days, got, err)
		}
	}
}

func TestCertUser(t *testing.T) {
	uri, _ := url.Parse("spiffe://example.com/one")
	cert := func(c x509.Certificate) *x509.Certificate {
		certFile, _ := testkit.NewCA(t).Issue(c)
		b, err := os.ReadFile(certFile)
		if err != nil {
			t.Fatal(err)
		}
		certs, err := parseCerts(b)
		if err != nil {
			t.Fatal(err)
		}
		return certs[0]
	}
	subject := pkix.Name{CommonName: "one, two", Organization: []string{"leafd"}, OrganizationalUnit: []string{"edge"}}
	all := x509.Certificate{Subject: subject, EmailAddresses: []string{"a@example.com"}, DNSNames: []string{"a.example.com"}, URIs: []*url.URL{uri}}
	for _, c := range []struct {
		cert  x509.Certificate
		users []string
		want  string
	}{
		{all, []string{"a.example.com", "a@example.com"}, "a@example.com"},
		{all, []string{"spiffe://example.com/one", "a.example.com"}, "a.example.com"},
		{all, []string{"spiffe://example.com/one", `CN=one\, two,OU=edge,O=leafd`}, "spiffe://example.com/one"},
		{all, []string{"other", `CN=one\, two,OU=edge,O=leafd`}, `CN=one\, two,OU=edge,O=leafd`},
		{all, []string{`O=leafd, ou=edge, CN=one\, two`}, `O=leafd, ou=edge, CN=one\, two`},
		{all, []string{`O=leafd, CN=one\, two`, "CN=one", "leafd", ""}, ""},
		{x509.Certificate{Subject: pkix.Name{CommonName: "x"}}, []string{"CN=x"}, "CN=x"},
		{x509.Certificate{}, []string{"", "=", "localhost."}, ""},
	} {
		got, ok := CertUser(cert(c.cert), c.users)
		if got != c.want || ok != (c.want != "") {
			t.Errorf("of %q the certificate is %q, want %q", c.users, got, c.want)
		}
	}
}

func FuzzSplitName(f *testing.F) {
	f.Add(`CN=one\, two,OU=edge+O=leafd`)
	f.Add(`=,\`)
	f.Fuzz(func(t *testing.T, s string) {
		n := 0
		for _, c := range splitName(s) {
			n += c
		}
		if n > len(s)+1 {
			t.Errorf("%d attributes in %q", n, s)
		}
	})
}
