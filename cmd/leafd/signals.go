package main

import (
	"context"
	"os"
	"runtime"
	"sync"
	"syscall"

	"github.com/leafd/leafd/leaf"
)

// obey does what signals and system requests ask for until ctx ends: HUP, or RELOAD of a
// system account, reads the configuration again, USR1 begins the log file anew, USR2
// stops with notice: nobody is taken in any more, and the connections are closed one
// after another.
func (d *daemon) obey(ctx context.Context, signals <-chan os.Signal, servers *stage, stop context.CancelFunc) {
	lame, reloads := false, 0
	for {
		select {
		case <-ctx.Done():
			return
		case result := <-d.services.reloads: // asked for by a system request
			if lame {
				result <- errStopping
				break
			}
			reloads++
			result <- d.reload(reloads)
		case s := <-signals:
			switch {
			case s == syscall.SIGHUP && lame:
				d.log.Warn("not reloading, the server is stopping")
			case s == syscall.SIGHUP:
				reloads++
				d.reload(reloads) // which says what is wrong
			case s == syscall.SIGUSR1:
				d.reopenLog()
			case s == syscall.SIGUSR2 && !lame:
				lame = true
				servers.run(func(ctx context.Context) error {
					d.lameDuck(ctx)
					stop()
					return nil
				})
			}
		}
	}
}

func (d *daemon) reopenLog() {
	if err := d.logs.reopen(); err != nil {
		d.log.Error("log not reopened", "err", err)
		return
	}
	d.log.Info("log reopened")
}

// lameDuck returns when the last client and device has gone, or when ctx ends.
func (d *daemon) lameDuck(ctx context.Context) {
	c := d.cfg.Load()
	d.say("Entering lame duck mode, stop accepting new clients", "stopping with notice", "grace", c.LameDuckGrace, "duration", c.LameDuckDuration)
	d.natsLn.drain()
	if d.wsLn != nil {
		d.wsLn.drain()
	}
	var devices sync.WaitGroup
	if d.mqttLn != nil {
		d.mqttLn.drain()
		devices.Go(func() { d.mqtt.LameDuck(ctx, c.LameDuckGrace, c.LameDuckDuration) })
	}
	d.nats.LameDuck(ctx, c.LameDuckGrace, c.LameDuckDuration)
	devices.Wait()
}

// say logs a fact in leafd's words, or in nats-server's when it runs in its place:
// programs wait for some of those lines.
func (d *daemon) say(theirs, ours string, args ...any) {
	if d.flags != nil && d.flags.stock {
		d.log.Info(theirs)
		return
	}
	d.log.Info(ours, args...)
}

// announceStart comes before anything that can fail.
func (d *daemon) announceStart() {
	if d.flags == nil || !d.flags.stock {
		return
	}
	for _, line := range []string{"Starting nats-server", "  Version:  " + leaf.ProtocolVersion, "  Leafd:    " + version,
		"  Go build: " + runtime.Version(), "  Name:     " + d.name, "  ID:       " + d.id} {
		d.log.Info(line)
	}
	if c := d.cfg.Load(); c.File != "" {
		d.log.Info("Using configuration file: " + c.File + " (" + fileDigest(c.File) + ")")
	}
}

func (d *daemon) announceReady() {
	if d.httpLn != nil {
		d.say("Starting "+webScheme("http", d.secured.http)+" monitor on "+d.httpLn.String(), "serving monitoring", "listen", d.httpLn)
	}
	if d.mqttLn != nil {
		d.say("Listening for MQTT clients on mqtt://"+d.mqttLn.String(), "serving MQTT devices", "listen", d.mqttLn)
	}
	if d.wsLn != nil {
		d.say("Listening for websocket clients on "+webScheme("ws", d.secured.ws)+"://"+d.wsLn.String(),
			"serving websocket clients", "listen", d.wsLn, "tls", d.secured.ws != nil)
	}
	d.say("Listening for client connections on "+d.natsLn.String(), "serving NATS clients", "listen", d.natsLn)
	d.say("Server is ready", "leafd is ready", "version", version, "name", d.name)
}

func (d *daemon) announceStop() { d.say("Initiating Shutdown...", "stopping") }
