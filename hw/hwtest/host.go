package hwtest

import (
	"fmt"
	"sync"

	"periph.io/x/conn/v3/i2c"

	"github.com/leafd/leafd/hw"
)

// Host is a machine with what was plugged into it; the zero value has nothing. It
// implements hw.Host.
type Host struct {
	mu    sync.Mutex
	buses map[string]i2c.Bus // guarded by mu
	pins  map[string]*Pin    // guarded by mu; by chip and line
	fault error              // guarded by mu
	opens int                // guarded by mu
	open  int                // guarded by mu
}

// PlugI2C puts a bus into the machine, in place of one of that name; nil takes it
// away. A bus that is open stays so.
func (h *Host) PlugI2C(name string, bus i2c.Bus) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.buses == nil {
		h.buses = map[string]i2c.Bus{}
	}
	h.buses[name] = bus
}

// PlugPin puts a line into the machine; nil takes it away. A pin that is open stays
// so.
func (h *Host) PlugPin(chip, line string, p *Pin) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pins == nil {
		h.pins = map[string]*Pin{}
	}
	h.pins[chip+"/"+line] = p
}

// Break lets all further opening fail with err; nil repairs it.
func (h *Host) Break(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fault = err
}

// Opens tells how often something was asked for, and how many buses and pins are
// open now.
func (h *Host) Opens() (asked, open int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.opens, h.open
}

// I2C implements hw.Host.
func (h *Host) I2C(name string) (i2c.BusCloser, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.opens++
	if h.fault != nil {
		return nil, h.fault
	}
	bus := h.buses[name]
	if bus == nil {
		return nil, fmt.Errorf("%w: no bus %s is plugged in", hw.ErrMissing, name)
	}
	h.open++
	return &openBus{bus, h}, nil
}

// Pin implements hw.Host.
func (h *Host) Pin(chip, line string) (hw.Pin, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.opens++
	if h.fault != nil {
		return nil, h.fault
	}
	pin := h.pins[chip+"/"+line]
	if pin == nil {
		return nil, fmt.Errorf("%w: no line %s of chip %s is plugged in", hw.ErrMissing, line, chip)
	}
	h.open++
	return &openPin{pin, h}, nil
}

func (h *Host) closed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open--
}

type openBus struct {
	i2c.Bus
	host *Host
}

func (b *openBus) Close() error { b.host.closed(); return nil }

type openPin struct {
	*Pin
	host *Host
}

func (p *openPin) Close() error { p.host.closed(); return p.Pin.Close() }
