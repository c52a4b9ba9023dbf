package testkit

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Pipe returns the two ends of a connection in memory. Unlike net.Pipe it holds
// up to size bytes in each direction, so that two sides that both write first do
// not wait for each other; a Write beyond that waits for the reader, as on TCP.
// Closing an end lets the other read what is there, then io.EOF, and fails its
// writes. It works in a testing/synctest bubble.
func Pipe(size int) (net.Conn, net.Conn) {
	ab, ba := newStream(size), newStream(size)
	return &pipeEnd{in: ba, out: ab}, &pipeEnd{in: ab, out: ba}
}

type pipeEnd struct {
	in, out     *stream
	read, write deadline
}

func (e *pipeEnd) Read(b []byte) (int, error)  { return e.in.read(b, &e.read) }
func (e *pipeEnd) Write(b []byte) (int, error) { return e.out.write(b, &e.write) }

func (e *pipeEnd) Close() error {
	e.in.set(func() { e.in.readerGone = true })
	e.out.set(func() { e.out.writerGone = true })
	e.read.set(time.Time{})
	e.write.set(time.Time{})
	return nil
}

func (e *pipeEnd) LocalAddr() net.Addr  { return pipeAddr{} }
func (e *pipeEnd) RemoteAddr() net.Addr { return pipeAddr{} }

func (e *pipeEnd) SetDeadline(t time.Time) error {
	e.read.set(t)
	e.write.set(t)
	return nil
}
func (e *pipeEnd) SetReadDeadline(t time.Time) error  { e.read.set(t); return nil }
func (e *pipeEnd) SetWriteDeadline(t time.Time) error { e.write.set(t); return nil }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// stream is one direction.
type stream struct {
	size int

	mu                     sync.Mutex
	buf                    []byte
	writerGone, readerGone bool
	changed                chan struct{} // closed and replaced when any of the above changes
}

func newStream(size int) *stream {
	return &stream{size: max(size, 1), changed: make(chan struct{})}
}

func (s *stream) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	s.wake()
}

func (s *stream) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *stream) read(b []byte, d *deadline) (int, error) {
	for {
		expired := d.wait()
		if isClosed(expired) {
			return 0, os.ErrDeadlineExceeded
		}
		s.mu.Lock()
		if s.readerGone {
			s.mu.Unlock()
			return 0, net.ErrClosed
		}
		if len(s.buf) > 0 || len(b) == 0 {
			n := copy(b, s.buf)
			s.buf = append(s.buf[:0], s.buf[n:]...)
			s.wake()
			s.mu.Unlock()
			return n, nil
		}
		if s.writerGone {
			s.mu.Unlock()
			return 0, io.EOF
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-expired:
		}
	}
}

func (s *stream) write(b []byte, d *deadline) (int, error) {
	sent := 0
	for {
		expired := d.wait()
		if isClosed(expired) {
			return sent, os.ErrDeadlineExceeded
		}
		s.mu.Lock()
		if s.writerGone {
			s.mu.Unlock()
			return sent, net.ErrClosed
		}
		if s.readerGone {
			s.mu.Unlock()
			return sent, io.ErrClosedPipe
		}
		if n := min(s.size-len(s.buf), len(b)-sent); n > 0 {
			s.buf = append(s.buf, b[sent:sent+n]...)
			sent += n
			s.wake()
		}
		changed := s.changed
		s.mu.Unlock()
		if sent == len(b) {
			return sent, nil
		}
		select {
		case <-changed:
		case <-expired:
		}
	}
}

// deadline is a channel that closes at a time that can be moved.
type deadline struct {
	mu      sync.Mutex
	expired chan struct{} // nil until first used
	timer   *time.Timer
	moves   int // so that a timer that was stopped too late does nothing
}

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.expired == nil {
		d.expired = make(chan struct{})
	}
	return d.expired
}

func (d *deadline) set(at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.moves++
	if d.timer != nil {
		d.timer.Stop()
	}
	if d.expired == nil || isClosed(d.expired) {
		d.expired = make(chan struct{})
	}
	if at.IsZero() {
		return
	}
	wait := time.Until(at)
	if wait <= 0 {
		close(d.expired)
		return
	}
	move := d.moves
	d.timer = time.AfterFunc(wait, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.moves == move {
			close(d.expired)
		}
	})
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
