package test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leafd/leafd/internal/testkit"
	"github.com/leafd/leafd/mqttbridge/packet"
)

// gadget speaks MQTT 3.1.1 in bytes, so that all that comes is seen.
type gadget struct {
	name     string
	nc       net.Conn
	in, gone bool // it was let in; the connection has ended
}

// deviceSays is what a word of a script means: "connect USER PASSWORD", "will TOPIC" to
// connect with one, "sub FILTER…", "pub TOPIC DATA".
func deviceSays(say string) (b []byte) {
	words := strings.Fields(say)
	connect := packet.Connect{Version: packet.V311, CleanStart: true, HasUser: true, HasPass: true}
	switch words[0] {
	case "connect":
		connect.ClientID, connect.Username, connect.Password = []byte(words[1]+fmt.Sprint(len(words))), []byte(words[1]), []byte(words[2])
		if len(words) == 4 {
			connect.HasWill, connect.Will.Topic, connect.Will.Payload = true, []byte(words[3]), []byte("gone")
		}
		return connect.Append(nil)
	case "sub":
		p := packet.Subscribe{ID: 1}
		for _, f := range words[1:] {
			p.Add([]byte(f), 0)
		}
		return p.Append(nil, packet.V311)
	case "pub":
		p := packet.Publish{Topic: []byte(words[1]), Payload: []byte(words[2])}
		return p.Append(nil, packet.V311)
	}
	panic("test: no such word: " + say)
}

// hears returns the packets that came up to the answer to a PINGREQ, a line each.
func (d *gadget) hears(t *testing.T) (heard []string) {
	t.Helper()
	if d.gone {
		return nil
	}
	d.nc.Write([]byte{0xc0, 0})
	for {
		h, body, err := readPacket(d.nc)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			t.Fatalf("%s: heard neither a PINGRESP nor the end after %q", d.name, heard)
		case err != nil:
			d.gone = true
			return append(heard, d.name+"< the end")
		case h == 0xd0:
			return heard
		case h == 0x20 && d.in: // nats-server cuts a device off with a second CONNACK
			continue
		}
		d.in = true
		heard = append(heard, fmt.Sprintf("%s< %02x %q", d.name, h, body))
	}
}

func readPacket(r io.Reader) (first byte, body []byte, err error) {
	var b []byte
	for {
		one := make([]byte, 1)
		if _, err := io.ReadFull(r, one); err != nil {
			return 0, nil, err
		}
		b = append(b, one[0])
		if h, ok, err := packet.ParseHeader(b); ok || err != nil {
			body = make([]byte, h.Len)
			_, err := io.ReadFull(r, body)
			return b[0], body, err
		}
	}
}

// playDevices is play for devices.
func (w *twins) playDevices(t *testing.T, at int, script []step) (heard []string) {
	t.Helper()
	var cast []*gadget
	for _, s := range script {
		if s.who == reload {
			w.reload(t, at, s.say)
		} else {
			i := slices.IndexFunc(cast, func(d *gadget) bool { return d.name == s.who })
			if i < 0 {
				nc, err := net.Dial("tcp", w.mqtt[at])
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { nc.Close() })
				nc.SetDeadline(time.Now().Add(testkit.Patience))
				i, cast = len(cast), append(cast, &gadget{name: s.who, nc: nc})
			}
			cast[i].nc.Write(deviceSays(s.say))
			heard = append(heard, cast[i].hears(t)...) // first, so that all it said is done
		}
		heard = append(heard, "("+s.who+": "+s.say+")")
		for _, d := range cast {
			heard = append(heard, d.hears(t)...)
		}
	}
	return heard
}

// Devices feel a reload as with nats-server: those whose user is removed or changed are
// cut off, subscriptions that are forbidden now end, and the others go on.
func TestTwinReloadOfDevices(t *testing.T) {
	free := member("free", "")
	all := members(free, member("u", ""))
	w := startMQTTTwins(t, all)
	for _, c := range []struct {
		name   string
		script []step
	}{
		{"a user is removed", []step{{reload, all}, {"f", "connect free p"}, {"f", "sub a/#"}, {"u", "connect u p"}, {"u", "sub a/# c"}, {reload, members(free)}, {"f", "pub a/x 1"}, {"v", "connect u p"}}},
		{"a user with a will is removed", []step{{reload, all}, {"f", "connect free p"}, {"f", "sub bye"}, {"u", "connect u p bye"}, {reload, members(free)}}},
		{"a user with a will changes", []step{{reload, all}, {"f", "connect free p"}, {"f", "sub bye"}, {"u", "connect u p bye"}, {reload, members(free, member("u", `publish: { deny: "bye" }`))},
			{reload, members(free, "{ user: u, password: other }")}}},
		{"a password is changed", []step{{reload, all}, {"f", "connect free p"}, {"u", "connect u p"}, {"u", "sub a/# c"}, {reload, members(free, "{ user: u, password: other }")}, {"f", "pub a/x 1"}, {"v", "connect u other"}}},
		{"a subscription is forbidden", []step{{reload, all}, {"f", "connect free p"}, {"u", "connect u p"}, {"u", "sub a/# c"}, {reload, members(free, member("u", `subscribe: [ "c", "$MQTT.sub.>" ]`))},
			{"f", "pub a/x 1"}, {"f", "pub c 2"}, {"u", "sub a/# c d"}, {"f", "pub c 3"}}},
		{"a subject is denied under a subscription", []step{{reload, all}, {"f", "connect free p"}, {"u", "connect u p"}, {"u", "sub a/#"}, {reload, members(free, member("u", `subscribe: { deny: "a.x" }`))},
			{"f", "pub a/x 1"}, {"f", "pub a/y 2"}}},
		{"publishing is forbidden", []step{{reload, all}, {"f", "connect free p"}, {"f", "sub #"}, {"u", "connect u p"}, {"u", "pub b 1"}, {reload, members(free, member("u", `publish: { deny: "b" }`))},
			{"u", "pub b 2"}, {"u", "pub c 3"}, {reload, all}, {"u", "pub b 4"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, want := w.playDevices(t, 0, c.script), w.playDevices(t, 1, c.script)
			if !slices.Equal(got, want) {
				t.Errorf("leafd:\n  %s\nnats-server:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
			}
		})
	}
}
