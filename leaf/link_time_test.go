package leaf

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leafd/leafd/internal/testkit"
)

// dialFunc is a hub that is only dialled.
type dialFunc func(ctx context.Context, addr string) (net.Conn, error)

// inBubble runs a link with a clock of its own.
func inBubble(t *testing.T, o LinkOptions, dial dialFunc, test func(l *Link)) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLink(t, o)
		l.dial = dial
		stop := runLink(t, l)
		test(l)
		stop()
	})
}

// tries collects when and where a link dials; each dial ends with err.
type tries struct {
	mu    sync.Mutex
	err   error
	when  []time.Time
	addrs []string
}

func (d *tries) note(addr string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.when, d.addrs = append(d.when, time.Now()), append(d.addrs, addr)
	return d.err
}

// gaps are the delays between the tries.
func (d *tries) gaps() (all []time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range max(0, len(d.when)-1) {
		all = append(all, d.when[i+1].Sub(d.when[i]))
	}
	return all
}

// tried are the addresses, in order.
func (d *tries) tried() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.addrs)
}

// A hub that is away is tried again and again, at most a second apart.
func TestLinkBackoffOfTransientFaults(t *testing.T) {
	d := &tries{err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}}
	dial := func(_ context.Context, addr string) (net.Conn, error) { return nil, d.note(addr) }
	inBubble(t, LinkOptions{}, dial, func(l *Link) {
		<-time.After(time.Hour)
		gaps := d.gaps()
		for i, g := range gaps {
			most := min(250*time.Millisecond<<min(i, 8), 800*time.Millisecond)
			if g > most || g < most/2 {
				t.Errorf("delay %d is %v, not between %v and %v", i, g, most/2, most)
			}
		}
		if len(gaps) < 3600 || slices.Max(gaps[10:]) == slices.Min(gaps[10:]) {
			t.Errorf("%d attempts in an hour, from %v to %v", len(gaps), slices.Min(gaps), slices.Max(gaps))
		}
		st := l.Status()
		if st.LastError != "dial: connection refused; nothing listens there now" || st.Attempts != len(gaps)+1 || st.State != LinkBackingOff {
			t.Errorf("status %+v", st)
		}
	})
}

// Several addresses share the delays: each round doubles them.
func TestLinkBackoffByRounds(t *testing.T) {
	d := &tries{err: syscall.EHOSTUNREACH}
	dial := func(_ context.Context, addr string) (net.Conn, error) { return nil, d.note(addr) }
	inBubble(t, LinkOptions{URLs: []string{"nats-leaf://a", "nats://b:1", "nats-leaf://[::1]"}, NoRandomize: true, ReconnectMin: time.Second, ReconnectMax: 4 * time.Second}, dial,
		func(l *Link) {
			<-time.After(time.Minute)
			for i, g := range d.gaps()[:8] {
				if most := time.Second << (i / 3); g > most || g < most/2 {
					t.Errorf("delay %d is %v, not between %v and %v", i, g, most/2, most)
				}
			}
			if want := []string{"a:7422", "b:1", "[::1]:7422", "a:7422"}; !slices.Equal(d.tried()[:4], want) {
				t.Errorf("tried %q", d.tried()[:4])
			}
		})
}

// refusing is a hub that refuses with an -ERR.
func refusing(d *tries, text string) dialFunc {
	return func(_ context.Context, addr string) (net.Conn, error) {
		d.note(addr)
		a, b := testkit.Pipe(1 << 16)
		_, err := b.Write([]byte(info1 + "-ERR '" + text + "'\r\n"))
		b.Close()
		return a, err
	}
}

// What somebody must repair is tried less and less often, and logged once.
func TestLinkBackoffOfRefusals(t *testing.T) {
	d := &tries{}
	var log lockedBuilder
	o := LinkOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	inBubble(t, o, refusing(d, "Authorization Violation"), func(l *Link) {
		<-time.After(time.Hour)
		for i, g := range d.gaps() {
			if most := min(time.Second<<i, 5*time.Minute); g > most || g < most/2 {
				t.Errorf("delay %d is %v, not between %v and %v", i, g, most/2, most)
			}
		}
		if n := len(d.gaps()); n > 30 || n < 15 {
			t.Errorf("%d attempts in an hour", n)
		}
		if n := strings.Count(log.String(), "\n"); n > 13 || n < 6 || !strings.Contains(log.String(), "times=") {
			t.Errorf("%d lines in an hour:\n%s", n, log.String())
		}
	})
}

// lockedBuilder is what a logger and a test may use at once.
type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *lockedBuilder) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *lockedBuilder) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func TestLinkBackoffOfLoops(t *testing.T) {
	d := &tries{}
	inBubble(t, LinkOptions{}, refusing(d, `Loop detected for leafnode account="$G"`), func(l *Link) {
		<-time.After(5 * time.Minute)
		for i, g := range d.gaps() {
			if g < 30*time.Second || g > 38*time.Second {
				t.Errorf("delay %d is %v", i, g)
			}
		}
	})
}

// A link that comes up and is lost again at once does not start over with short
// delays and a full log; one that was up for a while does.
func TestLinkBackoffOfFlapping(t *testing.T) {
	var log lockedBuilder
	o := LinkOptions{Logger: slog.New(slog.NewTextHandler(&log, nil)), ReconnectMax: time.Minute}
	synctest.Test(t, func(t *testing.T) {
		l, h := startLink(t, o)
		join := func() time.Duration {
			start := time.Now()
			c := h.accept()
			took := time.Since(start)
			c.join()
			waitUp(t, l)
			c.Close()
			return took
		}
		for range 10 {
			join()
		}
		if took := join(); took < 30*time.Second {
			t.Errorf("after ten short links it waits %v", took)
		}
		if n := strings.Count(log.String(), "\n"); n > 4 {
			t.Errorf("%d lines:\n%s", n, log.String())
		}
		c := h.accept()
		c.join()
		<-time.After(time.Minute / 3)
		c.Close()
		if took := join(); took > 250*time.Millisecond {
			t.Errorf("after a long link it waits %v", took)
		}
	})
}

func TestLinkWaitsForInfo(t *testing.T) {
	for name, say := range map[string]string{"the hub sent no INFO in time": "", "the hub did not answer CONNECT in time": info1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, h := startLink(t, LinkOptions{FirstInfoTimeout: 3 * time.Second})
				start := time.Now()
				c := h.accept()
				c.send(say)
				c.rest()
				if took := time.Since(start); took != 3*time.Second {
					t.Errorf("it waited %v", took)
				}
				synctest.Wait()
				if st := l.Status(); !strings.HasPrefix(st.LastError, name) {
					t.Errorf("last error %q", st.LastError)
				}
			})
		})
	}
}

// A hub tells its permissions to new links only: while an outbox needs more, the link is made
// anew every few minutes, and not for what a client is denied.
func TestLinkAsksForPermissionsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, h := startLink(t, LinkOptions{PingInterval: 30 * time.Second})
		local := l.router.Attach("local", &testkit.Sink{}, EachSub)
		lasts := func(need func()) time.Duration {
			c := h.accept()
			c.connect(info1)
			c.send(`INFO {"connect_info":true,"export":{"deny":["no"]},"import":{"deny":["_INBOX.>"]}}` + "\r\n")
			c.announced()
			c.sees("LS+ >\r\n")
			start := time.Now()
			need()
			for {
				line, err := c.r.ReadString('\n')
				if err != nil {
					return time.Since(start)
				} else if line != "PING\r\n" {
					t.Fatalf("got %q", line)
				}
				c.send("PONG\r\n")
			}
		}
		for what, need := range map[string]func(){
			"to send": func() { l.Send(text("no")) },
			"to hear": func() { l.Hears("_INBOX.x.*") },
		} {
			if took := lasts(need); took != banTime {
				t.Errorf("the link lasted %v while an outbox needed %s more", took, what)
			}
		}
		c := h.accept()
		c.connect(info1)
		c.send(`INFO {"connect_info":true,"export":{"deny":["no"]}}` + "\r\n")
		c.announced()
		local.Publish(text("no"))
		for range 100 {
			if got := c.line(); got != "PING" {
				t.Fatalf("got %q", got)
			}
			c.send("PONG\r\n")
		}
	})
}

// While nobody hears the link new connections are tried beside it, one after the other. It ends
// once a hub greets one, if it is unheard still.
func TestLinkProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLink(t, LinkOptions{PingInterval: time.Hour})
		h := &fakeHub{t: t, conns: make(chan net.Conn), size: 1 << 20}
		var unheard, greet atomic.Bool
		var tries atomic.Int64
		l.dial, l.line = h.dial, func(net.Conn) lineState { return lineState{unheard: unheard.Load()} }
		l.probe = func(context.Context, string) (net.Conn, error) {
			tries.Add(1)
			a, b := testkit.Pipe(1 << 10)
			if !greet.Load() {
				return a, nil
			}
			_, err := b.Write([]byte("I"))
			return a, err
		}
		runLink(t, l)
		c := h.accept()
		c.join()
		waitUp(t, l)
		down := l.Down()
		isDown := func() bool {
			select {
			case <-down:
				return true
			default:
				return false
			}
		}
		<-time.After(time.Minute + probeEvery/2) // when none is due
		if n := tries.Load(); n != 0 || isDown() {
			t.Errorf("%d tries of a link that is heard", n)
		}
		unheard.Store(true)
		<-time.After(time.Minute)
		if n := tries.Load(); n != int64(time.Minute/probeEvery) || isDown() {
			t.Errorf("%d tries in a minute, the link is down: %v", n, isDown())
		}
		greet.Store(true)
		start := time.Now()
		<-down
		if took := time.Since(start); took > probeEvery {
			t.Errorf("a hub that is back was found after %v", took)
		}
		unheard.Store(false)
		h.accept().join()
		waitUp(t, l)
		if st := l.Status(); st.LastError != errStuck.Error() || st.Reconnects != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// A line of 4 KB/s moves, but the kernel takes nothing more from here for longer than the write deadline. It
// was ended for that, all the time, and what was on its way sent again.
func TestLinkOnASlowLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLink(t, LinkOptions{PingInterval: time.Hour, Outbound: OutboundOptions{WriteDeadline: 10 * time.Second}})
		h := &fakeHub{t: t, conns: make(chan net.Conn), size: 1 << 16}
		var acked atomic.Uint64
		l.dial, l.line = h.dial, func(net.Conn) lineState { return lineState{acked: acked.Load()} }
		runLink(t, l)
		c := h.accept()
		c.join()
		waitUp(t, l)
		down := l.Down()
		m := text("a")
		m.Data = make([]byte, 1000)
		for range 200 { // more than the pipe takes
			if err := l.Send(m); err != nil {
				t.Fatal(err)
			}
		}
		l.Flush()
		for range 30 {
			select {
			case <-down:
				t.Fatal("ended while it moved:", l.Status().LastError)
			case <-time.After(time.Second):
				acked.Add(100)
			}
		}
		start := time.Now()
		<-down
		if took := time.Since(start); took < 9*time.Second || took > 10*time.Second+probeEvery {
			t.Errorf("it ended %v after it moved last", took)
		}
		h.accept().join()
		waitUp(t, l)
		if st := l.Status(); st.LastError != ErrWriteDeadline.Error() {
			t.Errorf("%+v", st)
		}
	})
}

// A hub that says nothing any more is left after PingMax intervals; one that
// answers, or says anything, is not.
func TestLinkPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, h := startLink(t, LinkOptions{PingInterval: 10 * time.Second, PingMax: 2})
		c := h.accept()
		c.join()
		c.send("PONG\r\n")
		for i := range 5 {
			if got := c.line(); got != "PING" {
				t.Fatalf("got %q", got)
			}
			<-time.After(70 * time.Millisecond)
			c.send([]string{"PONG\r\n", "LS+ a\r\n"}[i%2])
		}
		synctest.Wait()
		if rtt := l.Status().RTT; rtt < 70*time.Millisecond {
			t.Errorf("round trip %v", rtt)
		}
		start := time.Now()
		if got := c.rest(); got != "PING\r\nPING\r\n" {
			t.Errorf("got %q", got)
		}
		if took := time.Since(start).Round(time.Second); took != 30*time.Second {
			t.Errorf("it waited %v", took)
		}
		synctest.Wait()
		if st := l.Status(); st.LastError != errStaleHub.Error() || !isDown(l) {
			t.Errorf("status %+v", st)
		}
	})
}

func TestLinkStopsWhileItWaits(t *testing.T) {
	dial := func(context.Context, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED }
	inBubble(t, LinkOptions{ReconnectMin: time.Hour}, dial, func(l *Link) {
		synctest.Wait()
		if st := l.Status(); st.State != LinkBackingOff {
			t.Errorf("status %+v", st)
		}
	})
}

func TestURLPool(t *testing.T) {
	p, err := newURLPool([]string{"nats-leaf://u:p@a", "nats-leaf://b:1"}, true)
	if err != nil {
		t.Fatal(err)
	}
	take := func(n int) (s []string) {
		for range n {
			u := p.take()
			s = append(s, fmt.Sprint(u.addr, u.user))
		}
		return s
	}
	check := func(what string, got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	check("configured", take(3), "a:7422u:p", "b:1", "a:7422u:p")
	p.learn([]string{"c:1", "a:7422", "c:1", "no host:x", "d:2"}, p.configured[0])
	check("with learned", take(5), "b:1", "c:1u:p", "d:2u:p", "a:7422u:p", "b:1")
	c := p.take()
	p.failed(c)
	p.failed(p.configured[0])
	check("without the failed", take(3), "d:2u:p", "a:7422u:p", "b:1")
	p.worked()
	check("configured first", take(1), "a:7422u:p")
	p.learn(slices.Repeat([]string{"x:1"}, 3), p.configured[0])
	if p.size() != 3 {
		t.Errorf("%d addresses", p.size())
	}
	var many []string
	for i := range 1000 {
		many = append(many, fmt.Sprintf("h%d:1", i))
	}
	p.learn(many, p.configured[1])
	if p.size() != 2+maxLearned {
		t.Errorf("%d addresses", p.size())
	}
}

func TestURLPoolShuffles(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		p, err := newURLPool([]string{"nats-leaf://a", "nats-leaf://b"}, false)
		if err != nil {
			t.Fatal(err)
		}
		seen[p.take().addr] = true
	}
	if len(seen) != 2 {
		t.Errorf("always %v first", seen)
	}
}
