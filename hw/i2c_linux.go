package hw

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"
)

// The kernel's interface to an I2C bus: Documentation/i2c/dev-interface.rst and
// include/uapi/linux/i2c-dev.h, i2c.h.
const (
	i2cSlave = 0x0703 // claims an address; EBUSY if a kernel driver has it
	i2cFuncs = 0x0705 // what the adapter can do
	i2cRdwr  = 0x0707 // one combined transaction

	i2cFuncI2C = 1 // in the answer to i2cFuncs: plain I2C, not SMBus alone
	i2cMsgRead = 1 // in i2cMsg.flags
)

type i2cMsg struct {
	addr, flags, len uint16
	buf              *byte
}

type i2cRdwrData struct {
	msgs  *i2cMsg
	nmsgs uint32
}

// kernelI2C is an open bus. It belongs to one goroutine.
type kernelI2C struct {
	f       *os.File
	claimed uint16 // the last address found free of kernel drivers; 0 for none
}

func openI2C(bus string) (i2c.BusCloser, error) {
	path := "/dev/i2c-" + strings.TrimPrefix(bus, "/dev/i2c-")
	f, err := openDevice(path, "i2c")
	if errors.Is(err, ErrMissing) {
		return nil, fmt.Errorf("%w; is I2C enabled (dtparam=i2c_arm=on) and the module i2c-dev loaded", err)
	}
	if err != nil {
		return nil, err
	}
	var funcs uintptr // unsigned long
	if err = ioctl(f, i2cFuncs, unsafe.Pointer(&funcs)); err == nil && funcs&i2cFuncI2C == 0 {
		err = errors.New("the adapter speaks SMBus only")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &kernelI2C{f: f}, nil
}

func (b *kernelI2C) String() string { return b.f.Name() }

func (b *kernelI2C) Close() error { return b.f.Close() }

// SetSpeed implements i2c.Bus. The kernel has the speed from the device tree.
func (b *kernelI2C) SetSpeed(physic.Frequency) error { return errors.ErrUnsupported }

// Tx implements i2c.Bus: it writes w, then reads r, as one transaction.
func (b *kernelI2C) Tx(addr uint16, w, r []byte) error {
	if err := b.claim(addr); err != nil {
		return err
	}
	var msgs [2]i2cMsg
	n := 0
	if len(w) > 0 {
		msgs[n] = i2cMsg{addr: addr, len: uint16(len(w)), buf: &w[0]}
		n++
	}
	if len(r) > 0 {
		msgs[n] = i2cMsg{addr: addr, flags: i2cMsgRead, len: uint16(len(r)), buf: &r[0]}
		n++
	}
	if n == 0 {
		return nil
	}
	data := &i2cRdwrData{msgs: &msgs[0], nmsgs: uint32(n)}
	err := ioctl(b.f, i2cRdwr, unsafe.Pointer(data))
	runtime.KeepAlive(data)
	switch {
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.EREMOTEIO): // which one, depends on the adapter
		return fmt.Errorf("%w: nothing answers at address %#x of %s", ErrMissing, addr, b.f.Name())
	case err != nil:
		return fmt.Errorf("address %#x of %s: %w", addr, b.f.Name(), absent(err))
	}
	return nil
}

// claim makes sure that no kernel driver uses addr: two masters of one part would
// spoil each other's readings.
func (b *kernelI2C) claim(addr uint16) error {
	if addr == b.claimed {
		return nil
	}
	if addr == 0 || addr > 0x7f {
		return fmt.Errorf("%#x is not a 7-bit I2C address", addr)
	}
	raw, err := b.f.SyscallConn()
	if err != nil {
		return err
	}
	var errno unix.Errno
	if err = raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, i2cSlave, uintptr(addr)) // by value
	}); err != nil {
		return err
	}
	if errno == unix.EBUSY {
		return fmt.Errorf("address %#x of %s: a kernel driver has it; unbind that, or read the part through it", addr, b.f.Name())
	}
	if errno != 0 {
		return fmt.Errorf("address %#x of %s: %w", addr, b.f.Name(), absent(errno))
	}
	b.claimed = addr
	return nil
}
