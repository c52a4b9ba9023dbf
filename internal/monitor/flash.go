package monitor

import (
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// Flash is what an eMMC chip says of its own age (JEDEC JESD84-B51, EXT_CSD 267 to
// 269, which Linux shows in sysfs). SD cards and NVMe disks show nothing there.
type Flash struct {
	Disk     string `json:"disk"`                 // mmcblk0
	Type     string `json:"type"`                 // a: the part that is fast and lasts, b: the rest, where a chip has both
	LifeUsed int    `json:"life_used_percent"`    // upper end of a step of ten: 10 is "0 to 10 %"; 110 is past its life
	Spare    int    `json:"spare_used,omitempty"` // 1 normal, 2 four fifths of the spare blocks are used, 3 nine tenths; 0 unknown
}

// ReadFlash asks the chips that sys, the root of sysfs, shows. One that says nothing
// is left out.
func ReadFlash(sys fs.FS) []Flash {
	var all []Flash
	files, _ := fs.Glob(sys, "block/mmcblk*/device/life_time") // errs for a bad pattern only
	for _, f := range files {
		device := path.Dir(f)
		spare := 0
		if v := hexFields(sys, path.Join(device, "pre_eol_info")); len(v) == 1 && v[0] <= 3 {
			spare = v[0]
		}
		for i, v := range hexFields(sys, f) {
			if i < 2 && v >= 1 && v <= 11 {
				all = append(all, Flash{Disk: path.Base(path.Dir(device)), Type: "ab"[i : i+1], LifeUsed: 10 * v, Spare: spare})
			}
		}
	}
	return all
}

// hexFields reads a line like "0x01 0x02".
func hexFields(sys fs.FS, name string) []int {
	b, err := fs.ReadFile(sys, name)
	if err != nil {
		return nil
	}
	var out []int
	for _, f := range strings.Fields(string(b)) {
		n, err := strconv.ParseUint(f, 0, 8)
		if err != nil {
			return nil
		}
		out = append(out, int(n))
	}
	return out
}
