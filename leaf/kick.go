package leaf

import (
	"errors"
	"slices"
)

// What a system account may do to one connection. (nats-server, KICK and LDM.)

var (
	// ErrNoClient and ErrNoNotice are why a client is not told to go, in the words of
	// nats-server.
	ErrNoClient = errors.New("no such client id")
	ErrNoNotice = errors.New("client does not support Lame Duck Mode or is not ready to receive the notification")
)

// Kick ends the connection of a client, without a word to it, and reports whether
// there is one of that id.
func (s *Server) Kick(id uint64) bool {
	c := s.find(id)
	if c != nil {
		c.drop(errKicked)
	}
	return c != nil
}

// Notice tells one client to look for another server, as LameDuck tells all. It stays
// connected until it does.
func (s *Server) Notice(id uint64) error {
	c := s.find(id)
	switch {
	case c == nil:
		return ErrNoClient
	case !c.asyncInfo.Load():
		return ErrNoNotice
	}
	c.out.Append(s.infoLine(c, true))
	c.out.Flush()
	return nil
}

// find returns the client of that id, or nil.
func (s *Server) find(id uint64) *conn {
	all := s.snapshot(nil)
	if i := slices.IndexFunc(all, func(c *conn) bool { return c.id == id }); i >= 0 {
		return all[i]
	}
	return nil
}

// Kick ends the connection to the hub if it has that id, and reports whether it has.
// The link then connects again.
func (l *Link) Kick(id uint64) bool {
	s := l.live.Load()
	if s == nil || s.id != id {
		return false
	}
	s.out.Close(&linkFault{transient, errKicked, ""})
	return true
}
