package leaf

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Parking lets connections wait for bytes without a goroutine. A gateway has many
// connections that say nothing for minutes, and the stack of a waiting goroutine
// weighs more than all else such a connection needs. What is parked is a place in one
// epoll set; when bytes come, or the connection ends, its reader is started again.
// Safe for all goroutines.
type Parking struct {
	// Static after NewParking.
	ctx   context.Context
	group *sync.WaitGroup
	log   *slog.Logger

	open sync.Once // of the next three, which are static after it
	set  *os.File  // the epoll set, itself waited for through Go's poller (epoll(7): sets nest); nil: there can be none
	raw  syscall.RawConn
	epfd int

	mu    sync.Mutex
	lots  []lot    // guarded by mu
	empty []uint32 // guarded by mu; indexes of lots nobody has
}

// lot is one place. Its turn tells an event for its holder from one for whoever
// had it before.
type lot struct {
	in   *Inbound
	turn uint32
}

// Reader is who reads a connection. Resume is its goroutine: it reads until the
// connection ends, or parks it and returns.
type Reader interface{ Resume() }

// NewParking makes one that starts readers until ctx ends, on a goroutine of group that
// the first connection to park starts.
func NewParking(ctx context.Context, group *sync.WaitGroup, log *slog.Logger) *Parking {
	return &Parking{ctx: ctx, group: group, log: log}
}

// start makes the set and the goroutine.
func (p *Parking) start() {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		p.log.Warn("idle connections will need more memory", "err", err)
		return
	}
	unix.SetNonblock(fd, true)
	set := os.NewFile(uintptr(fd), "epoll")
	if p.raw, err = set.SyscallConn(); err != nil {
		set.Close()
		return
	}
	p.set, p.epfd = set, fd
	p.group.Go(p.run)
}

// run starts the readers of connections that have something to read.
func (p *Parking) run() {
	stop := context.AfterFunc(p.ctx, func() { p.set.Close() })
	defer stop()
	var events [64]unix.EpollEvent
	for {
		n, failed := 0, error(nil)
		err := p.raw.Read(func(fd uintptr) bool {
			n, failed = unix.EpollWait(int(fd), events[:], 0)
			return n > 0 || failed != nil
		})
		switch {
		case p.ctx.Err() != nil:
			return
		case errors.Is(failed, unix.EINTR):
			continue
		case err != nil || failed != nil:
			p.log.Error("idle connections are not heard any more; restart leafd", "err", errors.Join(err, failed))
			return
		}
		for i := range events[:n] {
			if in := p.holder(uint32(events[i].Fd), uint32(events[i].Pad)); in != nil {
				in.start()
			}
		}
	}
}

func (p *Parking) holder(at, turn uint32) *Inbound {
	p.mu.Lock()
	defer p.mu.Unlock()
	if int(at) < len(p.lots) && p.lots[at].turn == turn {
		return p.lots[at].in
	}
	return nil
}

// take gives in a place, for as long as it lives, if there can be one.
func (p *Parking) take(in *Inbound) (at, turn uint32, ok bool) {
	if p.open.Do(p.start); p.set == nil {
		return 0, 0, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := len(p.empty) - 1; k >= 0 {
		at = p.empty[k]
		p.empty = p.empty[:k]
	} else {
		at = uint32(len(p.lots))
		p.lots = append(p.lots, lot{})
	}
	p.lots[at].in = in
	return at, p.lots[at].turn, true
}

func (p *Parking) leave(at uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lots[at] = lot{turn: p.lots[at].turn + 1}
	p.empty = append(p.empty, at)
}

// arm asks for one event when there is something to read.
func (p *Parking) arm(fd uintptr, at, turn uint32, known bool) error {
	op := unix.EPOLL_CTL_ADD
	if known {
		op = unix.EPOLL_CTL_MOD
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(at), Pad: int32(turn)}
	return unix.EpollCtl(p.epfd, op, int(fd), &ev)
}

// Aligned is how long to wait for the next multiple of d, at most d: keepers that each have
// a look every d have it at once, and the machine wakes up once for all of them. A wall
// clock that jumps moves that moment, and no more.
func Aligned(d time.Duration) time.Duration {
	return d - time.Duration(time.Now().UnixNano())%d
}

// GiveBack is for who nudges connections: it returns memory to the system when many
// have let go of their goroutines. Of was, awake are left, which is the next call's was.
func GiveBack(was, awake int) int {
	if was-awake >= 256 {
		debug.FreeOSMemory()
	}
	return awake
}
