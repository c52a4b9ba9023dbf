//go:build !race

package testkit

// RaceEnabled says that the race detector is on: everything takes several times as long.
const RaceEnabled = false
