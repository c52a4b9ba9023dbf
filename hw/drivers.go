package hw

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// drivers is the table of all that can be configured. A row is data but for its
// last three functions.
var drivers = []Driver{bmx280Driver, gpioInputDriver, gpioOutputDriver, simulatedDriver, simulatedSwitchDriver}

// Drivers lists every driver, by name.
func Drivers() []Driver { return slices.Clone(drivers) }

// Driver is one row of the table of drivers.
type Driver struct {
	Name   string // what Device.Driver says
	Doc    string // one sentence for people
	Role   Role
	Source string  // what its messages say they come from; empty for real hardware
	Params []Param // the keys it has beside driver, subject and interval

	bus   func(p params) string                                  // which goroutine serves it: equal names share one
	check func(p params) *ParamError                             // what the kinds cannot say; nil for nothing
	open  func(l *loan, p params) (part fmt.Stringer, err error) // a Sensor, Watcher or Actuator, as Role says
}

// Role is what a device does.
type Role uint8

const (
	SenseRole Role = iota // a Sensor
	WatchRole             // a Watcher
	ActRole               // an Actuator
)

func (r Role) String() string { return [...]string{"sensor", "input", "output"}[r] }

// Param is one configuration key of a driver.
type Param struct {
	Name     string
	Kind     Kind
	Default  any      // of the Kind's Go type; nil if Required
	Required bool     // has no default
	Choices  []string // for a StringKind: the only values; empty for any
	Doc      string
}

// Kind is the type of a Param.
type Kind uint8

const (
	StringKind   Kind = iota // string; an integer is taken as its digits
	IntKind                  // int64; also a string such as "0x76"
	FloatKind                // float64; also an integer
	DurationKind             // time.Duration; also a string such as "50ms"
	BoolKind                 // bool
)

func (k Kind) String() string {
	return [...]string{"string", "integer", "number", "duration", "boolean"}[k]
}

// ParamError is one thing wrong with one key of one device.
type ParamError struct {
	Device string // its Name
	Param  string // the key: driver, subject, interval, or one of the driver's
	Reason string
	Remedy string // what to write instead
}

func (e *ParamError) Error() string {
	s := fmt.Sprintf("device %q: %s: %s", e.Device, e.Param, e.Reason)
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

// Check tells everything wrong with devs as a joined error of [*ParamError], or
// nil. It touches no hardware.
func Check(devs []Device) error {
	_, err := resolve(devs)
	return err
}

// params are a device's keys, each of its Kind's Go type, defaults filled in.
type params map[string]any

func (p params) str(k string) string             { return p[k].(string) }
func (p params) int(k string) int64              { return p[k].(int64) }
func (p params) float(k string) float64          { return p[k].(float64) }
func (p params) duration(k string) time.Duration { return p[k].(time.Duration) }
func (p params) bool(k string) bool              { return p[k].(bool) }
func bad(param, reason, remedy string) *ParamError {
	return &ParamError{Param: param, Reason: reason, Remedy: remedy}
}

// resolved is a Device that was found to be right.
type resolved struct {
	Device
	driver *Driver
	params params
}

func resolve(devs []Device) ([]resolved, error) {
	var out []resolved
	var errs []error
	names, subjects := map[string]bool{}, map[string]string{}
	for _, d := range devs {
		r, found := resolveOne(d)
		if names[d.Name] {
			found = append(found, bad("name", "another device has this name", "give each device a name of its own"))
		}
		if other, taken := subjects[d.Subject]; taken {
			found = append(found, bad("subject", fmt.Sprintf("device %q has %q already", other, d.Subject), "give each device a subject of its own"))
		}
		names[d.Name], subjects[d.Subject] = true, d.Name
		for _, e := range found {
			e.Device = d.Name
			errs = append(errs, e)
		}
		out = append(out, r)
	}
	return out, errors.Join(errs...)
}

func resolveOne(d Device) (r resolved, errs []*ParamError) {
	r.Device = d
	if !msg.ValidSubject(d.Subject) || strings.HasPrefix(d.Subject, "$") {
		errs = append(errs, bad("subject", fmt.Sprintf("%q is not a subject one may publish on", d.Subject),
			"write tokens separated by dots, without spaces, * or >, and without $ at the start, such as greenhouse.air"))
	}
	at := slices.IndexFunc(drivers, func(row Driver) bool { return row.Name == d.Driver })
	if at < 0 {
		var names []string
		for _, row := range drivers {
			names = append(names, row.Name)
		}
		return r, append(errs, bad("driver", fmt.Sprintf("there is no driver %q", d.Driver), "the drivers are "+strings.Join(names, ", ")))
	}
	r.driver = &drivers[at]
	if d.Interval == 0 && r.driver.Role == SenseRole {
		r.Interval = DefaultInterval
	} else if d.Interval != 0 && d.Interval < MinInterval {
		errs = append(errs, bad("interval", fmt.Sprintf("%v is too short", d.Interval), fmt.Sprintf("use %v or more", MinInterval)))
	}
	p, found := r.driver.resolve(d.Params)
	r.params = p
	if len(found) == 0 && r.driver.check != nil {
		if e := r.driver.check(p); e != nil {
			found = append(found, e)
		}
	}
	return r, append(errs, found...)
}

// resolve gives each of the driver's keys its value.
func (row *Driver) resolve(given map[string]any) (params, []*ParamError) {
	var errs []*ParamError
	p := params{}
	var known []string
	for _, par := range row.Params {
		known = append(known, par.Name)
		v, ok := given[par.Name]
		switch {
		case !ok && par.Required:
			errs = append(errs, bad(par.Name, "is missing", par.Doc))
			continue
		case !ok:
			p[par.Name] = par.Default
			continue
		}
		v, err := par.convert(v)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p[par.Name] = v
	}
	for _, k := range slices.Sorted(maps.Keys(given)) {
		if !slices.Contains(known, k) {
			errs = append(errs, bad(k, fmt.Sprintf("driver %s has no such key", row.Name), "it has "+strings.Join(known, ", ")))
		}
	}
	return p, errs
}

// convert brings v to the Go type of par's Kind.
func (par *Param) convert(v any) (any, *ParamError) {
	if n, ok := v.(int); ok {
		v = int64(n)
	}
	text, isText := v.(string)
	whole, isWhole := v.(int64)
	wrong := func(remedy string) (any, *ParamError) {
		return nil, bad(par.Name, fmt.Sprintf("%v is no %s", v, par.Kind), remedy)
	}
	switch par.Kind {
	case StringKind:
		if isWhole {
			text, isText = strconv.FormatInt(whole, 10), true
		}
		if !isText || text == "" && par.Default != "" {
			return wrong("put it in quotes")
		}
		if len(par.Choices) > 0 && !slices.Contains(par.Choices, text) {
			return nil, bad(par.Name, fmt.Sprintf("%q is none of its values", text), "use "+strings.Join(par.Choices, ", "))
		}
		return text, nil
	case IntKind:
		if n, err := strconv.ParseInt(text, 0, 64); isText && err == nil {
			return n, nil
		}
		if !isWhole {
			return wrong("write 118 or 0x76")
		}
		return whole, nil
	case FloatKind:
		if isWhole {
			return float64(whole), nil
		}
		if f, ok := v.(float64); ok && !math.IsNaN(f) && !math.IsInf(f, 0) {
			return f, nil
		}
		return wrong("write 21 or 21.5")
	case DurationKind:
		if d, ok := v.(time.Duration); ok {
			return d, nil
		}
		if d, err := time.ParseDuration(text); isText && err == nil {
			return d, nil
		}
		return wrong(`write it with a unit and in quotes: "50ms", "2s", "5m"`)
	default: // BoolKind
		if b, ok := v.(bool); ok {
			return b, nil
		}
		return wrong("write true or false")
	}
}
