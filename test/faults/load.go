package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	perSecond = 200 // messages of one publisher
	window    = 20  // unacknowledged messages of one publisher
)

// device is an MQTT publisher at QoS 1 that connects again whenever it is cut off.
type device struct {
	*source
	addr string

	mu    sync.Mutex
	slots map[uint16]uint32 // guarded by mu; packet ids on their way, and their messages
}

func (d *device) run(ctx context.Context) {
	for ctx.Err() == nil {
		conn, err := d.connect()
		if err == nil {
			err = d.publish(ctx, conn)
			conn.Close()
		}
		if ctx.Err() == nil && err != nil {
			d.led.told.Add(1)
			wait(ctx, 50*time.Millisecond)
		}
	}
}

func (d *device) connect() (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", d.addr, 2*time.Second)
	if err != nil {
		return nil, err
	}
	id := fmt.Sprintf("dev%d", d.id)
	body := append([]byte{0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0, 0, byte(len(id))}, id...)
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	var ack [4]byte
	_, err1 := conn.Write(append([]byte{0x10, byte(len(body))}, body...))
	_, err2 := io.ReadFull(conn, ack[:])
	if err := errors.Join(err1, err2); err != nil || ack != [4]byte{0x20, 2, 0, 0} {
		conn.Close()
		return nil, fmt.Errorf("no CONNACK: % x %w", ack, err)
	}
	return conn, conn.SetDeadline(time.Time{})
}

// publish sends until the connection ends, ctx does or half a minute passes without
// an acknowledgement.
func (d *device) publish(ctx context.Context, conn net.Conn) error {
	d.mu.Lock()
	d.slots = map[uint16]uint32{}
	d.mu.Unlock()
	ended := make(chan error, 1)
	go func() { ended <- d.acknowledged(conn) }()
	tick := time.NewTicker(time.Second / perSecond)
	defer tick.Stop()
	topic := fmt.Sprintf("data/%d", d.id)
	for id := uint16(1); ; {
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
			d.settle(conn, ended)
			return nil
		case <-tick.C:
		}
		if d.outstanding() >= window {
			continue
		}
		n, payload := d.next()
		d.mu.Lock()
		d.slots[id] = n
		d.mu.Unlock()
		b := append([]byte{0x32}, binary.AppendUvarint(nil, uint64(2+len(topic)+2+len(payload)))...)
		b = append(append(b, 0, byte(len(topic))), topic...)
		b = append(binary.BigEndian.AppendUint16(b, id), payload...)
		if _, err := conn.Write(b); err != nil {
			return err
		}
		id = id%1000 + 1
	}
}

// settle gives what is on its way a moment to be acknowledged.
func (d *device) settle(conn net.Conn, ended <-chan error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for d.outstanding() > 0 && ctx.Err() == nil {
		wait(ctx, 20*time.Millisecond)
	}
	conn.Close()
	<-ended
}

func (d *device) outstanding() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.slots)
}

// acknowledged reads PUBACKs until the connection ends.
func (d *device) acknowledged(conn net.Conn) error {
	for {
		var b [4]byte
		conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.ReadFull(conn, b[:]); err != nil {
			return err
		}
		id := binary.BigEndian.Uint16(b[2:])
		d.mu.Lock()
		n, ok := d.slots[id]
		delete(d.slots, id)
		d.mu.Unlock()
		if b[0] != 0x40 || b[1] != 2 || !ok {
			return fmt.Errorf("expected a PUBACK: % x", b)
		}
		d.ack(n)
	}
}

// client is a NATS publisher that asks for an acknowledgement with a reply subject.
type client struct {
	*source
	url     string
	acked   atomic.Int64
	refused atomic.Int64
}

func (c *client) run(ctx context.Context) error {
	nc, err := nats.Connect(c.url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		return err
	}
	defer nc.Close()
	inbox := nats.NewInbox()
	var onWay atomic.Int64
	if _, err := nc.Subscribe(inbox+".*", func(m *nats.Msg) {
		onWay.Add(-1)
		n, err := strconv.ParseUint(m.Subject[len(inbox)+1:], 10, 32)
		switch {
		case err != nil:
		case bytes.Contains(m.Data, []byte(`"error"`)) || m.Header.Get("Status") != "":
			c.refused.Add(1)
			c.led.told.Add(1)
		case bytes.Contains(m.Data, []byte(`"stream"`)):
			c.acked.Add(1)
			c.ack(uint32(n))
		}
	}); err != nil {
		return err
	}
	tick := time.NewTicker(time.Second / perSecond)
	defer tick.Stop()
	subject := fmt.Sprintf("data.%d", c.id)
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			settled, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			for onWay.Load() > 0 && settled.Err() == nil {
				wait(settled, 20*time.Millisecond)
			}
			return nil
		case <-tick.C:
		}
		if onWay.Load() >= window {
			if time.Since(last) < 2*time.Second {
				continue
			}
			onWay.Store(0) // nobody will answer those
		}
		last = time.Now()
		n, payload := c.next()
		onWay.Add(1)
		if err := nc.PublishRequest(subject, inbox+"."+strconv.Itoa(int(n)), payload); err != nil {
			return err
		}
	}
}

// pair is two NATS clients that talk to each other about nothing that is stored.
type pair struct {
	url string

	mu   sync.Mutex
	took []time.Duration // guarded by mu; since the last call of quantiles
	sent int             // guarded by mu; in the same time
	got  int             // guarded by mu
}

func (p *pair) run(ctx context.Context) error {
	from, err := nats.Connect(p.url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := nats.Connect(p.url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		return err
	}
	defer to.Close()
	if _, err := to.Subscribe("pair", func(m *nats.Msg) {
		d := time.Duration(time.Now().UnixNano() - int64(binary.BigEndian.Uint64(m.Data)))
		p.mu.Lock()
		p.took = append(p.took, d)
		p.got++
		p.mu.Unlock()
	}); err != nil {
		return err
	}
	if err := to.Flush(); err != nil {
		return err
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			for end := time.Now().Add(time.Second); p.missed() > 0 && time.Now().Before(end); {
				<-tick.C // the client may have the last one, and not have handed it out yet
			}
			return to.FlushTimeout(time.Second)
		case <-tick.C:
		}
		if !from.IsConnected() || !to.IsConnected() {
			continue // leafd is being started again
		}
		p.mu.Lock()
		p.sent++
		p.mu.Unlock()
		if err := from.Publish("pair", binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano()))); err != nil {
			return err
		}
		from.Flush() // so that each is sent at once; an error shows as one that is missed
	}
}

// quantiles are of the deliveries since the last call.
func (p *pair) quantiles() (p50, p99 time.Duration, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	slices.Sort(p.took)
	if n = len(p.took); n > 0 {
		p50, p99 = p.took[n/2], p.took[n*99/100]
	}
	p.took = p.took[:0]
	return p50, p99, n
}

// missed is how many of the messages did not arrive.
func (p *pair) missed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent - p.got
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
