package main

import (
	"errors"
	"net"
	"sync"
)

// listener is a net.Listener whose address a reload can change while connections
// stay, and that a lame duck closes long before the server behind it stops.
type listener struct {
	mu     sync.Mutex
	host   string        // guarded by mu; as it is configured, which the socket may show otherwise
	ln     net.Listener  // guarded by mu
	shut   bool          // guarded by mu; drained or closed
	closed chan struct{} // closed by Close
}

// listenOn opens addr; what and key are for the error.
func listenOn(what, key, addr string) (*listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, listenError(what, key, addr, err)
	}
	host, _, _ := net.SplitHostPort(addr)
	return &listener{host: host, ln: ln, closed: make(chan struct{})}, nil
}

func (l *listener) current() (ln net.Listener, shut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ln, l.shut
}

// Accept returns the next connection, wherever the listener listens by then. Of one
// that is drained it waits for Close.
func (l *listener) Accept() (net.Conn, error) {
	for {
		ln, _ := l.current()
		nc, err := ln.Accept()
		if err == nil || !errors.Is(err, net.ErrClosed) {
			return nc, err
		}
		now, shut := l.current()
		if shut {
			<-l.closed
			return nil, err
		}
		if now == ln {
			return nil, err
		}
	}
}

// Addr is where it listens now.
func (l *listener) Addr() net.Addr {
	ln, _ := l.current()
	return ln.Addr()
}

// String is the configured host with the port in use.
func (l *listener) String() string {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.mu.Lock()
	defer l.mu.Unlock()
	return net.JoinHostPort(l.host, port)
}

// move listens with other, which is open, in place of what it listened with.
func (l *listener) move(other *listener) {
	l.mu.Lock()
	old := l.ln
	l.host, l.ln = other.host, other.ln
	shut := l.shut
	l.mu.Unlock()
	old.Close()
	if shut {
		other.ln.Close()
	}
}

// drain takes no connections any more. The port is free when it returns.
func (l *listener) drain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shut = true
	l.ln.Close()
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.drain()
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}
