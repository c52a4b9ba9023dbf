package leaf

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// FuzzLink gives a session whatever a hub might say, in two reads, and checks that
// it ends by itself and leaves nothing behind.
func FuzzLink(f *testing.F) {
	for i, tc := range hubCases {
		f.Add([]byte(info1+info2+tc.bytes), uint16(len(info1)+len(info2)+i))
	}
	for _, s := range []string{
		"", info1, info1 + info1, info2, info1 + info2 + info1, info1 + "-ERR 'Authorization Violation'\r\n",
		`INFO {"client_id":1,"leafnode_urls":["x:1","::","x:1"],"max_payload":-1}` + "\r\n" + info2,
		info1 + `INFO {"connect_info":true,"import":{"allow":[],"deny":["a..b",">"]},"export":{"allow":["a q"]}}` + "\r\nLS+ >\r\nLMSG a 2\r\nhi\r\n",
		info1 + info2 + "LS+ >\r\nLS+ > q 999999999\r\nLS+ > q 1\r\nLS- >\r\n-ERR 'Permissions Violation for Publish to \"a\"'\r\n-ERR 'Permissions Violation for Subscription to \">\"'\r\n",
		info1 + info2 + "LS+ $LDS.X\r\nLMSG _R_.a 0\r\n\r\nLMSG $JS.API.X 0\r\n\r\nPING\r\nPONG\r\n+OK\r\n",
	} {
		f.Add([]byte(s), uint16(40))
	}
	f.Fuzz(func(t *testing.T, b []byte, cut uint16) {
		synctest.Test(t, func(t *testing.T) {
			l := newTestLink(t, LinkOptions{MaxInterest: 20})
			local := l.router.Attach("local", &testkit.Sink{}, EachSub)
			for _, s := range []*msg.Sub{{Subject: "a"}, {Subject: ">", Queue: "q"}} {
				if err := local.Subscribe(s); err != nil {
					t.Fatal(err)
				}
			}
			ours, hub := testkit.Pipe(1 << 20)
			go func() {
				at := min(int(cut), len(b))
				hub.Write(b[:at]) // the session may have had enough
				synctest.Wait()
				local.Publish(text("a"))
				local.Flush()
				hub.Write(b[at:])
				synctest.Wait()
				hub.Close()
			}()
			s := newSession(l, l.urls.take(), ours)
			if err := s.run(context.Background()); err == nil {
				t.Error("it ended without a reason")
			} else {
				faultOf(err)
			}
			if n := l.router.Subscriptions(); n != 2 || l.live.Load() != nil || !isDown(l) || l.urls.size() > 1+maxLearned {
				t.Errorf("it left %d subscriptions, %d addresses", n, l.urls.size())
			}
			if err := l.Send(text("a")); !errors.Is(err, ErrLinkDown) {
				t.Errorf("send: %v", err)
			}
		})
	})
}
