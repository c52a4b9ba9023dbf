package packet

import "fmt"

// Reason is a version 5 reason code (v5 2.4). It also names, for either version,
// why a connection was refused or ended: that is what [Error] carries.
type Reason byte

// The reason codes in use.
const (
	Success            Reason = 0x00
	UnspecifiedError   Reason = 0x80
	MalformedPacket    Reason = 0x81
	ProtocolError      Reason = 0x82
	UnsupportedVersion Reason = 0x84
	BadClientID        Reason = 0x85
	BadCredentials     Reason = 0x86
	NotAuthorized      Reason = 0x87
	ServerUnavailable  Reason = 0x88
	ServerShuttingDown Reason = 0x8b
	KeepAliveTimeout   Reason = 0x8d
	SessionTakenOver   Reason = 0x8e
	BadTopicFilter     Reason = 0x8f
	BadTopicName       Reason = 0x90
	PacketTooLarge     Reason = 0x95
	QuotaExceeded      Reason = 0x97
	AdminAction        Reason = 0x98
)

func (r Reason) String() string {
	switch r {
	case Success:
		return "success"
	case UnspecifiedError:
		return "unspecified_error"
	case MalformedPacket:
		return "malformed_packet"
	case ProtocolError:
		return "protocol_error"
	case UnsupportedVersion:
		return "unsupported_version"
	case BadClientID:
		return "bad_client_id"
	case BadCredentials:
		return "bad_credentials"
	case NotAuthorized:
		return "not_authorized"
	case ServerUnavailable:
		return "server_unavailable"
	case ServerShuttingDown:
		return "server_shutting_down"
	case KeepAliveTimeout:
		return "keep_alive_timeout"
	case SessionTakenOver:
		return "session_taken_over"
	case BadTopicFilter:
		return "bad_topic_filter"
	case BadTopicName:
		return "bad_topic_name"
	case PacketTooLarge:
		return "packet_too_large"
	case QuotaExceeded:
		return "quota_exceeded"
	case AdminAction:
		return "administrative_action"
	}
	return fmt.Sprintf("reason_0x%02x", byte(r))
}

// returnCode is what a 3.1.1 CONNACK says for r (3.2.2.3); 0 for a reason that
// version has no code for.
func (r Reason) returnCode() byte {
	switch r {
	case UnsupportedVersion:
		return 1
	case BadClientID:
		return 2
	case ServerUnavailable:
		return 3
	case BadCredentials:
		return 4
	case NotAuthorized:
		return 5
	}
	return 0
}

func reasonOf(returnCode byte) (Reason, bool) {
	reasons := [...]Reason{Success, UnsupportedVersion, BadClientID, ServerUnavailable, BadCredentials, NotAuthorized}
	if int(returnCode) < len(reasons) {
		return reasons[returnCode], true
	}
	return 0, false
}

// Error is why a packet was not accepted.
type Error struct {
	Reason Reason
	Text   string
}

func (e *Error) Error() string { return e.Text }

// What the codecs answer to bytes that are no MQTT packet.
var (
	ErrType      = &Error{MalformedPacket, "packet type 0 is reserved"}
	ErrFlags     = &Error{MalformedPacket, "reserved flags of the first byte are wrong for the packet type"}
	ErrQoS3      = &Error{MalformedPacket, "QoS 3 does not exist"}
	ErrDupQoS0   = &Error{MalformedPacket, "DUP is set on a QoS 0 PUBLISH"}
	ErrLength    = &Error{MalformedPacket, "length takes more than four bytes"}
	ErrShort     = &Error{MalformedPacket, "packet ends inside a field"}
	ErrTrailing  = &Error{MalformedPacket, "packet goes on after its last field"}
	ErrUTF8      = &Error{MalformedPacket, "string is not valid UTF-8 or contains U+0000"}
	ErrPacketID  = &Error{ProtocolError, "packet identifier is 0"}
	ErrTopic     = &Error{BadTopicName, "topic name is empty or contains a wildcard"}
	ErrNoFilter  = &Error{ProtocolError, "no topic filter in the packet"}
	ErrOptions   = &Error{MalformedPacket, "reserved bits of the subscription options are set"}
	ErrName      = &Error{UnsupportedVersion, "protocol name is not MQTT"}
	ErrVersion   = &Error{UnsupportedVersion, "protocol level is not supported; set the device to MQTT 3.1.1"}
	ErrConnFlags = &Error{MalformedPacket, "connect flags contradict one another"}
	ErrCode      = &Error{MalformedPacket, "return code does not exist"}
)
