package hw

import (
	"context"
	"fmt"

	"periph.io/x/conn/v3/gpio"
)

var gpioOutputDriver = Driver{
	Name: "gpio_output",
	Doc:  "a GPIO line that is switched by commands on <subject>.set and tells its state on <subject>",
	Role: ActRole,
	Params: []Param{
		chipParam, lineParam,
		{Name: "active_low", Kind: BoolKind, Default: false, Doc: "on is the low level, as on most relay boards"},
		{Name: "initial", Kind: BoolKind, Default: false, Doc: "the state when the line is taken: at the start, and again after a failure"},
		{Name: "safe", Kind: BoolKind, Default: false, Doc: "the state when leafd stops"},
	},
	bus: func(p params) string { return "gpio " + p.str("chip") },
	open: func(l *loan, p params) (fmt.Stringer, error) {
		pin, err := l.gpio(p)
		if err != nil {
			return nil, err
		}
		return newGPIOOutput(pin, p.bool("active_low"), p.bool("initial"), p.bool("safe"))
	},
}

var (
	chipParam = Param{Name: "chip", Kind: StringKind, Required: true,
		Doc: `GPIO chip: its label such as "pinctrl-bcm2711", or its name such as "gpiochip0" (gpiodetect lists both)`}
	lineParam = Param{Name: "line", Kind: StringKind, Required: true,
		Doc: `line of the chip: its offset such as 17, or its name such as "GPIO17" (gpioinfo lists both)`}
)

// gpioOutput switches one pin.
type gpioOutput struct {
	pin       gpio.PinOut
	activeLow bool
	safe      bool
	on        bool // the last state set
}

func newGPIOOutput(pin gpio.PinOut, activeLow, initial, safe bool) (*gpioOutput, error) {
	o := &gpioOutput{pin: pin, activeLow: activeLow, safe: safe}
	if err := o.out(initial); err != nil {
		return nil, fmt.Errorf("take %s as output: %w", o, err)
	}
	return o, nil
}

func (o *gpioOutput) String() string { return "pin " + o.pin.Name() }

func (o *gpioOutput) Set(_ context.Context, v Value) error {
	on, ok := v.Bool()
	if !ok {
		return fmt.Errorf("%w; it takes on and off", ErrValue)
	}
	return o.out(on)
}

func (o *gpioOutput) State() Value { return Bool(o.on) }

func (o *gpioOutput) Halt() error { return o.out(o.safe) }

func (o *gpioOutput) out(on bool) error {
	if err := o.pin.Out(gpio.Level(on != o.activeLow)); err != nil {
		return err
	}
	o.on = on
	return nil
}
