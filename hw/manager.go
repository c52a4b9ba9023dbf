package hw

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"

	"github.com/leafd/leafd/internal/msg"
)

// Port is what a device needs of the broker. Publish and Flush belong to one
// goroutine; the message is borrowed until Publish returns. A port is not handed
// what it published itself.
type Port interface {
	Publish(m *msg.Msg) msg.Receipt
	Flush()
	Subscribe(sub *msg.Sub) error
	Close()
}

// Options say what there is. The zero value is a manager of nothing.
type Options struct {
	Devices []Device
	Attach  func(name string, s msg.Sink) Port // joins the broker, each subscription on its own; called by Run once for each bus
	Host    Host                               // nil: the machine this runs on
	Log     *slog.Logger                       // nil: logs nothing
}

// Manager runs the configured devices. Create it with New.
type Manager struct {
	// static after New
	attach  func(name string, s msg.Sink) Port
	devices []*device // as configured
	workers []*worker // each device is with one of them
}

// New checks the configuration, as [Check] does, and touches no hardware.
func New(o Options) (*Manager, error) {
	devs, err := resolve(o.Devices)
	if err != nil {
		return nil, err
	}
	if len(devs) > 0 && o.Attach == nil {
		return nil, errors.New("hw: Options.Attach is nil, but there are devices")
	}
	if o.Host == nil {
		o.Host = machine{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	m := &Manager{attach: o.Attach}
	byBus := map[string]*worker{}
	for i, r := range devs {
		d := newDevice(r, o.Log)
		m.devices = append(m.devices, d)
		bus := "input " + strconv.Itoa(i) // a watched pin has a goroutine of its own
		if r.driver.Role != WatchRole {
			bus = r.driver.bus(r.params)
		}
		w := byBus[bus]
		if w == nil {
			w = &worker{name: bus, host: o.Host, log: o.Log, queue: make(chan command, maxQueue)}
			byBus[bus] = w
			m.workers = append(m.workers, w)
		}
		w.devices = append(w.devices, d)
	}
	return m, nil
}

// Run serves all devices until ctx ends, puts every output into its safe state and
// returns nil. It fails at once if the broker refuses a subscription, and may be
// called once.
func (m *Manager) Run(ctx context.Context) error {
	for _, w := range m.workers {
		w.port = m.attach("hw "+w.name, w)
		defer w.port.Close()
		for _, d := range w.devices {
			if d.driver.Role != ActRole {
				continue
			}
			if err := w.port.Subscribe(&msg.Sub{Subject: d.commands}); err != nil {
				return fmt.Errorf("device %q: subscribe to %q: %w", d.Name, d.commands, err)
			}
		}
	}
	var wg sync.WaitGroup
	for _, w := range m.workers {
		wg.Go(func() { w.run(ctx) })
	}
	<-ctx.Done()
	wg.Wait()
	return nil
}

// Health tells how each device is, in the order of configuration.
func (m *Manager) Health() []DeviceHealth {
	out := make([]DeviceHealth, len(m.devices))
	for i, d := range m.devices {
		out[i] = d.health.snapshot()
	}
	return out
}
