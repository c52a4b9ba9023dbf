package hw

import (
	"fmt"

	"periph.io/x/conn/v3/i2c"
)

// loan is what one open device works on: its worker's bus, or a pin. A driver asks
// for what it needs while it opens, and never closes it.
type loan struct {
	// owned by the worker's goroutine
	w      *worker
	device *device
	onBus  bool
	pin    Pin
}

// i2c lends the worker's bus, which is opened for its first user and closed after
// its last, so that an adapter that was unplugged is found again.
func (l *loan) i2c(name string) (i2c.Bus, error) {
	if l.w.bus == nil {
		bus, err := l.w.host.I2C(name)
		if err != nil {
			return nil, fmt.Errorf("open I2C bus %q: %w", name, err)
		}
		l.w.bus = bus
	}
	if !l.onBus {
		l.onBus = true
		l.w.users++
	}
	return l.w.bus, nil
}

// gpio lends the line that the keys chip and line name.
func (l *loan) gpio(p params) (Pin, error) {
	pin, err := l.w.host.Pin(p.str("chip"), p.str("line"))
	if err != nil {
		return nil, fmt.Errorf("find line %s of GPIO chip %s: %w", p.str("line"), p.str("chip"), err)
	}
	l.pin = pin
	return pin, nil
}

func (l *loan) giveBack() {
	if l.pin != nil {
		if err := l.pin.Close(); err != nil {
			l.w.log.Debug("close pin", "device", l.device.Name, "err", err)
		}
	}
	if !l.onBus {
		return
	}
	if l.w.users--; l.w.users == 0 {
		if err := l.w.bus.Close(); err != nil {
			l.w.log.Debug("close bus", "device", l.device.Name, "err", err)
		}
		l.w.bus = nil
	}
}

// open makes d's part, on loan from w.
func (w *worker) open(d *device) error {
	l := &loan{w: w, device: d}
	part, err := d.driver.open(l, d.params)
	if err != nil {
		l.giveBack()
		return err
	}
	d.loan, d.part = l, part
	d.health.opened(part.String())
	return nil
}

// release takes d's part away and gives back its loan.
func (w *worker) release(d *device) {
	if d.part != nil {
		d.loan.giveBack()
		d.loan, d.part = nil, nil
	}
}
