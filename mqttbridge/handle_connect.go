package mqttbridge

import (
	"crypto/rand"
	"errors"
	"time"

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
	if err := s.checkClient(&c); err != nil {
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

// checkClient answers the questions that have a return code.
func (s *session) checkClient(c *packet.Connect) *packet.Error {
	if len(c.ClientID) == 0 && !c.CleanStart {
		return errClientID // [MQTT-3.1.3-8]
	}
	if auth := s.srv.opts.Auth; auth != nil && auth(string(c.Username), c.Password, c.HasUser) != nil {
		return errNotAuthorized
	}
	return nil
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
	s.version, s.user = c.Version, string(c.Username)
	s.clientID = string(c.ClientID)
	if s.clientID == "" { // [MQTT-3.1.3-6]
		s.clientID = "auto-" + rand.Text()
	}
	if !c.CleanStart {
		s.srv.counters.sessionsNotKept.Add(1)
	}
	s.keepAlive = time.Duration(c.KeepAlive) * time.Second * 3 / 2
	s.port = s.srv.opts.Router.Attach(s.name(), s, leaf.EachSub)
	s.port.Echo(true)
	s.hear()
	s.connected.Store(true)
	s.srv.register(s)

	s.hear() // the wait for another connection to leave was ours
	s.setReadDeadline(time.Time{})
	s.in.Trust()
	s.in.MayPark(s.srv.parking, s)
	s.srv.hurry(s.keepAlive)
}
