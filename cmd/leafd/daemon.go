package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nkeys"
	"golang.org/x/sync/errgroup"

	"github.com/leafd/leafd/hw"
	"github.com/leafd/leafd/internal/monitor"
	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/ws"
	"github.com/leafd/leafd/leaf"
	"github.com/leafd/leafd/mqttbridge"
	"github.com/leafd/leafd/storefwd"
)

// daemon is the gateway, wired and not yet running. All fields are static after
// newDaemon, but for what cfg and origin point to, which a reload replaces.
type daemon struct {
	program string // the name it was started under
	flags   *flags
	logs    *logs
	cfg     atomic.Pointer[Config] // in force now
	origin  atomic.Pointer[origin] // of cfg

	log  *slog.Logger
	name string
	id   string // a public nkey
	sys  string // root of sysfs

	router  *leaf.Router
	auth    *leaf.Auth
	buffers *leaf.Budget // of all connections
	nats    *leaf.Server
	link    *leaf.Link         // disabled without a remote
	mqtt    *mqttbridge.Server // nil without an MQTT listener
	hw      *hw.Manager
	store   *storefwd.Store // nil without outboxes
	boxes   []box

	connIDs  atomic.Uint64 // the id given last, to whatever connects
	services *services
	closed   *leaf.ClosedRing
	mon      *monitor.Monitor

	ws      *ws.Server // nil without a WebSocket listener
	secured secured    // the listeners' certificates

	natsLn, mqttLn, wsLn, httpLn *listener    // all but the first may be nil
	ctlLn                        net.Listener // nil without outboxes
}

// origin is when a configuration was read, and from what.
type origin struct {
	loaded time.Time
	digest string // of the file; empty without one
}

func originOf(c *Config) *origin {
	o := &origin{loaded: time.Now()}
	if c.File != "" {
		o.digest = fileDigest(c.File)
	}
	return o
}

// box is one outbox: what is kept, and who drains it.
type box struct {
	cfg Outbox
	log *storefwd.Log
	in  *pubacks // in front of log
	fwd *storefwd.Forwarder
}

// newDaemon builds everything and takes the ports, so that what cannot work is
// said before anything runs.
func newDaemon(program string, cfg *Config, f *flags, logs *logs) (d *daemon, err error) {
	d = &daemon{program: program, flags: f, logs: logs, log: logs.logger(), name: cfg.ServerName, sys: sysfs, router: leaf.NewRouter(),
		buffers: leaf.NewBudget(boundMemory(cmp.Or(cfg.MaxMemory, ownMemory()))), closed: leaf.NewClosedRing(cfg.MaxClosed)}
	d.cfg.Store(cfg)
	d.origin.Store(originOf(cfg))
	if d.name == "" {
		if d.name, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("server_name is not set and the host has no name: %w", err)
		}
	}
	if d.auth, err = leaf.NewAuth(cfg.Auth, d.router); err != nil {
		return nil, err
	}
	pair, err := nkeys.CreateServer()
	if err != nil {
		return nil, err
	}
	if d.id, err = pair.PublicKey(); err != nil {
		return nil, err
	}
	d.announceStart()
	if r := cfg.Remote; r != nil && r.Credentials != "" {
		if err := checkCreds(r.Credentials); err != nil {
			return nil, err
		}
	}
	if d.link, err = leaf.NewLink(d.linkOptions(cfg), d.linkRouter(cfg)); err != nil {
		return nil, err
	}
	if d.hw, err = hw.New(hw.Options{Devices: cfg.Devices, Attach: d.attach, Log: d.log}); err != nil {
		return nil, err
	}
	if err := d.openStore(); err != nil {
		return nil, errors.Join(err, d.closeStore())
	}
	ids, err := loadIdentities(cfg)
	if err != nil {
		return nil, errors.Join(err, d.closeStore())
	}
	d.secured = newSecured(ids)
	d.services = newServices(d.id, d.closed, d.log)
	d.nats = leaf.New(d.natsOptions(), d.router)
	if cfg.MQTT != nil {
		d.mqtt = mqttbridge.New(d.mqttOptions())
	}
	if cfg.WS != nil {
		d.ws = ws.New(d.wsOptions())
	}
	if err := d.listen(); err != nil {
		return nil, errors.Join(err, d.closeListeners(), d.closeStore())
	}
	d.services.kick, d.services.notice = d.kick, d.nats.Notice
	d.mon = monitor.New(d.monitorOptions())
	return d, nil
}

// openStore opens the store if there is something to keep, and puts each outbox on
// its subjects before anything can be published to them.
func (d *daemon) openStore() (err error) {
	c := d.cfg.Load()
	if len(c.Outboxes) == 0 {
		return nil
	}
	shareOneCore()
	o := c.storeOptions(d.log)
	o.Node = d.name
	d.store, err = storefwd.Open(c.Store.Dir, o)
	if err != nil {
		return storeError(c.Store.Dir, err)
	}
	if w := storeWarning(c.Store.Dir); w != "" {
		d.log.Warn(w, "dir", c.Store.Dir)
	}
	for _, o := range c.Outboxes {
		if err := d.openBox(o); err != nil {
			return fmt.Errorf("outbox %q: %w", o.Name, err)
		}
	}
	for _, w := range d.store.Unclaimed() {
		d.log.Warn("store: "+w+", which go nowhere; configure it again, or take them out with leafd outbox export and drop", "dir", c.Store.Dir)
	}
	d.sayMoved()
	return nil
}

// sayMoved warns where the oldest or the newest message that waits in an outbox is of a subject that another takes by
// now. That is no look at all of them, which would take long.
func (d *daemon) sayMoved() {
	takes := func(o *Outbox, subject string) bool {
		return slices.ContainsFunc(o.Subjects, func(filter string) bool { return msg.Match(filter, subject) })
	}
	for _, from := range d.boxes {
		for _, seq := range []uint64{0, from.log.Stats().Last} {
			recs, err := from.log.Read(make([]storefwd.Record, 0, 1), seq)
			if err != nil || len(recs) == 0 || takes(&from.cfg, string(recs[0].Subject)) {
				continue
			}
			to := slices.IndexFunc(d.boxes, func(b box) bool { return takes(&b.cfg, string(recs[0].Subject)) })
			if to >= 0 {
				d.log.Warn("outbox: messages of a subject that another outbox takes now still wait in this one; what is published until they have drained may come before them",
					"outbox", from.cfg.Name, "subject", string(recs[0].Subject), "now", d.boxes[to].cfg.Name)
				break
			}
		}
	}
}

// shareOneCore lets connections be served while the store waits for the disk. Go
// counts a thread in fdatasync as running for up to 10 ms, so on a single core
// nothing else would run, and each batch would hold what one device sent.
func shareOneCore() {
	if runtime.GOMAXPROCS(0) == 1 && os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2)
	}
}

// storeOptions are for the daemon and for a command that opens the store in its
// place.
func (c *Config) storeOptions(log *slog.Logger) storefwd.Options {
	return storefwd.Options{Clock: newClock(c.Clock), Board: board(os.DirFS(sysfs)), JournalBytes: c.Store.JournalSize, SpillAfter: c.Store.SpillAfter,
		CommitInterval: c.Store.CommitInterval, Check: checkStore, MaxSize: c.Store.MaxSize, Reserve: cmp.Or(c.Store.Reserve, -1), Logger: log}
}

func (d *daemon) openBox(o Outbox) (err error) {
	b := box{cfg: o}
	if b.log, err = d.store.Log(logPrefix+o.Name, o.retention()); err != nil {
		return err
	}
	b.fwd = storefwd.NewForwarder(storefwd.ForwarderOptions{Log: b.log, Uplink: d.link, Filters: o.Subjects, Class: o.Name,
		Stream: o.Stream, Domain: o.Domain, MaxPayload: d.cfg.Load().MaxPayload, Window: o.Window, WindowBytes: windowBytes(len(d.cfg.Load().Outboxes)),
		Priority: o.Priority, Rate: o.DrainRate, DailyBytes: o.DailyBytes, Newest: o.Newest, LiveShare: o.LiveShare, AckTimeout: o.AckTimeout, Logger: d.log,
		Handover: d.handover(o)})
	inbox := d.router.Attach("forwarder:"+o.Name, b.fwd, leaf.Answers)
	if err := inbox.Subscribe(&msg.Sub{Subject: b.fwd.Inbox()}); err != nil {
		return err
	}
	b.in = newPubacks(o.Name, b.log, d.store.Barrier, o.DuplicateWindow, d.router, d.log)
	if err := b.in.ids.restore(b.log, time.Now()); err != nil {
		d.log.Warn("outbox: which Nats-Msg-Ids wait in it cannot be read; one that is sent again now is stored again", "outbox", o.Name, "err", err)
	}
	outbox := d.router.Attach("outbox:"+o.Name, b.in, leaf.Outbox)
	for _, s := range o.Subjects {
		if err := outbox.Subscribe(&msg.Sub{Subject: s}); err != nil {
			return err
		}
	}
	d.boxes = append(d.boxes, b)
	return nil
}

// windowBytes is how much each of n outboxes may have on its way to the hub: 1 MiB, and no
// more than 4 MiB together. It is in RAM until the hub acknowledges it.
func windowBytes(n int) int { return max(64<<10, min(1<<20, 4<<20/n)) }

// handover is how an outbox gives messages to the hub's subscribers; nil: it has a stream.
func (d *daemon) handover(o Outbox) func([]string) (storefwd.Handover, error) {
	if !o.Flush {
		return nil
	}
	return func(filters []string) (storefwd.Handover, error) {
		h, err := d.link.Handover(filters)
		if err != nil {
			return nil, err
		}
		return h, nil
	}
}

// retention is what the outbox keeps, in the store's terms.
func (o *Outbox) retention() storefwd.Retention {
	return storefwd.Retention{
		MaxMsgs: o.MaxMsgs, MaxBytes: o.MaxBytes, MaxAge: o.MaxAge, GapSubject: o.GapSubject, Keep: storefwd.UntilAcked, Full: o.Full, Interval: o.Interval, Conflate: o.Conflate,
		Grace: o.Grace, GraceBytes: o.GraceBytes, GraceOnDisk: o.GraceDisk,
	}
}

// ctlBoxes are what "leafd outbox" sees while this runs.
func (d *daemon) ctlBoxes() *storeBoxes {
	b := &storeBoxes{archive: d.store, store: d.store, logs: map[string]target{}, released: make(chan (<-chan struct{}), 1)}
	states := map[string]func() storefwd.ForwarderStats{}
	for _, box := range d.boxes {
		b.logs[box.cfg.Name], states[box.cfg.Name] = target{log: box.log, subjects: box.cfg.Subjects}, box.fwd.Stats
	}
	b.state = func(name string) (string, bool) {
		if stats := states[name]; stats != nil {
			return stats().State, true
		}
		return "", false
	}
	return b
}

func (d *daemon) closeStore() error {
	if d.store == nil {
		return nil
	}
	return d.store.Close()
}

func (d *daemon) natsOptions() leaf.Options {
	c := d.cfg.Load()
	o := leaf.Options{ServerID: d.id, ServerName: d.name, MaxPayload: c.MaxPayload, MaxControlLine: c.MaxControlLine,
		MaxConns: c.MaxConnections, MaxSubs: c.MaxSubs, PingInterval: c.PingInterval, PingMax: c.PingMax,
		Outbound: leaf.OutboundOptions{MaxPending: c.MaxPending, WriteDeadline: c.WriteDeadline, Budget: d.buffers},
		Auth:     d.auth, NoHeaders: c.NoHeaders, Trace: c.Trace, TraceHeaders: c.TraceHeaders, TraceMax: c.MaxTracedMsgLen,
		ConnIDs: &d.connIDs, Watcher: d.services, UserInfo: d.services.userInfo, Logger: d.log}
	o.AdvertiseHost, o.AdvertisePort, _ = splitAdvertise(c.ClientAdvertise) // checked by readNames; empty is none
	return o
}

func (d *daemon) mqttOptions() mqttbridge.Options {
	cfg := d.cfg.Load()
	c := cfg.MQTT
	o := mqttbridge.Options{Router: d.router, Auth: d.auth, MaxPacket: c.MaxPacket, MaxPayload: cfg.MaxPayload, MaxConns: c.MaxConns, MaxSubs: c.MaxSubs,
		MaxPending: c.MaxPending, WriteDeadline: c.WriteDeadline, Budget: d.buffers, ConnectTimeout: c.ConnectTimeout,
		ConnIDs: &d.connIDs, Watcher: d.services, Logger: d.log}
	if d.store != nil {
		o.Barrier = d.store.Barrier
	}
	return o
}

// linkRouter is the subject space that the link is for.
func (d *daemon) linkRouter(c *Config) *leaf.Router {
	r, ok := d.auth.Router(linkAccount(c))
	if !ok {
		panic("leafd: the account of the remote was not checked")
	}
	return r
}

// linkAccount is whose messages the link carries, also while there is no remote.
func linkAccount(c *Config) string {
	if c.Remote == nil {
		return leaf.GlobalAccount
	}
	return c.Remote.Account
}

// linkOptions are those of the one hub; without one the link is disabled.
func (d *daemon) linkOptions(c *Config) leaf.LinkOptions {
	r := c.Remote
	if r == nil {
		return leaf.LinkOptions{Disabled: true, Logger: d.log}
	}
	o := leaf.LinkOptions{Disabled: r.Disabled, NoRandomize: r.KeepOrder, ServerName: d.name, ServerID: d.id, CredsFile: r.Credentials,
		NKeySeed: r.NKey, DenyImports: r.DenyImports, DenyExports: r.DenyExports,
		FirstInfoTimeout: r.FirstInfoTimeout, ReconnectMax: r.Reconnect, ConnIDs: &d.connIDs, Logger: d.log}
	for _, u := range r.URLs {
		o.URLs = append(o.URLs, u.String())
	}
	return o
}

// attach gives hardware its port.
func (d *daemon) attach(name string, s msg.Sink) hw.Port {
	p := d.router.Attach(name, s, leaf.EachSub)
	p.Echo(false)
	return p
}

func (d *daemon) listen() (err error) {
	c := d.cfg.Load()
	if d.natsLn, err = listenOn("NATS clients", "listen", c.Listen); err != nil {
		return err
	}
	if c.MQTT != nil {
		if d.mqttLn, err = listenOn("MQTT", "mqtt.listen", c.MQTT.Listen); err != nil {
			return err
		}
	}
	if c.WS != nil {
		if d.wsLn, err = listenOn("websocket clients", "websocket.listen", c.WS.Listen); err != nil {
			return err
		}
	}
	if c.HTTP != "" {
		if d.httpLn, err = listenOn("monitoring", c.httpKey(), c.HTTP); err != nil {
			return err
		}
	}
	if d.store != nil {
		if d.ctlLn, err = listenCtl(c.Store.Dir); err != nil { // a disk that fails is no reason not to start
			d.log.Warn("leafd outbox will not work while this runs", "err", err)
		}
	}
	return nil
}

func (d *daemon) closeListeners() (err error) {
	for _, ln := range []*listener{d.natsLn, d.mqttLn, d.wsLn, d.httpLn} {
		if ln != nil {
			err = errors.Join(err, ln.Close())
		}
	}
	if d.ctlLn != nil {
		err = errors.Join(err, d.ctlLn.Close())
	}
	return err
}

// run serves until ctx ends or a part fails, and then stops the parts in the order
// in which data flows: listeners, hardware, link and forwarders, store. Of signals
// it takes those that do not stop it at once.
func (d *daemon) run(ctx context.Context, signals <-chan os.Signal) error {
	c := d.cfg.Load()
	if err := errors.Join(d.services.attach(d.mon, d.spaces()), writePid(c.PidFile)); err != nil {
		return errors.Join(err, d.closeListeners(), d.closeStore())
	}
	for _, w := range c.Warnings {
		d.log.Warn(w)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	outer := startStage(cancel)
	outer.run(d.link.Run)
	for _, b := range d.boxes {
		outer.run(b.fwd.Run)
		outer.run(func(ctx context.Context) error {
			b.in.run(ctx.Done())
			return nil
		})
	}
	middle := startStage(cancel)
	middle.run(d.hw.Run)
	middle.run(d.services.run)
	inner := startStage(cancel)
	inner.run(func(ctx context.Context) error { return d.nats.Serve(ctx, d.secured.nats.Listener(d.natsLn)) })
	if d.mqttLn != nil {
		inner.run(func(ctx context.Context) error { return d.mqtt.Serve(ctx, d.secured.mqtt.Listener(d.mqttLn)) })
	}
	if d.wsLn != nil {
		d.serveWebSockets(inner)
	}
	if d.httpLn != nil {
		inner.run(func(ctx context.Context) error {
			return monitor.Serve(ctx, d.secured.http.Listener(d.httpLn), d.mon, d.log)
		})
	}
	if d.ctlLn != nil {
		inner.run(func(ctx context.Context) error { return serveCtl(ctx, d.ctlLn, c, d.ctlBoxes(), d.log) })
	}
	letStartGo(d.log)
	d.announceReady()
	if err := d.writePorts(portsPath(c.PortsFileDir, d.program)); err != nil {
		d.log.Error("no ports file", "err", err)
	}
	d.obey(ctx, signals, inner, cancel)
	d.announceStop()
	last := d.cfg.Load()
	failed := removeFile(portsPath(last.PortsFileDir, d.program))
	for _, s := range []*stage{inner, middle, outer} {
		failed = errors.Join(failed, s.stop())
	}
	return errors.Join(failed, d.closeStore(), removeFile(last.PidFile))
}

// stage is a set of parts that stop together. A part that ends early with an error
// ends the daemon.
type stage struct {
	ctx    context.Context
	cancel context.CancelFunc
	group  errgroup.Group
	failed context.CancelFunc
}

func startStage(failed context.CancelFunc) *stage {
	s := &stage{failed: failed}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

func (s *stage) run(fn func(context.Context) error) {
	s.group.Go(func() error {
		err := fn(s.ctx)
		if s.ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return nil
		}
		if err != nil {
			s.failed()
		}
		return err
	})
}

func (s *stage) stop() error {
	s.cancel()
	return s.group.Wait()
}
