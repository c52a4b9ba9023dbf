//go:build !linux

package hw

import (
	"errors"
	"fmt"

	"periph.io/x/conn/v3/i2c"
)

// machine is a computer whose buses and pins leafd does not know how to reach.
type machine struct{}

func (machine) I2C(string) (i2c.BusCloser, error) {
	return nil, fmt.Errorf("I2C needs Linux: %w", errors.ErrUnsupported)
}

func (machine) Pin(string, string) (Pin, error) {
	return nil, fmt.Errorf("GPIO needs Linux: %w", errors.ErrUnsupported)
}
