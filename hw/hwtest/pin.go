package hwtest

import (
	"errors"
	"slices"
	"sync"
	"time"

	"periph.io/x/conn/v3/gpio"
	"periph.io/x/conn/v3/physic"

	"github.com/leafd/leafd/hw"
)

// Pin is a line that a test drives with Set, or whose output it looks at with Outs.
// It keeps every edge until it is waited for, as the kernel does. It implements
// hw.Pin.
type Pin struct {
	name string // static

	mu     sync.Mutex
	level  gpio.Level   // guarded by mu
	edge   gpio.Level   // guarded by mu; of the last edge waited for
	edges  []gpio.Level // guarded by mu; not yet waited for
	outs   []gpio.Level // guarded by mu
	pull   gpio.Pull    // guarded by mu
	input  bool         // guarded by mu; In was called, so edges count
	halted bool         // guarded by mu
	broken error        // guarded by mu
	err    error        // guarded by mu; what Err tells
	wake   chan struct{}
}

// NewPin returns a line that is at level.
func NewPin(name string, level gpio.Level) *Pin {
	return &Pin{name: name, level: level, wake: make(chan struct{}, 1)}
}

// Set drives the line from outside; a change is an edge.
func (p *Pin) Set(level gpio.Level) {
	p.mu.Lock()
	if level != p.level && p.input {
		p.edges = append(p.edges, level)
	}
	p.level = level
	p.mu.Unlock()
	p.notify()
}

// SetUnseen drives the line from outside, and the edge gets lost.
func (p *Pin) SetUnseen(level gpio.Level) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.level = level
}

// Break lets every further use of the line fail with err; nil repairs it.
func (p *Pin) Break(err error) {
	p.mu.Lock()
	p.broken = err
	p.mu.Unlock()
	p.notify()
}

// Outs is every level that was put out, in order.
func (p *Pin) Outs() []gpio.Level {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.outs)
}

func (p *Pin) notify() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// In implements gpio.PinIn.
func (p *Pin) In(pull gpio.Pull, _ gpio.Edge) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pull, p.input, p.halted, p.edges, p.err = pull, true, false, nil, nil
	return p.broken
}

// Read implements gpio.PinIn.
func (p *Pin) Read() gpio.Level {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		p.err = p.broken
		return gpio.Low
	}
	return p.level
}

// WaitForEdge implements gpio.PinIn. It panics without a positive timeout, which
// hw.Pin asks for.
func (p *Pin) WaitForEdge(timeout time.Duration) bool {
	if timeout <= 0 {
		panic("hwtest: WaitForEdge without a positive timeout")
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		if edge, done := p.poll(); done {
			return edge
		}
		select {
		case <-p.wake:
		case <-timer.C:
			return false
		}
	}
}

func (p *Pin) poll() (edge, done bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.broken != nil:
		p.err = p.broken
		return false, true
	case p.halted:
		return false, true
	case len(p.edges) > 0:
		p.edge, p.edges = p.edges[0], p.edges[1:]
		return true, true
	}
	return false, false
}

// Out implements gpio.PinOut.
func (p *Pin) Out(l gpio.Level) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return p.broken
	}
	p.level = l
	p.outs = append(p.outs, l)
	return nil
}

// Halt implements conn.Resource: it ends WaitForEdge.
func (p *Pin) Halt() error {
	p.mu.Lock()
	p.halted = true
	p.mu.Unlock()
	p.notify()
	return nil
}

// Edge implements hw.Pin.
func (p *Pin) Edge() gpio.Level {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.edge
}

// Err implements hw.Pin.
func (p *Pin) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Close implements hw.Pin.
func (p *Pin) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.input = false
	return nil
}

// Pull implements gpio.PinIn: what In asked for.
func (p *Pin) Pull() gpio.Pull {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pull
}

func (p *Pin) String() string         { return p.name }
func (p *Pin) Name() string           { return p.name }
func (p *Pin) Number() int            { return -1 }
func (p *Pin) Function() string       { return "" }
func (p *Pin) DefaultPull() gpio.Pull { return gpio.PullNoChange }

// PWM implements gpio.PinOut.
func (p *Pin) PWM(gpio.Duty, physic.Frequency) error { return errors.ErrUnsupported }

var _ hw.Pin = (*Pin)(nil)
