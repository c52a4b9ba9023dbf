package leaf

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// This file measures how long what is sent to the hub is on its way. On a slow line that is
// seconds, and minutes for one large message. Who waits for an answer that is behind it has
// to wait so much longer, or would end a link that does what it can, and begin again.

const (
	lineStalls = 5 * time.Second // the line does not move if it took nothing for so long
	lineMarks  = 512

	// lineUnsent is how much the kernel takes that it cannot send yet: what waits here is
	// then known to wait. It takes more once half of that is sent.
	lineUnsent = 64 << 10
)

// lineState is what the kernel knows of a connection.
type lineState struct {
	unheard bool   // it repeats what was written, and nobody acknowledges it
	acked   uint64 // bytes that the other machine took, ever
	queued  int    // bytes that were written and that it did not
}

// readLine asks the kernel.
func readLine(nc net.Conn) (l lineState) {
	control(nc, func(fd int) {
		if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			l.unheard, l.acked = info.Retransmits >= repeats, info.Bytes_acked
		}
		l.queued, _ = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	})
	return l
}

// boundUnsent sets lineUnsent, if the kernel can.
func boundUnsent(nc net.Conn) {
	control(nc, func(fd int) { unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, lineUnsent) })
}

func control(nc net.Conn, do func(fd int)) {
	if raw := rawConn(nc); raw != nil {
		raw.Control(func(fd uintptr) { do(int(fd)) })
	}
}

// lineClock tells how long bytes are on their way, by what is looked at now and then. It
// belongs to a session's keeper.
type lineClock struct {
	marks  []lineMark // of what is on its way, oldest first
	acked  uint64
	moved  time.Time // when acked grew last, or nothing was on its way
	looked time.Time // the last time
}

// lineMark says since when a byte, counted from the first, is on its way: it was not, when the
// look before was taken.
type lineMark struct {
	byte uint64
	at   time.Time
}

// look returns since when, at the earliest, what the hub's machine takes now is on its way: zero
// if nothing is, or the line does not move. waiting is how many bytes were not taken, here and
// in the kernel.
func (c *lineClock) look(now time.Time, acked uint64, waiting int) time.Time {
	before := c.looked
	if c.looked = now; before.IsZero() {
		before = now
	}
	if acked != c.acked || waiting == 0 {
		c.acked, c.moved = acked, now
	}
	n := 0
	for n < len(c.marks) && c.marks[n].byte <= acked {
		n++
	}
	c.marks = append(c.marks[:0], c.marks[n:]...)
	if waiting == 0 {
		return time.Time{}
	}
	last := acked + uint64(waiting)
	if k := len(c.marks); k == 0 || k < lineMarks && c.marks[k-1].byte < last {
		c.marks = append(c.marks, lineMark{last, before})
	}
	if now.Sub(c.moved) >= lineStalls {
		return time.Time{}
	}
	return c.marks[0].at
}

// delay is [Link.Delay] of this session.
func (s *session) delay() time.Duration {
	if since := s.waits.Load(); since != nil && !since.IsZero() {
		return time.Since(*since)
	}
	return 0
}
