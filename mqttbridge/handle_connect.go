package mqttbridge

import (
	"crypto/rand"
	"errors"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/leaf"
	"github.com/leafd/leafd/mqttbridge/packet"
)

// handleConnect lets a client in, or answers why not.
func (s *session) handleConnect(body []byte) error {
	if s.port != nil {
		return errSecondConnect // [MQTT-3.1.0-2]
	}
	if err := s.checkVersion(body); err != nil {
		return err
	}
	var c packet.Connect
	if err := c.Decode(body); err != nil {
		return err // [MQTT-3.1.4-1]: no CONNACK for what is no CONNECT
	}
	if len(c.ClientID) == 0 && !c.CleanStart {
		return s.refuse(packet.V311, errClientID) // [MQTT-3.1.3-8]
	}
	if err := s.login(&c); err != nil {
		if err == errNotAuthorized {
			s.watchRefused(&c)
		}
		return s.refuse(packet.V311, err)
	}
	if err := s.setWill(&c); err != nil {
		return err
	}
	s.connect(&c)
	s.send(func(b []byte) []byte {
		// Session Present is 0 whatever was asked for, because nothing is kept
		// (see doc.go). [MQTT-3.2.2-1] [MQTT-3.2.2-3]
		ack := packet.Connack{Reason: packet.Success}
		return ack.Append(b, s.version)
	})
	return nil
}

// checkVersion refuses each version in its own words: version 5 with a CONNACK of
// version 5, anything else that calls itself MQTT with return code 1.
// [MQTT-3.1.2-2]
func (s *session) checkVersion(body []byte) error {
	v, err := packet.Level(body)
	switch {
	case errors.Is(err, packet.ErrName), errors.Is(err, packet.ErrVersion):
		return s.refuse(packet.V311, packet.ErrVersion)
	case err == nil && v != packet.V311:
		return s.refuse(v, packet.ErrVersion)
	}
	return err
}

// login finds out who the client is and gives it its place in the subject space.
// As in nats-server, a token comes as the password.
func (s *session) login(c *packet.Connect) *packet.Error {
	s.version, s.user = c.Version, string(c.Username)
	s.clientID = string(c.ClientID)
	if s.clientID == "" { // [MQTT-3.1.3-6]
		s.clientID = "auto-" + rand.Text()
	}
	auth, addr := s.srv.opts.Load().Auth, s.nc.RemoteAddr()
	l := &leaf.Login{Type: leaf.MQTT, User: s.user, Pass: string(c.Password), Token: string(c.Password),
		Cert: leaf.CertificateOf(s.nc)}
	grant, err := auth.Login(l, s.name(), s)
	if err != nil {
		if !errors.Is(err, leaf.ErrNotAuthorized) {
			return &packet.Error{Reason: packet.ServerUnavailable, Text: err.Error()}
		}
		s.pause(auth.Refused(addr))
		return errNotAuthorized
	}
	s.grant = grant
	if l.Cert != nil { // which names the user, whatever CONNECT says
		s.user = grant.User
	}
	s.endHalfOpen()
	return nil
}

// Revoked implements [leaf.Client]. MQTT 3.1.1 has no words for it: nats-server sends a
// second CONNACK, which no device expects.
func (s *session) Revoked(why error) {
	switch {
	case why == nil:
		s.close(errUserGone)
	case errors.Is(why, leaf.ErrNotAuthorized):
		s.close(errNotAuthorized)
	default:
		s.close(errAccountFull)
	}
}

// Ended implements [leaf.Client]. A device learns of it only by asking again.
func (s *session) Ended(subs []*msg.Sub) {
	s.srv.log.Info("subscriptions ended; permissions forbid them now", "conn", s.name(), "count", len(subs))
}

// pause waits, unless the session is being closed.
func (s *session) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-time.After(d):
	case <-s.quit:
	}
}

// refuse answers with a CONNACK and ends the connection. [MQTT-3.2.2-5]
func (s *session) refuse(v packet.Version, err *packet.Error) error {
	s.send(func(b []byte) []byte {
		ack := packet.Connack{Reason: err.Reason}
		return ack.Append(b, v)
	})
	return err
}

// connect makes the session what CONNECT says it is and gives it its place in the
// subject space, once a connection with the same client id has left.
func (s *session) connect(c *packet.Connect) {
	if !c.CleanStart {
		s.srv.counters.sessionsNotKept.Add(1)
	}
	s.keepAlive = time.Duration(c.KeepAlive) * time.Second * 3 / 2
	s.port = s.grant.Port
	s.port.Echo(true)
	s.hear()
	s.connected.Store(true)
	s.srv.register(s)
	s.watch(leaf.Watcher.Connected, s.info())

	s.hear() // the wait for another connection to leave was ours
	s.setReadDeadline(time.Time{})
	s.in.Trust(s.srv.opts.Load().Budget)
	s.in.MayPark(s.srv.parking, s)
	s.srv.hurry(s.keepAlive)
}
