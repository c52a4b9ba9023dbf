package leaf

import (
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Inbound reads from one connection. While it waits for bytes it holds no buffer:
// a gateway has many connections, most of them idle, and little memory. It
// belongs to the connection's reader.
type Inbound struct {
	nc     net.Conn
	raw    syscall.RawConn // nil if nc has no file descriptor: then a buffer is kept
	small  *[smallRead]byte
	large  *[largeRead]byte
	trust  bool
	n      int
	err    error
	readFn func(fd uintptr) bool
}

const (
	smallRead = 4 << 10
	largeRead = 64 << 10
)

var (
	smallReads = sync.Pool{New: func() any { return new([smallRead]byte) }}
	largeReads = sync.Pool{New: func() any { return new([largeRead]byte) }}
)

// NewInbound takes over the read side of nc. Read deadlines of nc bound Next.
func NewInbound(nc net.Conn) *Inbound {
	in := &Inbound{nc: nc, raw: rawConn(nc)}
	in.readFn = in.readOnce
	return in
}

// Trust lets the connection use large buffers, to be called once the peer has
// said who it is.
func (in *Inbound) Trust() { in.trust = true }

// Next returns the bytes that have come, waiting for at least one. They are valid
// until the next call. An error comes alone and ends the connection; it is io.EOF
// if the peer closed.
func (in *Inbound) Next() ([]byte, error) {
	in.n, in.err = 0, nil
	if in.raw == nil {
		in.n, in.err = in.nc.Read(in.buffer())
	} else if err := in.raw.Read(in.readFn); err != nil {
		in.err = err
	} else if in.n == 0 && in.err == nil {
		in.err = io.EOF
	}
	if in.n > 0 {
		return in.buffer()[:in.n], nil
	}
	in.release()
	return nil, in.err
}

// readOnce runs inside RawConn.Read; returning false waits for the socket.
func (in *Inbound) readOnce(fd uintptr) bool {
	for {
		n, err := unix.Read(int(fd), in.buffer())
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			in.release()
			return false
		}
		in.n, in.err = max(0, n), err
		return true
	}
}

func (in *Inbound) buffer() []byte {
	switch {
	case in.large != nil:
		return in.large[:]
	case in.trust && in.small == nil:
		in.large = largeReads.Get().(*[largeRead]byte)
		return in.large[:]
	case in.small == nil:
		in.small = smallReads.Get().(*[smallRead]byte)
	}
	return in.small[:]
}

func (in *Inbound) release() {
	if in.small != nil {
		smallReads.Put(in.small)
		in.small = nil
	}
	if in.large != nil {
		largeReads.Put(in.large)
		in.large = nil
	}
}
