package mqttbridge

import (
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/leafd/leafd/internal/msg"
)

// A topic and a subject are the same list of names in two notations:
//
//	topic    levels between "/"     may be empty     may contain "."
//	subject  tokens between "."     never empty      may contain "/"
//
// so an empty level is written as the token "/", and "." inside a level as "//".
// No other "/" is ever written, hence every topic comes back as it was. A subject
// that a NATS client made up may contain a lone "/"; it is dropped on the way to
// a topic. This is the notation of nats-server, byte for byte, so that devices
// and dashboards keep their names when either side is replaced.
//
// "*" and ">" are ordinary bytes of a topic and are copied. A device that
// publishes to "a/*" publishes to the subject "a.*", literally, and one that
// subscribes to it has subscribed to a wildcard.

// maxSubject bounds what a topic may become, in bytes. It is the control line a
// NATS client has for a subject; a longer one could make the hub cut the uplink.
const maxSubject = 4096

// errTopic says that a topic, well formed as it is, has no subject: it contains
// white space or a control character, or it is too long.
var errTopic = errors.New("topic contains white space or control characters, or is too long for a subject")

// errFilter says that a topic filter breaks the rules for wildcards.
var errFilter = errors.New(`topic filter is empty or has a wildcard "+" or "#" out of place`)

// appendSubject appends the subject of a topic, which must be a valid one.
func appendSubject(dst, topic []byte) ([]byte, error) {
	start := len(dst)
	empty := true // the level has no byte yet
	for _, c := range topic {
		switch {
		case c == '/':
			if empty {
				dst = append(dst, '/')
			}
			dst = append(dst, '.')
			empty = true
			continue
		case c == '.':
			dst = append(dst, '/', '/')
		case c <= ' ' || c == 0x7f:
			return dst, errTopic
		default:
			dst = append(dst, c)
		}
		empty = false
	}
	if empty {
		dst = append(dst, '/')
	}
	if len(dst)-start > maxSubject {
		return dst, errTopic
	}
	return dst, nil
}

// filterSubjects returns the subject that a topic filter subscribes to and, for
// one that ends in "/#", the subject of the level above, which "#" includes
// [4.7.1.2] and ">" does not. It is empty if there is none.
func filterSubjects(filter string) (subject, above string, err error) {
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		switch {
		case level == "+": // [MQTT-4.7.1-3]
			levels[i] = "*"
			continue
		case level == "#" && i == len(levels)-1: // [MQTT-4.7.1-2]
			levels[i] = ">"
			continue
		case filter == "" || strings.ContainsAny(level, "+#"): // [MQTT-4.7.3-1]
			return "", "", errFilter
		}
		token, err := appendSubject(nil, []byte(level))
		if err != nil {
			return "", "", err
		}
		levels[i] = string(token)
	}
	subject = strings.Join(levels, ".")
	if len(subject) > maxSubject || !msg.ValidFilter(subject) { // a literal ">" that is not last
		return "", "", errTopic
	}
	if strings.HasSuffix(filter, "/#") && filter != "/#" { // above "/#" is the empty topic, which is none
		above = subject[:len(subject)-len(".>")]
	}
	return subject, above, nil
}

// appendTopic appends the topic of a subject. It returns false for a subject that
// is no topic: it contains "+" or "#", is not UTF-8, or nothing is left of it, or
// more than 65,535 bytes are.
func appendTopic(dst, subject []byte) ([]byte, bool) {
	start, ascii := len(dst), true
	for i := 0; i < len(subject); i++ {
		switch c := subject[i]; c {
		case '.':
			dst = append(dst, '/')
		case '/':
			if i+1 < len(subject) && subject[i+1] == '/' {
				dst = append(dst, '.')
				i++
			}
		case '+', '#', 0: // [MQTT-3.3.2-2] [MQTT-4.7.3-2]
			return dst, false
		default:
			ascii = ascii && c < utf8.RuneSelf
			dst = append(dst, c)
		}
	}
	topic := dst[start:]
	return dst, len(topic) > 0 && len(topic) <= 0xffff && (ascii || utf8.Valid(topic)) // [MQTT-4.7.3-1] [MQTT-4.7.3-3] [MQTT-3.3.2-1]
}

// hidden reports whether MQTT keeps a subject from a subscription that matches
// it: a filter that starts with a wildcard does not see names that start with "$"
// [MQTT-4.7.2-1].
func hidden(subscribed string, subject []byte) bool {
	return subject[0] == '$' && (subscribed[0] == '*' || subscribed[0] == '>')
}
