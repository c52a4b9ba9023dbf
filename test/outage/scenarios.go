package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// scenario is one way the hub goes away and comes back.
type scenario struct {
	name     string
	hubs     int
	window   time.Duration // the stream's duplicate window
	run      func(*play)
	box      string // more of the outbox's configuration
	second   string // … of a second one's, if there is one: they share the publishers
	rows     int    // ascending rows that a publisher's messages may come in; 0: one, anyOrder: any number
	others   bool   // write to the stream
	behind   bool   // the hub acknowledges first and writes then (persist_mode async)
	loses    bool   // the hub may lose one message and take the next: what others write to has no chain
	lastOnly bool   // of each publisher's subject the newest is kept
	refuses  bool   // the outbox refuses what is too much
	bounded  bool   // the outbox drops what is too much, and declares it
	core     bool   // there is none: a subscriber gets what comes, at least once
	long     bool   // takes minutes

	alone func(t testkit.T, msgs int, chance *rand.Rand) outcome // in place of all the above
}

var scenarios = []scenario{
	{name: "cuts while a backlog drains", hubs: 1, window: shortWindow, run: cutsInMidDrain},
	{name: "hub killed under load", hubs: 1, window: shortWindow, run: hubKilled},
	{name: "hub that writes behind: killed in mid-drain", hubs: 1, window: shortWindow, run: hubKilledInMidDrain, behind: true},
	{name: "hub that writes behind: all at once", hubs: 1, window: shortWindow, run: mixed, behind: true},
	{name: "acknowledgements lost", hubs: 1, window: shortWindow, run: acksLost(3 * shortWindow)},
	{name: "acknowledgements lost for 2 min", hubs: 1, window: 2 * time.Minute, run: acksLost(130 * time.Second), long: true},
	{name: "cluster: leader killed", hubs: 3, window: shortWindow, run: nodesKilled((*rig).leader)},
	{name: "cluster: node of the link killed", hubs: 3, window: shortWindow, run: nodesKilled((*rig).linked)},
	{name: "cluster: cuts while a backlog drains", hubs: 3, window: shortWindow, run: cutsInMidDrain},
	{name: "shared: hub killed under load", hubs: 1, window: shortWindow, run: hubKilled, others: true},
	{name: "shared, hub that writes behind: killed in mid-drain", hubs: 1, window: shortWindow, run: hubKilledInMidDrain, behind: true, others: true, loses: true},
	{name: "shared: leader killed", hubs: 3, window: shortWindow, run: nodesKilled((*rig).leader), others: true, loses: true},
	{name: "hub restored from a copy", hubs: 1, window: shortWindow, box: `grace_bytes: 16MB`, run: restored}, // what it lost is more than the default keeps
	{name: "core hub, confirm flush: cuts", hubs: 1, box: `confirm: "flush"`, run: cutsInMidDrain, core: true},
	{name: "core hub, confirm flush: answers lost", hubs: 1, box: `confirm: "flush"`, run: acksLost(3 * shortWindow), core: true},
	{name: "order newest: cuts while a backlog drains", hubs: 1, window: shortWindow, box: `order: "newest"`, rows: anyOrder, run: cutsWithTraffic},
	{name: "order newest: leafd killed in mid-drain", hubs: 1, window: shortWindow, box: `order: "newest"`, rows: anyOrder, run: leafdKilledInMidDrain},
	{name: "live_share: cuts while a backlog drains", hubs: 1, window: shortWindow, box: `live_share: "30%"`, rows: 2, run: cutsWithTraffic},
	{name: "live_share: leafd killed in mid-drain", hubs: 1, window: shortWindow, box: `live_share: "30%"`, rows: 2, run: leafdKilledInMidDrain},
	{name: "all at once", hubs: 1, window: shortWindow, run: mixed},
	{name: "cluster: all at once", hubs: 3, window: shortWindow, run: mixed},
	{name: "shared: all at once", hubs: 1, window: shortWindow, run: mixed, others: true, loses: true},
	{name: "conflate: all at once", hubs: 1, window: shortWindow, box: `conflate: true`, run: mixed, lastOnly: true},
	{name: "conflate, order newest: all at once", hubs: 1, window: shortWindow, box: `conflate: true, order: "newest"`, run: mixed, lastOnly: true},
	{name: "conflate, live_share: all at once", hubs: 1, window: shortWindow, box: `conflate: true, live_share: "30%"`, run: mixed, lastOnly: true},
	{name: "aged: all at once", hubs: 1, window: shortWindow, box: `max_age: "500ms"`, run: mixed, bounded: true},
	{name: "stream changed under load", hubs: 1, window: shortWindow, run: changed},
	{name: "cluster: stream changed under load", hubs: 3, window: shortWindow, run: changed},
	{name: "full: all at once", hubs: 1, window: shortWindow, box: `max_msgs: 5000`, run: mixed, bounded: true},
	{name: "full, the newest dropped: all at once", hubs: 1, window: shortWindow, box: `max_msgs: 5000, full: "new"`, run: mixed, bounded: true},
	{name: "full in a burst: all at once", hubs: 1, window: shortWindow, box: `max_msgs: 20`, run: mixed, bounded: true},
	{name: "full, order newest: all at once", hubs: 1, window: shortWindow, box: `max_msgs: 5000, order: "newest"`, rows: anyOrder, run: mixed, bounded: true},
	{name: "full, live_share: all at once", hubs: 1, window: shortWindow, box: `max_msgs: 5000, live_share: "30%"`, rows: 2, run: mixed, bounded: true},
	{name: "full, refused: all at once", hubs: 1, window: shortWindow, box: `max_msgs: 300, full: "refuse"`, rows: anyOrder, run: mixed, refuses: true}, // a publisher sends what was refused behind what was not
	{name: "drain_rate: all at once", hubs: 1, window: shortWindow, box: `drain_rate: 512KB`, run: mixed},
	{name: "priority: all at once", hubs: 1, window: shortWindow, box: `priority: 1`, second: `priority: 2`, run: mixed, loses: true}, // the stream is neither one's own
	{name: "priority, full: all at once", hubs: 1, window: shortWindow, box: `max_msgs: 2000, priority: 1`, second: `max_msgs: 3000, priority: 2`, run: mixed, loses: true, bounded: true},
	{name: "aged, live_share: all at once", hubs: 1, window: shortWindow, box: `max_age: "500ms", live_share: "30%"`, rows: 2, run: mixed, bounded: true},
	{name: "clock", alone: playClock},
}

const (
	shortWindow = 100 * time.Millisecond // the shortest that nats-server takes
	perSecond   = 10_000
	anyOrder    = 1 << 30
)

// play is one scenario under way.
type play struct {
	testkit.T
	*rig
	all    *load
	msgs   int
	chance *rand.Rand
	faults int

	refuses   bool   // the scenario's
	behind    bool   // likewise
	reordered uint64 // that earlier runs of leafd counted
}

func (s scenario) play(t testkit.T, msgs int, chance *rand.Rand) outcome {
	if s.alone != nil {
		return s.alone(t, msgs, chance)
	}
	began := time.Now()
	p := &play{T: t, msgs: msgs, chance: chance, refuses: s.refuses, behind: s.behind}
	stream := jetstream.StreamConfig{Duplicates: s.window}
	if s.others {
		stream.Subjects = []string{"others.>"}
	}
	if s.behind {
		stream.PersistMode = jetstream.AsyncPersistMode
	}
	p.rig = newRig(t, s.hubs, s.core, stream, boxes(s.box, s.second), testkit.LeafdOptions{})
	if s.others {
		t.Cleanup(p.write("others.a"))
	}
	s.run(p)
	p.all.reach(t, p.all.total())
	p.all.done.Wait()
	p.drained(t)
	if s.bounded {
		p.wait(16 * time.Second) // markers are 5 s apart, 10 s where a changed stream did not take one
		p.drained(t)
	}
	p.whole(t)
	o := outcome{name: s.name, lastOnly: s.lastOnly, drops: s.bounded, faults: p.faults, said: p.uplink(), mayReorder: s.loses, mayRepeat: s.core, rows: max(s.rows, 1)}
	o.said.Reordered += p.reordered
	o.verify(t, p.rig, p.all)
	if s.bounded {
		o.overstated = max(0, o.declared-o.lost-o.again) // what a publisher sent again is there twice: of it one may be dropped
		o.lost = max(0, o.lost-o.declared)
	}
	if o.took = time.Since(began); !o.held() {
		t.Logf("--- output of leafd\n%s", p.leafd.Log())
	}
	return o
}

// write publishes on the hub, beside leafd, until the result is called.
func (p *play) write(subject string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var g sync.WaitGroup
	g.Go(func() {
		for ctx.Err() == nil {
			if _, err := p.js.Publish(ctx, subject, nil); err != nil && !errors.Is(err, context.Canceled) {
				<-time.After(20 * time.Millisecond)
			}
		}
	})
	return func() { cancel(); g.Wait() }
}

// cutsInMidDrain lets all messages wait, then cuts the cable after every few hundred
// kilobytes at most: in the middle of messages, and between them and their
// acknowledgements.
func cutsInMidDrain(p *play) {
	p.cut()
	p.all = startLoad(p, p.leafd, p.msgs, 4*perSecond)
	p.all.reach(p, p.all.total())
	most := int64(p.msgs) * 2 * payloadSize / 10
	p.cutUntilDrained(most)
}

// cutUntilDrained cuts the cable after most bytes or less, again and again.
func (p *play) cutUntilDrained(most int64) {
	for p.uplink().Messages > 0 || !p.all.finished() {
		p.restore()
		at := p.linked(p)
		way, n := testkit.Up, p.chance.Int64N(2*most)+2000
		if p.chance.IntN(2) == 0 && !p.core { // where next to nothing comes down
			way, n = testkit.Down, n/3
		}
		p.proxy[at].CutAfter(way, n)
		testkit.Eventually(p, func() bool { return p.proxy[at].Conns() == 0 || p.uplink().Messages == 0 }, "a cut after %d bytes", n)
		if p.proxy[at].Conns() == 0 {
			p.faults++
		}
		p.wait(2 * shortWindow)
	}
	p.restore()
}

// cutsWithTraffic is cutsInMidDrain with a third of the messages coming while the
// others drain.
func cutsWithTraffic(p *play) {
	p.cut()
	p.all = startLoad(p, p.leafd, p.msgs, perSecond)
	p.all.reach(p, 2*p.msgs/3)
	p.cutUntilDrained(int64(p.msgs) * 2 * payloadSize / 10)
}

// leafdKilledInMidDrain kills leafd itself while it drains, with messages on their way
// to the hub and new ones coming; none is on its way from a publisher, since those that
// would be sent again would hide what leafd sends twice.
func leafdKilledInMidDrain(p *play) {
	p.cut()
	p.all = startLoad(p, p.leafd, p.msgs, perSecond)
	p.all.reach(p, 2*p.msgs/3)
	for n := 0; n < 8 && (p.uplink().Messages > 0 || !p.all.finished()); n++ {
		p.restore()
		at := p.linked(p)
		p.proxy[at].CutAfter(testkit.Up, p.chance.Int64N(int64(p.msgs)*payloadSize/5)+2000)
		testkit.Eventually(p, func() bool { return p.proxy[at].Conns() == 0 || p.uplink().Messages == 0 }, "a part is forwarded")
		p.all.quiet(func() {
			p.leafd.Kill()
			p.faults++
			p.wait(2 * shortWindow)
			p.leafd.Restart()
		})
	}
	p.restore()
}

// hubKilled kills the hub under load and starts it again after the window.
func hubKilled(p *play) {
	p.all = startLoad(p, p.leafd, p.msgs, perSecond)
	for step := p.msgs / 8; !p.all.finished(); {
		p.all.reach(p, int(p.all.acked.Load())+p.chance.IntN(step)+1)
		p.hubs[0].Kill()
		p.faults++
		p.all.reach(p, int(p.all.acked.Load())+p.chance.IntN(step)+1)
		p.wait(3 * shortWindow)
		p.hubs[0].Restart()
	}
}

// hubKilledInMidDrain lets most messages wait, then kills the hub while it takes them as
// fast as it can, again and again.
func hubKilledInMidDrain(p *play) {
	p.cut()
	p.all = startLoad(p, p.leafd, p.msgs, perSecond)
	p.all.reach(p, 2*p.msgs/3)
	p.restore()
	for p.uplink().Messages > 0 || !p.all.finished() {
		p.goesOn(1)
		p.wait(time.Duration(p.chance.Int64N(int64(shortWindow))))
		p.hubs[0].Kill()
		p.faults++
		p.wait(2 * shortWindow)
		p.hubs[0].Restart()
	}
}

// acksLost lets the hub store what is on its way and nobody hear of it, for a time.
func acksLost(lasts time.Duration) func(p *play) {
	return func(p *play) {
		p.all = startLoad(p, p.leafd, p.msgs, perSecond)
		for range 5 {
			p.all.reach(p, int(p.all.acked.Load())+p.msgs/10)
			p.proxy[0].Blackhole(testkit.Down)
			p.faults++
			p.wait(lasts)
			p.proxy[0].Restore()
			if lasts > time.Minute {
				return
			}
		}
	}
}

// nodesKilled kills a node of the cluster under load, lets the others go on for a
// while, and starts it again.
func nodesKilled(which func(*rig, testkit.T) int) func(p *play) {
	return func(p *play) {
		p.all = startLoad(p, p.leafd, p.msgs, perSecond/2)
		for step := p.msgs / 16; !p.all.finished(); {
			p.all.reach(p, int(p.all.acked.Load())+p.chance.IntN(step)+1)
			at := which(p.rig, p)
			p.hubs[at].Kill()
			p.faults++
			p.goesOn(500)
			p.hubs[at].Restart()
			p.whole(p)
		}
	}
}

// goesOn waits until the hub has acknowledged n more, or has all.
func (p *play) goesOn(n uint64) {
	before := p.uplink().Acked
	testkit.Eventually(p, func() bool {
		u := p.uplink()
		return u.Acked >= before+n || u.Messages == 0
	}, "the others take over")
}

// restored copies the hub's store, lets it take more, and puts the copy back: what a
// power cut leaves of a hub that syncs every two minutes, or a backup.
func restored(p *play) {
	p.all = startLoad(p, p.leafd, p.msgs, perSecond)
	for i := range 3 {
		p.all.reach(p, p.msgs*(3*i+1)/10)
		p.hubs[0].Stop()
		copied := p.TempDir() + "/store"
		if err := os.CopyFS(copied, os.DirFS(p.hubs[0].StoreDir)); err != nil {
			p.Fatalf("copy the hub's store: %v", err)
		}
		p.hubs[0].Restart()
		p.all.reach(p, p.msgs*(3*i+2)/10)
		p.drained(p)
		p.hubs[0].Kill()
		if err := errors.Join(os.RemoveAll(p.hubs[0].StoreDir), os.Rename(copied, p.hubs[0].StoreDir)); err != nil {
			p.Fatalf("restore the hub's store: %v", err)
		}
		p.hubs[0].Restart()
		p.faults++
		testkit.Eventually(p, func() bool { return p.uplink().WentBack > uint64(i) }, "leafd notices that the hub was set back")
	}
}

func (p *play) wait(d time.Duration) { <-time.After(d) }
