package main

import (
	"encoding/json"
	"errors"
)

// ordered is what a client of the system account can have done, by the last word of the
// subject. It is done on the goroutine of run, which waits for it. (nats-server, KICK,
// LDM and RELOAD.)
var ordered = map[string]func(s *services, body []byte) (answer []byte){
	"KICK":   func(s *services, body []byte) []byte { return s.toConn(body, s.kick) },
	"LDM":    func(s *services, body []byte) []byte { return s.toConn(body, s.notice) },
	"RELOAD": func(s *services, body []byte) []byte { return s.mon.Do(body, s.reload) },
}

// toConn has something done to the connection that body names. As with nats-server, a
// body that is not JSON has no answer.
func (s *services) toConn(body []byte, order func(cid uint64) error) []byte {
	var who struct {
		CID uint64 `json:"cid"`
	}
	if err := json.Unmarshal(body, &who); err != nil {
		s.log.Warn("system request about a connection is not JSON", "err", err)
		return nil
	}
	return s.mon.Do(body, func() error { return order(who.CID) })
}

// reload leaves it to the goroutine that obeys signals to reload, and returns what came
// of it.
func (s *services) reload() error {
	result := make(chan error, 1)
	s.reloads <- result // which has room: nobody but run asks
	select {
	case err := <-result:
		return err
	case <-s.quit:
		return errStopping
	}
}

var errStopping = errors.New("the server is stopping")

// kick ends a connection of a client, of a device, or to the hub.
func (d *daemon) kick(cid uint64) error {
	if d.nats.Kick(cid) || d.mqtt != nil && d.mqtt.Kick(cid) || d.link.Kick(cid) {
		return nil
	}
	return errors.New("no such client or leafnode id") // as nats-server says it
}
