package main

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// requests measures request-reply: each requester and the responder are connections of
// their own, so that each round trip crosses the server twice.
type requests struct {
	addr  string
	size  int  // bytes of payload
	relay bool // the server is perf relay, which copies lines unchanged

	resp *natsConn
	reqs []*natsConn
}

func (q *requests) open(n int) (err error) {
	if q.resp, err = natsDial(q.addr); err != nil {
		return err
	}
	io.WriteString(q.resp, "SUB perf.rtt 1\r\n")
	if err := q.resp.flush(); err != nil {
		return err
	}
	for i := range n {
		c, err := natsDial(q.addr)
		if err != nil {
			return err
		}
		q.reqs = append(q.reqs, c)
		fmt.Fprintf(c, "SUB perf.rtt.reply.%d 1\r\n", i)
		if err := c.flush(); err != nil {
			return err
		}
	}
	go q.respond()
	return nil
}

func (q *requests) close() {
	for _, c := range append(q.reqs, q.resp) {
		if c != nil {
			c.Close()
		}
	}
}

// respond answers until its connection ends. The number of the requester is the payload's
// beginning.
func (q *requests) respond() {
	verb := "PUB perf.rtt.reply."
	if q.relay {
		verb = "MSG perf.rtt.reply."
	}
	var out []byte
	for {
		op, _, payload, err := q.resp.next()
		if err != nil {
			return
		}
		if op != 'M' {
			continue
		}
		n := 0
		for n < len(payload) && payload[n] != ' ' {
			n++
		}
		out = append(append(out[:0], verb...), payload[:n]...)
		if q.relay {
			out = append(out, " 1"...)
		}
		out = append(fmt.Appendf(out, " %d\r\n", len(payload)), payload...)
		q.resp.Write(append(out, "\r\n"...))
	}
}

// once is one round trip of requester i.
func (q *requests) once(i int) (time.Duration, error) {
	head := "PUB perf.rtt"
	if q.relay {
		head = "MSG perf.rtt 1"
	}
	payload := make([]byte, max(q.size, 8))
	copy(payload, fmt.Sprintf("%d ", i))
	out := fmt.Appendf(nil, "%s %d\r\n%s\r\n", head, len(payload), payload)
	t := time.Now()
	if _, err := q.reqs[i].Write(out); err != nil {
		return 0, err
	}
	for {
		op, _, _, err := q.reqs[i].next()
		if err != nil || op == 'M' {
			return time.Since(t), err
		}
	}
}

// run has every requester ask for dur, at rate a second each or, if that is 0, as soon
// as it is answered.
func (q *requests) run(dur time.Duration, rate int) (*hist, error) {
	var mu sync.Mutex
	var all hist
	var failed error
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range q.reqs {
		wg.Go(func() {
			q.reqs[i].SetReadDeadline(begin.Add(dur + 20*time.Second))
			var times []time.Duration
			var err error
			for n := 0; err == nil && time.Since(begin) < dur; n++ {
				if rate > 0 {
					time.Sleep(time.Until(begin.Add(time.Duration(n) * time.Second / time.Duration(rate))))
				}
				var d time.Duration
				if d, err = q.once(i); err == nil {
					times = append(times, d)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
			for _, d := range times {
				all.add(d)
			}
		})
	}
	wg.Wait()
	return &all, failed
}

func natsRTTCmd(args []string) error {
	var c common
	fs := newFlags("nats-rtt", &c, 3*time.Second)
	q := &requests{}
	fs.StringVar(&q.addr, "addr", "127.0.0.1:4222", "server")
	fs.IntVar(&q.size, "size", 128, "payload bytes")
	fs.BoolVar(&q.relay, "relay", false, "the server is `perf relay`")
	clients := fs.Int("clients", 1, "requesters")
	rate := fs.Int("rate", 0, "requests per second of each, 0 for closed loop")
	fs.Parse(args)
	defer q.close()
	if err := q.open(*clients); err != nil {
		return err
	}
	if _, err := q.run(200*time.Millisecond, 0); err != nil {
		return err
	}
	name := fmt.Sprintf("closed-%dc", *clients)
	if *rate > 0 {
		name = fmt.Sprintf("%d/s-%dc", *rate, *clients)
	}
	r := c.result("nats-rtt", fmt.Sprintf("%s-%dB", name, q.size))
	m := c.meter("")
	h, err := q.run(c.dur, *rate)
	if err != nil {
		return err
	}
	wall := m.stop(r, float64(h.n))
	r.M["req_s"] = float64(h.n) / wall.Seconds()
	h.report(r, "rtt")
	return c.emit(r)
}

// natsSlowCmd floods subscribers that never read, and measures the server's memory and
// what others feel of it.
func natsSlowCmd(args []string) error {
	var c common
	fs := newFlags("nats-slow", &c, 10*time.Second)
	q := &requests{size: 128}
	fs.StringVar(&q.addr, "addr", "127.0.0.1:4222", "server")
	k := fs.Int("conns", 1000, "subscribers that do not read")
	size := fs.Int("size", 1024, "payload bytes of the flood")
	fs.Parse(args)
	defer q.close()
	if err := q.open(1); err != nil {
		return err
	}
	before, err := q.run(2*time.Second, 500)
	if err != nil {
		return err
	}
	var slow []*natsConn
	defer func() {
		for _, n := range slow {
			n.Close()
		}
	}()
	for range *k {
		n, err := natsDial(q.addr)
		if err != nil {
			return err
		}
		slow = append(slow, n)
		io.WriteString(n, "SUB perf.flood 1\r\n")
		if err := n.flush(); err != nil {
			return err
		}
	}
	pub, err := natsDial(q.addr)
	if err != nil {
		return err
	}
	defer pub.Close()
	r := c.result("nats-slow", fmt.Sprintf("%d-conns-%dB", *k, *size))
	m := c.meter("")
	line := fmt.Appendf(nil, "PUB perf.flood %d\r\n%s\r\n", *size, make([]byte, *size))
	stop := time.Now().Add(c.dur)
	sent := make(chan float64)
	go func() {
		n := 0.0
		pub.SetWriteDeadline(stop.Add(time.Second))
		for time.Now().Before(stop) {
			if _, err := pub.Write(line); err != nil {
				break
			}
			n++
		}
		sent <- n
	}()
	meanwhile, err := q.run(c.dur, 500)
	if err != nil {
		return err
	}
	n := <-sent
	m.stop(r, n)
	r.M["flood_s"] = n / c.dur.Seconds()
	before.report(r, "before")
	meanwhile.report(r, "meanwhile")
	return c.emit(r)
}
