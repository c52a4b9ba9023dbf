package hw

import (
	"errors"
	"testing"
	"testing/synctest"

	"periph.io/x/conn/v3/i2c/i2ctest"
)

// A BME280's whole conversation, byte by byte. The calibration, temperature and
// pressure are those of the worked example in Bosch's data sheet BST-BMP280-DS001,
// 3.12; the humidity was calculated apart from this code with the formula of
// BST-BME280-DS002, appendix 8.1.
var bme280Conversation = []i2ctest.IO{
	{Addr: 0x77, W: []byte{0xd0}, R: []byte{0x60}}, // chip id: BME280
	{Addr: 0x77, W: []byte{0x88}, R: []byte{
		0x70, 0x6b, 0x43, 0x67, 0x18, 0xfc, // T1 27504, T2 26435, T3 -1000
		0x7d, 0x8e, 0x43, 0xd6, 0xd0, 0x0b, 0x27, 0x0b, 0x8c, 0x00, // P1 36477, P2 -10685, P3 3024, P4 2855, P5 140
		0xf9, 0xff, 0x8c, 0x3c, 0xf8, 0xc6, 0x70, 0x17, // P6 -7, P7 15500, P8 -14600, P9 6000
		0x00, 75, // H1
	}},
	{Addr: 0x77, W: []byte{0xe1}, R: []byte{0x69, 0x01, 0x00, 0x14, 0x04, 0x03, 0x1e}},      // H2 361, H3 0, H4 324, H5 48, H6 30
	{Addr: 0x77, W: []byte{0xf4, 0x6c, 0xf2, 0x03, 0xf5, 0xa0, 0xf4, 0x6c}},                 // asleep, each measure four times
	{Addr: 0x77, W: []byte{0xf2}, R: []byte{0x03}},                                          // is that still so?
	{Addr: 0x77, W: []byte{0xf4, 0x6d}},                                                     // measure once
	{Addr: 0x77, W: []byte{0xf3}, R: []byte{0x08}},                                          // measuring
	{Addr: 0x77, W: []byte{0xf3}, R: []byte{0x00}},                                          // idle
	{Addr: 0x77, W: []byte{0xf7}, R: []byte{0x65, 0x5a, 0xc0, 0x7e, 0xed, 0x00, 113, 0x48}}, // P 415148, T 519888, H 29000
}

func TestBMX280Conversation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := &i2ctest.Playback{Ops: bme280Conversation}
		d, err := newBMX280(bus, 0x77)
		if err != nil {
			t.Fatal(err)
		}
		readings, err := d.Sense(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := []struct{ measure, value, unit string }{
			{"temperature", "25.08", "°C"}, {"pressure", "1006.53", "hPa"}, {"humidity", "45.4", "%"},
		}
		if len(readings) != len(want) {
			t.Fatal(readings)
		}
		for i, r := range readings {
			if r.Measure != want[i].measure || r.Value.String() != want[i].value || r.Unit != want[i].unit || r.Time.IsZero() {
				t.Errorf("got %+v, want %+v", r, want[i])
			}
		}
		if err := bus.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Wherever in the conversation the bus fails, its own error comes out, so that
// callers can test for it; periph's driver keeps only its text.
func TestBMX280KeepsTheBusError(t *testing.T) {
	for n := range bme280Conversation {
		synctest.Test(t, func(t *testing.T) {
			bus := &failingBus{Playback: i2ctest.Playback{Ops: bme280Conversation}, left: n}
			d, err := newBMX280(bus, 0x77)
			if err == nil {
				_, err = d.Sense(t.Context())
			}
			if !errors.Is(err, ErrMissing) {
				t.Errorf("transaction %d failed: %v", n, err)
			}
		})
	}
}

type failingBus struct {
	i2ctest.Playback
	left int
}

func (b *failingBus) Tx(addr uint16, w, r []byte) error {
	if b.left--; b.left < 0 {
		return ErrMissing
	}
	return b.Playback.Tx(addr, w, r)
}
