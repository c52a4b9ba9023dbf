package testkit

import (
	"net"
	"strconv"
	"syscall"
)

// Port returns a TCP port of 127.0.0.1 that the kernel chose and that stays the
// caller's until the test ends: a server may listen there, be killed and listen
// there again, and nobody else is given it meanwhile.
//
// A socket bound to the port but not listening holds it. Linux lets a listener
// with SO_REUSEADDR, as Go and most servers set it, bind beside such a socket,
// refuses connections while there is no listener, and gives the port neither to
// a bind to port 0 nor to an outgoing connection. The latter matters: a client
// that keeps dialling a dead port can otherwise be given that port as its own
// and connect to itself.
func Port(t T) int {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("reserve a port: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := bindLoopback(fd); err != nil {
		t.Fatalf("reserve a port: %v", err)
	}
	at, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatalf("reserve a port: %v", err)
	}
	return at.(*syscall.SockaddrInet4).Port
}

func bindLoopback(fd int) error {
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return err
	}
	return syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
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
