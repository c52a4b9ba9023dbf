package hw

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCheckNamesTheKey(t *testing.T) {
	out := func(p map[string]any) Device {
		all := map[string]any{"chip": "c", "line": 17}
		maps.Copy(all, p)
		return Device{Name: "valve", Driver: "gpio_output", Subject: "valve", Params: all}
	}
	in := func(p map[string]any) Device {
		d := out(p)
		d.Driver = "gpio_input"
		return d
	}
	bmx := func(p map[string]any) Device {
		return Device{Name: "air", Driver: "bmx280", Subject: "air", Params: p}
	}
	sim := func(p map[string]any) Device {
		return Device{Name: "s", Driver: "simulated", Subject: "s", Params: p}
	}
	with := func(d Device, change func(d *Device)) Device { change(&d); return d }
	for _, c := range []struct {
		devs          []Device
		param, reason string // empty for right
	}{
		{[]Device{sim(nil)}, "", ""},
		{[]Device{bmx(nil)}, "", ""},
		{[]Device{bmx(map[string]any{"bus": 1, "address": "0x77"})}, "", ""},
		{[]Device{bmx(map[string]any{"bus": int64(1), "address": int64(118)})}, "", ""},
		{[]Device{out(nil)}, "", ""},
		{[]Device{in(map[string]any{"debounce": "50ms", "pull": "up", "active_low": true})}, "", ""},
		{[]Device{in(map[string]any{"debounce": time.Second})}, "", ""},
		{[]Device{sim(map[string]any{"min": int64(-5), "max": 5.5, "unit": ""})}, "", ""},

		{[]Device{with(sim(nil), func(d *Device) { d.Driver = "bme" })}, "driver", `no driver "bme"`},
		{[]Device{with(sim(nil), func(d *Device) { d.Subject = "" })}, "subject", "not a subject"},
		{[]Device{with(sim(nil), func(d *Device) { d.Subject = "a.*" })}, "subject", "not a subject"},
		{[]Device{with(sim(nil), func(d *Device) { d.Subject = "$SYS.x" })}, "subject", "not a subject"},
		{[]Device{with(sim(nil), func(d *Device) { d.Interval = 9 * time.Millisecond })}, "interval", "too short"},
		{[]Device{with(sim(nil), func(d *Device) { d.Interval = -1 })}, "interval", "too short"},
		{[]Device{with(out(nil), func(d *Device) { d.Interval = 1 })}, "interval", "too short"},
		{[]Device{sim(nil), with(sim(nil), func(d *Device) { d.Subject = "t" })}, "name", "another device"},
		{[]Device{sim(nil), with(sim(nil), func(d *Device) { d.Name = "t" })}, "subject", `device "s" has "s"`},

		{[]Device{with(out(nil), func(d *Device) { d.Params = map[string]any{"chip": "c"} })}, "line", "is missing"},
		{[]Device{bmx(map[string]any{"adress": 118})}, "adress", "no such key"},
		{[]Device{bmx(map[string]any{"address": 0x20})}, "address", "no address 0x20"},
		{[]Device{bmx(map[string]any{"address": "x"})}, "address", "is no integer"},
		{[]Device{bmx(map[string]any{"bus": ""})}, "bus", "is no string"},
		{[]Device{in(map[string]any{"pull": "sideways"})}, "pull", "none of its values"},
		{[]Device{in(map[string]any{"debounce": int64(50)})}, "debounce", "50 is no duration"},
		{[]Device{in(map[string]any{"debounce": "-1s"})}, "debounce", "no time to wait"},
		{[]Device{out(map[string]any{"safe": "off"})}, "safe", "is no boolean"},
		{[]Device{sim(map[string]any{"min": 5.0, "max": 5.0})}, "max", "not above min"},
		{[]Device{sim(map[string]any{"max": true})}, "max", "is no number"},
		{[]Device{sim(map[string]any{"period": "0s"})}, "period", "too short"},
	} {
		err := Check(c.devs)
		var p *ParamError
		switch errors.As(err, &p) {
		case false:
			if err != nil || c.param != "" {
				t.Errorf("%+v: got %v, want an error about %q", c.devs, err, c.param)
			}
		default:
			if p.Param != c.param || !strings.Contains(p.Reason, c.reason) || p.Device != c.devs[len(c.devs)-1].Name || p.Remedy == "" {
				t.Errorf("%+v: got %v, want one about %q: %s", c.devs, err, c.param, c.reason)
			}
		}
	}
}

func TestCheckTellsAllAtOnce(t *testing.T) {
	err := Check([]Device{
		{Name: "a", Driver: "simulated", Subject: "", Params: map[string]any{"shape": "cube", "x": 1}},
		{Name: "b", Driver: "none", Subject: "b"},
	})
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 4 {
		t.Fatal(err)
	}
	for _, e := range joined.Unwrap() {
		if p, ok := e.(*ParamError); !ok || !strings.HasPrefix(p.Error(), "device ") {
			t.Error(e)
		}
	}
}

// The table is documentation too: help and the configuration file are made from it.
func TestTableIsComplete(t *testing.T) {
	for _, row := range Drivers() {
		if row.Name == "" || row.Doc == "" || row.open == nil {
			t.Errorf("%+v", row)
		}
		if (row.bus == nil) != (row.Role == WatchRole) {
			t.Errorf("%s: a watched pin has its own goroutine, all others share their bus's", row.Name)
		}
		for _, p := range row.Params {
			if p.Doc == "" || slices.Contains([]string{"driver", "subject", "interval", "name"}, p.Name) {
				t.Errorf("%s: %+v", row.Name, p)
			}
			if p.Required != (p.Default == nil) {
				t.Errorf("%s.%s: a default is what a key has that is not required", row.Name, p.Name)
				continue
			}
			if p.Required {
				continue
			}
			if v, err := p.convert(p.Default); err != nil || v != p.Default {
				t.Errorf("%s.%s: its default %v does not fit: %v", row.Name, p.Name, p.Default, err)
			}
		}
	}
}
