package hw

import (
	"errors"
	"strings"
	"testing"
)

func TestParseCommand(t *testing.T) {
	on, off := order{value: Bool(true)}, order{value: Bool(false)}
	for p, want := range map[string]order{
		"on": on, "ON": on, " on\r\n": on, "true": on, `{"value":true}`: on, `{"value":"on"}`: on, `{"value":"True"}`: on,
		"off": off, "Off": off, "false": off, ` { "value" : false } `: off,
		"toggle": {toggle: true}, `{"value":"toggle"}`: {toggle: true},
		"1": {value: Number(1)}, "0": {value: Number(0)}, "0.5": {value: Number(0.5)}, `{"value":1}`: {value: Number(1)}, `{"value":-2e3}`: {value: Number(-2000)},
	} {
		if got, err := parseCommand([]byte(p)); err != nil || got != want {
			t.Errorf("%q: got %+v, %v", p, got, err)
		}
	}
	for _, p := range []string{
		"", " ", "open", "o n", "nan", "inf", "1e999", "{}", "{", `{"value":null}`, `{"value":[1]}`, `{"value":{"value":1}}`, `{"value":""}`,
		`{"value":true,"until":5}`, `{"value":true}{"value":false}`, `{"value":true} x`, `"on"`, "[true]", "\x00", strings.Repeat("1", maxCommand+1),
	} {
		if got, err := parseCommand([]byte(p)); !errors.Is(err, ErrValue) {
			t.Errorf("%q: got %+v, %v", p, got, err)
		}
	}
}

func TestToggleTurnsAround(t *testing.T) {
	toggle := order{toggle: true}
	if v, err := toggle.wants(Bool(true)); err != nil || v != Bool(false) {
		t.Error(v, err)
	}
	if v, err := toggle.wants(Bool(false)); err != nil || v != Bool(true) {
		t.Error(v, err)
	}
	if v, err := toggle.wants(Number(0.5)); !errors.Is(err, ErrValue) {
		t.Error(v, err)
	}
}

// Whatever is understood is understood the same when leafd's own spelling of it is
// sent back, bare or as an object; whatever is not says why.
func FuzzParseCommand(f *testing.F) {
	for _, s := range []string{"on", "OFF", "toggle", "1", "0.5", "-1e-7", `{"value":true}`, `{"value":"toggle"}`, `{"value":1,"x":2}`, "{", "\xff", "0x1p-2", "1_0"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		o, err := parseCommand(p)
		if err != nil {
			if !errors.Is(err, ErrValue) {
				t.Fatalf("%q: untyped error %v", p, err)
			}
			return
		}
		if !o.value.Finite() {
			t.Fatalf("%q: %v", p, o.value)
		}
		said := "toggle"
		if !o.toggle {
			said = o.value.String()
		}
		for _, again := range []string{said, `{"value":"` + said + `"}`} {
			o2, err := parseCommand([]byte(again))
			if err != nil || o2.toggle != o.toggle || o2.value.String() != o.value.String() {
				t.Fatalf("%q → %q → %+v, %v", p, again, o2, err)
			}
		}
	})
}
