package main

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// changed has somebody at the hub change the stream under load, again and again: what is
// safe stays in it, but for a while it takes no messages, does not say that it took them,
// stores them under other subjects, forgets sooner which it had, or moves to fewer nodes.
func changed(p *play) {
	p.all = startLoad(p, p.leafd, p.msgs, perSecond/2)
	for step := p.msgs / 32; !p.all.finished(); {
		p.all.reach(p, int(p.all.acked.Load())+p.chance.IntN(step)+1)
		before := p.config()
		p.change()
		p.faults++
		p.all.reach(p, int(p.all.acked.Load())+p.chance.IntN(step/4)+1)
		p.wait(time.Duration(p.chance.Int64N(8 * int64(shortWindow))))
		p.update(before)
		if p.chance.IntN(2) == 0 { // else the next comes while it recovers
			p.goesOn(500)
		}
	}
}

// change makes one of these.
func (p *play) change() {
	c := p.config()
	changes := p.changes()
	changes[p.chance.IntN(len(changes))](&c)
	p.update(c)
}

// changes are those that this hub takes.
func (p *play) changes() []func(*jetstream.StreamConfig) {
	all := []func(*jetstream.StreamConfig){
		func(c *jetstream.StreamConfig) { c.Subjects = []string{"elsewhere.>"} },
		func(c *jetstream.StreamConfig) { c.Subjects = []string{"out.s0", "elsewhere.>"} },
		func(c *jetstream.StreamConfig) { c.MaxMsgs, c.Discard = 1, jetstream.DiscardNew },
		func(c *jetstream.StreamConfig) { c.NoAck = true },
		func(c *jetstream.StreamConfig) { c.Duplicates = 2 * time.Minute },
		func(c *jetstream.StreamConfig) { c.Compression = jetstream.S2Compression },
		func(c *jetstream.StreamConfig) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "out.>", Destination: "out.other.>"}
		},
		func(c *jetstream.StreamConfig) {
			c.RePublish = &jetstream.RePublish{Source: "out.>", Destination: "seen.>"}
		},
	}
	if len(p.hubs) > 1 {
		all = append(all, func(c *jetstream.StreamConfig) { c.Replicas = 1 })
	}
	return all
}

func (p *play) config() (c jetstream.StreamConfig) {
	testkit.Eventually(p, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		s, err := p.js.Stream(ctx, streamName)
		if err == nil {
			c = s.CachedInfo().Config
		}
		return err == nil
	}, "the stream's configuration")
	return c
}

func (p *play) update(c jetstream.StreamConfig) {
	var err error
	testkit.Eventually(p, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if _, err = p.js.UpdateStream(ctx, c); err != nil {
			p.Logf("update: %v", err)
		}
		return err == nil
	}, "the stream takes the configuration %+v", c)
}
