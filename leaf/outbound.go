package leaf

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leafd/leafd/internal/msg"
)

var (
	// ErrSlowConsumer ends a connection with more than MaxPending bytes waiting.
	ErrSlowConsumer = errors.New("slow consumer: pending bytes over max_pending")
	// ErrWriteDeadline ends a connection whose socket took nothing for WriteDeadline.
	ErrWriteDeadline = errors.New("slow consumer: write deadline exceeded")
)

// OutboundOptions bounds what may wait for one socket.
type OutboundOptions struct {
	MaxPending    int           // bytes; 0 means 8 MiB
	WriteDeadline time.Duration // 0 means 10 s
	Budget        *Budget       // of all connections together; nil means no limit
}

// Outbound is what waits to be written to one socket. Deliveries append encoded
// bytes; Flush gives all of them to the kernel in one call without blocking.
// Only when the socket is full a goroutine is started, which lives until nothing
// waits any more. While nothing waits no buffer is held. Safe for all goroutines.
type Outbound struct {
	// Static after NewOutbound.
	nc     net.Conn
	raw    syscall.RawConn // nil if nc has no file descriptor: then every flush takes the goroutine
	gone   func()          // called when nc is closed, perhaps with mu held; may be nil
	budget *Budget

	// Guarded by mu.
	mu       sync.Mutex
	max      int
	deadline time.Duration
	tap      *tracer // reads along; nil: no trace

	chunks  [][]byte      // appended, not yet taken for writing
	pending int           // bytes in chunks and in flight
	busy    bool          // a writer (a Flush, or the goroutine) owns the socket's write side
	full    bool          // the socket takes no more for now: the goroutine waits for it
	closed  bool          // no appends any more
	err     error         // why; nil after an orderly Close
	behind  chan struct{} // made when a flush finds more than max/8 waiting, or the budget short; closed below max/16
	held    int           // bytes that chunks and flight have room for, as told to budget
	size    int           // bytes of the last write: how large a chunk the next one needs
	writer  sync.WaitGroup

	// Owned by whoever set busy.
	flight  [][]byte // being written
	offset  int      // bytes of flight[0] that are written already
	timed   bool     // a write deadline is set
	wait    bool     // write blocks until the socket takes more
	wrote   int
	werr    error
	writeFn func(fd uintptr) bool
}

// NewOutbound takes over the write side of nc. Close closes nc; gone, if not nil, is
// called then. It must be quick and must not call the Outbound.
func NewOutbound(nc net.Conn, o OutboundOptions, gone func()) *Outbound {
	o.setDefaults()
	out := &Outbound{nc: nc, max: o.MaxPending, deadline: o.WriteDeadline, gone: gone, budget: o.Budget}
	out.raw = rawConn(nc)
	out.writeFn = out.writeOnce
	return out
}

func rawConn(nc net.Conn) syscall.RawConn {
	if tc, ok := nc.(*net.TCPConn); ok {
		if raw, err := tc.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// Begin locks the buffer and returns its end, with room for n bytes, to append
// to; End gives it back. If the connection is closing it returns false and locks
// nothing.
func (o *Outbound) Begin(n int) ([]byte, bool) {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return nil, false
	}
	if k := len(o.chunks) - 1; k >= 0 {
		if c := o.chunks[k]; cap(c)-len(c) >= n {
			return c, true
		}
		n = max(n, min(o.pending, largeChunk))
	}
	c := getChunk(max(n, o.size))
	o.chunks = append(o.chunks, c)
	o.held += cap(c)
	o.budget.take(cap(c), o.held)
	if o.full && o.budget.over(1, o.held) {
		o.fail(ErrBudget)
		o.mu.Unlock()
		return nil, false
	}
	return c, true
}

// End takes back what Begin gave, longer or as it was, and unlocks. If more than
// MaxPending bytes wait now, the connection is cut off.
func (o *Outbound) End(b []byte) msg.Drop {
	k := len(o.chunks) - 1
	o.pending += len(b) - len(o.chunks[k])
	o.chunks[k] = b
	if len(b) == 0 { // nothing was appended after all
		o.free(b)
		o.chunks = o.chunks[:k]
	}
	if o.pending <= o.max {
		o.mu.Unlock()
		return msg.Taken
	}
	o.fail(ErrSlowConsumer)
	o.mu.Unlock()
	return msg.SlowConsumer
}

// Append adds b as a whole; it is Begin, append, End.
func (o *Outbound) Append(b []byte) msg.Drop {
	buf, ok := o.Begin(len(b))
	if !ok {
		return msg.Gone
	}
	return o.End(append(buf, b...))
}

// Flush implements [msg.Flusher]: it writes what the socket takes now and leaves
// the rest to the goroutine.
func (o *Outbound) Flush() (behind <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.busy && o.pending > 0 {
		o.busy = true
		o.write()
	}
	if (o.pending > o.max/8 || o.full && o.budget.over(0.5, o.held)) && !o.closed {
		if o.behind == nil {
			o.behind = make(chan struct{})
		}
		return o.behind
	}
	return nil
}

// write needs mu and busy. It tries once or, while others append, a few times
// without blocking; then the goroutine takes over.
func (o *Outbound) write() {
	for tries := 0; o.raw != nil && tries < 4; tries++ {
		all := o.writeFlight(false)
		if o.pending == 0 || o.err != nil {
			o.rest()
			return
		}
		if !all {
			break
		}
	}
	o.full = true
	o.writer.Add(1)
	go o.drain()
}

// drain is the writer goroutine. It owns busy.
func (o *Outbound) drain() {
	defer o.writer.Done()
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.pending > 0 && o.err == nil {
		o.writeFlight(true)
	}
	o.rest()
}

// rest needs mu: nothing is left to write, or nothing can be.
func (o *Outbound) rest() {
	o.busy = false
	if o.err != nil { // what was being written is given up
		o.give(o.held)
		o.flight = nil
	}
	o.full = false
	if o.timed { // an old deadline would fail the next write
		o.timed = false
		o.nc.SetWriteDeadline(time.Time{})
	}
	if o.closed {
		o.hangUp()
	}
}

func (o *Outbound) hangUp() {
	o.nc.Close() // wakes a writer, and a reader that waits for the socket
	if o.gone != nil {
		o.gone()
	}
}

// writeFlight needs mu and busy, and lets go of mu while it writes. It reports
// whether everything taken was written.
func (o *Outbound) writeFlight(wait bool) bool {
	var tap *tracer
	if len(o.flight) == 0 {
		o.flight, o.chunks = o.chunks, o.flight
		tap = o.tap
	}
	deadline := o.deadline
	o.mu.Unlock()
	if tap != nil {
		tap.flight(o.flight)
	}
	o.wait, o.wrote, o.werr = wait, 0, nil
	if wait {
		o.timed = true
		o.nc.SetWriteDeadline(time.Now().Add(deadline))
	}
	o.writeSocket()
	o.mu.Lock()
	if o.err != nil { // cut off meanwhile, and nothing is pending
		return false
	}
	o.pending -= o.wrote
	o.consume(o.wrote)
	if o.werr != nil {
		o.fail(o.werr)
	}
	if o.behind != nil && (o.pending < o.max/16 && !o.budget.over(0.5, o.held) || o.closed) {
		close(o.behind)
		o.behind = nil
	}
	return len(o.flight) == 0
}

// writeSocket sets wrote and werr.
func (o *Outbound) writeSocket() {
	if o.raw == nil {
		o.wrote, o.werr = o.nc.Write(o.flight[0][o.offset:])
	} else if err := o.raw.Write(o.writeFn); err != nil && o.werr == nil {
		o.werr = err
	}
	if errors.Is(o.werr, os.ErrDeadlineExceeded) {
		o.werr = ErrWriteDeadline
	}
}

// writeOnce runs inside RawConn.Write; returning false waits for the socket.
func (o *Outbound) writeOnce(fd uintptr) bool {
	for {
		if len(o.flight) == 1 {
			o.wrote, o.werr = unix.Write(int(fd), o.flight[0][o.offset:])
		} else {
			o.wrote, o.werr = o.writev(int(fd))
		}
		switch {
		case o.werr == unix.EINTR:
			continue
		case o.werr == unix.EAGAIN:
			o.wrote, o.werr = 0, nil
			return !o.wait
		}
		o.wrote = max(0, o.wrote)
		return true
	}
}

// writev gathers up to 16 chunks.
func (o *Outbound) writev(fd int) (int, error) {
	var iov [16][]byte
	n := copy(iov[:], o.flight)
	iov[0] = iov[0][o.offset:]
	return unix.Writev(fd, iov[:n])
}

// consume drops n written bytes from flight and gives empty chunks back.
func (o *Outbound) consume(n int) {
	o.size = min(n, largeChunk)
	n += o.offset
	k := 0
	for k < len(o.flight) && n >= len(o.flight[k]) {
		n -= len(o.flight[k])
		o.free(o.flight[k])
		o.flight[k] = nil
		k++
	}
	if k == len(o.flight) {
		o.flight = o.flight[:0]
	} else {
		o.flight = append(o.flight[:0], o.flight[k:]...)
	}
	o.offset = n
}

// free needs mu, or busy.
func (o *Outbound) free(c []byte) {
	o.give(cap(c))
	putChunk(c)
}

func (o *Outbound) give(n int) {
	o.held -= n
	o.budget.give(n, o.held)
}

// fail needs mu. It drops what waits and closes the socket at once.
func (o *Outbound) fail(err error) {
	if o.err == nil {
		o.err = err
	}
	o.closed = true
	for _, c := range o.chunks {
		o.free(c)
	}
	clear(o.chunks)
	o.chunks, o.pending = o.chunks[:0], 0
	if !o.busy {
		o.give(o.held)
		o.flight = nil
	}
	o.hangUp()
	if o.behind != nil {
		close(o.behind)
		o.behind = nil
	}
}

// Moved notes that the far end took something of what the kernel has: whoever waits for room there
// has the whole write deadline from now on.
func (o *Outbound) Moved() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.full && !o.closed {
		o.nc.SetWriteDeadline(time.Now().Add(o.deadline))
	}
}

// Close ends the connection: with an error at once, without one after what waits
// is written, bounded by the write deadline. It does not block; Wait does.
func (o *Outbound) Close(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	if err != nil {
		o.fail(err)
		return
	}
	o.closed = true
	switch {
	case o.busy: // the writer closes
	case o.pending > 0:
		o.busy = true
		o.write()
	default:
		o.hangUp()
	}
}

// Wait returns when no writer goroutine runs and, after Close, none will.
func (o *Outbound) Wait() { o.writer.Wait() }

// Pending returns how many bytes wait.
func (o *Outbound) Pending() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pending
}

// Err says why the connection ended: [ErrSlowConsumer], [ErrWriteDeadline], what
// was given to Close, or the socket's error.
func (o *Outbound) Err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}
