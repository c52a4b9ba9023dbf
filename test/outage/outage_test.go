package main

import (
	"math/rand/v2"
	"testing"
)

// TestOutages plays some scenarios with a few messages; `make outage` plays all, with
// many.
func TestOutages(t *testing.T) {
	short := map[string]bool{"cuts while a backlog drains": true, "cluster: leader killed": true, "hub restored from a copy": true, "core hub, confirm flush: cuts": true, "clock": true}
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

// The verdict must not be kind: a loss, a duplicate, a change or a wrong order breaks
// the promise, and a scenario in which nothing happened does not show it.
func TestVerdict(t *testing.T) {
	good := outcome{faults: 1, acked: 1}
	if !good.held() {
		t.Error("a run without fault was judged broken")
	}
	for _, o := range []outcome{{}, {faults: 1, lost: 1}, {faults: 1, duplicated: 1}, {faults: 1, wrong: 1}, {faults: 1, disordered: 1},
		{faults: 1, disordered: 1, mayReorder: true}, {faults: 1, duplicated: 1, lost: 1, mayRepeat: true}} {
		if o.held() {
			t.Errorf("%+v was judged good", o)
		}
	}
}
