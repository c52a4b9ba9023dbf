package leaf

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// session is one connection to the hub. It is the Sink of what the hub wants.
type session struct {
	// Static after newSession.
	link *Link
	id   uint64
	url  hubURL
	nc   net.Conn
	in   *Inbound
	out  *Outbound
	port *Port
	mark string        // the subject by which we recognise ourselves in a loop
	kick chan struct{} // asks the keeper to flush
	hubs []string      // addresses of the hub, this one first

	// Owned by the reader, which is Run.
	parser    parser
	stage     stage
	info      *hubInfo            // what permissions come from
	subs      map[string]*msg.Sub // what the hub wants, by "subject queue"
	subBytes  int
	key       []byte
	complaint *linkFault // the -ERR after which the hub may close
	since     time.Time  // when it joined; zero before
	noticed   time.Time  // when something tolerated was logged last
	told      bool       // the hub was sent the reason to close
	stop      func()     // ends the watch on local interest; nil before it began

	// Owned by the reader; static once joined.
	plain                       bool // the hub does not understand headers
	hubName, hubVersion, domain string

	perms      atomic.Pointer[permissions] // nil before joined
	maxPayload atomic.Int64                // that the hub takes; 0: no limit known
	largest    atomic.Int64                // bytes of header and data of the largest message that was sent
	pings      atomic.Int32                // sent with nothing heard since
	waits      atomic.Pointer[time.Time]   // since when what the hub takes now is on its way; the keeper's
	missed     atomic.Bool                 // an outbox needs what perms leave out
	asked      asked

	announced map[interestKey]int // guarded by the router's lock; what the hub knows of us
}

// maxHubLine is the control line limit of leafnode links, both ways.
const maxHubLine = 64 << 10

func newSession(l *Link, u hubURL, nc net.Conn) *session {
	s := &session{link: l, id: l.opts.ConnIDs.Add(1), url: u, nc: nc, in: NewInbound(nc), out: NewOutbound(nc, l.opts.Outbound, nil),
		mark: "$LDS." + rand.Text(), kick: make(chan struct{}, 1),
		subs: map[string]*msg.Sub{}, announced: map[interestKey]int{}, hubs: l.urls.addrs(u)}
	boundUnsent(nc)
	s.port = l.router.Attach("link", s, Uplink)
	s.parser = parser{verbs: greetVerbs, maxLine: maxHubLine, tolerant: true}
	return s
}

// run is the whole life of the connection: read until an error, leave.
func (s *session) run(ctx context.Context) error {
	var keeper sync.WaitGroup
	done := make(chan struct{})
	keeper.Go(func() { s.keep(done) })
	stop := context.AfterFunc(ctx, func() {
		s.out.Flush()
		s.out.Close(nil)
	})
	s.nc.SetReadDeadline(time.Now().Add(s.link.opts.FirstInfoTimeout))
	err := s.explain(s.read())
	s.link.fall(s)
	if s.stop != nil {
		s.stop()
	}
	s.port.Close()
	s.port.Flush()
	stop()
	s.part(err)
	close(done)
	keeper.Wait()
	return err
}

// partTime is how long a hub that is being told why may take to hear it.
const partTime = time.Second

// part closes the connection: at once, or after the hub was told why.
func (s *session) part(err error) {
	if s.told {
		s.out.Close(nil)
		defer time.AfterFunc(partTime, func() { s.nc.Close() }).Stop()
	} else {
		s.out.Close(err)
	}
	s.out.Wait()
}

// read handles what comes until the connection ends, and says why it did.
func (s *session) read() error {
	for {
		b, err := s.in.Next(true)
		if err != nil {
			return err
		}
		if s.pings.Load() != 0 {
			s.pings.Store(0)
		}
		err = s.handle(b)
		s.port.Flush()
		s.out.Flush()
		if err != nil {
			return err
		}
	}
}

// handle is the protocol: each operation in b, one handler each.
func (s *session) handle(b []byte) error {
	for len(b) > 0 {
		n, o, err := s.parser.next(b)
		if err != nil {
			return s.reject(err)
		}
		b = b[n:]
		if o == nil {
			return nil
		}
		switch o.kind {
		case opMsg:
			s.handleMsg(&o.m)
		case opTooLarge:
			s.handleTooLarge(&o.m)
		case opSub:
			err = s.handleSub(o)
		case opUnsub:
			s.handleUnsub(o)
		case opPing:
			s.out.Append([]byte("PONG\r\n"))
		case opPong:
			s.handlePong()
		case opInfo:
			err = s.handleInfo(o.arg)
		case opErr:
			s.handleErr(string(bytes.Trim(o.arg, "'")))
		}
		if err != nil {
			return s.reject(err)
		}
	}
	return nil
}

// reject tells the hub why the connection ends, where it is the hub's doing.
func (s *session) reject(err error) error {
	var pe *ProtoError
	why := ""
	switch {
	case errors.As(err, &pe):
		why = pe.Text
	case err == errLoop:
		why = fmt.Sprintf("Loop detected for leafnode account=%q. Delaying attempt to reconnect for %v", s.link.router.account, loopDelay)
	case err == errTooMuchInterest:
		why = "maximum subscriptions exceeded"
	default:
		return err
	}
	s.told = true
	s.out.Append([]byte("-ERR '" + why + "'\r\n"))
	return err
}

// explain finds the reason behind an error of the socket: what the hub said
// before it closed, what we were waiting for, or why we closed.
func (s *session) explain(err error) error {
	var f *linkFault
	cut := s.out.Err()
	switch {
	case errors.As(err, &f), errors.As(err, new(*ProtoError)):
		return err
	case errors.As(cut, &f), errors.Is(cut, ErrSlowConsumer), errors.Is(cut, ErrWriteDeadline):
		return cut
	case s.complaint != nil:
		return s.complaint
	case errors.Is(err, os.ErrDeadlineExceeded) && s.stage == greeting:
		return errNoInfo
	case errors.Is(err, os.ErrDeadlineExceeded) && s.stage == connecting:
		return errNoSecondInfo
	case cut != nil && errors.Is(err, net.ErrClosed): // for it could not be written to
		return cut
	}
	return err
}

// handleMsg is the hot path.
func (s *session) handleMsg(m *msg.Msg) {
	c := &s.link.counters
	c.inMsgs.Add(1)
	c.inBytes.Add(uint64(len(m.Header) + len(m.Data)))
	if !s.perms.Load().mayReceive(m.Subject) {
		c.refused.Add(1)
		return
	}
	s.port.Publish(m)
}

// handleTooLarge counts what the hub sent in spite of its own limit. The link stays: whoever
// is sent such a message again after each connect would never have another.
func (s *session) handleTooLarge(m *msg.Msg) {
	s.link.counters.refused.Add(1)
	s.notice("the hub sent more than its max_payload, and that message is left out", "subject", string(m.Subject))
}

// notice logs what the hub did and the link can bear, not all of it if it is much.
func (s *session) notice(what string, args ...any) {
	if time.Since(s.noticed) >= summaryInterval {
		s.noticed = time.Now()
		s.link.log.Warn(what, append([]any{"url", s.url.String()}, args...)...)
	}
}

// handleErr takes a complaint of the hub, which closes by itself if it means to.
func (s *session) handleErr(text string) {
	s.link.counters.complaints.Add(1)
	f := hubFault(text)
	switch f.cause {
	case tolerated:
		s.notice("the hub complains and goes on", "err", f)
		return
	case forbidden:
		s.handleForbidden(f, text)
	case transient:
		if strings.Contains(strings.ToLower(text), maxPayloadViolation) {
			s.handleMaxPayload(f)
		}
	}
	s.complaint = f
	s.doubt(f)
}

// handleForbidden leaves out the subject that the hub names from now on.
func (s *session) handleForbidden(f *linkFault, text string) {
	subject, publish, ok := forbiddenSubject(text)
	if !ok || !msg.ValidFilter(subject) {
		return
	}
	f.remedy = fmt.Sprintf("%.256q is left out for %s; correct the permissions of this gateway at the hub", subject, banTime)
	s.link.banned.add(subject, publish)
	if s.stage == joined {
		s.perms.Store(s.link.permissions(s.info))
		s.reannounce()
	}
}

// handleMaxPayload leaves out what is as large as the largest of this connection from now on:
// that one is too large, or one before it that is smaller, which the next complaint is about.
func (s *session) handleMaxPayload(f *linkFault) {
	largest := s.largest.Load()
	if largest == 0 {
		return
	}
	s.maxPayload.Store(s.link.ceiling.lower(largest))
	s.link.facts(s)
	f.remedy = fmt.Sprintf("its account takes less than its max_payload: messages of %d bytes and more are left out until a link is made after %s; raise the account's max_payload at the hub", largest, banTime)
}

// ping asks the hub whether it is there.
func (s *session) ping() {
	s.ask(ping{}) // a connection that is closing needs none
	s.out.Flush()
}

// abandon closes the connection to a hub that does not hear it. What the kernel still has for
// the hub goes nowhere: it would come late, beside what the next connection sends.
func (s *session) abandon(why error) {
	if tc, ok := s.nc.(*net.TCPConn); ok {
		tc.SetLinger(0)
	}
	s.out.Close(why)
}

// keep is the keeper goroutine: it flushes what changes of interest appended, and ends the
// connection to a hub that is silent, or that may permit by now what it did not.
func (s *session) keep(done <-chan struct{}) {
	t, look := time.NewTicker(s.link.opts.PingInterval), time.NewTicker(probeEvery)
	defer t.Stop()
	defer look.Stop()
	began := time.Now()
	var clock lineClock
	probe := newProber(s.link.probe, s.hubs)
	defer probe.close()
	for {
		select {
		case <-done:
			return
		case <-s.kick:
			s.out.Flush()
		case <-look.C:
			line := s.link.line(s.nc)
			if line.acked != clock.acked {
				s.out.Moved()
			}
			since := clock.look(time.Now(), line.acked, line.queued+s.out.Pending())
			s.waits.Store(&since)
			// A line that loses much is not made better by new connections all the time.
			if line.unheard && time.Since(began) >= stableAfter {
				probe.try()
			}
		case <-probe.found:
			if s.link.line(s.nc).unheard {
				s.abandon(errStuck)
				return
			}
		case <-t.C:
			if s.delay() > lineStalls { // the last PING is hardly there yet
				continue
			}
			if int(s.pings.Add(1)) > s.link.opts.PingMax {
				s.abandon(errStaleHub)
				return
			}
			if s.missed.Load() && time.Since(began) >= banTime {
				s.out.Close(errAskAgain)
				return
			}
			s.ping()
		}
	}
}
