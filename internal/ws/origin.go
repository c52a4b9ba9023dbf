package ws

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// Origin is where a page comes from, as browsers say in the header of that name.
type Origin struct{ scheme, host, port string }

// ParseOrigin reads "https://example.com:8443"; without a port it is that of the scheme.
func ParseOrigin(s string) (Origin, error) {
	u, err := url.ParseRequestURI(s)
	if err != nil || u.Host == "" || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return Origin{}, fmt.Errorf("%q is not the origin of a page, such as https://example.com", s)
	}
	o := origin(u.Scheme, u.Host)
	if o.host == "" || strings.ContainsAny(o.host, "[]") {
		return Origin{}, fmt.Errorf("%q has no host that is one", s)
	}
	return o, nil
}

func origin(scheme, hostport string) Origin {
	scheme = strings.ToLower(scheme)
	o := Origin{scheme: scheme, host: hostport, port: "80"}
	if scheme == "https" {
		o.port = "443"
	}
	if h, p, err := net.SplitHostPort(hostport); err == nil {
		o.host, o.port = h, cmp.Or(p, o.port)
	}
	if strings.HasPrefix(o.host, "[") {
		o.host = strings.TrimSuffix(o.host[1:], "]")
	}
	o.host = strings.ToLower(o.host)
	return o
}

// String is the origin as the file may have it.
func (o Origin) String() string {
	if o == origin(o.scheme, o.host) && !strings.Contains(o.host, ":") {
		return o.scheme + "://" + o.host
	}
	return o.scheme + "://" + net.JoinHostPort(o.host, o.port)
}

var (
	errNotSameOrigin = errors.New("not same origin")
	errNotAllowed    = errors.New("not in the allowed list")
)

// checkOrigin is for browsers: other programs need not say an origin, and may say any.
// [RFC 6455 1.6]
func (s *Server) checkOrigin(r *http.Request) error {
	given := cmp.Or(r.Header.Get("Origin"), r.Header.Get("Sec-Websocket-Origin"))
	if given == "" || !s.opts.SameOrigin && len(s.opts.Origins) == 0 {
		return nil
	}
	o, err := ParseOrigin(given)
	if err != nil {
		return err
	}
	scheme := "http"
	if s.opts.TLS != nil {
		scheme = "https"
	}
	if s.opts.SameOrigin && o != origin(scheme, r.Host) {
		return errNotSameOrigin
	}
	for _, ok := range s.opts.Origins {
		if o == ok {
			return nil
		}
	}
	if len(s.opts.Origins) > 0 {
		return errNotAllowed
	}
	return nil
}
