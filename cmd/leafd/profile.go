//go:build profile

package main

import (
	"net/http"
	_ "net/http/pprof"
	"os"
)

// A leafd built with the tag profile serves its profiles at LEAFD_PROFILE, for
// scripts/profile.sh and for who looks for what costs time. No release is built so.
func init() {
	if addr := os.Getenv("LEAFD_PROFILE"); addr != "" {
		go http.ListenAndServe(addr, nil)
	}
}
