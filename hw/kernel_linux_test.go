//go:build lab

package hw

// What only a kernel can show, on a machine that has its simulators and nothing to
// lose: run as root with the modules gpio-sim, i2c-dev and i2c-stub (chip_addr=0x76,
// with I2C_RDWR, a write of more than one byte being pairs as in Bosch's parts)
// loaded and configfs mounted.
//
//	CGO_ENABLED=0 go test -c -tags lab ./hw && ./hw.test -test.run TestKernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"periph.io/x/conn/v3/gpio"
)

// simulatedChip is a gpio-sim chip of 8 lines, its line 3 named BUTTON.
type simulatedChip struct {
	t      *testing.T
	config string // in configfs
	name   string // gpiochipN
	lines  string // in sysfs: pull and value of each line
}

func newSimulatedChip(t *testing.T, label string) *simulatedChip {
	t.Helper()
	c := &simulatedChip{t: t, config: "/sys/kernel/config/gpio-sim/" + label}
	for _, dir := range []string{"", "/bank0", "/bank0/line3"} {
		if err := os.Mkdir(c.config+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c.write(c.config+"/bank0/num_lines", "8")
	c.write(c.config+"/bank0/label", label)
	c.write(c.config+"/bank0/line3/name", "BUTTON")
	c.write(c.config+"/live", "1")
	t.Cleanup(c.remove)
	c.name = c.read(c.config + "/bank0/chip_name")
	c.lines = filepath.Join("/sys/devices/platform", c.read(c.config+"/dev_name"), c.name)
	return c
}

func (c *simulatedChip) remove() {
	os.WriteFile(c.config+"/live", []byte("0"), 0)
	for _, dir := range []string{"/bank0/line3", "/bank0", ""} {
		os.Remove(c.config + dir)
	}
}

func (c *simulatedChip) write(path, s string) {
	c.t.Helper()
	if err := os.WriteFile(path, []byte(s), 0); err != nil {
		c.t.Fatal(err)
	}
}

func (c *simulatedChip) read(path string) string {
	c.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func (c *simulatedChip) pull(line int, how string) {
	c.t.Helper()
	c.write(fmt.Sprintf("%s/sim_gpio%d/pull", c.lines, line), how)
}

func (c *simulatedChip) value(line int) string {
	c.t.Helper()
	return c.read(fmt.Sprintf("%s/sim_gpio%d/value", c.lines, line))
}

func findPin(t *testing.T, chip, line string) *kernelPin {
	t.Helper()
	p, err := (machine{}).Pin(chip, line)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p.(*kernelPin)
}

func TestKernelFindsLines(t *testing.T) {
	c := newSimulatedChip(t, "leafd-find")
	for _, how := range [][2]string{{"leafd-find", "3"}, {"leafd-find", "BUTTON"}, {c.name, "BUTTON"}, {"/dev/" + c.name, "3"}} {
		if p := findPin(t, how[0], how[1]); p.offset != 3 || p.Name() != "BUTTON" || p.String() != "line 3 of leafd-find" {
			t.Errorf("%v: got %v, %q", how, p, p.Name())
		}
	}
	for _, how := range [][2]string{{"leafd-find", "8"}, {"leafd-find", "BELL"}, {"no-chip", "3"}} {
		_, err := (machine{}).Pin(how[0], how[1])
		if !errors.Is(err, ErrMissing) {
			t.Errorf("%v: %v", how, err)
		}
		t.Log(err)
	}
}

func TestKernelEdges(t *testing.T) {
	c := newSimulatedChip(t, "leafd-edges")
	c.pull(3, "pull-down")
	p := findPin(t, "leafd-edges", "BUTTON")
	if err := p.In(gpio.Float, gpio.BothEdges); err != nil {
		t.Fatal(err)
	}
	if p.Read() != gpio.Low || p.WaitForEdge(time.Millisecond) || p.Err() != nil {
		t.Fatalf("at rest: %v", p.Err())
	}
	// A pulse that is over keeps both its edges.
	c.pull(3, "pull-up")
	c.pull(3, "pull-down")
	for _, want := range []gpio.Level{gpio.High, gpio.Low} {
		if !p.WaitForEdge(10*time.Second) || p.Edge() != want {
			t.Fatalf("got %v, %v, want the edge to %v", p.Edge(), p.Err(), want)
		}
	}
	for n := range 200 {
		level, how := gpio.Level(n%2 == 0), [2]string{"pull-up", "pull-down"}[n%2]
		c.pull(3, how)
		if !p.WaitForEdge(10*time.Second) || p.Edge() != level || p.Read() != level {
			t.Fatalf("edge %d: got %v, %v, %v", n, p.Edge(), p.Read(), p.Err())
		}
	}
	halted := make(chan bool)
	go func() { halted <- p.WaitForEdge(time.Hour) }()
	p.Halt()
	if <-halted || p.WaitForEdge(time.Hour) || p.Err() != nil {
		t.Fatalf("halted: %v", p.Err())
	}
}

func TestKernelOutput(t *testing.T) {
	c := newSimulatedChip(t, "leafd-out")
	p := findPin(t, "leafd-out", "5")
	if err := p.Out(gpio.High); err != nil {
		t.Fatal(err)
	}
	if got := c.value(5); got != "1" {
		t.Errorf("put out high, got %s", got)
	}
	if err := p.Out(gpio.Low); err != nil || c.value(5) != "0" || p.Read() != gpio.Low {
		t.Errorf("put out low, got %s, %v", c.value(5), err)
	}
	other := findPin(t, "leafd-out", "5")
	if err := other.Out(gpio.High); err == nil || !strings.Contains(err.Error(), `in use by "leafd"`) {
		t.Error(err)
	}
	p.Close()
	if err := other.Out(gpio.High); err != nil {
		t.Error(err)
	}
	if err := p.Out(gpio.High); err == nil {
		t.Error("two have the line")
	}
}

// A line that is lost says so; it does not read low.
func TestKernelChipGoes(t *testing.T) {
	c := newSimulatedChip(t, "leafd-gone")
	p := findPin(t, "leafd-gone", "3")
	if err := p.In(gpio.Float, gpio.BothEdges); err != nil {
		t.Fatal(err)
	}
	c.remove()
	edge := p.WaitForEdge(time.Millisecond) // some kernels tell it here,
	p.Read()                                // all of them here
	if edge || !errors.Is(p.Err(), ErrMissing) {
		t.Errorf("got %v, %v", edge, p.Err())
	}
}

func TestKernelI2C(t *testing.T) {
	bus := findStub(t)
	for _, op := range bme280Conversation {
		if len(op.R) > 0 && op.W[0] != 0xf3 {
			for i, b := range op.R {
				if err := bus.Tx(0x76, []byte{op.W[0] + byte(i), b}, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	d, err := newBMX280(bus, 0x76)
	if err != nil {
		t.Fatal(err)
	}
	readings, err := d.Sense(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range readings {
		got = append(got, r.Value.String())
	}
	if want := []string{"25.08", "1006.53", "45.4"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	_, err = newBMX280(bus, 0x77)
	if !errors.Is(err, ErrMissing) {
		t.Errorf("at an address where nothing is: %v", err)
	}
	t.Log(err)
	if err := os.WriteFile(fmt.Sprintf("/sys/bus/i2c/devices/%s/new_device", filepath.Base(bus.String()[len("/dev/"):])), []byte("dummy 0x50"), 0); err != nil {
		t.Log(err) // the claim can be tried only where the kernel has a driver to bind
	} else if err := bus.Tx(0x50, []byte{0}, nil); err == nil || errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "kernel driver") {
		t.Error(err)
	}
}

// findStub opens the bus of i2c-stub, which has no fixed number.
func findStub(t *testing.T) *kernelI2C {
	t.Helper()
	names, _ := filepath.Glob("/sys/bus/i2c/devices/i2c-*/name")
	for _, n := range names {
		if b, _ := os.ReadFile(n); strings.HasPrefix(string(b), "SMBus stub") {
			bus, err := openI2C(strings.TrimPrefix(filepath.Base(filepath.Dir(n)), "i2c-"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { bus.Close() })
			return bus.(*kernelI2C)
		}
	}
	t.Fatal("i2c-stub is not loaded")
	return nil
}
