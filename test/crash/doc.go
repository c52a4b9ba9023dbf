// Crash breaks leafd in every way that a power cut, a kill or a dying card can, and
// counts what was acknowledged and is gone.
//
//	go run ./test/crash               everything, at full size (make crash)
//	go run ./test/crash -part power   one part: power, kill or flip
//	go run ./test/crash -repro DIR    one violation again
//
// It needs strace, and a directory in RAM for the states it makes.
//
// # The oracle
//
// Sources publish numbered messages whose bytes follow from their number and never
// send one twice (payload.go, load.go). What was acknowledged must be there, unchanged,
// once, and in the order of its source, unless the hub has it.
//
// # Power loss
//
// The shipped binary runs under strace (record.go), which writes one log of its file
// operations and of what it said to its clients (strace.go). The log is played into a
// model of a file system that knows what was synced (model.go). Between any two
// operations it gives the directories that a power cut could leave (states.go); each is
// made in RAM and opened by a child process (checker.go, pool.go), and what the child
// reads is held against what had been acknowledged by then (oracle.go). power.go puts
// this together, with the controls, a disk whose syncs do nothing: they must find losses, and
// no store that does not open.
//
// # Kills and damage
//
// kill.go kills leafd under load, at random and at chosen system calls, and starts it
// again on the same store. flip.go flips bits, overwrites units and cuts off files of a
// store.
//
// # Concurrency
//
// A part is one goroutine that starts sources and a pool of checkers and waits for them.
package main
