//go:build !linux

package storefwd

import "time"

var started = time.Now()

func sinceBoot() time.Duration { return time.Since(started) }

func synchronised() bool { return true }
