package leaf

import (
	"cmp"
	"slices"
	"time"
)

// setDefaults fills in what is left out.
func (o *Options) setDefaults() {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&o.MaxPayload, 1<<20)
	def(&o.MaxControlLine, 4096)
	def(&o.PingMax, 2)
	if o.PingInterval <= 0 {
		o.PingInterval = 2 * time.Minute
	}
}

// Reload puts o in force, for clients that are connected as well: their limits and
// traces follow, and INFO tells them what they must know. More than MaxConns of
// them are not kept, those that came last go. ServerID, ServerName, Auth,
// ConnIDs, Watcher, UserInfo and Logger stay what New was given; [Auth.Apply] is for who may connect.
func (s *Server) Reload(o Options) {
	o.setDefaults()
	was := s.opts.Load()
	o.ServerID, o.ServerName, o.Auth, o.Logger = was.ServerID, was.ServerName, was.Auth, was.Logger
	o.ConnIDs, o.Watcher, o.UserInfo = was.ConnIDs, was.Watcher, was.UserInfo
	s.opts.Store(&o)
	conns := s.snapshot(nil)
	slices.SortFunc(conns, func(a, b *conn) int { return cmp.Compare(a.id, b.id) })
	told := o.MaxPayload != was.MaxPayload || o.AdvertiseHost != was.AdvertiseHost || o.AdvertisePort != was.AdvertisePort
	for i, c := range conns {
		c.news.Store(true)
		c.out.SetLimits(o.Outbound)
		c.out.setTap(c.outTap(&o))
		switch {
		case o.MaxConns > 0 && i >= o.MaxConns:
			c.cut(errTooManyConns)
		case told:
			c.sendInfo()
		}
	}
}

// adopt makes the reader follow what Reload has changed. The first read of a
// connection does it too: one that came while Reload ran has the old options.
func (c *conn) adopt() {
	c.news.Store(false)
	o := c.srv.opts.Load()
	c.limit(c.parser)
	c.out.SetLimits(o.Outbound)
	c.out.setTap(c.outTap(o))
	if c.tracer == nil || !o.Trace {
		c.tracer = c.inTap(o)
	} else {
		c.tracer.max, c.tracer.heads = o.TraceMax, o.TraceHeaders
	}
}

// overhear is for what goes on beside the protocol, once a read: what Reload has
// changed, and the trace.
func (c *conn) overhear(b []byte) {
	if c.news.Load() {
		c.adopt()
	}
	if c.tracer != nil {
		c.tracer.read(b)
	}
}

// sendInfo tells a client that asked for it what has changed. Safe for all
// goroutines.
func (c *conn) sendInfo() {
	if !c.asyncInfo.Load() {
		return
	}
	c.out.Append(c.srv.infoLine(c, c.srv.lame.Load()))
	c.out.Flush()
}

// cut ends the connection and tells the client why. Safe for all goroutines.
func (c *conn) cut(why *ProtoError) {
	c.out.Append([]byte("-ERR '" + why.Text + "'\r\n"))
	c.drop(why)
}

// drop ends the connection without a word. Safe for all goroutines.
func (c *conn) drop(why error) {
	c.meter.cut.CompareAndSwap(nil, &why)
	c.out.Flush()
	c.out.Close(nil)
}

func (o *OutboundOptions) setDefaults() {
	if o.MaxPending <= 0 {
		o.MaxPending = 8 << 20
	}
	if o.WriteDeadline <= 0 {
		o.WriteDeadline = 10 * time.Second
	}
}

// SetLimits changes what NewOutbound was given. What waits already stays.
func (o *Outbound) SetLimits(l OutboundOptions) {
	l.setDefaults()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.max, o.deadline = l.MaxPending, l.WriteDeadline
}
