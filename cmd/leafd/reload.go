package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"

	"github.com/leafd/leafd/storefwd"
)

// A reload reads the file anew and puts it in force, or keeps what is in force as a
// whole and says why. Everything that can fail is done first: reading, comparing,
// opening listeners and the log, the credentials. What follows cannot fail.

// reload does what SIGHUP asks for, and logs what came of it. It runs on the goroutine
// that obeys signals, one at a time. nth counts the reloads, so that no two of them
// are taken for one fault that repeats.
func (d *daemon) reload(nth int) error {
	changes, err := d.tryReload()
	if err != nil {
		for _, line := range configProblems(err) {
			d.log.Error("Failed to reload server configuration, the old one stays in force", "reload", nth, "err", line)
		}
		return err
	}
	for _, c := range changes {
		d.say("Reloaded: "+c.key+" = "+c.new, "configuration changed", "key", c.key, "old", c.old, "new", c.new)
	}
	for _, w := range d.cfg.Load().Warnings {
		d.log.Warn(w)
	}
	d.say("Reloaded server configuration", "configuration reloaded", "reload", nth, "changes", len(changes))
	return nil
}

func (d *daemon) tryReload() ([]change, error) {
	next, err := d.readAgain()
	if err != nil {
		return nil, err
	}
	was := d.cfg.Load()
	changes := diff(was, next)
	if err := needRestart(changes, next); err != nil {
		return nil, err
	}
	p, err := d.prepare(was, next)
	if err != nil {
		return nil, err
	}
	return changes, d.apply(p, was, next)
}

// readAgain reads the file, as the flags want it. An empty one is refused: whoever
// writes it is not done.
func (d *daemon) readAgain() (*Config, error) {
	path := d.flags.config
	if path == "" {
		return nil, errors.New("there is no configuration file to read; start with -c FILE")
	}
	before, err := os.Stat(path)
	if err == nil && before.Size() == 0 && d.cfg.Load().places != nil {
		return nil, fmt.Errorf("%s is empty; write it under another name and rename it", path)
	}
	next, err := loadWith(path, d.flags)
	if err != nil {
		return nil, err
	}
	after, err := os.Stat(path)
	if err != nil || before == nil || before.Size() != after.Size() || !before.ModTime().Equal(after.ModTime()) {
		return nil, fmt.Errorf("%s changed while it was read; reload again", path)
	}
	return next, nil
}

// needRestart is an error that names every key that cannot change while leafd runs.
func needRestart(changes []change, next *Config) error {
	r := &reader{file: next.File, places: next.places}
	for _, c := range changes {
		if c.restart != "" {
			r.fail(c.key, "cannot change while leafd runs: "+c.restart, "restart leafd, or undo the change")
		}
	}
	if len(r.errs) == 0 {
		return nil
	}
	r.errs.sort()
	return r.errs
}

// prepared is what a reload has opened and not yet put in place.
type prepared struct {
	nats, mqtt, http *listener // nil: the address is the same
	ids              identities
	dest             *dest // nil: the log goes where it went
}

// prepare opens what the new configuration needs beside what is open. After an error
// nothing of it is left.
func (d *daemon) prepare(was, next *Config) (p *prepared, err error) {
	p = &prepared{}
	defer func() {
		if err != nil {
			p.drop()
		}
	}()
	if next.Remote != nil && next.Remote.Credentials != "" {
		if err := checkCreds(next.Remote.Credentials); err != nil {
			return nil, err
		}
	}
	if p.ids, err = loadIdentities(next); err != nil {
		return p, err
	}
	for _, l := range []struct {
		into           **listener
		what, key      string
		before, wanted string
	}{
		{&p.nats, "NATS clients", "listen", was.Listen, next.Listen},
		{&p.mqtt, "MQTT", "mqtt.listen", mqttOf(was).Listen, mqttOf(next).Listen},
		{&p.http, "monitoring", next.httpKey(), was.HTTP, next.HTTP},
	} {
		if l.before == l.wanted {
			continue
		}
		if *l.into, err = listenOn(l.what, l.key, l.wanted); err != nil {
			return p, err
		}
	}
	if was.Log != next.Log {
		if p.dest, err = openDest(next.Log, d.flags.stock); err != nil {
			return p, err
		}
	}
	if was.PidFile != next.PidFile {
		err = writePid(next.PidFile)
	}
	return p, err
}

// drop closes what prepare has opened.
func (p *prepared) drop() {
	for _, ln := range []*listener{p.nats, p.mqtt, p.http} {
		if ln != nil {
			ln.Close()
		}
	}
	if p.dest != nil {
		p.dest.Close()
	}
}

// apply puts the new configuration in force. Only a link that is told nonsense can
// still refuse it, before anything is changed. Who may not stay is cut off here.
func (d *daemon) apply(p *prepared, was, next *Config) error {
	if !reflect.DeepEqual(was.Remote, next.Remote) {
		if err := d.link.Reconfigure(d.linkOptions(next)); err != nil {
			p.drop()
			return err
		}
	}
	if !reflect.DeepEqual(was.Auth, next.Auth) {
		if err := d.auth.Apply(next.Auth); err != nil { // which crossCheck has tried
			p.drop()
			return errors.Join(err, d.link.Reconfigure(d.linkOptions(was)))
		}
	}
	d.cfg.Store(next)
	d.origin.Store(originOf(next))
	dest := p.dest
	if dest == nil {
		dest = d.logs.out.dest
	}
	d.logs.use(dest, next)
	d.secured.swap(p.ids)
	d.nats.Reload(d.natsOptions())
	if d.mqtt != nil {
		d.mqtt.Reload(d.mqttOptions())
	}
	if err := d.services.follow(d.spaces()); err != nil {
		d.log.Error("requests on $SYS subjects are not answered in every account", "err", err)
	}
	for _, b := range d.boxes {
		b.retune(was.outbox(b.cfg.Name), next.outbox(b.cfg.Name))
	}
	for _, m := range []struct{ from, to *listener }{{d.natsLn, p.nats}, {d.mqttLn, p.mqtt}, {d.httpLn, p.http}} {
		if m.to != nil {
			m.from.move(m.to)
		}
	}
	d.moveFiles(p, was, next)
	return nil
}

// retune gives an outbox's forwarder what changed for it, if anything did.
func (b *box) retune(was, next *Outbox) {
	if reflect.DeepEqual(was, next) {
		return
	}
	b.fwd.Retune(storefwd.Tuning{Stream: next.Stream, Domain: next.Domain, Window: next.Window, Priority: next.Priority,
		Rate: next.DrainRate, DailyBytes: next.DailyBytes, AckTimeout: next.AckTimeout})
}

// moveFiles removes the pid and ports files that were, and writes the ports anew.
func (d *daemon) moveFiles(p *prepared, was, next *Config) {
	if was.PidFile != next.PidFile {
		if err := removeFile(was.PidFile); err != nil {
			d.log.Warn("old pid file not removed", "err", err)
		}
	}
	old, ports := portsPath(was.PortsFileDir, d.program), portsPath(next.PortsFileDir, d.program)
	if old == ports && p.nats == nil && p.mqtt == nil && p.http == nil {
		return
	}
	if err := d.writePorts(ports); err != nil {
		d.log.Error("no ports file", "err", err)
	}
	if old != ports {
		if err := removeFile(old); err != nil {
			d.log.Warn("old ports file not removed", "err", err)
		}
	}
}
