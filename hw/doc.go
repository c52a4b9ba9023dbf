// Package hw puts hardware on subjects: sensors publish readings, inputs publish
// their edges, outputs obey commands.
//
// Call [New] with the configured devices, then [Manager.Run]; ask
// [Manager.Health] at any time. [Check] tells what is wrong with a configuration
// without touching hardware, and [Drivers] lists what can be configured.
//
// # What appears on which subject
//
// A device with the subject s publishes
//
//	s              {"value":21.5,"unit":"°C","time":"2026-01-02T03:04:05.678Z"}
//	s.temperature  the same, one subject per measure, for a sensor with several
//
// and an output also obeys commands on
//
//	s.set          on, off, 1, 0, true, false, toggle, or {"value":…} with one of these
//
// A command with a reply subject is answered with the new state,
// {"value":true,"time":"…"}, or with {"error":"…"}; either way exactly once, unless
// the command was refused at the door, which the router counts. A device that does
// not exist but is simulated says so in each message: "source":"simulated".
//
// # Promises
//
// A missing device never stops anything: it shows in [Manager.Health], is logged
// once for each change of its state, and is tried again after 1 s, 2 s, … up to
// 1 min. A value that is not a finite number is never published; it counts as a
// failure. When Run's context ends every output is put into its configured safe
// state, each by the goroutine of its own bus, so that one stuck bus does not keep
// a valve on another from closing.
//
// # Concurrency properties
//
// One goroutine for each bus serves all devices on it, so a driver needs no lock:
// it never sees two calls at once, nor do two devices talk on one bus at once. All
// outputs of one GPIO chip share a goroutine; each watched input has its own. A
// goroutine owns its bus, its devices and its [Port]. Deliver of a command runs on
// the publisher's goroutine: it copies the command onto its bus's bounded queue, or
// refuses it; it never blocks. [Manager.Health] may be called from anywhere.
//
// Reading order: device.go, value.go, command.go, drivers.go, manager.go, worker.go,
// watch.go, health.go, then one file for each driver (bmx280.go, gpio_input.go,
// gpio_output.go, simulated.go), and host.go with host_linux.go for the real machine.
// Package hwtest has the fakes.
package hw
