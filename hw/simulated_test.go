package hw

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// openSimulation opens a simulated sensor as the manager would.
func openSimulation(t *testing.T, p map[string]any) *simulation {
	t.Helper()
	got, errs := simulatedDriver.resolve(p)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	s, err := simulatedDriver.open(nil, got)
	if err != nil {
		t.Fatal(err)
	}
	return s.(*simulation)
}

func TestSimulatedShapes(t *testing.T) {
	at := func(part float64) time.Time { // of a minute
		return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(part * 60e9))
	}
	for _, c := range []struct {
		shape string
		part  float64
		want  float64
	}{
		{"sine", 0, 15}, {"sine", 0.25, 20}, {"sine", 0.75, 10},
		{"square", 0, 10}, {"square", 0.49, 10}, {"square", 0.5, 20}, {"square", 0.99, 20},
		{"counter", 0, 10}, {"counter", 0.5, 15}, {"counter", 0.99, 20},
	} {
		s := openSimulation(t, map[string]any{"shape": c.shape, "min": 10, "max": 20})
		if got := s.value(at(c.part)); got < c.want-1e-9 || got > c.want+1e-9 {
			t.Errorf("%s at %v: got %v, want %v", c.shape, c.part, got, c.want)
		}
	}
}

func TestSimulationIsDeterministic(t *testing.T) {
	for _, shape := range []string{"sine", "random_walk", "square", "counter"} {
		run := func(seed int) (out []float64) {
			synctest.Test(t, func(t *testing.T) {
				s := openSimulation(t, map[string]any{"shape": shape, "min": -3, "max": 7, "seed": seed, "period": "7s"})
				for range 200 {
					r, err := s.Sense(context.Background())
					if err != nil {
						t.Fatal(err)
					}
					out = append(out, r[0].Value.Number())
					<-time.After(300 * time.Millisecond)
				}
			})
			return out
		}
		a, b, other := run(5), run(5), run(6)
		differs, moves := false, false
		for i, v := range a {
			if v < -3 || v > 7 {
				t.Errorf("%s: %v is out of its range", shape, v)
			}
			if v != b[i] {
				t.Fatalf("%s: reading %d is %v in one run and %v in another", shape, i, v, b[i])
			}
			differs = differs || v != other[i]
			moves = moves || v != a[0]
		}
		if !differs || !moves {
			t.Errorf("%s: another seed differs: %v, it moves: %v", shape, differs, moves)
		}
	}
}
