package hw

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"
	"periph.io/x/devices/v3/bmxx80"
)

var bmx280Driver = Driver{
	Name: "bmx280",
	Doc: "Bosch BME280, BMP280 or BMP180 on I2C: temperature (°C), pressure (hPa) and, on a BME280, humidity (%), " +
		"on <subject>.temperature, <subject>.pressure and <subject>.humidity",
	Role: SenseRole,
	Params: []Param{
		{Name: "bus", Kind: StringKind, Default: "1", Doc: `I2C bus: its number, or its device file such as "/dev/i2c-1"`},
		{Name: "address", Kind: IntKind, Default: int64(0x76), Doc: "0x76, or 0x77 if the part's SDO pin is high; a BMP180 has 0x77"},
	},
	bus: i2cGoroutine,
	check: func(p params) *ParamError {
		if a := p.int("address"); a != 0x76 && a != 0x77 {
			return bad("address", fmt.Sprintf("these parts have no address %#x", a), "use 0x76 or 0x77")
		}
		return nil
	},
	open: func(l *loan, p params) (fmt.Stringer, error) {
		bus, err := l.i2c(p.str("bus"))
		if err != nil {
			return nil, err
		}
		return newBMX280(bus, uint16(p.int("address")))
	},
}

// i2cGoroutine names the goroutine of an I2C bus, however the bus is spelled.
func i2cGoroutine(p params) string {
	return "i2c-" + strings.TrimPrefix(p.str("bus"), "/dev/i2c-")
}

// bmx280 is one part, driven by periph.
type bmx280 struct {
	bus  *impatientBus
	dev  *bmxx80.Dev
	name string // BME280, BMP280 or BMP180: what answered, not what was bought
	addr uint16
}

func newBMX280(bus i2c.Bus, addr uint16) (*bmx280, error) {
	d := &bmx280{bus: &impatientBus{Bus: bus, ctx: context.Background()}, name: "bmx280", addr: addr}
	dev, err := bmxx80.NewI2C(d.bus, addr, &bmxx80.DefaultOpts)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", d, d.bus.cause(err))
	}
	d.dev = dev
	d.name, _, _ = strings.Cut(dev.String(), "{")
	return d, nil
}

func (d *bmx280) String() string { return fmt.Sprintf("%s at %#x", d.name, d.addr) }

func (d *bmx280) Sense(ctx context.Context) ([]Reading, error) {
	d.bus.ctx, d.bus.err = ctx, nil
	if err := d.stillSet(); err != nil {
		return nil, err
	}
	var env physic.Env
	if err := d.dev.Sense(&env); err != nil {
		return nil, d.bus.cause(err)
	}
	// In the parts' own resolution, so that 21.14 is not published as 21.139999.
	hundredths := float64((env.Temperature - physic.ZeroCelsius) / (10 * physic.MilliKelvin))
	pascal := float64((env.Pressure + physic.Pascal/2) / physic.Pascal)
	tenths := float64((env.Humidity + physic.MilliRH/2) / physic.MilliRH)
	if t := hundredths / 100; t < -45 || t > 90 || pascal < 30000 || pascal > 120000 {
		// The parts measure -40 to 85 °C and 300 to 1100 hPa.
		return nil, fmt.Errorf("it reads %v °C and %v Pa, which it cannot measure: check its supply and wiring", t, pascal)
	}
	now := time.Now()
	readings := []Reading{
		{Measure: "temperature", Value: Number(hundredths / 100), Unit: "°C", Time: now},
		{Measure: "pressure", Value: Number(pascal / 100), Unit: "hPa", Time: now},
	}
	if d.name == "BME280" {
		readings = append(readings, Reading{Measure: "humidity", Value: Number(tenths / 10), Unit: "%", Time: now})
	}
	return readings, nil
}

// stillSet makes sure that the part measures humidity. After its power failed for a
// moment it does not, and periph, which sets that once, would read a constant that
// looks like a value. (Data sheet BST-BME280-DS002, 5.4.3, "ctrl_hum".)
func (d *bmx280) stillSet() error {
	if d.name != "BME280" {
		return nil
	}
	const ctrlHum = 0xf2
	var now [1]byte
	if err := d.bus.Tx(d.addr, []byte{ctrlHum}, now[:]); err != nil {
		return err
	}
	if now[0]&7 != byte(bmxx80.DefaultOpts.Humidity) {
		return errors.New("it lost its settings: check its supply")
	}
	return nil
}

// impatientBus gives up for periph, whose driver waits for a part to become idle as
// long as it says it is not, and keeps the error that the driver only spells out.
// It belongs to one device.
type impatientBus struct {
	i2c.Bus
	ctx context.Context // of the present measurement
	err error           // the first of it
}

func (b *impatientBus) Tx(addr uint16, w, r []byte) error {
	err := b.ctx.Err()
	if err != nil {
		err = fmt.Errorf("it did not finish: %w", err)
	} else {
		err = b.Bus.Tx(addr, w, r)
	}
	if b.err == nil {
		b.err = err
	}
	return err
}

// cause is why a call of periph's driver failed with err: the bus's error, which can
// be tested for, if it was the bus.
func (b *impatientBus) cause(err error) error {
	if b.err != nil {
		return b.err
	}
	return errors.New(strings.TrimPrefix(err.Error(), "bmxx80: "))
}
