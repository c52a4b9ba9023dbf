package main

import (
	"errors"
	"os/exec"
	"testing"
)

// A child that was killed from outside found nothing; one that fell over the file did.
func TestOfBrokenFile(t *testing.T) {
	for signal, want := range map[string]bool{"KILL": false, "BUS": true, "SEGV": true, "ABRT": true} {
		var exit *exec.ExitError
		if err := exec.Command("sh", "-c", "ulimit -c 0; kill -"+signal+" $$").Run(); !errors.As(err, &exit) || ofBrokenFile(exit) != want {
			t.Errorf("%s: %v, want %v", signal, err, want)
		}
	}
	var exit *exec.ExitError
	if err := exec.Command("sh", "-c", "exit 3").Run(); !errors.As(err, &exit) || ofBrokenFile(exit) {
		t.Errorf("%v", err)
	}
}
