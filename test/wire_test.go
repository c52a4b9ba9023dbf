package test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

// wireCases are what clients, good and bad, may say. There is no expectation beside
// them: what a stock nats-server answers is the expectation, byte for byte. %PING% is
// answered by a PONG if the connection is still there; in between all that comes is
// gathered.
var wireCases = []struct{ name, send string }{
	// How a connection begins.
	{"ping alone", "PING\r\n"},
	{"connect, ping", "CONNECT {}\r\nPING\r\n"},
	{"verbose connect", "CONNECT {\"verbose\":true}\r\nPING\r\n"},
	{"connect twice", "CONNECT {\"verbose\":true}\r\nCONNECT {\"verbose\":false}\r\nPING\r\n"},
	{"connect after publish", "SUB a 1\r\nPUB a 1\r\nx\r\nCONNECT {\"headers\":true}\r\nPING\r\n"},
	{"connect with junk", "CONNECT junk\r\nPING\r\n"},
	{"connect null", "CONNECT null\r\nPING\r\n"},
	{"connect array", "CONNECT []\r\nPING\r\n"},
	{"connect empty", "CONNECT \r\nPING\r\n"},
	{"connect without argument", "CONNECT\r\nPING\r\n"},
	{"connect truncated", "CONNECT {\"verbose\":tr\r\nPING\r\n"},
	{"connect wrong types", "CONNECT {\"verbose\":\"yes\"}\r\nPING\r\n"},
	{"connect wrong type of name", "CONNECT {\"name\":5}\r\nPING\r\n"},
	{"connect huge number", "CONNECT {\"protocol\":1e400}\r\nPING\r\n"},
	{"connect protocol 99", "CONNECT {\"protocol\":99}\r\nPING\r\n"},
	{"connect protocol -1", "CONNECT {\"protocol\":-1}\r\nPING\r\n"},
	{"connect duplicate keys", "CONNECT {\"verbose\":false,\"verbose\":true}\r\nPING\r\n"},
	{"connect unknown keys", "CONNECT {\"colour\":\"blue\"}\r\nPING\r\n"},
	{"connect deep", "CONNECT {\"name\":" + strings.Repeat("[", 2000) + "}\r\nPING\r\n"},
	{"connect deeper than a line", "CONNECT {\"name\":" + strings.Repeat("[", 1e5) + "}\r\nPING\r\n"},
	{"connect with credentials nobody asked for", "CONNECT {\"user\":\"u\",\"pass\":\"p\",\"auth_token\":\"t\"}\r\nPING\r\n"},
	{"connect with a jwt", "CONNECT {\"jwt\":\"x\",\"sig\":\"y\"}\r\nPING\r\n"},
	{"connect with a jwt that nobody signed", "CONNECT {\"jwt\":\"eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0.e30.\",\"sig\":\"\"}\r\nPING\r\n"},
	{"connect with an nkey", "CONNECT {\"nkey\":\"UX\",\"sig\":\"y\"}\r\nPING\r\n"},
	{"no responders without headers", "CONNECT {\"no_responders\":true}\r\nPING\r\n"},
	{"no responders, headers off", "CONNECT {\"no_responders\":true,\"headers\":false}\r\nPING\r\n"},
	{"connect asks for TLS", "CONNECT {\"tls_required\":true}\r\nPING\r\n"},

	// Lines.
	{"lower case", "connect {}\r\nsub a 1\r\npub a 1\r\nx\r\nping\r\n"},
	{"mixed case", "cOnNeCt {}\r\nSuB a 1\r\nPuB a 1\r\nx\r\nPiNg\r\n"},
	{"CR alone", "CONNECT {}\rSUB a 1\rPUB a 1\rx\rPING\r"},
	{"CR before CR LF", "CONNECT {}\r\r\nSUB a 1\r\r\nPING\r\r\n"},
	{"CR in a line", "SUB a\rb 1\r\nPUB a 1\r\nx\r\nPING\r\n"},
	{"many pings", strings.Repeat("PING\r\n", 10000)},
	{"LF alone", "CONNECT {}\nSUB a 1\nPUB a 1\nx\r\nPING\n"},
	{"NUL", "PING\x00\r\nPING\r\n"},
	{"tabs and spaces", "SUB \t a \t 1 \r\nPUB\ta\t\t1\r\nx\r\nPING \r\n"},
	{"leading space", " PING\r\n"},
	{"empty line", "\r\nPING\r\n"},
	{"empty lines", "\n\n"},
	{"unknown verb", "HELLO\r\nPING\r\n"},
	{"verb cut short", "PIN\r\nPING\r\n"},
	{"ping with arguments", "PING a b\r\nPING\r\n"},
	{"pong unasked", "PONG\r\nPONG\r\nPING\r\n"},
	{"high bytes", "\x80\xff\r\nPING\r\n"},
	{"HTTP", "GET / HTTP/1.1\r\n\r\n"},
	{"server's verbs", "MSG a 1 1\r\nx\r\nPING\r\n"},
	{"HMSG", "HMSG a 1 12 13\r\nNATS/1.0\r\n\r\nx\r\nPING\r\n"},
	{"INFO", "INFO {}\r\nPING\r\n"},
	{"+OK", "+OK\r\nPING\r\n"},
	{"-ERR", "-ERR 'x'\r\nPING\r\n"},
	{"LS+", "LS+ a\r\nPING\r\n"},
	{"RS+", "RS+ $G a\r\nPING\r\n"},
	{"LMSG", "LMSG a 1\r\nx\r\nPING\r\n"},
	{"control line 4095", "SUB " + strings.Repeat("s", 4095-2) + " 1\r\nPING\r\n"},
	{"control line 4096", "SUB " + strings.Repeat("s", 4096-2) + " 1\r\nPING\r\n"},
	{"control line 4097", "SUB " + strings.Repeat("s", 4097-2) + " 1\r\nPING\r\n"},
	{"control line 5000", "PUB " + strings.Repeat("s", 5000) + " 1\r\nx\r\nPING\r\n"},
	{"endless line", "SUB " + strings.Repeat("s", 70000)},

	// Publishing.
	{"publish", "SUB a 1\r\nPUB a 5\r\nhello\r\nPING\r\n"},
	{"publish, verbose", "CONNECT {\"verbose\":true}\r\nSUB a 1\r\nPUB a 5\r\nhello\r\nUNSUB 1\r\nPING\r\n"},
	{"publish nothing", "SUB a 1\r\nPUB a 0\r\n\r\nPING\r\n"},
	{"publish with reply", "SUB a 1\r\nPUB a r 1\r\nx\r\nPING\r\n"},
	{"PUB without arguments", "PUB\r\nPING\r\n"},
	{"PUB without size", "PUB a\r\nPING\r\n"},
	{"PUB of four", "PUB a b c 1\r\nx\r\nPING\r\n"},
	{"size of letters", "PUB a x\r\nx\r\nPING\r\n"},
	{"size negative", "PUB a -1\r\nx\r\nPING\r\n"},
	{"size signed", "PUB a +1\r\nx\r\nPING\r\n"},
	{"size hexadecimal", "PUB a 0x1\r\nx\r\nPING\r\n"},
	{"size octal", "PUB a 007\r\nseven b\r\nPING\r\n"},
	{"size with many zeroes", "SUB a 1\r\nPUB a 0000000000001\r\nx\r\nPING\r\n"},
	{"size huge", "PUB a 99999999999999999999\r\nx\r\nPING\r\n"},
	{"size over max_payload", "PUB a 1048577\r\nx\r\nPING\r\n"},
	{"size a fraction", "PUB a 1.0\r\nx\r\nPING\r\n"},
	{"payload longer", "PUB a 1\r\nxyz\r\nPING\r\n"},
	{"payload shorter", "PUB a 5\r\nxyz\r\nPING\r\nPING\r\n"},
	{"payload without end", "SUB a 1\r\nPUB a 1\r\nxPING\r\n"},
	{"payload ends in LF", "SUB a 1\r\nPUB a 1\r\nx\nPING\r\n"},
	{"payload of line ends", "SUB a 1\r\nPUB a 4\r\n\r\n\r\n\r\nPING\r\n"},
	{"subject empty token", "SUB > 1\r\nPUB a..b 1\r\nx\r\nPING\r\n"},
	{"subject leading dot", "SUB > 1\r\nPUB .a 1\r\nx\r\nPING\r\n"},
	{"subject trailing dot", "SUB > 1\r\nPUB a. 1\r\nx\r\nPING\r\n"},
	{"subject a dot", "SUB > 1\r\nPUB . 1\r\nx\r\nPING\r\n"},
	{"wildcards in a subject", "SUB a.* 1\r\nPUB a.* 1\r\nx\r\nPUB a.> 1\r\nx\r\nPING\r\n"},
	{"wildcards in a subject, pedantic", "CONNECT {\"pedantic\":true}\r\nPUB a.* 1\r\nx\r\nPUB a.> 1\r\nx\r\nPUB a..b 1\r\nx\r\nPING\r\n"},
	{"pedantic bad reply", "CONNECT {\"pedantic\":true}\r\nSUB a 1\r\nPUB a b.* 1\r\nx\r\nPING\r\n"},
	{"pedantic good", "CONNECT {\"pedantic\":true,\"verbose\":true}\r\nSUB a 1\r\nPUB a 1\r\nx\r\nPING\r\n"},
	{"subject of legal bytes", "SUB ä.$/\\\"'{}[]() 1\r\nPUB ä.$/\\\"'{}[]() 1\r\nx\r\nPING\r\n"},
	{"subject with a NUL", "SUB > 1\r\nPUB a\x00b 1\r\nx\r\nPING\r\n"},
	{"subject with a control byte", "SUB > 1\r\nPUB a\x01b 1\r\nx\r\nPING\r\n"},
	{"subject with DEL", "SUB > 1\r\nPUB a\x7fb 1\r\nx\r\nPING\r\n"},
	{"subject not UTF-8", "SUB > 1\r\nPUB a\xff\xfe 1\r\nx\r\nPING\r\n"},
	{"subject of many tokens", "SUB > 1\r\nPUB " + strings.Repeat("a.", 300) + "a 1\r\nx\r\nPING\r\n"},
	{"subject of ten thousand tokens", "SUB > 1\r\nPUB " + strings.Repeat("a.", 1e4) + "a 1\r\nx\r\nPING\r\n"},
	{"subject of a megabyte", "SUB > 1\r\nPUB " + strings.Repeat("a", 1<<20) + " 1\r\nx\r\nPING\r\n"},
	{"no subject", "SUB > 1\r\nPUB  1\r\nx\r\nPING\r\n"},
	{"star inside a token", "SUB a*b 1\r\nPUB a*b 1\r\nx\r\nPING\r\n"},
	{"greater inside a token", "SUB a>b 1\r\nPUB a>b 1\r\nx\r\nPING\r\n"},
	{"unused inbox", "CONNECT {\"headers\":true}\r\nPUB nobody _INBOX.x 1\r\nx\r\nPING\r\n"},
	{"echo off", "CONNECT {\"echo\":false}\r\nSUB a 1\r\nPUB a 1\r\nx\r\nPING\r\n"},
	{"echo off, queue", "CONNECT {\"echo\":false}\r\nSUB a q 1\r\nPUB a 1\r\nx\r\nPING\r\n"},
	{"system subject", "SUB > 1\r\nPUB $SYS.x 1\r\nx\r\nPUB $JS.x 1\r\nx\r\nPUB _INBOX.x 1\r\nx\r\nPING\r\n"},

	// Headers.
	{"headers", "CONNECT {\"headers\":true}\r\nSUB a 1\r\nHPUB a 12 14\r\nNATS/1.0\r\n\r\nhi\r\nPING\r\n"},
	{"headers with reply", "CONNECT {\"headers\":true}\r\nSUB a 1\r\nHPUB a r 12 14\r\nNATS/1.0\r\n\r\nhi\r\nPING\r\n"},
	{"headers only", "CONNECT {\"headers\":true}\r\nSUB a 1\r\nHPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\nPING\r\n"},
	{"a header", "CONNECT {\"headers\":true}\r\nSUB a 1\r\nHPUB a 18 18\r\nNATS/1.0\r\na: b\r\n\r\n\r\nPING\r\n"},
	{"header line without colon", "CONNECT {\"headers\":true}\r\nSUB a 1\r\nHPUB a 17 17\r\nNATS/1.0\r\nabc\r\n\r\n\r\nPING\r\n"},
	{"header folded", hpub("NATS/1.0\r\na: b\r\n c\r\n\r\n")},
	{"header with line ends in its value", hpub("NATS/1.0\r\na: b\rc\nd\r\n\r\n")},
	{"header with an operation in it", hpub("NATS/1.0\r\na: b\r\n\r\nPUB a 1\r\nx\r\n\r\n")},
	{"hundred thousand headers", hpub("NATS/1.0\r\n" + strings.Repeat("a:b\r\n", 1e5) + "\r\n")},
	{"header of another version", hpub("NATS/9.9\r\n\r\n")},
	{"header that is none", "CONNECT {\"headers\":true}\r\nSUB a 1\r\nHPUB a 5 5\r\nhello\r\nPING\r\n"},
	{"header size 0", "CONNECT {\"headers\":true}\r\nSUB a 1\r\nHPUB a 0 2\r\nhi\r\nPING\r\n"},
	{"header larger than all", "CONNECT {\"headers\":true}\r\nSUB a 1\r\nHPUB a 20 12\r\nNATS/1.0\r\n\r\n\r\nPING\r\n"},
	{"header negative", "CONNECT {\"headers\":true}\r\nHPUB a -1 12\r\nNATS/1.0\r\n\r\n\r\nPING\r\n"},
	{"header huge", "CONNECT {\"headers\":true}\r\nHPUB a 99999999999 99999999999\r\nNATS/1.0\r\n\r\n\r\nPING\r\n"},
	{"HPUB over max_payload", "CONNECT {\"headers\":true}\r\nHPUB a 12 1048577\r\nNATS/1.0\r\n\r\n\r\nPING\r\n"},
	{"HPUB without sizes", "CONNECT {\"headers\":true}\r\nHPUB a\r\nPING\r\n"},
	{"HPUB with one size", "CONNECT {\"headers\":true}\r\nHPUB a 12\r\nNATS/1.0\r\n\r\n\r\nPING\r\n"},
	{"HPUB of five", "CONNECT {\"headers\":true}\r\nHPUB a b c 12 12\r\nNATS/1.0\r\n\r\n\r\nPING\r\n"},
	{"headers not asked for", "CONNECT {}\r\nSUB a 1\r\nHPUB a 12 14\r\nNATS/1.0\r\n\r\nhi\r\nPING\r\n"},
	{"headers without connect", "SUB a 1\r\nHPUB a 12 14\r\nNATS/1.0\r\n\r\nhi\r\nPING\r\n"},
	{"headers turned off", "CONNECT {\"headers\":true}\r\nSUB a 1\r\nCONNECT {\"headers\":false}\r\nHPUB a 12 14\r\nNATS/1.0\r\n\r\nhi\r\nPING\r\n"},
	{"no responders", "CONNECT {\"headers\":true,\"no_responders\":true}\r\nSUB r.> 1\r\nPUB nobody r.x 1\r\nx\r\nPING\r\n"},
	{"no responders, verbose", "CONNECT {\"headers\":true,\"no_responders\":true,\"verbose\":true}\r\nSUB r.> 1\r\nPUB nobody r.x 1\r\nx\r\nPING\r\n"},
	{"no responders, header request", "CONNECT {\"headers\":true,\"no_responders\":true}\r\nSUB r.> 1\r\nHPUB nobody r.x 12 12\r\nNATS/1.0\r\n\r\n\r\nPING\r\n"},
	{"no responders, reply to a queue", "CONNECT {\"headers\":true,\"no_responders\":true}\r\nSUB r.> q 1\r\nPUB nobody r.x 1\r\nx\r\nPING\r\n"},
	{"no responders, echo off", "CONNECT {\"headers\":true,\"no_responders\":true,\"echo\":false}\r\nSUB r.> 1\r\nSUB nobody 2\r\nPUB nobody r.x 1\r\nx\r\nPING\r\n"},
	{"no responders, no reply subscription", "CONNECT {\"headers\":true,\"no_responders\":true}\r\nPUB nobody r.x 1\r\nx\r\nPING\r\n"},

	// Subscribing.
	{"SUB without arguments", "SUB\r\nPING\r\n"},
	{"SUB without sid", "SUB a\r\nPING\r\n"},
	{"SUB of four", "SUB a b c d\r\nPING\r\n"},
	{"subscribe twice", "SUB a 1\r\nSUB a 2\r\nPUB a 1\r\nx\r\nUNSUB 1\r\nPUB a 1\r\ny\r\nPING\r\n"},
	{"sid again", "SUB a 1\r\nSUB b 1\r\nPUB b 1\r\nx\r\nPUB a 1\r\ny\r\nPING\r\n"},
	{"sid of letters", "SUB a x-y.z\r\nPUB a 1\r\nx\r\nUNSUB x-y.z\r\nPUB a 1\r\nx\r\nPING\r\n"},
	{"bad filters", "SUB a..b 1\r\nSUB .a 2\r\nSUB a. 3\r\nSUB > 4\r\nSUB a.>.b 5\r\nPING\r\n"},
	{"bad filters, verbose", "CONNECT {\"verbose\":true}\r\nSUB a..b 1\r\nSUB a.>.b 5\r\nPING\r\n"},
	{"bad filters, pedantic", "CONNECT {\"pedantic\":true}\r\nSUB a..b 1\r\nSUB a.>.b 5\r\nPING\r\n"},
	{"bad queue", "SUB a q..r 1\r\nPUB a 1\r\nx\r\nPING\r\n"},
	{"wildcard queue", "SUB a q* 1\r\nPUB a 1\r\nx\r\nPING\r\n"},
	{"queue of two members", "SUB a q 1\r\nSUB a q 2\r\nUNSUB 2\r\nPUB a 1\r\nx\r\nPING\r\n"},
	{"wildcard filters", "SUB *.b 1\r\nPUB a.b 1\r\nx\r\nPUB a.c 1\r\nx\r\nPUB a.b.c 1\r\nx\r\nPUB b 1\r\nx\r\nPING\r\n"},
	{"greater matches no less", "SUB a.> 1\r\nPUB a 1\r\nx\r\nPUB a.b 1\r\nx\r\nPUB a.b.c 1\r\nx\r\nPING\r\n"},
	{"filters with $", "SUB $SYS.> 1\r\nSUB $X 2\r\nPUB $X 1\r\nx\r\nPING\r\n"},

	// Unsubscribing.
	{"UNSUB without arguments", "UNSUB\r\nPING\r\n"},
	{"UNSUB of three", "UNSUB 1 2 3\r\nPING\r\n"},
	{"UNSUB unknown", "UNSUB 99\r\nPING\r\n"},
	{"UNSUB unknown, verbose", "CONNECT {\"verbose\":true}\r\nUNSUB 99\r\nPING\r\n"},
	{"UNSUB max", "SUB a 1\r\nUNSUB 1 2\r\nPUB a 1\r\nx\r\nPUB a 1\r\ny\r\nPUB a 1\r\nz\r\nPING\r\n"},
	{"UNSUB max 0", "SUB a 1\r\nUNSUB 1 0\r\nPUB a 1\r\nx\r\nPING\r\n"},
	{"UNSUB max reached already", "SUB a 1\r\nPUB a 1\r\nx\r\nPUB a 1\r\nx\r\nUNSUB 1 1\r\nPUB a 1\r\nx\r\nPING\r\n"},
	{"UNSUB max raised", "SUB a 1\r\nUNSUB 1 1\r\nUNSUB 1 2\r\nPUB a 1\r\nx\r\nPUB a 1\r\ny\r\nPUB a 1\r\nz\r\nPING\r\n"},
	{"UNSUB negative max", "SUB a 1\r\nUNSUB 1 -1\r\nPUB a 1\r\nx\r\nPING\r\n"},
	{"UNSUB max of letters", "SUB a 1\r\nUNSUB 1 x\r\nPUB a 1\r\nx\r\nPING\r\n"},
	{"UNSUB max overflow", "SUB a 1\r\nUNSUB 1 99999999999999999999\r\nPUB a 1\r\nx\r\nPING\r\n"},
	{"sid free after UNSUB", "SUB a 1\r\nUNSUB 1\r\nSUB b 1\r\nPUB a 1\r\nx\r\nPUB b 1\r\ny\r\nPING\r\n"},
	{"sid free after max", "SUB a 1\r\nUNSUB 1 1\r\nPUB a 1\r\nx\r\nSUB b 1\r\nPUB b 1\r\ny\r\nPING\r\n"},
}

// hpub has a client with one subscription publish a header, and nothing after it.
func hpub(header string) string {
	return fmt.Sprintf("CONNECT {\"headers\":true}\r\nSUB a 1\r\nHPUB a %d %d\r\n%s\r\nPING\r\n", len(header), len(header), header)
}

// TestWireLikeNatsServer says each of wireCases to leafd and to a stock nats-server and
// wants the same answer: whole, byte by byte, and cut in two at each of some places.
func TestWireLikeNatsServer(t *testing.T) {
	stock := testkit.StartHub(t, testkit.HubOptions{})
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: `host: "127.0.0.1", port: $LEAFD_NATS_PORT, http: $LEAFD_HTTP_PORT`})
	// A connection that is gone for its client may be there still, with its subscriptions.
	alone := func(connections func() int) {
		testkit.Eventually(t, func() bool { return connections() == 0 }, "the last client is gone")
	}
	us, them := testkit.Addr(l.NATSPort), strings.TrimPrefix(stock.ClientURL(), "nats://")
	for _, tc := range wireCases {
		t.Run(tc.name, func(t *testing.T) {
			alone(func() int { return stock.Varz().Connections })
			want := sayTo(t, dialer(them, nil), tc.send)
			for _, parts := range splits(tc.send) {
				alone(func() int {
					var v testkit.Varz
					l.Get("/varz", &v)
					return v.Connections
				})
				got := sayTo(t, dialer(us, nil), parts...)
				if got != want && !saysWhy(got, want) && inOneOrder(got) != inOneOrder(want) {
					t.Fatalf("said %.100q in %d parts\nleafd answers       %.400q\nnats-server answers %.400q", tc.send, len(parts), got, want)
				}
			}
		})
	}
}

// TestWireOverTLSAndBeforeGarbage says each of wireCases in clear and inside TLS, alone and
// with 64 KiB of garbage behind it: what was said first is answered in the same way, and
// the garbage ends the connection, which is told so.
func TestWireOverTLSAndBeforeGarbage(t *testing.T) {
	f := newTLSFiles(t)
	conf := `host: "127.0.0.1", port: $LEAFD_NATS_PORT, http: $LEAFD_HTTP_PORT` + "\n"
	clear := testkit.StartLeafd(t, testkit.LeafdOptions{Config: conf})
	inside := testkit.StartLeafd(t, testkit.LeafdOptions{Config: conf + f.block("")})
	garbage := strings.Repeat("\x00\xffgarbage", 64<<10/9)
	for _, tc := range wireCases {
		t.Run(tc.name, func(t *testing.T) {
			var want string
			for i, l := range []*testkit.Leafd{clear, inside} {
				dial := dialer(testkit.Addr(l.NATSPort), []*tls.Config{nil, f.ca.Client("", "")}[i])
				alone := func() {
					testkit.Eventually(t, func() bool {
						var v testkit.Varz
						l.Get("/varz", &v)
						return v.Connections == 0
					}, "the last client is gone")
				}
				alone()
				got := sayTo(t, dial, tc.send)
				if i == 0 {
					want = got
				}
				if inOneOrder(got) != inOneOrder(want) && tc.name != "connect asks for TLS" {
					t.Fatalf("said %.100q\ninside TLS the answer is %.400q\nin clear                 %.400q", tc.send, got, want)
				}
				alone()
				dirty := sayTo(t, dial, tc.send, garbage)
				if strings.HasSuffix(got, "<end>") {
					// Garbage after a line without its end is of that line.
					if inOneOrder(dirty) != inOneOrder(got) && (strings.HasSuffix(tc.send, "\n") || !strings.HasSuffix(dirty, "'\r\n<end>")) {
						t.Fatalf("said %.100q\nbefore garbage the answer is %.400q\nalone                        %.400q", tc.send, dirty, got)
					}
					continue
				}
				if clean := ofTheEnd.ReplaceAllString(got, "-ERR 'Unknown Protocol Operation'\r\n<end>"); inOneOrder(dirty) != inOneOrder(clean) {
					t.Fatalf("said %.100q\nbefore garbage the answer is %.400q\nnot                          %.400q", tc.send, dirty, clean)
				}
			}
		})
	}
}

// ofTheEnd is what sayTo's last words are answered.
var ofTheEnd = regexp.MustCompile(`(\+OK\r\n)?(MSG wire\.end \w+ 0\r\n\r\n)?PONG\r\n$`)

// inOneOrder sorts what the subscriptions 1 and 2 of one connection get of one message: in
// which order nats-server's map of subscriptions gives it to them is chance.
func inOneOrder(answer string) string {
	return backward.ReplaceAllStringFunc(answer, func(two string) string {
		m := backward.FindStringSubmatch(two)
		if m[1] != m[2] {
			return two
		}
		return "MSG a 1 1\r\n" + m[1] + "MSG a 2 1\r\n" + m[1]
	})
}

var backward = regexp.MustCompile(`MSG a 2 1\r\n(\w\r\n)MSG a 1 1\r\n(\w\r\n)`)

// saysWhy reports whether the answers differ only in that leafd says why it hangs up, where
// nats-server does so without a word.
func saysWhy(got, want string) bool {
	before, ok := strings.CutSuffix(want, "<end>")
	rest, same := strings.CutPrefix(got, before)
	return ok && same && oneError.MatchString(rest)
}

var oneError = regexp.MustCompile(`^-ERR '(Parser Error|message headers not supported|maximum control line exceeded)'\r\n<end>$`)

// splits are ways in which the bytes may come.
func splits(s string) (ways [][]string) {
	ways = append(ways, []string{s})
	if len(s) > 300 {
		return append(ways, []string{s[:len(s)/2], s[len(s)/2:]})
	}
	return append(ways, strings.Split(s, ""), []string{s[:len(s)/3], s[len(s)/3:]})
}

// dialer connects, and has heard INFO; then it speaks TLS if it is told how.
func dialer(addr string, c *tls.Config) func() (net.Conn, error) {
	return func() (net.Conn, error) {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			return nil, err
		}
		nc.SetDeadline(time.Now().Add(testkit.Patience))
		for b := []byte{0}; b[0] != '\n'; { // no byte more: what follows may be TLS
			if _, err := io.ReadFull(nc, b); err != nil {
				return nil, err
			}
		}
		if c != nil {
			nc = tls.Client(nc, c)
		}
		return nc, nil
	}
}

var volatile = regexp.MustCompile(`INFO \{[^\n]*\n`)

// sayTo sends what a client says in parts, and returns all that comes until the answer to a
// last PING, or the end of the connection, which is marked.
func sayTo(t *testing.T, dial func() (net.Conn, error), parts ...string) string {
	nc, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	r := bufio.NewReader(nc)
	for _, p := range parts {
		if _, err := io.WriteString(nc, p); err != nil {
			break // it hung up; what it said is still to be read
		}
	}
	fmt.Fprintf(nc, "PUB wire.end 0\r\n\r\nPING\r\n")
	var got strings.Builder
	pings := strings.Count(strings.ToUpper(strings.Join(parts, "")), "PING") + 1
	for pings > 0 {
		line, err := r.ReadString('\n')
		got.WriteString(line)
		if err != nil {
			got.WriteString("<end>")
			break
		}
		if line == "PONG\r\n" {
			pings--
		}
		if strings.HasSuffix(got.String(), "wire.end 0\r\n") { // an open payload swallowed the rest
			break
		}
	}
	return volatile.ReplaceAllString(got.String(), "")
}
