package leaf

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
)

// What Send answers.
var (
	ErrLinkDown = errors.New("the link to the hub is down")
	ErrLinkBusy = errors.New("too much is waiting for the hub already")
	ErrTooLarge = error(neverError("larger than the hub takes"))
	ErrDenied   = errors.New("not permitted toward the hub: its permissions for the link's user, or deny_exports here, leave it out")
)

// cause says which delay follows a failure of the link.
type cause uint8

const (
	transient cause = iota // it passes by itself: try again soon
	refused                // somebody must change a configuration: try less and less often
	looping                // messages would go round in circles: give the hub time to forget us
	tolerated              // the hub said so and goes on
	forbidden              // a subject we should not have used: leave it out, connect again
)

// linkFault is why a link ended or did not come up, with what a person can do.
type linkFault struct {
	cause  cause
	err    error
	remedy string // empty if there is nothing to do but wait
}

func (f *linkFault) Unwrap() error { return f.err }

func (f *linkFault) Error() string {
	if f.remedy == "" {
		return f.err.Error()
	}
	return f.err.Error() + "; " + f.remedy
}

// hubSaid is the text of an -ERR line of the hub.
type hubSaid string

func (h hubSaid) Error() string { return "the hub said: " + string(h) }

const remedyAuth = "correct the user, password, nkey or credentials of the link, or the hub's authorization for it"

const maxPayloadViolation = "maximum payload violation"

// hubErrors says what follows an -ERR of nats-server, by a part of its text in
// lower case.
var hubErrors = []struct {
	text   string
	cause  cause
	remedy string
}{
	{"authorization violation", refused, remedyAuth},
	{"authentication expired", refused, "renew the credentials file; it is read again at each attempt"},
	{"authentication revoked", refused, "ask the operator of the hub for new credentials"},
	{"authentication timeout", transient, "on a slow line, raise leafnodes.authorization.timeout at the hub"},
	{"permissions violation", forbidden, ""},
	{"loop detected", looping, "two paths lead from this gateway to the same hub: remove one"},
	{"same cluster name", looping, "give the hub's cluster another name"},
	{"minimum version required", refused, "lower leafnodes.min_version at the hub, or update leafd"},
	{"duplicate remote leafnode", refused, "another gateway connects with the same server_name: give each its own"},
	{"connect to leaf node port", refused, "connect to a leafnode port, 7422 unless the hub's configuration says otherwise"},
	{"cluster name", refused, "correct the cluster name at the hub"},
	{maxPayloadViolation, transient, ""},
	{"connections exceeded", refused, "raise the limit of connections at the hub, or close others"},
	{"maximum subscriptions exceeded", tolerated, "raise the limit of subscriptions at the hub: some of what is subscribed here does not reach it"},
	{"invalid subscription", tolerated, ""},
	{"invalid subject", tolerated, ""},
}

// hubFault explains what the hub complains of.
func hubFault(text string) *linkFault {
	lower := strings.ToLower(text)
	for _, e := range hubErrors {
		if strings.Contains(lower, e.text) {
			return &linkFault{e.cause, hubSaid(text), e.remedy}
		}
	}
	return &linkFault{transient, hubSaid(text), ""}
}

// forbiddenSubject takes the subject out of a permissions violation:
// Permissions Violation for Publish to "x", … for Subscription to "x".
func forbiddenSubject(text string) (subject string, publish, ok bool) {
	_, rest, _ := strings.Cut(text, `"`)
	subject, _, ok = strings.Cut(rest, `"`)
	return subject, strings.Contains(strings.ToLower(text), "violation for publish"), ok && subject != ""
}

// faultOf explains an error of the connection itself.
func faultOf(err error) *linkFault {
	var f *linkFault
	var pe *ProtoError
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &pe):
		return &linkFault{refused, fmt.Errorf("the hub does not speak the leafnode protocol: %w", pe), ""}
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return &linkFault{transient, errors.New("the hub closed the connection"), ""}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &linkFault{transient, errors.New("the hub does not answer"), ""}
	}
	remedy := ""
	if errors.Is(err, syscall.ECONNREFUSED) {
		remedy = "nothing listens there now"
	}
	if oe := (*net.OpError)(nil); errors.As(err, &oe) { // without the ports, that differ each time
		err = fmt.Errorf("%s: %w", oe.Op, oe.Err)
	}
	return &linkFault{transient, err, remedy}
}

var (
	errStaleHub = &linkFault{transient, errors.New("the hub has not answered for too long"), ""}
	errStuck    = &linkFault{transient, errors.New("the hub was away, and greets new connections again"), ""}
	errAskAgain = &linkFault{transient, errors.New("an outbox needs what the hub does not permit"),
		"connecting again: a hub that is reloaded tells its permissions to new links only"}
	errWrongPort = &linkFault{refused, errors.New("this is not a leafnode port"),
		"connect to the port of the hub's leafnodes block, 7422 unless it says otherwise"}
	errHubWantsTLS = &linkFault{refused, errors.New("the hub requires TLS, and leafd does not have TLS on links yet"),
		"give the hub a leafnode port without TLS that only trusted networks reach, or a tunnel"}
	errNoInfo = &linkFault{transient, errors.New("the hub sent no INFO in time"),
		"is it the port of its leafnodes block, and without TLS?"}
	errNoSecondInfo = &linkFault{transient, errors.New("the hub did not answer CONNECT in time"), ""}
	errLoop         = &linkFault{looping, errors.New("loop detected: the hub sent back this link's own mark"),
		"two paths lead from this gateway to the same hub: remove one"}
	errTooMuchInterest = &linkFault{refused, errors.New("the hub announces more subscriptions than this gateway holds"),
		"narrow what the hub lets this gateway see with permissions, or raise the limit of interest"}
)

// neverError is why a message will not pass, however often it is sent.
type neverError string

func (e neverError) Error() string { return string(e) }

// Permanent tells whoever keeps the message that keeping it is of no use.
func (e neverError) Permanent() bool { return true }
