package leaf

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Inbound reads from one connection. While it waits for bytes it holds no buffer,
// and once it is parked no goroutine: a gateway has many connections, most of them
// idle, and little memory. It belongs to the connection's reader, but for what is
// marked.
type Inbound struct {
	// Static after NewInbound.
	nc     net.Conn
	raw    syscall.RawConn // nil if nc has no file descriptor: then a buffer is kept
	readFn func(fd uintptr) bool

	// Static once MayPark was called.
	parking *Parking
	reader  Reader

	small *[smallRead]byte
	large *[largeRead]byte
	trust bool
	n     int
	err   error

	budget *Budget // static after Trust
	filled bool    // without raw: the last bytes filled a small buffer

	wait  bool   // what Next was told
	slow  bool   // the last bytes came after a pause
	quiet bool   // readOnce found nothing, and did not wait
	known bool   // arm was called before: there is a place
	place uint32 // in parking
	turn  uint32

	heard  atomic.Int64 // any goroutine: when the last bytes came, by Mono
	state  atomic.Int32 // any goroutine: reading, blocked, waiting, parked
	nudged atomic.Bool  // any goroutine: Nudge ended the wait
	ended  atomic.Bool  // any goroutine: Wake was called
}

const (
	smallRead = 4 << 10
	largeRead = 64 << 10

	// pause is how long nothing must have come for a connection to be one that
	// does not say much: it is parked as soon as it has nothing to say.
	pause = 250 * time.Millisecond
	// linger is how long the others wait with a goroutine first, at least.
	linger = time.Second
	// moment is what it takes a busy machine to read what is there from a connection that is no socket.
	moment = 50 * time.Millisecond
)

// States of an Inbound.
const (
	reading = iota
	blocked // in Next, and cannot be parked
	waiting // in Next, and could be parked
	parked
)

var (
	// ErrIdle says that nothing has come for a while: the reader may Park.
	ErrIdle = errors.New("nothing to read for now")
	// ErrUnreadable says that what comes is no TLS or no WebSocket, or is damaged. The peer is there.
	ErrUnreadable = errors.New("what comes cannot be read")
)

var (
	smallReads = sync.Pool{New: func() any { return new([smallRead]byte) }}
	largeReads = sync.Pool{New: func() any { return new([largeRead]byte) }}
)

// NewInbound takes over the read side of nc. Read deadlines of nc bound Next.
func NewInbound(nc net.Conn) *Inbound {
	in := &Inbound{nc: nc, raw: rawConn(nc)}
	in.readFn = in.readOnce
	in.heard.Store(int64(Mono()))
	return in
}

// Trust lets the connection use large buffers, to be called once the peer has
// said who it is. One that is no socket has to hold them while it waits, in the middle of
// a frame as well: b bounds those.
func (in *Inbound) Trust(b *Budget) { in.trust, in.budget = true, b }

// MayPark lets Next return ErrIdle from now on, but with a connection that cannot be
// parked. No read deadline may be set any more, but to end the connection.
func (in *Inbound) MayPark(p *Parking, r Reader) {
	if p != nil && in.raw != nil {
		in.parking, in.reader = p, r
	}
}

// Heard is when the last bytes came, by Mono, also those of a record of TLS or a frame that
// is not whole. Any goroutine may ask.
func (in *Inbound) Heard() time.Duration {
	heard := time.Duration(in.heard.Load())
	if nc, ok := in.nc.(interface{ Quiet() time.Duration }); ok {
		heard = max(heard, Mono()-nc.Quiet())
	}
	return heard
}

// Busy reports whether the reader handles what came. Any goroutine may ask.
func (in *Inbound) Busy() bool { return in.state.Load() == reading }

// Next returns the bytes that have come. It waits for them if wait is set, and with
// a connection that is no socket; else it returns ErrIdle. They are valid until the
// next call. An error comes alone and ends the connection, but for ErrIdle; it is
// io.EOF if the peer closed, and wraps ErrUnreadable if that is why.
func (in *Inbound) Next(wait bool) ([]byte, error) {
	in.n, in.err, in.quiet, in.wait = 0, nil, false, wait
	if in.raw == nil && in.ended.Load() {
		in.err = net.ErrClosed
	} else if in.raw == nil {
		in.state.Store(blocked)
		in.readNoSocket()
	} else if err := in.raw.Read(in.readFn); err != nil {
		in.err = err
	} else if in.n == 0 && in.err == nil && !in.quiet {
		in.err = io.EOF
	}
	in.state.Store(reading)
	if in.n > 0 {
		now := int64(Mono())
		in.slow = now-in.heard.Load() > int64(pause)
		in.heard.Store(now)
		return in.buffer()[:in.n], nil
	}
	in.release()
	if errors.Is(in.err, os.ErrDeadlineExceeded) && in.nudged.Swap(false) {
		in.nc.SetReadDeadline(time.Time{})
		in.quiet, in.slow = true, true
	}
	if in.quiet {
		return nil, ErrIdle
	}
	if in.raw == nil && !gone(in.err) {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, in.err)
	}
	return nil, in.err
}

// gone reports whether err says that the peer is, or the line to it, or that we are to be.
func gone(err error) bool {
	var no syscall.Errno
	return errors.As(err, &no) || slices.ContainsFunc(ends, func(end error) bool { return errors.Is(err, end) })
}

var ends = []error{io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed, os.ErrDeadlineExceeded}

// End makes Next return an error, and a parked reader go on. What has come can still be
// had from Left, if hear is set also from what is no socket, which may not outlive a read
// that is cut off (a WebSocket): it is read for a moment. Any goroutine may call it.
func (in *Inbound) End(hear bool) {
	if hear && in.raw == nil {
		in.nc.SetReadDeadline(time.Now().Add(moment))
	} else {
		in.nc.SetReadDeadline(past)
	}
	in.Wake()
}

// Left returns bytes that have come and were not read, without waiting for more: with a
// connection that is no socket it gives them a moment, if that can still be read. They are
// valid until the next call of Left. Next is of no use any more.
func (in *Inbound) Left() []byte {
	in.n, in.wait = 0, false
	if in.raw != nil {
		in.raw.Control(func(fd uintptr) { in.readOnce(fd) })
		in.state.Store(reading)
	} else {
		in.nc.SetReadDeadline(time.Now().Add(moment))
		in.readNoSocket()
	}
	if in.n > 0 {
		return in.buffer()[:in.n]
	}
	in.release()
	return nil
}

// Full reports whether the last bytes filled a large buffer of a socket: more are
// likely there.
func (in *Inbound) Full() bool { return in.n == largeRead && in.raw != nil }

// readNoSocket waits with a buffer in hand, a small one unless much comes.
func (in *Inbound) readNoSocket() {
	in.release()
	in.n, in.err = in.nc.Read(in.buffer())
	in.filled = in.n >= smallRead
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
			in.quiet = !in.wait || in.slow && in.parking != nil
			if in.parking != nil {
				in.state.Store(waiting)
			} else {
				in.state.Store(blocked)
			}
			return in.quiet
		}
		in.n, in.err = max(0, n), err
		return true
	}
}

// Park lets go of the reader's goroutine, which must end when it returns true: the
// Reader is resumed on another when there is something to read. When it returns
// false there is something to do now.
func (in *Inbound) Park() bool {
	if in.ended.Load() {
		return false
	}
	known := in.known
	if !known {
		if in.place, in.turn, in.known = in.parking.take(in); !in.known {
			in.parking = nil
			return false
		}
	}
	place, turn := in.place, in.turn
	in.state.Store(parked) // from here on the next goroutine may run
	var err error
	if e := in.raw.Control(func(fd uintptr) { err = in.parking.arm(fd, place, turn, known) }); e != nil {
		err = e
	}
	return err == nil && !in.ended.Load() || !in.state.CompareAndSwap(parked, reading)
}

// start resumes the reader of a parked connection.
func (in *Inbound) start() {
	if in.state.CompareAndSwap(parked, reading) {
		go in.reader.Resume()
	}
}

// Wake makes a parked reader go on: the connection ends. Any goroutine may call it.
func (in *Inbound) Wake() {
	in.ended.Store(true)
	in.start()
}

// Nudge makes Next return ErrIdle if it has waited for long. Any goroutine may call
// it; it reports whether the connection has a goroutine.
func (in *Inbound) Nudge() (awake bool) {
	state := in.state.Load()
	if state == waiting && Mono()-in.Heard() > linger && in.nudged.CompareAndSwap(false, true) {
		in.nc.SetReadDeadline(past)
	}
	return state != parked
}

var past = time.Unix(1, 0)

// Leave gives back what is held of a connection that has ended. It is for its reader.
func (in *Inbound) Leave() {
	in.release()
	if in.known {
		in.parking.leave(in.place)
		in.known = false
	}
}

func (in *Inbound) buffer() []byte {
	switch {
	case in.large != nil:
		return in.large[:]
	case in.trust && in.small == nil && (in.raw != nil || in.filled && in.budget.lend(largeRead)):
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
		if in.raw == nil {
			in.budget.lend(-largeRead)
		}
	}
}
