package leaf

import (
	"net"
	"testing"
	"time"
)

func TestLineClock(t *testing.T) {
	var c lineClock
	start := time.Unix(0, 0)
	for i, look := range []struct {
		at      time.Duration
		acked   uint64
		waiting int
		want    time.Duration
	}{
		{0, 100, 0, 0},
		{1 * time.Second, 100, 50, time.Second},     // just come, after the look before
		{2 * time.Second, 110, 40, 2 * time.Second}, // a part is taken
		{3 * time.Second, 140, 60, 3 * time.Second}, // and more has come
		{4 * time.Second, 151, 49, 2 * time.Second}, // the first are through, what came after waits
		{5 * time.Second, 190, 10, 3 * time.Second},
		{9 * time.Second, 190, 10, 7 * time.Second},
		{10 * time.Second, 190, 10, 0}, // it does not move
		{11 * time.Second, 191, 9, 9 * time.Second},
		{12 * time.Second, 200, 0, 0},
		{13 * time.Second, 200, 7, time.Second},
	} {
		now, got := start.Add(look.at), time.Duration(0)
		if since := c.look(now, look.acked, look.waiting); !since.IsZero() {
			got = now.Sub(since)
		}
		if got != look.want {
			t.Errorf("look %d: %v, want %v", i, got, look.want)
		}
	}
	for n := range 10 * lineMarks {
		c.look(start.Add(time.Minute+time.Duration(n)), uint64(201+n), 1<<20)
	}
	if len(c.marks) > lineMarks {
		t.Errorf("%d marks are kept", len(c.marks))
	}
}

// What was written and nobody reads is queued, what is taken counts as acknowledged.
func TestReadLine(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	boundUnsent(a)
	before := readLine(a)
	total := 0
	a.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	for err == nil { // until the buffers of both are full
		var n int
		n, err = a.Write(make([]byte, 64<<10))
		total += n
	}
	line := readLine(a)
	if got := int(line.acked-before.acked) + line.queued; line.queued == 0 || line.acked == before.acked || line.unheard || got != total {
		t.Errorf("%+v after %d bytes, %+v before", line, total, before)
	}
	if line := readLine(nil); line != (lineState{}) {
		t.Errorf("%+v of a connection without a descriptor", line)
	}
}
