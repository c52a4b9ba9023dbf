package main

import (
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

// mixed provokes faults of all kinds at random, up to three at once: the cable is cut or
// swallows what the hub says, a hub is killed or hands its stream to another, leafd is
// killed or stopped, the stream is changed. They last a little, or longer than the stream's duplicate window.
func mixed(p *play) {
	p.all = startLoad(p, p.leafd, p.msgs, perSecond/2)
	for step := p.msgs / 32; !p.all.finished(); {
		p.all.reach(p, int(p.all.acked.Load())+p.chance.IntN(step)+1)
		down := -1 // the hub that is killed
		stream := p.config()
		for range p.chance.IntN(3) + 1 {
			p.provoke(&down)
			p.wait(time.Duration(p.chance.Int64N(int64(shortWindow))))
		}
		if !p.refuses { // else nobody may get on meanwhile
			p.all.reach(p, int(p.all.acked.Load())+p.chance.IntN(step/4)+1)
		}
		p.wait(time.Duration(p.chance.Int64N(4 * int64(shortWindow))))
		if down >= 0 {
			p.hubs[down].Restart()
		}
		p.restore()
		p.update(stream)
		if p.chance.IntN(2) == 0 { // else the next come while it recovers
			p.whole(p)
			p.goesOn(500)
		}
	}
}

// saved waits until leafd has on its disk what a hub that writes behind may have lost: what it acknowledged last
// is nowhere else once leafd is killed as well. It reports whether leafd has noticed that the hub is dead.
func (p *play) saved() bool {
	for end := time.Now().Add(5 * time.Second); p.uplink().InRAM > 0; <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// provoke is one fault, or none if what it would be about is down, or alone.
func (p *play) provoke(down *int) {
	kind := p.chance.IntN(7)
	if (kind == 2 || kind == 6) && *down >= 0 || kind == 3 && len(p.hubs) == 1 {
		return
	}
	p.faults++
	switch kind {
	case 0:
		p.cut()
	case 1:
		for _, c := range p.proxy {
			c.Blackhole(testkit.Down)
		}
	case 2:
		*down = p.chance.IntN(len(p.hubs))
		p.hubs[*down].Kill()
	case 3:
		if _, err := p.nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+streamName, nil, time.Second); err != nil {
			p.Logf("no other leader: %v", err)
		}
	case 4:
		if p.behind && *down >= 0 && !p.saved() {
			return
		}
		p.all.quiet(func() {
			p.reordered += p.uplink().Reordered
			p.leafd.Kill()
			p.leafd.Restart()
		})
	case 5:
		p.all.quiet(func() {
			p.reordered += p.uplink().Reordered
			p.leafd.Stop()
			p.leafd.Restart()
		})
	case 6:
		p.change()
	}
}
