package main

import (
	"slices"
	"testing"
	"testing/fstest"
)

func TestBoard(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	sys := fstest.MapFS{
		"firmware/devicetree/base/serial-number": file("10000000a1b2c3d4\x00"),
		"block/mmcblk0/device/cid":               file("275048534431364760\n"),
		"block/mmcblk1/device/cid":               file("00000000\n"), // a card that was never given one
		"class/net/eth0/device/uevent":           file(""),
		"class/net/eth0/addr_assign_type":        file("0\n"),
		"class/net/eth0/address":                 file("dc:a6:32:01:02:03\n"),
		"class/net/wlan0/device/uevent":          file(""),
		"class/net/wlan0/addr_assign_type":       file("1\n"), // drawn anew at each boot
		"class/net/wlan0/address":                file("b2:a3:3c:9d:41:e1\n"),
		"class/net/lo/addr_assign_type":          file("0\n"),
		"class/net/lo/address":                   file("00:00:00:00:00:00\n"),
	}
	want := []string{"serial-number 10000000a1b2c3d4", "cid 275048534431364760", "address dc:a6:32:01:02:03"}
	if got := board(sys); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := board(fstest.MapFS{}); got != nil {
		t.Errorf("%q of nothing", got)
	}
}
