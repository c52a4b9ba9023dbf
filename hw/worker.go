package hw

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"periph.io/x/conn/v3/i2c"

	"github.com/leafd/leafd/internal/msg"
)

const (
	maxQueue  = 64              // commands waiting for one bus
	patience  = 5 * time.Second // for one measurement or one command
	firstWait = time.Second     // before a lost device is tried again; then twice as long, up to
	longWait  = time.Minute     // this
	noHurry   = 24 * time.Hour  // when nothing is due
)

var errStopping = errors.New("leafd is stopping")

// worker is the goroutine of one bus, or of one watched pin, and what it owns. As a
// msg.Sink it takes the commands for the outputs on its bus.
type worker struct {
	// static after New, but port: static after Run's first lines
	name    string
	host    Host
	log     *slog.Logger
	devices []*device
	port    Port // Publish and Flush owned by run
	queue   chan command

	// owned by run
	bus   i2c.BusCloser // nil while no device uses it
	users int           // devices that have it on loan
	buf   []byte        // the message being published
	topic []byte        // its subject

	mu      sync.Mutex
	stopped bool // guarded by mu; nothing is queued any more
}

// command is one order on its way to its device.
type command struct {
	dev *device
	msg *msg.Msg // a clone, its Data cut after maxCommand+1 bytes
}

// device is one configured device on its worker.
type device struct {
	// static after New
	resolved
	commands string // the subject of its commands
	health   health // its own lock

	// owned by its worker's goroutine
	part fmt.Stringer // the Sensor, Watcher or Actuator; nil while it is lost
	loan *loan        // what part works on
	due  time.Time    // when to attend to it next; zero for never
	wait time.Duration
}

func newDevice(r resolved, log *slog.Logger) *device {
	d := &device{resolved: r, commands: r.Subject + ".set", due: time.Now()}
	d.health.log = log.With("device", r.Name, "driver", r.driver.Name, "subject", r.Subject)
	d.health.now = DeviceHealth{Name: r.Name, Driver: r.driver.Name, Subject: r.Subject, Since: d.due}
	return d
}

// Deliver queues a command. It runs on the publisher's goroutine.
func (w *worker) Deliver(m *msg.Msg, sub *msg.Sub) msg.Drop {
	for _, d := range w.devices {
		if d.commands != sub.Subject {
			continue
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.stopped {
			return msg.Gone
		}
		if len(w.queue) == cap(w.queue) { // only Deliver fills it, and only one at a time does
			return msg.SlowConsumer
		}
		cut := msg.Msg{Reply: m.Reply, Data: m.Data[:min(len(m.Data), maxCommand+1)]}
		w.queue <- command{d, cut.Clone()}
		return msg.Taken
	}
	return msg.Gone
}

// run is the life of the goroutine.
func (w *worker) run(ctx context.Context) {
	defer w.stop()
	if w.devices[0].driver.Role == WatchRole {
		w.watch(ctx, w.devices[0])
		return
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case c := <-w.queue:
			w.obey(ctx, c)
		case <-timer.C:
			w.attend(ctx, w.next())
		}
		timer.Reset(w.pause())
	}
}

// stop is the end of it: outputs first, then whoever still waits for an answer.
func (w *worker) stop() {
	for _, d := range w.devices {
		if a, ok := d.part.(Actuator); ok {
			before := a.State()
			if err := a.Halt(); err != nil {
				d.health.ill(fmt.Errorf("bring to the safe state: %w", err))
			} else if a.State() != before {
				w.publishState(d, a)
			}
		}
		w.release(d)
	}
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	for len(w.queue) > 0 {
		c := <-w.queue
		w.answer(c, Value{}, errStopping)
	}
	w.port.Flush()
}

// next is the device that has been due longest; nil if none is waiting.
func (w *worker) next() *device {
	var first *device
	for _, d := range w.devices {
		if !d.due.IsZero() && (first == nil || d.due.Before(first.due)) {
			first = d
		}
	}
	return first
}

func (w *worker) pause() time.Duration {
	if d := w.next(); d != nil {
		return time.Until(d.due)
	}
	return noHurry
}

// attend does what is due for d: open it, read it, or repeat its state.
func (w *worker) attend(ctx context.Context, d *device) {
	if d == nil || ctx.Err() != nil {
		return
	}
	if d.part == nil {
		if err := w.open(d); err != nil {
			w.lost(d, err)
			return
		}
	}
	switch part := d.part.(type) {
	case Sensor:
		if err := w.sense(ctx, d, part); err != nil {
			if ctx.Err() == nil { // else it was cut short, not ill
				w.lost(d, err)
			}
			return
		}
	case Actuator:
		w.publishState(d, part)
	}
	d.wait = 0
	d.health.well()
	d.reschedule()
}

// reschedule keeps to the beat that d's first reading set, and skips beats missed.
func (d *device) reschedule() {
	if d.Interval == 0 {
		d.due = time.Time{}
		return
	}
	d.due = d.due.Add(d.Interval)
	if now := time.Now(); d.due.Before(now) {
		d.due = now.Add(d.Interval)
	}
}

func (w *worker) sense(ctx context.Context, d *device, s Sensor) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	readings, err := s.Sense(ctx)
	if err != nil {
		return fmt.Errorf("read %s: %w", s, err)
	}
	for _, r := range readings {
		if err := w.publish(d, r); err != nil {
			return fmt.Errorf("read %s: %w", s, err)
		}
	}
	w.port.Flush()
	return nil
}

// obey carries out one command and answers it.
func (w *worker) obey(ctx context.Context, c command) {
	state, err := w.set(ctx, c.dev, c.msg.Data)
	if err == nil {
		w.publishState(c.dev, c.dev.part.(Actuator))
	}
	w.answer(c, state, err)
	w.port.Flush()
}

// set brings the device to the state that the payload asks for, and tells the state.
func (w *worker) set(ctx context.Context, d *device, payload []byte) (Value, error) {
	if ctx.Err() != nil {
		return Value{}, errStopping
	}
	order, err := parseCommand(payload)
	if err != nil {
		return Value{}, err
	}
	if d.health.snapshot().State == Starting {
		w.attend(ctx, d)
	}
	a, ok := d.part.(Actuator)
	if !ok {
		h := d.health.snapshot()
		return Value{}, fmt.Errorf("device %q is %s: %s", d.Name, h.State, h.Err)
	}
	want, err := order.wants(a.State())
	if err != nil {
		return Value{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err = a.Set(ctx, want); err != nil {
		err = fmt.Errorf("set %s to %v: %w", a, want, err)
		if !errors.Is(err, ErrValue) {
			w.lost(d, err)
		}
		return Value{}, err
	}
	return a.State(), nil
}

// answer replies to a command, if it wants a reply. Flush is the caller's.
func (w *worker) answer(c command, state Value, err error) {
	c.dev.health.command()
	if len(c.msg.Reply) == 0 {
		return
	}
	w.buf = appendAnswer(w.buf[:0], state, time.Now(), c.dev.driver.Source, err)
	w.port.Publish(&msg.Msg{Subject: c.msg.Reply, Data: w.buf})
}

func (w *worker) publishState(d *device, a Actuator) {
	if err := w.publish(d, Reading{Value: a.State(), Time: time.Now()}); err != nil {
		d.health.ill(err)
	}
	w.port.Flush()
}

// publish sends one reading of d. Flush is the caller's.
func (w *worker) publish(d *device, r Reading) (err error) {
	if w.buf, err = appendReading(w.buf[:0], r, d.driver.Source); err != nil {
		return err
	}
	w.topic = append(w.topic[:0], d.Subject...)
	if r.Measure != "" {
		w.topic = append(append(w.topic, '.'), r.Measure...)
	}
	w.port.Publish(&msg.Msg{Subject: w.topic, Data: w.buf})
	d.health.read()
	return nil
}

// lost notes why d does not work, takes it apart, and sets when to try again.
func (w *worker) lost(d *device, err error) {
	w.release(d)
	if d.health.ill(err) == Skipped {
		d.due = time.Time{}
		return
	}
	d.wait = min(max(2*d.wait, firstWait), longWait)
	d.due = time.Now().Add(d.wait)
}
