package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// clockPlay is the scenario of a gateway whose wall clock is anywhere: leafd is built with a
// clock that is told the time (cmd/leafd/clock_told.go) and restarted, killed, rebooted, cut
// off and set right and wrong, while messages with and without a Nats-TTL come. Hours pass at
// once: the machine sleeps. What is not at the hub after a drain must have been too old.
type clockPlay struct {
	testkit.T
	*rig
	chance *rand.Rand
	file   string // that tells leafd the time
	told   toldClock
	out    jetstream.JetStream // of leafd
	right  bool                // leafd has seen the right time in this run
	o      outcome

	mu    sync.Mutex
	ahead time.Duration  // guarded by mu; what the time really is, less this machine's
	msgs  []clockMsg     // guarded by mu; by number
	ids   map[string]int // guarded by mu; number of the message with that id
}

// toldClock is the file, see cmd/leafd/clock_told.go.
type toldClock struct {
	Offset  time.Duration `json:"offset"`
	Booted  time.Time     `json:"booted"`
	BootID  string        `json:"boot_id"`
	Trusted bool          `json:"trusted"`
}

// clockMsg is one message that leafd acknowledged.
type clockMsg struct {
	born    time.Time     // when, really
	life    time.Duration // 0: for ever
	id      string        // under which it arrived; empty: it did not
	settled bool          // it arrived, or was missing at a drain
}

const (
	clockBatch = 10              // messages between two steps
	clockSlack = 2 * time.Second // of real time that passes while something is looked at
)

func playClock(t testkit.T, msgs int, chance *rand.Rand) outcome {
	began := time.Now()
	p := &clockPlay{T: t, chance: chance, file: filepath.Join(t.TempDir(), "clock"), ids: map[string]int{}, ahead: 24 * time.Hour}
	p.boot(-time.Since(time.Unix(100, 0)), false)
	bin := testkit.BuildLeafd(t, "TAGS=leafdtestclock")
	p.rig = newRig(t, 1, false, jetstream.StreamConfig{Duplicates: shortWindow}, boxes("", ""), testkit.LeafdOptions{Bin: bin, Run: []string{"env", "LEAFD_TEST_CLOCK=" + p.file}})
	if _, err := p.nc.Subscribe("out.>", p.arrived); err != nil {
		t.Fatalf("%v", err)
	}
	p.connect()
	p.cut()
	for range min(max(msgs/500, 16), 400) {
		p.step()
		p.publish()
	}
	p.tell(p.ahead, true)
	p.learn()
	p.drain()
	p.count()
	p.o.name, p.o.said, p.o.took = "clock", p.uplink(), time.Since(began)
	if !p.o.held() {
		t.Logf("--- output of leafd\n%s", p.leafd.Log())
	}
	return p.o
}

// step is one thing that happens to a clock, to leafd, or to the link.
func (p *clockPlay) step() {
	switch p.chance.IntN(9) {
	case 0, 1:
		p.pass(time.Duration(p.chance.Int64N(int64(12 * time.Hour))))
	case 2: // set by hand, or by a program that nobody vouches for
		p.tell(p.somewhere(), false)
	case 3: // the network is there
		p.tell(p.ahead, true)
		p.learn()
	case 4: // its server is mad
		if p.right {
			p.o.faults++
			p.tell(p.ahead+20*365*24*time.Hour-time.Hour, true)
		}
	case 5:
		p.stop()
		p.right = p.told.Trusted && p.told.Offset == p.ahead
		p.tell(p.told.Offset, p.right)
		p.start()
	case 6, 7:
		p.stop()
		p.pass(time.Duration(p.chance.Int64N(int64(8 * time.Hour))))
		if p.right = p.chance.IntN(3) == 0; p.right {
			p.boot(p.ahead, true)
		} else {
			p.boot(p.somewhere(), false)
		}
		p.start()
	case 8:
		p.drain()
	}
}

// somewhere is an offset as a machine without a battery may have it.
func (p *clockPlay) somewhere() time.Duration {
	p.o.faults++
	switch p.chance.IntN(5) {
	case 0:
		return -time.Since(time.Unix(p.chance.Int64N(1000), 0)) // 1970
	case 1:
		return p.ahead + 20*365*24*time.Hour
	case 2:
		return p.ahead - time.Hour
	case 3:
		return p.told.Offset
	}
	return p.ahead + time.Duration(p.chance.Int64N(int64(2000*time.Hour))) - 1000*time.Hour
}

// pass lets time go by, in which the machine slept or was off.
func (p *clockPlay) pass(d time.Duration) {
	p.mu.Lock()
	p.ahead += d
	p.mu.Unlock()
	p.told.Booted = p.told.Booted.Add(-d)
	p.tell(p.told.Offset+d, p.told.Trusted)
}

func (p *clockPlay) boot(offset time.Duration, trusted bool) {
	p.told.Booted, p.told.BootID = time.Now().Add(-time.Second), fmt.Sprint("boot", p.chance.Int64())
	p.tell(offset, trusted)
}

// tell makes the clock that leafd reads from now on.
func (p *clockPlay) tell(offset time.Duration, trusted bool) {
	p.told.Offset, p.told.Trusted = offset, trusted
	b, err := json.Marshal(p.told)
	if err == nil {
		err = os.WriteFile(p.file+".new", b, 0o600)
	}
	if err == nil {
		err = os.Rename(p.file+".new", p.file)
	}
	if err != nil {
		p.Fatalf("tell the time: %v", err)
	}
}

// learn waits until leafd has seen that the clock is right.
func (p *clockPlay) learn() {
	testkit.Eventually(p, func() bool {
		var meta struct {
			Runs []struct {
				Wall int64 `json:"w"`
			} `json:"runs"`
		}
		b, err := os.ReadFile(filepath.Join(p.leafd.StoreDir, "meta.json"))
		if err == nil {
			err = json.Unmarshal(b, &meta)
		}
		return err == nil && len(meta.Runs) > 0 && meta.Runs[len(meta.Runs)-1].Wall != 0
	}, "leafd knows the time")
	p.right = true
}

func (p *clockPlay) stop() {
	if p.chance.IntN(2) == 0 {
		p.leafd.Kill()
	} else {
		p.leafd.Stop()
	}
}

func (p *clockPlay) start() {
	p.leafd.Restart()
	p.connect()
}

func (p *clockPlay) connect() {
	nc, err := nats.Connect(p.leafd.NATSURL(), nats.NoReconnect())
	if err == nil {
		p.out, err = jetstream.New(nc)
	}
	if err != nil {
		p.Fatalf("%v", err)
	}
	p.Cleanup(nc.Close)
}

// publish has a few messages acknowledged, of which some live for ever.
func (p *clockPlay) publish() {
	for range clockBatch {
		p.mu.Lock()
		n, born := len(p.msgs), time.Now().Add(p.ahead)
		life := time.Duration(p.chance.IntN(3)) * 6 * time.Hour
		p.msgs = append(p.msgs, clockMsg{born: born, life: life})
		p.mu.Unlock()
		m := nats.NewMsg("out.a")
		if m.Data = payload(0, n); life > 0 {
			m.Header.Set("Nats-TTL", strconv.Itoa(int(life.Seconds())))
		}
		if _, err := p.out.PublishMsg(context.Background(), m); err != nil {
			p.Fatalf("message %d: %v", n, err)
		}
		p.o.acked++
	}
}

// arrived is called for each message that the hub gets.
func (p *clockPlay) arrived(m *nats.Msg) {
	if m.Header.Get("Leafd-Gap") != "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, n, ok := unpack(m.Data)
	if !ok || n >= len(p.msgs) {
		p.o.wrong++
		return
	}
	is, id := &p.msgs[n], m.Header.Get("Nats-Msg-Id")
	if of, known := p.ids[id]; id == "" || known && of != n || is.id != "" && is.id != id {
		p.o.wrong++
		p.Logf("message %d has the id %q, that of %d; it had %q", n, id, of, is.id)
	}
	p.ids[id], is.id = n, id
	left := is.life - time.Now().Add(p.ahead).Sub(is.born)
	ttl, _ := strconv.Atoi(m.Header.Get("Nats-TTL")) // none is 0
	if got := time.Duration(ttl) * time.Second; (ttl == 0) != (is.life == 0) || is.life > 0 && got < left-clockSlack || got > is.life {
		p.o.wrong++
		p.Logf("message %d is to live for %v, it has %v left of %v", n, got, left, is.life)
	}
}

// drain lets leafd reach the hub. What has not arrived then has expired, or is lost.
func (p *clockPlay) drain() {
	p.restore()
	p.linked(p)
	p.drained(p)
	if err := p.nc.Flush(); err != nil {
		p.Fatalf("%v", err)
	}
	p.cut()
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := range p.msgs {
		m := &p.msgs[n]
		if m.settled {
			continue
		}
		m.settled = true
		switch age := time.Now().Add(p.ahead).Sub(m.born); {
		case m.id != "":
		case m.life == 0:
			p.o.lost++
		case age < m.life-clockSlack:
			p.o.wrong++
			p.Logf("message %d expired at the age of %v, it had %v", n, age, m.life)
		default:
			p.o.expired++
		}
	}
}

// count looks at what the stream has twice, or behind a later one.
func (p *clockPlay) count() {
	times, next := make([]int, len(p.msgs)), 0
	for _, b := range p.readAll(p) {
		_, n, ok := unpack(b)
		if !ok || n >= len(times) {
			continue // a gap marker
		}
		if times[n]++; times[n] > 1 {
			p.o.duplicated++
		} else if n < next {
			p.o.disordered++
			p.Logf("message %d, %q, stands behind %d", n, p.msgs[n].id, next-1)
		}
		next = max(next, n+1)
	}
}
