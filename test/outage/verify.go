package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// verify reads the stream and compares it with what was promised. What a publisher
// itself sent twice may be there twice, and where the outbox drops what is too much the
// first may be gone: it has no place of its own in the order then.
func (o *outcome) verify(t testkit.T, r *rig, all *load) {
	got := map[int][]int{}
	for _, b := range r.readAll(t) {
		source, n, ok := unpack(b)
		if !ok || source >= len(all.sources) {
			if count, is := unpackGap(b); is {
				o.declared += count
			} else {
				o.wrong++
			}
			continue
		}
		got[source] = append(got[source], n)
	}
	for _, s := range all.sources {
		times := make([]int, len(s.sent))
		order := rows{most: o.rows}
		for _, n := range got[s.id] {
			if times[n]++; times[n] == 1 && !(o.drops && s.sent[n] > 1) && !order.take(n) {
				o.disordered++
			}
		}
		o.acked += s.acked
		for n, stored := range times {
			if n < s.acked && stored == 0 && (n == s.acked-1 || !o.lastOnly) {
				o.lost++
			}
			o.duplicated += max(0, stored-max(1, s.sent[n]))
			o.again += max(0, s.sent[n]-1)
		}
	}
}

// unpackGap is how many messages a gap marker declares as lost.
func unpackGap(b []byte) (n int, ok bool) {
	var marker struct {
		Outbox string
		Count  int
	}
	return marker.Count, json.Unmarshal(b, &marker) == nil && marker.Outbox != ""
}

// rows lays numbers out in ascending rows, as few as there can be.
type rows struct {
	most int
	ends []int // descending
}

// take reports whether n fits one of most rows.
func (r *rows) take(n int) bool {
	for i, end := range r.ends {
		if end < n {
			r.ends[i] = n
			return true
		}
	}
	if len(r.ends) == r.most {
		return false
	}
	r.ends = append(r.ends, n)
	return true
}

// readAll returns the payloads of our subjects in the order of the stream.
func (r *rig) readAll(t testkit.T) (all [][]byte) {
	if r.core {
		return r.allHeard(t)
	}
	testkit.Eventually(t, func() bool {
		var err error
		if all, err = r.read(); err != nil {
			t.Logf("the stream is read once more: %v", err)
		}
		return err == nil
	}, "all of the stream is read")
	return all
}

// read reads the stream from its beginning. The hub numbers what it gives: on a busy machine an
// answer of it can come too late, and what is in it is not the stream's loss.
func (r *rig) read() (all [][]byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := r.js.CreateConsumer(ctx, streamName, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy,
		FilterSubject: "out.>", InactiveThreshold: time.Minute})
	if err != nil {
		return nil, err
	}
	for left := uint64(1); left > 0; { // the hub says with each message how many are behind it
		b, err := c.FetchNoWait(5000)
		if err != nil {
			return nil, err
		}
		before := len(all)
		for m := range b.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				return nil, err
			}
			if all, left = append(all, m.Data()), meta.NumPending; meta.Sequence.Consumer != uint64(len(all)) {
				return nil, fmt.Errorf("message %d of the consumer is the %d. to come", meta.Sequence.Consumer, len(all))
			}
		}
		if len(all) == before {
			return nil, cmp.Or(b.Error(), errors.New("nothing came"))
		}
	}
	return all, nil
}

// allHeard returns what the subscriber got, once it has all that the hub routed.
func (r *rig) allHeard(t testkit.T) [][]byte {
	if err := r.nc.Flush(); err != nil {
		t.Fatalf("the subscriber at the hub: %v", err)
	}
	var count int
	testkit.Eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		done := count == len(r.heard)
		count = len(r.heard)
		return done
	}, "the subscriber has handled all")
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.heard)
}
