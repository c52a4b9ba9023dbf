package testkit

import (
	"errors"
	"net"
	"strconv"
	"syscall"
)

// Port returns a TCP port of 127.0.0.1 that stays the caller's until the test ends:
// a server may listen there, be killed and listen there again, and nobody else is
// given it meanwhile. It is the first of those preferred that is free, or else one
// that the kernel chose.
//
// A socket bound to the port but not listening holds it. Linux lets a listener
// with SO_REUSEADDR, as Go and most servers set it, bind beside such a socket,
// refuses connections while there is no listener, and gives the port neither to
// a bind to port 0 nor to an outgoing connection. The latter matters: a client
// that keeps dialling a dead port can otherwise be given that port as its own
// and connect to itself.
func Port(t T, preferred ...int) int {
	t.Helper()
	for _, port := range append(preferred, 0) {
		fd, err := bindLoopback(port)
		if errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES) {
			continue
		}
		if err != nil {
			t.Fatalf("reserve port %d: %v", port, err)
		}
		t.Cleanup(func() { _ = syscall.Close(fd) })
		at, err := syscall.Getsockname(fd)
		if err != nil {
			t.Fatalf("reserve port %d: %v", port, err)
		}
		return at.(*syscall.SockaddrInet4).Port
	}
	t.Fatalf("reserve a port: no port of 127.0.0.1 is free")
	return 0
}

// bindLoopback returns a socket that is bound and does not listen.
func bindLoopback(port int) (fd int, err error) {
	fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	if err == nil {
		err = syscall.Bind(fd, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
	}
	if err != nil {
		return -1, errors.Join(err, syscall.Close(fd))
	}
	return fd, nil
}

// Addr is the address of a port of 127.0.0.1.
func Addr(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// listening reports whether something accepts connections at addr.
func listening(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, Patience)
	if err != nil {
		return false
	}
	return c.Close() == nil
}
