package mqttbridge

import (
	"cmp"
	"errors"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/leaf"
	"github.com/leafd/leafd/mqttbridge/packet"
)

// info describes the session as it is now. Safe for any goroutine.
func (s *session) info() leaf.ConnInfo {
	t := &s.traffic
	i := leaf.ConnInfo{ID: s.id, Type: "mqtt", Start: s.start, LastActivity: s.start, Pending: s.out.Pending(),
		In: leaf.Traffic{Msgs: t.inMsgs.Load(), Bytes: t.inBytes.Load()}, Out: leaf.Traffic{Msgs: t.outMsgs.Load(), Bytes: t.outBytes.Load()}}
	if host, port, err := net.SplitHostPort(s.nc.RemoteAddr().String()); err == nil {
		i.IP = host
		i.Port, _ = strconv.Atoi(port)
	}
	if last := s.heard.Load(); last != 0 {
		i.LastActivity = leaf.At(time.Duration(last))
	}
	i.TLS = leaf.TLSOf(s.nc)
	if s.connected.Load() {
		i.Known, i.MQTTClient, i.User, i.Account = true, s.clientID, cmp.Or(s.user, s.grant.User), s.grant.Account
		i.NumSubs, i.Stalls, i.Subs = int(s.numSubs.Load()), s.port.Stalls(), s.listSubs
	}
	return i
}

func (s *session) listSubs() []leaf.SubInfo { return s.port.SubInfos() }

// SubInfo implements [leaf.Describer].
func (s *session) SubInfo(sub *msg.Sub) leaf.SubInfo {
	i := leaf.SubInfo{Subject: sub.Subject, SID: sub.Subject, ConnID: s.id}
	if b, ok := s.out.Begin(1); ok {
		i.Msgs = sub.Delivered
		s.out.End(b)
	}
	return i
}

// watch tells the watcher, if there is one.
func (s *session) watch(event func(leaf.Watcher, *leaf.ConnInfo), i leaf.ConnInfo) {
	if w := s.srv.opts.Load().Watcher; w != nil {
		event(w, &i)
	}
}

// watchRefused is for a client that is not let in, and so has not become the session.
func (s *session) watchRefused(c *packet.Connect) {
	i := s.info()
	i.Known, i.MQTTClient, i.User = true, string(c.ClientID), string(c.Username)
	s.watch(leaf.Watcher.Refused, i)
}

func (s *session) watchClosed(cause error) {
	i := s.info()
	i.Stop, i.Reason = time.Now(), closeReason(cause)
	s.watch(leaf.Watcher.Closed, i)
}

// closeReason says why a session ended, as nats-server's /connz does.
func closeReason(cause error) string {
	switch {
	case errors.Is(cause, errDisconnect), errors.Is(cause, errUserGone), errors.Is(cause, io.EOF):
		return "Client Closed"
	case errors.Is(cause, errKicked):
		return "Kicked"
	case errors.Is(cause, errShutdown):
		return "Server Shutdown"
	case errors.Is(cause, errNotAuthorized):
		return "Authentication Failure"
	case errors.Is(cause, errAccountFull):
		return "Maximum Account Connections Exceeded"
	case errors.Is(cause, errConnectTimeout):
		return "Authentication Timeout"
	case errors.Is(cause, errKeepAlive):
		return "Stale Connection"
	case errors.Is(cause, errTakenOver):
		return "Duplicate Client ID"
	case errors.Is(cause, errTooLarge):
		return "Maximum Message Payload Exceeded"
	case errors.Is(cause, leaf.ErrSlowConsumer):
		return "Slow Consumer (Pending Bytes)"
	case errors.Is(cause, leaf.ErrWriteDeadline):
		return "Slow Consumer (Write Deadline)"
	case errors.As(cause, new(*packet.Error)):
		return "Protocol Violation"
	}
	return "Read Error"
}
