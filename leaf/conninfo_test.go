package leaf

import (
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// witness is a Watcher that remembers.
type witness struct {
	mu     sync.Mutex
	events []string   // guarded by mu
	infos  []ConnInfo // guarded by mu; of the closed
}

func (l *witness) note(event string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, event)
}

func (l *witness) Connected(i *ConnInfo) { l.note("connected " + i.Name) }
func (l *witness) Refused(i *ConnInfo)   { l.note("refused " + i.User) }
func (l *witness) Closed(i *ConnInfo) {
	l.mu.Lock()
	l.infos = append(l.infos, *i)
	l.mu.Unlock()
	l.note("closed " + i.Name + ": " + i.Reason)
}

func (l *witness) got() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.events, "\n")
}

func TestConnInfo(t *testing.T) {
	var w witness
	s, addr := startServer(t, Options{Watcher: &w})
	c := dial(t, addr, `{"name":"n","lang":"go","version":"1.55.0","user":"u","pass":"p","headers":true}`)
	c.expect("SUB a.> 1\r\nSUB b q 2\r\nUNSUB 2 5\r\n", "")
	c.expect("PUB a.x 3\r\nabc\r\nHPUB a.y 12 14\r\nNATS/1.0\r\n\r\nde\r\n", "MSG a.x 1 3\r\nabc\r\nHMSG a.y 1 12 14\r\nNATS/1.0\r\n\r\nde\r\n")
	list := s.ConnInfos() // sends a PING to measure by
	if line := c.line(); line != "PING" {
		t.Fatalf("%q", line)
	}
	c.expect("PONG\r\n", "")
	if len(list) != 1 {
		t.Fatalf("%+v", list)
	}
	i := list[0]
	_, port, _ := net.SplitHostPort(c.LocalAddr().String())
	if i.ID != 1 || i.Type != "nats" || i.IP != "127.0.0.1" || port == "" || i.Port == 0 || !i.Known || i.RTT != 0 ||
		i.In != (Traffic{2, 17}) || i.Out != (Traffic{2, 17}) || i.NumSubs != 2 ||
		i.Name != "n" || i.Lang != "go" || i.Version != "1.55.0" || i.User != "u" || i.LastActivity.Before(i.Start) {
		t.Errorf("%+v", i)
	}
	if rtt := s.ConnInfos()[0].RTT; rtt <= 0 {
		t.Errorf("the round trip is %v after a PONG", rtt)
	}
	for _, sub := range i.Subs() {
		switch want := (SubInfo{"b", "q", "2", 0, 5, 1}); sub.Subject {
		case "a.>":
			if sub != (SubInfo{"a.>", "", "1", 2, 0, 1}) {
				t.Errorf("%+v", sub)
			}
		default:
			if sub != want {
				t.Errorf("%+v", sub)
			}
		}
	}
	if all := s.Router().SubInfos(); len(all) != 2 || all[0].ConnID != 1 {
		t.Errorf("%+v", all)
	}
	_ = c.Close()
	testkit.Eventually(t, func() bool { return strings.Contains(w.got(), "closed") }, "closed")
	if got := w.got(); got != "connected n\nclosed n: Client Closed" {
		t.Error(got)
	}
	if in, out := s.Traffic(); in != (Traffic{2, 17}) || out != in {
		t.Errorf("%+v in, %+v out with the client gone", in, out)
	}
	if i := w.infos[0]; i.Stop.IsZero() || i.In.Msgs != 2 || len(i.Subs()) != 2 {
		t.Errorf("%+v", i)
	}
}

// A token is never shown, and the refused are told of before their end.
func TestWatcherOfTheRefused(t *testing.T) {
	var w witness
	r := NewRouter()
	auth, err := NewAuth(AuthConfig{Credentials: Credentials{Token: "another"}}, r)
	if err != nil {
		t.Fatal(err)
	}
	_, addr := serve(t, New(Options{Watcher: &w, Auth: auth}, r))
	c := dial(t, addr, `{"auth_token":"secret"}`)
	if line := c.line(); line != "-ERR 'Authorization Violation'" {
		t.Error(line)
	}
	testkit.Eventually(t, func() bool { return strings.Contains(w.got(), "closed") }, "closed")
	if got := w.got(); got != "refused [REDACTED]\nclosed : Authentication Failure" {
		t.Error(got)
	}
}

func TestUserInfo(t *testing.T) {
	_, addr := startServer(t, Options{UserInfo: func(i *ConnInfo, _ *Permissions) []byte { return []byte("you are " + i.User) }})
	c := dial(t, addr, `{"user":"u","echo":false}`)
	c.expect("SUB inbox 7\r\nPUB $SYS.REQ.USER.INFO inbox 0\r\n\r\n", "MSG inbox 7 9\r\nyou are u\r\n")
	c.expect("PUB $SYS.REQ.USER.INFO 0\r\n\r\n", "") // nowhere to answer to
	c.expect("PUB $SYS.REQ.USER.INFO elsewhere 0\r\n\r\n", "")
	c.expect("SUB $SYS.REQ.USER.* 8\r\nPUB $SYS.REQ.USER.INF1 inbox 0\r\n\r\n", "")
}

func TestCloseReasons(t *testing.T) {
	s := New(Options{}, NewRouter())
	for err, want := range map[error]string{
		nil: "Client Closed", io.EOF: "Client Closed", ErrNotAuthorized: "Authentication Failure", errAuthTimeout: "Authentication Timeout",
		errStale: "Stale Connection", errTooManyConns: "Maximum Connections Exceeded", errMaxPayload: "Maximum Message Payload Exceeded",
		errControlLine: "Maximum Control Line Exceeded", errHeadersOff: "Message Header Violation",
		errNoRespondersNeedHeaders: "No Responders Requires Headers", errUnknownVerb: "Protocol Violation", errNoCRLF: "Protocol Violation",
		ErrSlowConsumer: "Slow Consumer (Pending Bytes)", ErrWriteDeadline: "Slow Consumer (Write Deadline)",
		syscall.EPIPE: "Write Error", syscall.ECONNRESET: "Read Error", errPanicked: "Unknown State",
	} {
		if got := s.closeReason(err); got != want {
			t.Errorf("%v: %q, not %q", err, got, want)
		}
	}
	s.stopping.Store(true)
	if got := s.closeReason(io.EOF); got != "Server Shutdown" {
		t.Error(got)
	}
}

func TestClosedRing(t *testing.T) {
	r := NewClosedRing(3)
	many := make([]SubInfo, 1000)
	for id := range uint64(5) {
		r.Add(&ConnInfo{ID: id, Subs: func() []SubInfo { return many }})
		NewClosedRing(0).Add(&ConnInfo{})
	}
	list := r.List()
	if len(list) != 3 || list[0].ID != 2 || list[2].ID != 4 {
		t.Errorf("%+v", list)
	}
	if n := len(list[0].Subs()); n != closedSubs {
		t.Errorf("%d subscriptions kept", n)
	}
}

func TestCacheInfo(t *testing.T) {
	r := NewRouter()
	p := r.Attach("a", &testkit.Sink{}, EachSub)
	for _, s := range []string{"x.>", "x.*"} {
		if err := p.Subscribe(&msg.Sub{Subject: s}); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []string{"x.1", "x.2", "x.1", "x.2", "x.1", "x.2"} {
		p.Publish(&msg.Msg{Subject: []byte(s)})
		p.Flush()
	}
	if c := r.CacheInfo(); c != (CacheInfo{2, 2, 4}) {
		t.Errorf("%+v", c)
	}
	st := r.Stats()
	if st.Inserts.Load() != 2 || st.Removes.Load() != 0 || st.Matches.Load() != 6 || st.CacheHits.Load() != 2 {
		t.Errorf("%d inserts, %d removes, %d matches, %d hits", st.Inserts.Load(), st.Removes.Load(), st.Matches.Load(), st.CacheHits.Load())
	}
	p.Close()
	if st.Removes.Load() != 2 || len(p.Subjects()) != 0 || len(r.SubInfos()) != 0 {
		t.Error("subscriptions of a closed port are still there")
	}
}
