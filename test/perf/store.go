package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// flashCmd counts what reaches the block device for each acknowledged message, from
// before the first publish until the server has ended and its file system is synced:
// all that a message costs is in it, whenever it is written. The server's store must
// be alone on the device.
func flashCmd(args []string) error {
	var c common
	l := mqttLoad{qos: 1}
	fs := newFlags("flash", &c, 0)
	line := fs.String("cmd", "", "server command, split at spaces")
	dir := fs.String("dir", "", "where the file system with the store is mounted")
	dev := fs.String("dev", "", "its block device, such as loop0")
	n := fs.Int64("n", 50000, "messages")
	offline := fs.Bool("session", false, "queue for an offline session, for a server that keeps messages for those only")
	sig := fs.String("signal", "term", "how the server ends: term | kill, which leaves out what it writes at the end")
	settle := fs.Duration("settle", 2*time.Second, "rest after the start and before the stop")
	fs.StringVar(&l.addr, "addr", "127.0.0.1:1883", "MQTT server")
	fs.IntVar(&l.clients, "clients", 1, "publishing clients")
	fs.IntVar(&l.size, "size", 100, "payload bytes")
	fs.IntVar(&l.window, "window", 1, "unacknowledged messages per client")
	fs.Parse(args)
	ch, err := startChild(*line)
	if err != nil {
		return err
	}
	defer ch.stop(syscall.SIGKILL)
	onInterrupt(func() { ch.stop(syscall.SIGKILL) })
	if err := awaitHandshake("mqtt", l.addr, 10*time.Second); err != nil {
		return fmt.Errorf("server never ready: %v\n%s", err, ch.log.Bytes())
	}
	if *offline {
		if err := leaveSession(l.addr, "perf/d/#"); err != nil {
			return err
		}
	}
	time.Sleep(*settle)
	f := flashMeter{dir: *dir, dev: *dev, pid: ch.pid()}
	if err := f.begin(); err != nil {
		return err
	}
	acked, err := l.count(*n, "perf/d")
	if err != nil {
		return err
	}
	time.Sleep(*settle)
	app := f.handedOver()
	if *sig == "kill" {
		ch.stop(syscall.SIGKILL)
	} else {
		ch.stop(syscall.SIGTERM)
	}
	bytes, err := f.end()
	if err != nil {
		return err
	}
	r := c.result("flash", fmt.Sprintf("%dc-w%d-%dB", l.clients, l.window, l.size))
	r.M["acked"] = float64(acked)
	r.M["dev_b_msg"], r.M["app_b_msg"] = bytes/float64(acked), app/float64(acked)
	return c.emit(r)
}

// flashMeter reads what was written to a device, and what a process handed to
// system calls (its sockets' few bytes included).
type flashMeter struct {
	dir, dev    string
	pid         int
	written, wc float64
}

func (f *flashMeter) begin() (err error) {
	f.wc = procFields(fmt.Sprintf("/proc/%d/io", f.pid))["wchar"]
	f.written, err = f.end()
	return err
}

func (f *flashMeter) handedOver() float64 {
	return procFields(fmt.Sprintf("/proc/%d/io", f.pid))["wchar"] - f.wc
}

// end is what was written since begin, in bytes, once all is written.
func (f *flashMeter) end() (float64, error) {
	d, err := os.Open(f.dir)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return 0, err
	}
	_, _, kb := diskStat(f.dev)
	return kb*1024 - f.written, nil
}

// leaveSession leaves a persistent session behind that has subscribed.
func leaveSession(addr, filter string) error {
	s, err := mqttDial(addr, "perf-offline", false)
	if err != nil {
		return err
	}
	if err := s.subscribe(filter, 1); err != nil {
		return errors.Join(err, s.Close())
	}
	s.disconnect()
	return nil
}

// count publishes n messages over all clients and waits for their acknowledgements.
func (l *mqttLoad) count(n int64, prefix string) (acked int64, err error) {
	var lat hist
	ps, err := l.connect(time.Now(), &lat, prefix)
	if err != nil {
		return 0, err
	}
	for _, p := range ps {
		p.limit = n / int64(l.clients)
		defer p.Close()
	}
	if _, acked, err = drive(ps, 0); err == nil && acked < n/int64(l.clients)*int64(l.clients) {
		err = fmt.Errorf("%d of %d messages were acknowledged", acked, n)
	}
	return acked, err
}

// backlogCmd fills a gateway's store while its hub is away, and starts it again, by
// SIGTERM and by SIGKILL, with all that in it.
func backlogCmd(args []string) error {
	var c common
	l := mqttLoad{qos: 1, clients: 4}
	fs := newFlags("backlog", &c, 0)
	line := fs.String("cmd", "", "server command, split at spaces")
	store := fs.String("store", "", "directory of its store, for its size")
	total := fs.Int64("bytes", 1<<30, "payload bytes to publish")
	fs.StringVar(&l.addr, "addr", "127.0.0.1:1883", "MQTT server")
	fs.IntVar(&l.size, "size", 1024, "payload bytes of a message")
	fs.IntVar(&l.window, "window", 1000, "unacknowledged messages per client")
	fs.Parse(args)
	var ch *child
	onInterrupt(func() { ch.stop(syscall.SIGKILL) })
	r := c.result("backlog", fmt.Sprintf("%dMB-of-%dB", *total>>20, l.size))
	start := func(name string) (ready time.Duration, err error) {
		if ch, err = startChild(*line); err != nil {
			return 0, err
		}
		if ready, err = firstAck(l.addr); err != nil {
			return 0, fmt.Errorf("%v\n%s", err, ch.log.Bytes())
		}
		r.M[name+"_ready_s"] = ready.Seconds()
		return ready, nil
	}
	rest := func(name string) {
		time.Sleep(5 * time.Second)
		st := procStatus(ch.pid())
		r.M[name+"_anon_mb"], r.M[name+"_file_mb"] = st["RssAnon"]/1024, st["RssFile"]/1024
	}
	if _, err := start("empty"); err != nil {
		return err
	}
	rest("empty")
	begin := time.Now()
	acked, err := l.count(*total/int64(l.size), "perf/out")
	if err != nil {
		ch.stop(syscall.SIGKILL)
		return err
	}
	r.M["msgs_s"] = float64(acked) / time.Since(begin).Seconds()
	rest("full")
	r.M["full_peak_mb"] = procStatus(ch.pid())["VmHWM"] / 1024
	r.M["disk_mb"] = sizeOf(*store) / 1e6
	for _, how := range []struct {
		name string
		sig  syscall.Signal
	}{{"term", syscall.SIGTERM}, {"kill", syscall.SIGKILL}} {
		ch.stop(how.sig)
		if _, err := start(how.name); err != nil {
			return err
		}
		rest(how.name)
	}
	ch.stop(syscall.SIGTERM)
	for _, when := range []string{"full", "term", "kill"} {
		r.M[when+"_file_growth_mb"] = r.M[when+"_file_mb"] - r.M["empty_file_mb"]
	}
	return c.emit(r)
}

// firstAck is the time until a server acknowledges a QoS 1 message.
func firstAck(addr string) (time.Duration, error) {
	t0 := time.Now()
	if err := awaitHandshake("mqtt", addr, 30*time.Second); err != nil {
		return 0, err
	}
	l := mqttLoad{addr: addr, clients: 1, qos: 1, size: stampLen, window: 1}
	_, err := l.count(1, "perf/out")
	return time.Since(t0), err
}

func sizeOf(dir string) (bytes float64) {
	filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if info, err := e.Info(); err == nil {
			bytes += float64(info.Sys().(*syscall.Stat_t).Blocks) * 512
		}
		return nil
	})
	return bytes
}
