package testkit

import (
	"net"
	"sync"
)

// PipeListener is a listener in memory, for servers in a testing/synctest bubble.
type PipeListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{} // closed by Close
}

// NewPipeListener returns one that accepts what Dial makes.
func NewPipeListener() *PipeListener {
	return &PipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

// Dial returns the near end of a [Pipe] once the far one is accepted.
func (l *PipeListener) Dial(size int) net.Conn {
	near, far := Pipe(size)
	l.conns <- far
	return near
}

// Accept implements [net.Listener].
func (l *PipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (l *PipeListener) Close() error { l.once.Do(func() { close(l.done) }); return nil }

// Addr implements [net.Listener].
func (l *PipeListener) Addr() net.Addr { return pipeAddr{} }
