package hw

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

const simulated = "simulated"

var simulatedDriver = Driver{
	Name:   "simulated",
	Doc:    `no hardware at all: made-up values, for trying leafd on a machine without pins. Each message says "source":"simulated"`,
	Role:   SenseRole,
	Source: simulated,
	Params: []Param{
		{Name: "shape", Kind: StringKind, Default: "sine", Choices: []string{"sine", "random_walk", "square", "counter"},
			Doc: "sine; square, which is at max for the second half of the period; counter, which climbs from min to max in whole steps; random_walk"},
		{Name: "min", Kind: FloatKind, Default: 0.0, Doc: "lowest value"},
		{Name: "max", Kind: FloatKind, Default: 100.0, Doc: "highest value"},
		{Name: "period", Kind: DurationKind, Default: time.Minute, Doc: "of one wave or one count; the time in which a random walk crosses its range"},
		{Name: "unit", Kind: StringKind, Default: "", Doc: "what the readings say their unit is"},
		{Name: "seed", Kind: IntKind, Default: int64(0), Doc: "another seed is another walk, or another place in the wave"},
	},
	bus: func(params) string { return simulated },
	check: func(p params) *ParamError {
		if lo, hi := p.float("min"), p.float("max"); !(lo < hi) || math.IsInf(hi-lo, 0) {
			return bad("max", fmt.Sprintf("%v is not above min, %v", hi, lo), "make max greater than min")
		}
		if d := p.duration("period"); d < time.Millisecond {
			return bad("period", fmt.Sprintf("%v is too short", d), "use 1ms or more")
		}
		return nil
	},
	open: func(_ *loan, p params) (fmt.Stringer, error) {
		seed := uint64(p.int("seed"))
		s := &simulation{
			shape: p.str("shape"), lo: p.float("min"), hi: p.float("max"), unit: p.str("unit"),
			period: p.duration("period"), random: rand.New(rand.NewPCG(seed, 0)),
		}
		if seed != 0 {
			s.phase = s.random.Float64()
		}
		return s, nil
	},
}

// simulation makes values up. The waves are functions of the clock and the seed; the
// walk of these and of when it is asked.
type simulation struct {
	// static after open
	shape  string
	lo, hi float64
	unit   string
	period time.Duration
	phase  float64 // of a period

	// owned by Sense
	random *rand.Rand
	at     float64   // where the walk is
	last   time.Time // when it came there; zero before the first step
}

func (s *simulation) String() string { return simulated + " " + s.shape }

func (s *simulation) Sense(context.Context) ([]Reading, error) {
	now := time.Now()
	return []Reading{{Value: Number(s.value(now)), Unit: s.unit, Time: now}}, nil
}

func (s *simulation) value(now time.Time) float64 {
	since := time.Duration(now.UnixNano() % int64(s.period)) // since 1970, so that a restart goes on in the wave
	_, turn := math.Modf(float64(since)/float64(s.period) + s.phase)
	span := s.hi - s.lo
	switch s.shape {
	case "square":
		if turn < 0.5 {
			return s.lo
		}
		return s.hi
	case "counter":
		return s.lo + math.Floor(turn*(math.Floor(span)+1))
	case "random_walk":
		return s.walk(now, span)
	default: // sine
		return s.lo + span/2*(1+math.Sin(2*math.Pi*turn))
	}
}

// walk takes a Brownian step, whose deviation after a whole period is the span, and
// is reflected at the ends.
func (s *simulation) walk(now time.Time, span float64) float64 {
	if s.last.IsZero() {
		s.at = s.lo + span*s.random.Float64()
	} else {
		passed := max(now.Sub(s.last), 0).Seconds() / s.period.Seconds()
		s.at += span * math.Sqrt(min(passed, 1)) * s.random.NormFloat64()
		_, over := math.Modf(math.Abs(s.at-s.lo) / (2 * span)) // fold the line onto 0…2 spans, then onto 0…1
		s.at = s.lo + span*(1-math.Abs(1-2*over))
	}
	s.last = now
	return s.at
}

var simulatedSwitchDriver = Driver{
	Name:   "simulated_switch",
	Doc:    `no hardware at all: obeys commands on <subject>.set as a gpio_output would, and switches nothing. Each message says "source":"simulated"`,
	Role:   ActRole,
	Source: simulated,
	Params: []Param{
		{Name: "initial", Kind: BoolKind, Default: false, Doc: "the state at the start"},
		{Name: "safe", Kind: BoolKind, Default: false, Doc: "the state when leafd stops"},
	},
	bus: func(params) string { return simulated },
	open: func(_ *loan, p params) (fmt.Stringer, error) {
		return &simulatedSwitch{on: p.bool("initial"), safe: p.bool("safe")}, nil
	},
}

// simulatedSwitch is a gpioOutput without a pin.
type simulatedSwitch struct{ on, safe bool }

func (s *simulatedSwitch) String() string { return simulated + " switch" }

func (s *simulatedSwitch) Set(_ context.Context, v Value) error {
	on, ok := v.Bool()
	if !ok {
		return fmt.Errorf("%w; it takes on and off", ErrValue)
	}
	s.on = on
	return nil
}

func (s *simulatedSwitch) State() Value { return Bool(s.on) }

func (s *simulatedSwitch) Halt() error {
	s.on = s.safe
	return nil
}
