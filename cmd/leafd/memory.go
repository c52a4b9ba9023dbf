package main

import (
	"bufio"
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// ownMemory is a quarter of the machine's memory, from 64 to 512 MB: what leafd holds at
// most if max_memory does not say it.
func ownMemory() int64 {
	const least, most = 64 << 20, 512 << 20
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return most
	}
	return min(max(int64(uint64(info.Totalram)*uint64(info.Unit)/4), least), most)
}

// boundMemory keeps the process below limit bytes: the collector works harder as it
// comes near, and what waits for connections gets no more than half of it. GOMEMLIMIT,
// where somebody has set it, stays as it is.
func boundMemory(limit int64) (buffers int64) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit / 10 * 9) // the rest is for what the collector does not see
	}
	return limit / 2
}

// letStartGo gives back what only the start needed: memory that the collector can free,
// and pages of the program itself, which count as ours until they are used again.
func letStartGo(log *slog.Logger) {
	debug.FreeOSMemory()
	if err := dropText("/proc/self"); err != nil {
		log.Debug("pages of the program stay mapped", "err", err)
	}
}

// dropText unmaps the clean pages of the program's file. The kernel has them, and maps
// again what is used. What is in smaps and not in maps is left alone: under an emulator
// only one of them has our addresses (qemu-user translates maps), and what lies at those
// of the other is our data.
func dropText(proc string) error {
	exe, err := os.Readlink(proc + "/exe")
	if err != nil {
		return err
	}
	maps, err := os.ReadFile(proc + "/maps")
	if err != nil {
		return err
	}
	maps = append([]byte("\n"), maps...)
	f, err := os.Open(proc + "/smaps")
	if err != nil {
		return err
	}
	defer f.Close()
	var from, to uintptr
	for in := bufio.NewScanner(f); in.Scan(); {
		line := in.Bytes()
		var mode string
		if n, _ := fmt.Sscanf(string(line), "%x-%x %s", &from, &to, &mode); n == 3 {
			known := bytes.Contains(maps, fmt.Appendf(nil, "\n%s ", bytes.Fields(line)[0]))
			if !known || !bytes.HasSuffix(line, []byte(" "+exe)) || strings.Contains(mode, "w") {
				from = 0
			}
			continue
		}
		if from != 0 && bytes.HasPrefix(line, []byte("Private_Dirty:")) && bytes.Equal(bytes.Fields(line)[1], []byte("0")) {
			unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
			from = 0
		}
	}
	return nil
}
