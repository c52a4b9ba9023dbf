package leaf

import "time"

// What is measured here by the clock on the wall would be wrong by each step of it: a gateway
// without a battery for its clock boots in the past, and learns the time with devices connected.

var started = time.Now()

// Mono is the time since the program started. It goes on evenly whatever is done to the clock.
func Mono() time.Duration { return time.Since(started) }

// At is when Mono was d, by the clock as it is now.
func At(d time.Duration) time.Time { return time.Now().Add(d - Mono()) }
