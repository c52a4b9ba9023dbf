package main

import (
	"math/rand/v2"
	"testing"
)

// TestOutages plays some scenarios with a few messages; `make outage` plays all, with
// many.
func TestOutages(t *testing.T) {
	short := map[string]bool{"cuts while a backlog drains": true, "cluster: leader killed": true, "hub restored from a copy": true, "core hub, confirm flush: cuts": true,
		"order newest: cuts while a backlog drains": true, "live_share: cuts while a backlog drains": true, "live_share: leafd killed in mid-drain": true,
		"order newest: leafd killed in mid-drain": true, "clock": true}
	for _, s := range scenarios {
		if !short[s.name] {
			continue
		}
		delete(short, s.name)
		t.Run(s.name, func(t *testing.T) {
			o := s.play(t, 4000, rand.New(rand.NewPCG(1, 1)))
			t.Log(o)
			if !o.held() {
				t.Fail()
			}
		})
	}
	if len(short) > 0 {
		t.Errorf("no scenarios are called %v", short)
	}
}

// Two ascending rows are told from three.
func TestRows(t *testing.T) {
	for _, c := range []struct {
		most, bad int
		in        []int
	}{
		{1, 0, []int{0, 1, 5}}, {1, 1, []int{1, 0, 2}}, {2, 0, []int{5, 0, 6, 1, 7, 2, 3, 4}}, {2, 1, []int{5, 1, 0, 6}}, {anyOrder, 0, []int{3, 2, 1, 0}},
	} {
		r, bad := rows{most: c.most}, 0
		for _, n := range c.in {
			if !r.take(n) {
				bad++
			}
		}
		if bad != c.bad {
			t.Errorf("%v in %d rows: %d do not fit, want %d", c.in, c.most, bad, c.bad)
		}
	}
}

// The verdict must not be kind: a loss, a duplicate, a change or a wrong order breaks
// the promise, and a scenario in which nothing happened does not show it.
func TestVerdict(t *testing.T) {
	good := outcome{faults: 1, acked: 1}
	if !good.held() {
		t.Error("a run without fault was judged broken")
	}
	for _, o := range []outcome{{}, {faults: 1, lost: 1}, {faults: 1, duplicated: 1}, {faults: 1, wrong: 1}, {faults: 1, overstated: 1}, {faults: 1, disordered: 1},
		{faults: 1, disordered: 1, mayReorder: true}, {faults: 1, duplicated: 1, lost: 1, mayRepeat: true}} {
		if o.held() {
			t.Errorf("%+v was judged good", o)
		}
	}
}
