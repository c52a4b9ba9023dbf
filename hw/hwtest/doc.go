// Package hwtest has the fakes of package hw: a machine whose buses and pins come
// and go, and a broker that remembers what was published.
//
// Start with a [Host] and a [Broker], give them to hw.Options as Host and
// Broker.Attach, and run the manager, best inside a testing/synctest bubble: all
// waiting here is on channels and timers, so the bubble's clock drives it. For a
// sensor's conversation byte by byte use periph's i2ctest.Playback on a Host instead
// of a [Registers].
//
// All types are safe for any goroutine. Reading order: host.go, pin.go, registers.go,
// broker.go.
package hwtest
