package hw

import (
	"errors"

	"periph.io/x/conn/v3/gpio"
	"periph.io/x/conn/v3/i2c"
)

// ErrMissing says that hardware is not there: no such bus, chip or line, or no
// answer from the part. It may come back; anything else is a failure of something
// that is there. [errors.ErrUnsupported] means that this machine can never have it.
var ErrMissing = errors.New("missing")

// Host opens the buses and pins of a machine. The zero Options use the real one;
// hwtest.Host is a fake. Safe for any goroutine.
type Host interface {
	// I2C opens a bus by number ("1") or device file ("/dev/i2c-1").
	I2C(bus string) (i2c.BusCloser, error)

	// Pin finds a line by its chip's label, name or device file, and by its offset
	// on the chip ("17") or its name ("GPIO17"). The line is requested from the
	// kernel, and so may prove to be in use, by In or the first Out.
	Pin(chip, line string) (Pin, error)
}

// Pin is one line of a GPIO chip, as periph sees it, with what a daemon must know
// besides. It belongs to one goroutine, but for Halt.
//
// WaitForEdge takes a positive timeout here.
type Pin interface {
	gpio.PinIO // Halt, from any goroutine, ends WaitForEdge now and until the next In

	// Edge tells the level after the edge that WaitForEdge last returned true for,
	// which Read cannot if the pulse is already over.
	Edge() gpio.Level

	// Err tells why Read or WaitForEdge returned false: nil if the line was low, or
	// no edge came; otherwise the line is lost.
	Err() error

	// Close gives the line back. An output keeps its level as long as the chip lets
	// it.
	Close() error
}
