package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// verify reads the stream and compares it with what was promised. What a publisher
// itself sent twice may be there twice.
func (o *outcome) verify(t testkit.T, r *rig, all *load) {
	got := map[int][]int{}
	for _, b := range r.readAll(t) {
		source, n, ok := unpack(b)
		if !ok || source >= len(all.sources) {
			o.wrong++
			continue
		}
		got[source] = append(got[source], n)
	}
	for _, s := range all.sources {
		times, next := make([]int, len(s.sent)), 0
		for _, n := range got[s.id] {
			if times[n]++; times[n] == 1 {
				if n < next {
					o.disordered++
				}
				next = max(next, n+1)
			}
		}
		o.acked += s.acked
		for n, stored := range times {
			if n < s.acked && stored == 0 {
				o.lost++
			}
			o.duplicated += max(0, stored-max(1, s.sent[n]))
			o.again += max(0, s.sent[n]-1)
		}
	}
}

// readAll returns the payloads of our subjects in the order of the stream. A cluster
// that has just become whole may need a moment before it can be read.
func (r *rig) readAll(t testkit.T) (all [][]byte) {
	var err error
	testkit.Eventually(t, func() bool { all, err = r.tryReadAll(); return err == nil }, "the stream can be read")
	return all
}

func (r *rig) tryReadAll() (all [][]byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	s, err := r.js.Stream(ctx, streamName)
	if err != nil {
		return nil, err
	}
	c, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{FilterSubjects: []string{"out.>"}})
	if err != nil {
		return nil, err
	}
	ours := -1
	for {
		b, err := c.FetchNoWait(5000)
		if err != nil {
			return nil, err
		}
		n := 0
		for m := range b.Messages() {
			n++
			all = append(all, m.Data())
			if meta, err := m.Metadata(); err == nil {
				ours = int(meta.NumPending)
			}
		}
		switch err := b.Error(); {
		case err != nil && !errors.Is(err, jetstream.ErrNoMessages):
			return nil, err
		case n == 0 && ours != 0:
			return nil, fmt.Errorf("%d messages were not read", ours)
		case n == 0:
			return all, nil
		}
	}
}
