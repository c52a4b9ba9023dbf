//go:build !race

package leaf

import (
	"errors"
	"strings"
	"testing"

	"github.com/leafd/leafd/internal/testkit"
)

// What a client costs per message after the first: nothing.
func TestHotPathDoesNotAllocate(t *testing.T) {
	s, addr := startServer(t, Options{})
	dial(t, addr, `{"headers":true}`).expect("SUB a.> 1\r\n", "")
	a, b := testkit.Pipe(1 << 20)
	defer b.Close()
	c := newConn(s, a, 99)
	c.parser = c.newParser()
	defer c.out.Close(errors.New("end of test"))
	if err := c.handle([]byte("CONNECT {\"headers\":true}\r\n")); err != nil {
		t.Fatal(err)
	}
	batch := []byte(strings.Repeat("PUB a.b 5\r\nhello\r\nHPUB a.c r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n", 50))
	cut := len(batch) - 9 // a read that splits an operation
	allocs := testing.AllocsPerRun(200, func() {
		if c.handle(batch[:cut]) != nil || c.handle(batch[cut:]) != nil {
			t.Fatal("protocol error")
		}
		c.port.Flush()
	})
	if perMsg := allocs / 100; perMsg > 0.02 {
		t.Errorf("%v allocations for 100 messages", allocs)
	}
}
