package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// ledger is what publishers were told and what the hub got.
type ledger struct {
	sources []*source
	lastAck atomic.Int64 // unix ns
	told    atomic.Int64 // errors that publishers were given: connections closed, error replies
}

// source is one publisher. Each message it sends is new: it has the next number, and
// none is sent again.
type source struct {
	led *ledger
	id  uint32

	mu    sync.Mutex
	sent  uint32 // guarded by mu
	acked []bool // guarded by mu; by number
	acks  int    // guarded by mu
}

func newLedger(sources int) *ledger {
	l := &ledger{}
	for i := range sources {
		l.sources = append(l.sources, &source{led: l, id: uint32(i)})
	}
	return l
}

// next is a message to be sent.
func (s *source) next() (n uint32, payload []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = s.sent
	s.sent++
	s.acked = append(s.acked, false)
	return n, payloadOf(s.id, n)
}

func (s *source) ack(n uint32) {
	s.mu.Lock()
	if !s.acked[n] {
		s.acked[n] = true
		s.acks++
	}
	s.mu.Unlock()
	s.led.lastAck.Store(time.Now().UnixNano())
}

// acks is how many messages of all sources were acknowledged.
func (l *ledger) acks() (n int) {
	for _, s := range l.sources {
		s.mu.Lock()
		n += s.acks
		s.mu.Unlock()
	}
	return n
}

const payloadSize = 128

// payloadOf is the one payload that message n of source id can have.
func payloadOf(id, n uint32) []byte {
	b := make([]byte, payloadSize)
	binary.BigEndian.PutUint32(b, id)
	binary.BigEndian.PutUint32(b[4:], n)
	x := uint64(id)<<32 | uint64(n) | 1<<63
	for i := 8; i < len(b); i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(b[i:], x)
	}
	return b
}

// arrivals is what came to the hub.
type arrivals struct {
	led                    *ledger
	times                  []map[uint32]int // by source and number
	last                   []int64
	missing                int // acknowledged and not here yet
	duplicated, disordered int
	wrong                  int // not what was ever sent
}

func newArrivals(l *ledger) *arrivals {
	a := &arrivals{led: l, missing: l.acks()}
	for range l.sources {
		a.times, a.last = append(a.times, map[uint32]int{}), append(a.last, -1)
	}
	return a
}

func (a *arrivals) add(payload []byte) {
	if len(payload) != payloadSize {
		a.wrong++
		return
	}
	id, n := binary.BigEndian.Uint32(payload), binary.BigEndian.Uint32(payload[4:])
	if int(id) >= len(a.times) || n >= a.led.sources[id].sent || !bytes.Equal(payload, payloadOf(id, n)) {
		a.wrong++
		return
	}
	a.times[id][n]++
	switch {
	case a.times[id][n] > 1:
		a.duplicated++
		return
	case int64(n) < a.last[id]:
		a.disordered++
	default:
		a.last[id] = int64(n)
	}
	if a.led.sources[id].acked[n] {
		a.missing--
	}
}

// lost describes the acknowledged messages that did not come, up to five.
func (a *arrivals) lost() (text string) {
	found := 0
	for i, s := range a.led.sources {
		for n, acked := range s.acked {
			if acked && a.times[i][uint32(n)] == 0 {
				if found++; found <= 5 {
					text += fmt.Sprintf(" %d/%d", i, n)
				}
			}
		}
	}
	return text
}
