package main

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/leafd/leafd/hw"
)

// The hardware block. Which keys a device has is the driver's business: package hw
// says it in its table of drivers, and checks the values; here they get their
// place in the file.

// readHardware reads the devices, in order of name.
func readHardware(b *block) []hw.Device {
	var devs []hw.Device
	b.sub(func(b *block) {
		b.each(func(name string, v value) {
			if !validName(name) {
				v.fail("is not a name for a device", "use letters, digits, - and _, at most 32")
				return
			}
			v.enter(func(b *block) { devs = append(devs, readDevice(b, name)) })
		})
	}, "devices")
	if len(devs) == 0 && !b.failedUnder(b.path) {
		b.r.fail(b.join("devices"), "names no device", `add devices { air { driver: simulated, subject: "lab.air" } } or remove the block`)
	}
	return devs
}

func readDevice(b *block, name string) hw.Device {
	d := hw.Device{Name: name, Params: make(map[string]any)}
	hasDriver := b.str(&d.Driver, "driver")
	if !hasDriver && !b.failedUnder(b.path) {
		b.r.fail(b.join("driver"), "is missing", "add one of "+driverNames())
	}
	if !b.str(&d.Subject, "subject") && !b.failedUnder(b.path) {
		b.r.fail(b.join("subject"), "is missing", `add one, as subject: "greenhouse.air"`)
	}
	b.dur(&d.Interval, hw.MinInterval, 24*time.Hour, "interval")

	rows := hw.Drivers()
	at := slices.IndexFunc(rows, func(row hw.Driver) bool { return row.Name == d.Driver })
	if at < 0 { // which keys it may have is not known: one error is enough
		for key := range b.m {
			b.used[key] = true
		}
		return d
	}
	for _, par := range rows[at].Params {
		v, ok := b.get(par.Name)
		if !ok {
			continue
		}
		switch v.v.(type) {
		case string, int64, float64, bool:
			d.Params[par.Name] = v.v
		default:
			v.wrongType("a " + par.Kind.String())
		}
	}
	return d
}

func driverNames() string {
	var names []string
	for _, row := range hw.Drivers() {
		names = append(names, row.Name)
	}
	return strings.Join(names, ", ")
}

// checkDevices puts what package hw finds wrong into the file's places.
func (c *Config) checkDevices(r *reader) {
	found := []error{hw.Check(c.Devices)}
	if joined, ok := found[0].(interface{ Unwrap() []error }); ok {
		found = joined.Unwrap()
	}
	for _, err := range found {
		var pe *hw.ParamError
		if !errors.As(err, &pe) {
			continue
		}
		key := "hardware.devices." + pe.Device + "." + pe.Param
		if !slices.ContainsFunc(r.errs, func(e *configError) bool { return e.key == key }) {
			r.fail(key, pe.Reason, pe.Remedy)
		}
	}
}
