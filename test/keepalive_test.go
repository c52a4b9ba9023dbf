package test

import (
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

// TestDevicesThatPingOutliveAPause stops leafd for longer than its devices may be silent, as a
// machine does that swaps or is suspended. Their pings wait in its sockets: none is ended.
func TestDevicesThatPingOutliveAPause(t *testing.T) {
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: `
server_name: edge
mqtt { host: "127.0.0.1", port: $LEAFD_MQTT_PORT }
`})
	devices := make([]net.Conn, 10)
	for i := range devices {
		nc, err := net.Dial("tcp", testkit.Addr(l.MQTTPort))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(testkit.Patience))
		hello := []byte{0x10, 13, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 1, 0, 1, byte('a' + i)} // a keep alive of one second
		if _, err := nc.Write(hello); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(nc, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		devices[i] = nc
	}
	l.Signal(syscall.SIGSTOP)
	pings := 0
	for tick := time.NewTicker(100 * time.Millisecond); pings < 30; pings++ {
		<-tick.C
		for _, nc := range devices {
			if _, err := nc.Write([]byte{0xc0, 0}); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.Signal(syscall.SIGCONT)
	for i, nc := range devices {
		if _, err := io.ReadFull(nc, make([]byte, 2*pings)); err != nil {
			t.Errorf("device %d: %v", i, err)
		}
	}
}
