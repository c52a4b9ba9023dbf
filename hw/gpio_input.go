package hw

import (
	"context"
	"fmt"
	"time"

	"periph.io/x/conn/v3/gpio"
)

var gpioInputDriver = Driver{
	Name: "gpio_input",
	Doc: "a GPIO line that is watched: its state goes to <subject> at the start, on each change and, " +
		"if there is an interval, on each interval",
	Role: WatchRole,
	Params: []Param{
		chipParam, lineParam,
		{Name: "pull", Kind: StringKind, Default: "none", Choices: []string{"up", "down", "none"}, Doc: "the line's pull resistor"},
		{Name: "edge", Kind: StringKind, Default: "both", Choices: []string{"both", "rising", "falling"},
			Doc: "which changes are published; with rising (off to on) or falling the state at the start is not"},
		{Name: "debounce", Kind: DurationKind, Default: time.Duration(0), Doc: "how long a new state must last to be published"},
		{Name: "active_low", Kind: BoolKind, Default: false, Doc: "on is the low level, as with a button to ground"},
	},
	check: func(p params) *ParamError {
		if d := p.duration("debounce"); d < 0 || d > time.Minute {
			return bad("debounce", fmt.Sprintf("%v is no time to wait", d), "use 0s to 1m")
		}
		return nil
	},
	open: func(l *loan, p params) (fmt.Stringer, error) {
		pin, err := l.gpio(p)
		if err != nil {
			return nil, err
		}
		in := &gpioInput{
			pin: pin, activeLow: p.bool("active_low"), hold: p.duration("debounce"), repeat: l.device.Interval,
			rising: p.str("edge") != "falling", falling: p.str("edge") != "rising",
		}
		pull := map[string]gpio.Pull{"up": gpio.PullUp, "down": gpio.PullDown, "none": gpio.Float}[p.str("pull")]
		return in, in.take(pull)
	},
}

// idleWait is how long a WaitForEdge with nothing else to do lasts. Then the line is
// read: not every kernel wakes who waits on a chip that goes away (6.1 does not), and
// an edge may be lost.
const idleWait = 10 * time.Second

// gpioInput watches one pin.
type gpioInput struct {
	// static after open
	pin             Pin
	activeLow       bool
	rising, falling bool          // which changes are published
	hold            time.Duration // debounce
	repeat          time.Duration // 0: never

	// owned by Watch
	state     bool      // the last that held
	candidate bool      // what the line is at, if it has not held yet
	since     time.Time // when it came to that; zero if candidate means nothing
	nextTime  time.Time // to repeat the state
}

func (in *gpioInput) String() string { return "pin " + in.pin.Name() }

// take requests the line, for both edges: the debounce needs to see either.
func (in *gpioInput) take(pull gpio.Pull) error {
	if err := in.pin.In(pull, gpio.BothEdges); err != nil {
		return fmt.Errorf("take %s as input: %w", in, err)
	}
	return nil
}

func (in *gpioInput) Watch(ctx context.Context, emit func(Reading)) error {
	defer haltWith(ctx, in.pin)()
	now := time.Now()
	in.state = in.read()
	in.nextTime = now.Add(in.repeat)
	if err := in.pin.Err(); err != nil {
		return err
	}
	if in.rising && in.falling {
		emit(Reading{Value: Bool(in.state), Time: now})
	}
	for ctx.Err() == nil {
		edge := in.pin.WaitForEdge(in.patience(time.Now()))
		now = time.Now()
		if edge {
			in.moved(bool(in.pin.Edge()) != in.activeLow, now)
		} else if on := in.read(); on != in.state && in.since.IsZero() {
			in.moved(on, now)
		}
		if err := in.pin.Err(); err != nil {
			return err
		}
		in.settle(now, emit)
	}
	return nil
}

func (in *gpioInput) read() bool { return bool(in.pin.Read()) != in.activeLow }

// moved notes that the line came to the state on.
func (in *gpioInput) moved(on bool, now time.Time) {
	in.candidate, in.since = on, now
}

// settle publishes a state that has held long enough, and repeats the old one when
// its time has come.
func (in *gpioInput) settle(now time.Time, emit func(Reading)) {
	if !in.since.IsZero() && now.Sub(in.since) >= in.hold {
		on := in.candidate
		if in.hold > 0 && in.read() != on {
			in.moved(!on, now) // an edge got lost, or the line: begin again with what is
		} else if in.pin.Err() == nil {
			if on != in.state && (on && in.rising || !on && in.falling) {
				emit(Reading{Value: Bool(on), Time: in.since})
			}
			in.state, in.since = on, time.Time{}
		}
	}
	if in.repeat > 0 && !now.Before(in.nextTime) {
		emit(Reading{Value: Bool(in.state), Time: now})
		in.nextTime = now.Add(in.repeat)
	}
}

// patience is how long to wait for an edge: until the next thing to do by the clock.
func (in *gpioInput) patience(now time.Time) time.Duration {
	wait := idleWait
	if !in.since.IsZero() {
		wait = in.since.Add(in.hold).Sub(now)
	}
	if in.repeat > 0 {
		wait = min(wait, in.nextTime.Sub(now))
	}
	return max(wait, time.Microsecond) // periph and the kernel disagree on what 0 and -1 mean
}

// haltWith ends the pin's waiting once ctx ends. The returned function must be
// called before the pin is closed.
func haltWith(ctx context.Context, pin Pin) (wait func()) {
	halted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		pin.Halt()
		close(halted)
	})
	return func() {
		if !stop() {
			<-halted
		}
	}
}
