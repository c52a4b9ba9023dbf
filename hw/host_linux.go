package hw

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
	"periph.io/x/conn/v3/i2c"
)

// machine is the computer this runs on, reached through its kernel's character
// devices: /dev/i2c-N (i2c_linux.go) and /dev/gpiochipN (gpio_linux.go).
//
// periph has both too, in its host packages, but made for programs that own the
// whole machine: it enumerates all chips once per process, drives an output low for
// a moment before its first level, reports a line that cannot be read as low, and
// while it sorts out a chip's second name closes file descriptors it no longer owns,
// which in a broker are somebody's connection. Its vocabulary (i2c.Bus, gpio.PinIO)
// and its device drivers are used unchanged.
type machine struct{}

func (machine) I2C(bus string) (i2c.BusCloser, error) { return openI2C(bus) }

func (machine) Pin(chip, line string) (Pin, error) { return findLine(chip, line) }

// ioctl calls f's driver. arg must point to the struct that the kernel expects for
// request; the caller keeps alive what that points to.
func ioctl(f *os.File, request uint, arg unsafe.Pointer) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var errno unix.Errno
	err = raw.Control(func(fd uintptr) {
		for {
			_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, uintptr(request), uintptr(arg))
			if errno != unix.EINTR {
				return
			}
		}
	})
	if err == nil && errno != 0 {
		err = errno
	}
	return err
}

// absent makes err wrap ErrMissing if its errno says that there is nothing there.
func absent(err error) error {
	for _, errno := range []unix.Errno{unix.ENOENT, unix.ENODEV, unix.ENXIO, unix.EREMOTEIO} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w: %w", ErrMissing, err)
		}
	}
	return err
}

// openDevice opens a device file, and says what to do if it may not.
func openDevice(path, group string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("%w; add leafd's user to the group %s", err, group)
	}
	return f, absent(err)
}

// text is a string of the kernel's: up to the first NUL.
func text(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}
