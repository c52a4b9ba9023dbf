package testkit

import (
	"slices"
	"sync"

	"github.com/leafd/leafd/internal/msg"
)

// Sink is a msg.Sink that remembers what it was given and answers as it was told.
// Its zero value takes everything.
type Sink struct {
	mu     sync.Mutex
	got    []Delivery
	answer msg.Drop
}

// Delivery is one call of Deliver: a copy of the message, made before Deliver
// returned, and the subscription it was for.
type Delivery struct {
	*msg.Msg
	Sub *msg.Sub
}

// Deliver implements msg.Sink.
func (s *Sink) Deliver(m *msg.Msg, sub *msg.Sub) msg.Drop {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answer == msg.Taken || s.answer == msg.Kept {
		s.got = append(s.got, Delivery{m.Clone(), sub})
	}
	return s.answer
}

// Answer sets what Deliver says from now on. What it refuses it does not remember.
func (s *Sink) Answer(d msg.Drop) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = d
}

// Got is what was delivered so far, in order.
func (s *Sink) Got() []Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// Subjects are those of the messages delivered so far, in order.
func (s *Sink) Subjects() []string {
	var all []string
	for _, d := range s.Got() {
		all = append(all, string(d.Subject))
	}
	return all
}

// Poison overwrites every byte that m lends out, as the next read into a
// publisher's buffer does. Who kept a borrow then holds nonsense.
func Poison(m *msg.Msg) {
	for _, b := range append([][]byte{m.Subject, m.Reply, m.Header, m.Data}, m.Queues...) {
		for i := range b {
			b[i] = 0xDB
		}
	}
}

// Lend calls publish with a copy of m and poisons the copy once it returns.
func Lend(m *msg.Msg, publish func(*msg.Msg)) {
	lent := m.Clone()
	for _, q := range m.Queues {
		lent.Queues = append(lent.Queues, slices.Clone(q))
	}
	defer Poison(lent)
	publish(lent)
}
