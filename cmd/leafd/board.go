package main

import (
	"io/fs"
	"path"
	"slices"
	"strings"
)

const sysfs = "/sys"

// board is what tells this board from another of its kind, as sys, the root of sysfs, shows
// it: the serial numbers of the board and of its cards, and the addresses that its network
// interfaces were made with. A card that is copied to another board brings none of them
// along. It is empty where nothing is known, as in a container.
func board(sys fs.FS) (parts []string) {
	add := func(name string) {
		b, err := fs.ReadFile(sys, name)
		part := path.Base(name) + " " + strings.Trim(string(b), "\x00 \n")
		if err == nil && strings.ContainsAny(string(b), "123456789abcdefABCDEF") && !slices.Contains(parts, part) {
			parts = append(parts, part)
		}
	}
	add("firmware/devicetree/base/serial-number")
	add("class/dmi/id/product_uuid")
	cards, _ := fs.Glob(sys, "block/mmcblk*/device/cid") // errs for a bad pattern only
	for _, card := range cards {
		add(card)
	}
	nets, _ := fs.Glob(sys, "class/net/*/device")
	for _, net := range nets {
		net = path.Dir(net)
		if how, _ := fs.ReadFile(sys, path.Join(net, "addr_assign_type")); strings.TrimSpace(string(how)) == "0" {
			add(path.Join(net, "address"))
		}
	}
	return parts
}
