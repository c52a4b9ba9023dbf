package test

import (
	"bufio"
	"bytes"
	"debug/elf"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

// maxARM64 and maxARMv6 are how many bytes the stripped binaries may have.
const (
	maxARM64 = 10_000_000
	maxARMv6 = 10 << 20 // its segments grow by 64 KB at a time
)

// What is built for a Raspberry Pi is static, small, and talks: the binaries run
// under qemu's user emulation and answer both protocols.
func TestCrossBuiltLeafdAnswers(t *testing.T) {
	for _, board := range []struct {
		name, qemu string
		env        []string
		maxBytes   int64
	}{
		{"arm64", "qemu-aarch64-static", []string{"GOOS=linux", "GOARCH=arm64"}, maxARM64},
		{"armv6", "qemu-arm-static", []string{"GOOS=linux", "GOARCH=arm", "GOARM=6"}, maxARMv6},
	} {
		t.Run(board.name, func(t *testing.T) {
			qemu, err := exec.LookPath(board.qemu)
			if err != nil {
				t.Fatalf("%v (on Debian: apt-get install qemu-user-static)", err)
			}
			bin := testkit.BuildLeafd(t, board.env...)
			checkBinary(t, bin, board.maxBytes)
			l := testkit.StartLeafd(t, testkit.LeafdOptions{Bin: bin, Run: []string{qemu}, Config: `
				host: "127.0.0.1", port: $LEAFD_NATS_PORT
				mqtt { host: "127.0.0.1", port: $LEAFD_MQTT_PORT }
			`})
			ping(t, testkit.Addr(l.NATSPort))
			connectMQTT(t, testkit.Addr(l.MQTTPort))
			l.Stop()
			if l.ExitCode() != 0 {
				t.Errorf("exit code %d after SIGTERM", l.ExitCode())
			}
		})
	}
}

// checkBinary checks that a program needs no dynamic loader and is small.
func checkBinary(t *testing.T, path string, maxBytes int64) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Errorf("%s is not static", path)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %s, %d bytes", path, f.Machine, info.Size())
	if info.Size() > maxBytes {
		t.Errorf("%s has %d bytes, more than %d", path, info.Size(), maxBytes)
	}
}

// ping goes through the NATS handshake by hand, until the PONG.
func ping(t *testing.T, addr string) {
	t.Helper()
	c := dial(t, addr)
	r := bufio.NewReader(c)
	info, err := r.ReadString('\n')
	if err != nil || !strings.HasPrefix(info, "INFO {") {
		t.Fatalf("greeted with %q, %v", info, err)
	}
	if _, err := io.WriteString(c, "CONNECT {\"verbose\":false}\r\nPING\r\n"); err != nil {
		t.Fatal(err)
	}
	if pong, err := r.ReadString('\n'); pong != "PONG\r\n" {
		t.Fatalf("PING is answered with %q, %v", pong, err)
	}
}

// connectMQTT goes through the MQTT 3.1.1 handshake by hand, until the CONNACK.
func connectMQTT(t *testing.T, addr string) {
	t.Helper()
	c := dial(t, addr)
	connect := []byte{
		0x10, 14, // CONNECT
		0, 4, 'M', 'Q', 'T', 'T', 4, // protocol name and level
		0x02,  // clean session
		0, 60, // keep alive
		0, 2, 't', '1', // client identifier
	}
	if _, err := c.Write(connect); err != nil {
		t.Fatal(err)
	}
	want := []byte{0x20, 2, 0, 0} // CONNACK, no session, accepted
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("CONNECT is answered with % x, %v", got, err)
	}
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(testkit.Patience)); err != nil {
		t.Fatal(err)
	}
	return c
}
