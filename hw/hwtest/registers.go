package hwtest

import (
	"fmt"
	"sync"
	"time"

	"periph.io/x/conn/v3/physic"

	"github.com/leafd/leafd/hw"
)

// WireTime is how long a transaction on a Registers takes.
const WireTime = 300 * time.Microsecond

// Registers is an I2C bus with parts that are plain memory, written as Bosch's are:
// one byte selects a register, from which reading goes on; more bytes are pairs of a
// register and its value. It implements i2c.Bus; the zero value has no parts.
type Registers struct {
	mu     sync.Mutex
	parts  map[uint16]*[256]byte // guarded by mu
	broken error                 // guarded by mu
	busy   bool                  // guarded by mu; a transaction is under way
	count  int                   // guarded by mu
}

// Put writes registers of the part at addr, from reg on, and makes the part exist.
func (b *Registers) Put(addr uint16, reg byte, values ...byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.parts == nil {
		b.parts = map[uint16]*[256]byte{}
	}
	if b.parts[addr] == nil {
		b.parts[addr] = new([256]byte)
	}
	copy(b.parts[addr][reg:], values)
}

// PutBME280 makes a BME280 exist at addr. Its temperature and pressure are those of
// the worked example in Bosch's data sheet BST-BMP280-DS001, section 3.12: 25.08 °C
// and 100653 Pa; its humidity is 45.4 %, after the formula of BST-BME280-DS002,
// appendix 8.1.
func (b *Registers) PutBME280(addr uint16) {
	words := []int{27504, 26435, -1000, 36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000} // T1 to P9
	var calibration []byte
	for _, w := range words {
		calibration = append(calibration, byte(w), byte(w>>8))
	}
	const adcP, adcT, adcH = 415148, 519888, 29000
	b.Put(addr, 0xd0, 0x60)
	b.Put(addr, 0x88, calibration...)
	b.Put(addr, 0xa1, 75)                                        // H1
	b.Put(addr, 0xe1, 0x69, 0x01, 0, 0x14, 0x04, 0x03, 30)       // H2 361, H3 0, H4 324, H5 48, H6 30
	b.Put(addr, 0xf7, adcP>>12&0xff, adcP>>4&0xff, adcP<<4&0xff) // pressure
	b.Put(addr, 0xfa, adcT>>12&0xff, adcT>>4&0xff, adcT<<4&0xff) // temperature
	b.Put(addr, 0xfd, adcH>>8, adcH&0xff)                        // humidity
}

// Remove unplugs the part at addr.
func (b *Registers) Remove(addr uint16) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.parts, addr)
}

// Break lets every further transaction fail with err; nil repairs the bus.
func (b *Registers) Break(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken = err
}

// Count is how many transactions there were.
func (b *Registers) Count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count
}

func (b *Registers) String() string { return "registers" }

// SetSpeed implements i2c.Bus.
func (b *Registers) SetSpeed(physic.Frequency) error { return nil }

// Tx implements i2c.Bus. It panics if two goroutines are on the bus at once.
func (b *Registers) Tx(addr uint16, w, r []byte) error {
	b.occupy(true)
	defer b.occupy(false)
	<-time.After(WireTime)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count++
	if b.broken != nil {
		return b.broken
	}
	part := b.parts[addr]
	if part == nil {
		return fmt.Errorf("%w: nothing answers at address %#x", hw.ErrMissing, addr)
	}
	for i := 0; i+1 < len(w); i += 2 {
		part[w[i]] = w[i+1]
	}
	if len(r) > 0 {
		copy(r, part[w[0]:])
	}
	return nil
}

func (b *Registers) occupy(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if on == b.busy {
		panic("hwtest: two transactions on one bus at once")
	}
	b.busy = on
}
