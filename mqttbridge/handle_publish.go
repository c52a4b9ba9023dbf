package mqttbridge

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/leaf"
	"github.com/leafd/leafd/mqttbridge/packet"
)

// publisher is what the read loop publishes with, kept so that a PUBLISH
// allocates nothing. Owned by the read loop.
type publisher struct {
	packet  packet.Publish
	msg     msg.Msg
	topic   []byte // of the previous PUBLISH: devices repeat themselves
	subject []byte // what it became
}

var publishers = sync.Pool{New: func() any { return new(publisher) }}

// handlePublish is the hot path from a device: bytes to subject to router.
func (s *session) handlePublish(flags byte, body []byte) error {
	if s.pub == nil {
		s.pub = publishers.Get().(*publisher)
	}
	p := &s.pub.packet
	if err := p.Decode(s.version, flags, body); err != nil {
		return err
	}
	if len(p.Payload) > s.maxPayload() {
		return errTooLarge
	}
	if p.QoS == 2 && !s.received(p.ID) {
		return nil
	}
	if !bytes.Equal(p.Topic, s.pub.topic) {
		if err := s.pub.convert(); err != nil {
			return err
		}
	}
	s.inMsgs++
	s.inSize += uint64(len(p.Payload))
	// Retain is passed on for whoever keeps retained messages; subscribers that
	// are there already see it as 0. [MQTT-3.3.1-9]
	s.pub.msg = msg.Msg{Subject: s.pub.subject, Header: pubHeader(p.QoS), Data: p.Payload, QoS: p.QoS, Retain: p.Retain}
	receipt := s.port.Publish(&s.pub.msg)
	if receipt.Refused == msg.Forbidden {
		s.forbidden(s.pub.subject)
	}
	if p.QoS == 0 {
		return nil // a refusal is counted by the router and has no answer
	}
	if receipt.Refused != msg.Taken && receipt.Refused != msg.Forbidden {
		return errStoreRefused
	}
	// As in nats-server, what permissions forbid is acknowledged and goes nowhere. [MQTT-3.3.5-2]
	as := packet.PUBACK
	if p.QoS == 2 {
		as = packet.PUBREC
	}
	s.acknowledge(p.ID, as, receipt.Kept)
	return nil
}

// forbidden tells the log, now and then, where the client publishes and may not: nobody else hears of it.
func (s *session) forbidden(subject []byte) {
	if s.srv.violations.note(s.grant.Account, s.clientID, subject, leaf.Mono()) {
		s.srv.log.Warn("MQTT client may not publish there: its messages go nowhere, acknowledged or not", "conn", s.name(),
			"user", s.user, "subject", fmt.Sprintf("%.128s", subject))
	}
}

// acknowledge notes what is to be acknowledged. kept says that a durable log took it.
func (s *session) acknowledge(id uint16, as packet.Type, kept bool) {
	if s.acks == nil {
		s.acks = newAcks(s.out, s.version, s.close)
	}
	s.acks.add(id, as, kept)
}

// maxPayload is what one message may have, in bytes.
func (s *session) maxPayload() int {
	most := s.srv.opts.Load().MaxPayload
	if own := s.grant.Limits.MaxPayload; own > 0 {
		most = min(most, own)
	}
	return most
}

// received takes the id of a PUBLISH of QoS 2, and reports whether it is new. One that is taken
// already says that the message came again: it is not routed, only received once more, behind the
// first [MQTT-4.3.3-2]. The ids end with the connection, as sessions are not kept.
func (s *session) received(id uint16) bool {
	if s.unreleased == nil {
		s.unreleased = new(idSet)
	}
	if s.unreleased.add(id) {
		return true
	}
	s.acknowledge(id, packet.PUBREC, false)
	return false
}

// handlePubrel ends the exchange about a message of QoS 2: its id may be used for
// another. An id that is not known was released before, in a PUBREL whose PUBCOMP
// got lost.
func (s *session) handlePubrel(body []byte) error {
	var rel packet.Ack
	if err := rel.Decode(s.version, packet.PUBREL, body); err != nil {
		return err
	}
	if s.unreleased != nil {
		s.unreleased.remove(rel.ID)
	}
	s.acknowledge(rel.ID, packet.PUBCOMP, false)
	return nil
}

// convert brings subject up to date with the packet's topic.
func (p *publisher) convert() (err error) {
	p.topic = p.topic[:0] // so that a topic that fails is never taken for known
	if p.subject, err = appendSubject(p.subject[:0], p.packet.Topic); err != nil {
		return badTopic(p.packet.Topic)
	}
	p.topic = append(p.topic, p.packet.Topic...)
	return nil
}

// The header block by which NATS clients tell a device's message from theirs, and
// its QoS. nats-server writes no space after the colon either.
const pubHeaders = "NATS/1.0\r\nNmqtt-Pub:0\r\n\r\nNATS/1.0\r\nNmqtt-Pub:1\r\n\r\nNATS/1.0\r\nNmqtt-Pub:2\r\n\r\n"

var pubHeaderBytes = []byte(pubHeaders) // never written to

func pubHeader(qos uint8) []byte {
	const n = len(pubHeaders) / 3
	at := n * int(qos)
	return pubHeaderBytes[at : at+n : at+n]
}
