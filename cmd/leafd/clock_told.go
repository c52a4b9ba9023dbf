//go:build leafdtestclock

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/leafd/leafd/storefwd"
)

// newClock is a clock that a test sets while leafd runs: test/outage shows with it what a
// machine without a battery for its clock does. It is not in what is shipped.
func newClock(trust string) storefwd.Clock {
	return &toldClock{path: os.Getenv("LEAFD_TEST_CLOCK"), trust: trust}
}

// toldClock reads its file at each call, so that who replaces the file by rename knows from
// when on it holds. Its fields are static.
type toldClock struct{ path, trust string }

// told is the file, as JSON.
type told struct {
	Offset  time.Duration `json:"offset"` // of the wall clock from this machine's
	Booted  time.Time     `json:"booted"` // when, by this machine's clock
	BootID  string        `json:"boot_id"`
	Trusted bool          `json:"trusted"`
}

func (c *toldClock) read() (t told) {
	b, err := os.ReadFile(c.path)
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	if err != nil {
		panic(fmt.Sprintf("leafd: a build for tests needs a clock in the file that LEAFD_TEST_CLOCK names: %v", err))
	}
	return t
}

func (c *toldClock) Now() time.Time      { return time.Now().Add(c.read().Offset) }
func (c *toldClock) Boot() time.Duration { return time.Since(c.read().Booted) }
func (c *toldClock) BootID() string      { return c.read().BootID }
func (c *toldClock) Trusted() bool {
	return c.trust == "always" || c.trust != "never" && c.read().Trusted
}
