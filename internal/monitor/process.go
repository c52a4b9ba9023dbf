package monitor

import (
	"bytes"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// minCPUSpan is the shortest time over which a CPU share means something: the
// kernel counts in ticks. Asked sooner, the last share is told again.
const minCPUSpan = 100 * time.Millisecond

// process samples this process.
type process struct {
	start time.Time // static

	mu     sync.Mutex
	last   time.Time     // guarded by mu; when spent was taken
	spent  time.Duration // guarded by mu; CPU time, user and system
	share  float64       // guarded by mu; percent, of the last span
	getCPU func() time.Duration
}

func newProcess() *process {
	now := time.Now()
	return &process{start: now, last: now, spent: cpuTime(), getCPU: cpuTime}
}

func (p *process) sample() Process {
	now := time.Now()
	resident, anonymous := memory()
	return Process{
		Start: p.start, Now: now, Uptime: uptime(now.Sub(p.start)),
		Mem: resident, Anon: anonymous, Cores: runtime.NumCPU(), MaxProcs: runtime.GOMAXPROCS(0),
		CPU: p.cpu(now), Goroutines: runtime.NumGoroutine(), MemLimit: memLimit(),
	}
}

// memLimit is what GOMEMLIMIT says; 0 if it says nothing.
func memLimit() int64 {
	if n := debug.SetMemoryLimit(-1); n < math.MaxInt64 {
		return n
	}
	return 0
}

// cpu is the share of one core since the last question, in percent.
func (p *process) cpu(now time.Time) float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	span := now.Sub(p.last)
	if span < minCPUSpan {
		return p.share
	}
	spent := p.getCPU()
	tenths := float64(spent-p.spent) * 1000 / float64(span)
	p.share = float64(int64(tenths+0.5)) / 10
	p.last, p.spent = now, spent
	return p.share
}

// cpuTime is what this process has used of all cores, as getrusage(2) says.
func cpuTime() time.Duration {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// memory is the second field of statm, pages resident, and that less the third,
// those of files (proc_pid_statm(5)), in bytes; 0 if there is no /proc.
func memory() (resident, anonymous int64) {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, 0
	}
	fields := bytes.Fields(statm)
	if len(fields) < 3 {
		return 0, 0
	}
	pages, err1 := strconv.ParseInt(string(fields[1]), 10, 64)
	shared, err2 := strconv.ParseInt(string(fields[2]), 10, 64)
	if err1 != nil || err2 != nil {
		return 0, 0
	}
	size := int64(os.Getpagesize())
	return pages * size, (pages - shared) * size
}

// uptime writes d as nats-server does: "5s", "4m5s", "2d3h4m5s", "1y2d3h4m5s".
func uptime(d time.Duration) string {
	left, text := int64(d/time.Second), ""
	for _, unit := range []struct {
		name string
		of   int64 // the next one
	}{{"s", 60}, {"m", 60}, {"h", 24}, {"d", 365}, {"y", math.MaxInt64}} {
		text = strconv.FormatInt(left%unit.of, 10) + unit.name + text
		if left /= unit.of; left == 0 {
			break
		}
	}
	return text
}
