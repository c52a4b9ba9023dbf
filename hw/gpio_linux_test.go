package hw

import (
	"errors"
	"testing"
	"unsafe"
)

// The kernel takes a struct's size from the request's number: bits 16 to 29.
func TestKernelStructSizes(t *testing.T) {
	for _, c := range []struct {
		request uint
		size    uintptr
	}{
		{gpioGetChipInfo, unsafe.Sizeof(gpioChipInfo{})},
		{gpioGetLineInfo, unsafe.Sizeof(gpioLineInfo{})},
		{gpioGetLine, unsafe.Sizeof(gpioRequest{})},
		{gpioGetValues, unsafe.Sizeof(gpioValues{})},
		{gpioSetValues, unsafe.Sizeof(gpioValues{})},
	} {
		if want := uintptr(c.request >> 16 & 0x3fff); c.size != want {
			t.Errorf("request %#x: the struct has %d bytes, the kernel's %d", c.request, c.size, want)
		}
	}
	// struct i2c_msg has its pointer aligned, on 32 bits and 64.
	if got := unsafe.Offsetof(i2cMsg{}.buf); got != 8 {
		t.Errorf("i2c_msg.buf is at %d", got)
	}
}

func TestMachineWithoutTheHardware(t *testing.T) {
	if _, err := (machine{}).I2C("/dev/i2c-4711"); !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
	if _, err := (machine{}).Pin("no such chip", "1"); !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
}
