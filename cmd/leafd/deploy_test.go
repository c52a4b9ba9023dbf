package main

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const unitPath = "../../deploy/leafd.service"

// The unit locks leafd in as far as GPIO, I2C and the network allow.
func TestUnitIsLockedIn(t *testing.T) {
	text, err := os.ReadFile(unitPath)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for _, want := range strings.Fields(`DynamicUser=yes CapabilityBoundingSet= NoNewPrivileges=yes ProtectSystem=strict DevicePolicy=closed
		MemoryDenyWriteExecute=yes SystemCallFilter=@system-service UMask=0077 OOMScoreAdjust=-500 StateDirectory=leafd Restart=always`) {
		if !slices.Contains(lines, want) {
			t.Errorf("%s has no line %s", unitPath, want)
		}
	}
	if dir := defaultConfig().Store.Dir; dir != "/var/lib/leafd" {
		t.Errorf("the store is in %s, and the unit lets leafd write to /var/lib/leafd alone", dir)
	}
}

// Where systemd is there to say so, the exposure is at most 1.5 of 10.
func TestUnitExposure(t *testing.T) {
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Logf("%v: TestUnitIsLockedIn has looked at the lines", err)
		return
	}
	out, err := exec.Command(tool, "security", "--offline=true", "--no-pager", "--threshold=15", unitPath).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
