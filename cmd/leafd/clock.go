//go:build !leafdtestclock

package main

import "github.com/leafd/leafd/storefwd"

// newClock is the machine's clock.
func newClock(trust string) storefwd.Clock { return storefwd.SystemClock(trust) }
