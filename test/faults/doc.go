// Faults breaks the disk under a running leafd and counts what came of it.
//
// Each fault is one run: a stock hub whose stream exists but which is away, leafd
// with its store on a disk of our own, MQTT devices and NATS clients that publish
// into an outbox, and two NATS clients that talk to each other. The disk breaks, is
// mended, and at the end the hub comes back. Then everything that was ever
// acknowledged must be in the hub's stream, once, unchanged and in the order of
// its publisher, and leafd must be the same process.
//
//	go build -o bin/faults ./test/faults && sudo bin/faults     # Linux, root, /dev/fuse, loop devices, mkfs.ext4
//
// It prints a line per fault as it goes, on the error output, and markdown for
// docs/RELIABILITY.md on the standard output. It ends with 1 if a promise was
// broken, and with 2 if a fault could not be tried.
//
// Two kinds of disk. A FUSE server in a process of its own returns errors and takes
// its time when told to; a failed fsync there forgets half of what was written
// since the last one while the page cache goes on showing it, as ext4 does. A small
// ext4 on a loop device is really full, and really read-only after an error.
//
// Reading order: main.go (the faults, the table), run.go (one of them), load.go
// (publishers and the pair), ledger.go (what was acknowledged, what arrived),
// disk.go, fuse.go.
package main
