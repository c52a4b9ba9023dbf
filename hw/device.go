package hw

import (
	"context"
	"fmt"
	"time"
)

// A driver is one of the three roles below. Its String names the part, not the
// configured device: "BME280 at 0x76". No two of its methods are called at once,
// but for what Watch says.

// Sensor is read on an interval.
type Sensor interface {
	fmt.Stringer

	// Sense takes one measurement. It returns by ctx's deadline, with an error
	// wrapping [ErrMissing] if the part does not answer at all. After an error the
	// sensor is not used again: it is opened anew.
	Sense(ctx context.Context) ([]Reading, error)
}

// Watcher tells of changes by itself.
type Watcher interface {
	fmt.Stringer

	// Watch calls emit for each change, on its own goroutine, until ctx ends (nil)
	// or the device fails (why).
	Watch(ctx context.Context, emit func(Reading)) error
}

// Actuator obeys commands.
type Actuator interface {
	fmt.Stringer

	// Set brings about the state v. A value that the actuator cannot have is
	// refused with an error wrapping [ErrValue] and changes nothing; after any
	// other error the actuator is opened anew.
	Set(ctx context.Context, v Value) error

	// State is what the actuator was last brought to.
	State() Value

	// Halt brings about the configured safe state. It is the last call.
	Halt() error
}

// Reading is one measured value, or one change.
type Reading struct {
	Measure string    // last token of the subject if the device has several measures; empty otherwise
	Value   Value     // never NaN or infinite once published
	Unit    string    // "°C", "hPa", "%"; empty for a state
	Time    time.Time // when it was so, not when it was published
}

// Device is one configured device.
type Device struct {
	Name     string         // unique; for people, in logs and health
	Driver   string         // a Name in Drivers
	Subject  string         // where its readings go; commands arrive on Subject + ".set"
	Interval time.Duration  // between two readings; at least MinInterval; 0 means the driver's default
	Params   map[string]any // the driver's own keys: string, bool, int64, float64 or time.Duration
}

// MinInterval is the shortest interval a device may have.
const MinInterval = 10 * time.Millisecond

// DefaultInterval is how often a sensor is read if nothing else is configured.
// Inputs and outputs publish their changes, and repeat their state only if an
// interval is configured.
const DefaultInterval = 10 * time.Second
