//go:build !(amd64 || arm64 || riscv64)

package main

// go-fuse does not build on 32 bits.

import "errors"

func serveFUSE(string, string) error {
	return errors.New("go-fuse does not build for this machine; run the faults on one of 64 bits")
}
