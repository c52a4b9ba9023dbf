package storefwd

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// This file publishes records to the hub's streams, in order.
//
// A stream that is ours alone is told with each publish what its last sequence must
// be (Nats-Expected-Last-Sequence). If one gets lost on its way through a cluster, or
// comes late from a session before, all behind it are refused and nothing is stored
// out of order. (Nats-Expected-Last-Msg-Id would say it better, but one that does not
// match stops a replicated stream of nats-server 2.15.2 for good.) On a stream with
// others on it only the first publish after an interruption can be guarded: it goes
// alone, with the last sequence of our own subjects.

// pump sends what the cursor gives, in order, as far as the window allows.
func (f *Forwarder) pump(ctx context.Context) (err error) {
	_, most := f.up.Hub()
	for {
		if err = f.turn(ctx); err != nil {
			return err
		}
		if f.recs, err = f.c.Next(ctx, f.recs[:0]); err != nil {
			return err
		}
		for i := range f.recs {
			if ctx.Err() != nil {
				return ctx.Err() // the hub refused an earlier one: none may overtake it
			}
			if err := f.how.send(ctx, &f.recs[i], most); err != nil {
				return err
			}
		}
		if err := f.how.flush(); err != nil {
			return err
		}
		f.spend(f.bytes)
		f.bytes = 0
		f.live()
		clear(f.recs)
	}
}

// live tells the log whether what is appended now will be acknowledged soon: not
// while a backlog is before it. Then it is written at once, and no device waits for
// a hub that cannot have it in time.
func (f *Forwarder) live() {
	if live := f.keepsUp(); live != f.isLive {
		if f.isLive = live; live {
			f.l.setLive(true, f.spill())
		} else {
			f.l.setDrains()
		}
	}
}

// keepsUp reports whether what waits is so little, or the hub so quick, that it takes all of it in
// a quarter of the time that a device may wait. With a drain rate a backlog is one to its end,
// and what is not little is one.
func (f *Forwarder) keepsUp() bool {
	msgs, bytes := f.c.waits()
	switch {
	case f.o.Rate > 0 && !f.isLive:
		return msgs == 0
	case msgs <= startWindow:
		return true
	case f.o.Rate > 0:
		return false
	}
	spill := f.spill()
	f.mu.Lock()
	defer f.mu.Unlock()
	windows := 1 + max(msgs/uint64(f.flow.msgs), bytes/uint64(f.flow.bytes))
	return f.st.RTT > 0 && windows <= uint64(spill/4/f.st.RTT)
}

// idle notes that there is nothing to send now, where the last look found something: what
// was left of a backlog has expired, or was acknowledged late.
func (f *Forwarder) idle() {
	if f.pacer.backlog {
		f.pacer.backlog = f.c.more()
		f.s.busy(f, f.pacer.backlog)
	}
	if !f.isLive {
		f.live()
	}
}

// send publishes one record.
func (f *Forwarder) send(ctx context.Context, r *Record, most int) error {
	if err := f.knows(r); err != nil {
		return err
	}
	if f.partial {
		if err := f.untaken(r); err != nil && r.gap {
			return f.markerUntaken(ctx, r)
		} else if err != nil {
			return err
		}
	}
	p, filter := f.placeOf(r.Subject)
	if p.took(r) {
		return f.resumed(r.Seq)
	}
	if r.ageless && r.Seq < p.top && !f.c.mixes() {
		// It had its turn in an earlier run: it was stored and has expired there, or it had
		// expired here and a crash came before that was on the disk.
		f.c.lose(r.Seq, LostExpired)
		return nil
	}
	alone := f.guard(p, filter)
	f.header = f.appendHeader(f.header[:0], r)
	if most > 0 && len(f.header)+len(r.Data) > most {
		f.reject(r.Seq, fmt.Sprintf("it is more than the hub's max_payload of %d bytes", most))
		return nil
	}
	var acked chan struct{}
	if alone {
		acked = make(chan struct{})
	}
	f.note(p, r, acked)
	f.out = msg.Msg{Subject: r.Subject, Reply: f.reply, Header: f.header, Data: r.Data, QoS: r.QoS}
	err := f.up.Send(&f.out)
	if permanent(err) {
		f.reject(r.Seq, err.Error())
		return nil
	}
	if err != nil {
		return err
	}
	p.next++
	f.bytes += int64(len(r.Subject) + len(f.reply) + len(f.header) + len(r.Data) + 24)
	if f.head = false; !alone {
		return nil
	}
	f.up.Flush()
	select {
	case <-acked:
		if p.probe {
			f.probed = true
			return fmt.Errorf("%w: the stream takes messages again", errResync)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// note makes the reply subject and counts.
func (f *Forwarder) note(p *place, r *Record, acked chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.st.Sent++
	switch {
	case r.Seq < p.top && !f.c.mixes():
		f.st.Resent++
		f.late.add(r.Seq, r.Seq)
	case r.again:
		f.st.Resent++
	}
	f.alone, f.aloneSeq, f.insisted = acked, r.Seq, ""
	if acked != nil && p.insists && !p.probe {
		f.insisted = string(r.Subject)
	}
	f.reply = append(f.reply[:0], f.inbox...)
	f.reply = strconv.AppendUint(f.reply, f.attempt, 10)
	if p.chained && f.only == p.name {
		if f.flight.sent(p.next+1, r.Seq); f.flight.names == 0 {
			return
		}
		f.flight.names--
	}
	f.reply = append(f.reply, '_')
	f.reply = strconv.AppendUint(f.reply, r.Seq, 10)
}

const expectedStream = "Nats-Expected-Stream: "

var (
	headerLine = []byte("NATS/1.0\r\n")
	crlf       = []byte("\r\n")
	msgID      = []byte("Nats-Msg-Id")
)

// leftOut are headers that a device may not set, by name or, with a dash at the end, by what
// that begins with: they would undo what ours are for, or keep the stream from storing the
// message, or from saying so.
var leftOut = [][]byte{msgID, []byte("Nats-Expected-"), []byte("Nats-Batch-"), []byte("Nats-Trace-Only")}

func isLeftOut(name []byte) bool {
	for _, n := range leftOut {
		if bytes.HasPrefix(name, n) && (len(name) == len(n) || n[len(n)-1] == '-') {
			return true
		}
	}
	return false
}

// guard makes the lines that say what the next publish must come behind. alone says
// that nothing may follow before it is acknowledged.
func (f *Forwarder) guard(p *place, filter int) (alone bool) {
	f.expect = f.expect[:0]
	if p.insists && !p.probe {
		f.expect = append(append(append(f.expect, expectedStream...), p.name...), crlf...)
	}
	switch {
	case p.chained:
		f.expect = append(f.expect, "Nats-Expected-Last-Sequence: "...)
		f.expect = strconv.AppendUint(f.expect, p.next, 10)
		f.expect = append(f.expect, crlf...)
		return p.insists && f.head
	case !f.head:
		return false
	case p.probe: // no stream has that name: it answers, and stores nothing
		f.expect = append(f.expect, expectedStream+".\r\n"...)
	case p.own && len(p.lasts) > 0 && f.outOfTurn < 2 && !p.info.Config.Counter:
		f.expect = append(f.expect, "Nats-Expected-Last-Subject-Sequence: "...)
		f.expect = strconv.AppendUint(f.expect, p.lasts[filter].at, 10)
		f.expect = append(f.expect, "\r\nNats-Expected-Last-Subject-Sequence-Subject: "...)
		f.expect = append(f.expect, p.query(filter)...)
		f.expect = append(f.expect, crlf...)
	}
	return true
}

// appendHeader appends the record's header block with our message id and the guard in it.
func (f *Forwarder) appendHeader(b []byte, r *Record) []byte {
	first, rest, _ := bytes.Cut(r.Header, crlf)
	if bytes.HasPrefix(first, headerLine[:8]) && bytes.HasSuffix(rest, crlf) {
		b = append(append(b, first...), crlf...)
	} else {
		b, rest = append(b, headerLine...), nil
	}
	b = append(append(b, msgID...), ": "...)
	b = appendID(b, f.origin, r.Epoch, r.Seq)
	b = append(b, crlf...)
	b = append(b, f.expect...)
	b = f.appendTimes(b, r)
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, crlf)
		if name, _, _ := bytes.Cut(line, []byte(":")); len(line) > 0 && !isLeftOut(name) && !((r.TTL > 0 || f.noTTL.Load()) && bytes.Equal(name, ttlName)) {
			b = append(append(b, line...), crlf...)
		}
	}
	return append(b, crlf...)
}

// overhead is what appendHeader adds to a message at most, in bytes.
func (f *Forwarder) overhead() int {
	const number = 20 // digits
	longest, named := 0, 0
	if f.o.Stream != "" {
		named = len(expectedStream) + len(f.o.Stream) + len(crlf)
	}
	for _, filter := range f.o.Filters {
		longest = max(longest, len(filter))
	}
	return len("NATS/1.0\r\n\r\n") + len("Nats-Msg-Id: ..\r\n") + len(f.origin) + 2*number +
		len("Nats-Expected-Last-Subject-Sequence: \r\nNats-Expected-Last-Subject-Sequence-Subject: \r\n") + number + longest +
		named +
		len("Nats-TTL: \r\n") + number + len("Leafd-Time: \r\n") + len(time.RFC3339Nano)
}

// appendTimes appends what is left of the message's life, in place of what its sender
// gave it, and, if it was taken before the clock was known, when that was.
func (f *Forwarder) appendTimes(b []byte, r *Record) []byte {
	if r.TTL > 0 && !f.noTTL.Load() {
		b = appendTTL(b, r.TTL)
	}
	switch {
	case r.TimeUncertain:
		b = append(b, "Leafd-Time-Uncertain: true\r\n"...)
	case r.Early:
		b = append(b, "Leafd-Time: "...)
		b = append(r.Time.UTC().AppendFormat(b, time.RFC3339Nano), crlf...)
	}
	return b
}
