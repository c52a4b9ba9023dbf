package hw

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"periph.io/x/conn/v3/gpio"
	"periph.io/x/conn/v3/physic"
)

// The kernel's interface to GPIO, version 2: include/uapi/linux/gpio.h. The structs
// have no implicit padding on any architecture.
const (
	gpioGetChipInfo  = 0x8044b401
	gpioGetLineInfo  = 0xc100b405
	gpioGetLine      = 0xc250b407
	gpioGetValues    = 0xc010b40e
	gpioSetValues    = 0xc010b40f
	gpioActiveInput  = 1 << 2
	gpioActiveOutput = 1 << 3
	gpioEdgeRising   = 1 << 4
	gpioEdgeFalling  = 1 << 5
	gpioPullUp       = 1 << 8
	gpioPullDown     = 1 << 9
	gpioPullNone     = 1 << 10

	gpioAttrOutput = 2 // gpioAttr.id: value has the initial levels

	gpioEventSize = 48 // struct gpio_v2_line_event
	gpioEventID   = 8  // where its id is
	gpioEventRise = 1  // an id
)

type gpioChipInfo struct {
	name, label [32]byte
	lines       uint32
}

type gpioAttr struct {
	id, _ uint32
	value uint64
}

type gpioLineInfo struct {
	name, consumer [32]byte
	offset, attrs  uint32
	flags          uint64
	attr           [10]gpioAttr
	_              [4]uint32
}

type gpioRequest struct {
	offsets  [64]uint32
	consumer [32]byte
	flags    uint64
	attrs    uint32
	_        [5]uint32
	attr     [10]struct {
		gpioAttr
		mask uint64
	}
	lines, buffer uint32
	_             [5]uint32
	fd            int32
}

type gpioValues struct{ bits, mask uint64 }

// kernelPin is one line of a chip. It implements Pin.
type kernelPin struct {
	// static after findLine
	chip   string // device file
	label  string
	name   string // of the line; may be empty
	offset uint32

	// owned by the caller, but Halt reads f
	f    *os.File // the request; nil until In or Out
	out  bool     // the request is for output
	pull gpio.Pull
	edge gpio.Level
	err  error

	halted atomic.Bool
}

// findLine finds a line without requesting it.
func findLine(chip, line string) (Pin, error) {
	f, info, err := findChip(chip)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := &kernelPin{chip: f.Name(), label: text(info.label[:])}
	if n, err := strconv.ParseUint(line, 10, 32); err == nil {
		if n >= uint64(info.lines) {
			return nil, fmt.Errorf("%w: %s has lines 0 to %d", ErrMissing, p.label, info.lines-1)
		}
		p.offset = uint32(n)
		li, err := lineInfo(f, p.offset)
		p.name = text(li.name[:])
		return p, err
	}
	found := false
	for n := range info.lines {
		li, err := lineInfo(f, n)
		if err != nil {
			return nil, err
		}
		if text(li.name[:]) != line {
			continue
		}
		if found {
			return nil, fmt.Errorf("%s has two lines of that name, %d and %d; use the offset", p.label, p.offset, n)
		}
		found, p.offset, p.name = true, n, line
	}
	if !found {
		return nil, fmt.Errorf("%w: %s has no line of that name; see gpioinfo", ErrMissing, p.label)
	}
	return p, nil
}

// findChip opens the chip whose label, name or device file is which.
func findChip(which string) (*os.File, gpioChipInfo, error) {
	var found *os.File
	var about gpioChipInfo
	var present []string
	var unreadable error
	paths, _ := filepath.Glob("/dev/gpiochip*") // its pattern is well formed
	for _, path := range paths {
		if st, err := os.Lstat(path); err != nil || st.Mode()&os.ModeSymlink != 0 && path != which {
			continue // a second name for a chip, as on a Pi
		}
		f, err := openDevice(path, "gpio")
		var info gpioChipInfo
		if err == nil {
			err = ioctl(f, gpioGetChipInfo, unsafe.Pointer(&info))
		}
		if err != nil {
			unreadable = errors.Join(unreadable, err)
			f.Close()
			continue
		}
		label, name := text(info.label[:]), text(info.name[:])
		present = append(present, label)
		if which != path && which != name && which != label {
			f.Close()
			continue
		}
		if found != nil {
			found.Close()
			f.Close()
			return nil, about, fmt.Errorf("%s and %s both have that label; use one of these names", text(about.name[:]), name)
		}
		found, about = f, info
	}
	if found != nil {
		return found, about, nil
	}
	if unreadable != nil {
		return nil, about, unreadable
	}
	return nil, about, fmt.Errorf("%w: this machine has %s", ErrMissing, strings.Join(append(present, "no other chip"), ", "))
}

func lineInfo(chip *os.File, offset uint32) (gpioLineInfo, error) {
	li := gpioLineInfo{offset: offset}
	if err := ioctl(chip, gpioGetLineInfo, unsafe.Pointer(&li)); err != nil {
		return li, fmt.Errorf("ask about line %d of %s: %w", offset, chip.Name(), absent(err))
	}
	return li, nil
}

// request takes the line from the kernel, with flags, and for an output at a level.
func (p *kernelPin) request(flags uint64, level gpio.Level) error {
	if err := p.Close(); err != nil {
		return err
	}
	chip, err := openDevice(p.chip, "gpio")
	if err != nil {
		return err
	}
	defer chip.Close() // the line lives on without it
	r := gpioRequest{lines: 1, flags: flags}
	r.offsets[0] = p.offset
	copy(r.consumer[:len(r.consumer)-1], "leafd")
	if flags&gpioActiveOutput != 0 {
		r.attrs = 1
		r.attr[0].id, r.attr[0].mask = gpioAttrOutput, 1
		if level {
			r.attr[0].value = 1
		}
	}
	if err = ioctl(chip, gpioGetLine, unsafe.Pointer(&r)); errors.Is(err, unix.EBUSY) {
		return p.busy(chip)
	} else if err != nil {
		return fmt.Errorf("request %s: %w", p, absent(err))
	}
	if err = unix.SetNonblock(int(r.fd), true); err != nil { // so that reading it can be interrupted
		unix.Close(int(r.fd))
		return err
	}
	p.f = os.NewFile(uintptr(r.fd), p.String())
	p.out, p.err = flags&gpioActiveOutput != 0, nil
	p.halted.Store(false)
	return nil
}

// busy says who has the line.
func (p *kernelPin) busy(chip *os.File) error {
	li, err := lineInfo(chip, p.offset)
	if err != nil {
		return err
	}
	return fmt.Errorf("%s is in use by %q; see gpioinfo", p, text(li.consumer[:]))
}

// In implements gpio.PinIn.
func (p *kernelPin) In(pull gpio.Pull, edge gpio.Edge) error {
	flags := uint64(gpioActiveInput)
	switch pull {
	case gpio.PullUp:
		flags |= gpioPullUp
	case gpio.PullDown:
		flags |= gpioPullDown
	case gpio.Float:
		flags |= gpioPullNone
	}
	if edge == gpio.RisingEdge || edge == gpio.BothEdges {
		flags |= gpioEdgeRising
	}
	if edge == gpio.FallingEdge || edge == gpio.BothEdges {
		flags |= gpioEdgeFalling
	}
	p.pull = pull
	return p.request(flags, gpio.Low)
}

// Read implements gpio.PinIn, for outputs too. It never changes the line; see Err.
func (p *kernelPin) Read() gpio.Level {
	v := gpioValues{mask: 1}
	if err := p.ioctl(gpioGetValues, &v); err != nil {
		p.err = err
		return gpio.Low
	}
	return v.bits&1 != 0
}

// WaitForEdge implements gpio.PinIn.
func (p *kernelPin) WaitForEdge(timeout time.Duration) bool {
	if p.err != nil || p.f == nil {
		return false
	}
	err := p.f.SetReadDeadline(time.Now().Add(timeout))
	if p.halted.Load() { // looked at after the deadline is set: Halt cannot get lost between
		return false
	}
	var b [gpioEventSize]byte
	if err == nil {
		_, err = p.f.Read(b[:]) // the kernel gives whole events only
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	if err != nil {
		p.err = fmt.Errorf("wait for an edge of %s: %w", p, absent(err))
		return false
	}
	p.edge = binary.NativeEndian.Uint32(b[gpioEventID:]) == gpioEventRise
	return true
}

// Out implements gpio.PinOut. The first call takes the line at the level l, without
// a moment of the other.
func (p *kernelPin) Out(l gpio.Level) error {
	if p.f == nil || !p.out {
		return p.request(gpioActiveOutput, l)
	}
	v := gpioValues{mask: 1}
	if l {
		v.bits = 1
	}
	return p.ioctl(gpioSetValues, &v)
}

func (p *kernelPin) ioctl(request uint, v *gpioValues) error {
	if p.f == nil {
		return fmt.Errorf("%s was not requested: %w", p, os.ErrClosed)
	}
	if err := ioctl(p.f, request, unsafe.Pointer(v)); err != nil {
		return fmt.Errorf("%s: %w", p, absent(err))
	}
	return nil
}

// Halt implements conn.Resource; see Pin.
func (p *kernelPin) Halt() error {
	p.halted.Store(true)
	if p.f == nil {
		return nil
	}
	return p.f.SetReadDeadline(time.Unix(1, 0))
}

// Close implements Pin.
func (p *kernelPin) Close() error {
	if p.f == nil {
		return nil
	}
	err := p.f.Close()
	p.f = nil
	return err
}

func (p *kernelPin) String() string         { return fmt.Sprintf("line %d of %s", p.offset, p.label) }
func (p *kernelPin) Edge() gpio.Level       { return p.edge }
func (p *kernelPin) Err() error             { return p.err }
func (p *kernelPin) Number() int            { return int(p.offset) }
func (p *kernelPin) Pull() gpio.Pull        { return p.pull }
func (p *kernelPin) DefaultPull() gpio.Pull { return gpio.PullNoChange }

// Name implements pin.Pin: the line's own name, or where it is.
func (p *kernelPin) Name() string {
	if p.name != "" {
		return p.name
	}
	return p.String()
}

// Function implements pin.Pin.
func (p *kernelPin) Function() string {
	switch {
	case p.f == nil:
		return ""
	case p.out:
		return "Out"
	default:
		return "In"
	}
}

// PWM implements gpio.PinOut; the kernel has PWM elsewhere.
func (p *kernelPin) PWM(gpio.Duty, physic.Frequency) error { return errors.ErrUnsupported }
