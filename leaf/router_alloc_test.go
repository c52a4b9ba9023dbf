//go:build !race

package leaf

import (
	"fmt"
	"testing"

	"github.com/leafd/leafd/internal/msg"
)

// Routing costs no allocation: neither for subjects seen before, more than one
// port remembers, nor for reply subjects that are seen a single time.
func TestRouterDoesNotAllocate(t *testing.T) {
	r := NewRouter()
	for _, s := range []struct {
		sub  *msg.Sub
		mode Mode
	}{
		{&msg.Sub{Subject: "s.*"}, EachSub}, {&msg.Sub{Subject: "s.>", Queue: "q"}, EachSub}, {&msg.Sub{Subject: "s.1"}, Once},
		{&msg.Sub{Subject: "s.>", Queue: "far"}, Uplink}, {&msg.Sub{Subject: "_INBOX.me.*"}, EachSub},
	} {
		if err := r.Attach("sink", takesAll{}, s.mode).Subscribe(s.sub); err != nil {
			t.Fatal(err)
		}
	}
	p := r.Attach("publisher", nil, EachSub)
	check := func(name string, subjects [][]byte, times, taken int) {
		t.Helper()
		m := &msg.Msg{Data: []byte("hi")}
		n := 0
		publish := func() {
			m.Subject = subjects[n%len(subjects)]
			n++
			if rc := p.Publish(m); rc.Taken != taken {
				t.Fatalf("%s: %+v", name, rc)
			}
			p.Flush()
		}
		for range times * len(subjects) {
			publish()
		}
		n = 0
		if allocs := testing.AllocsPerRun(len(subjects)-1, publish); allocs != 0 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
	var known, unique [][]byte
	for i := range 1000 {
		known = append(known, fmt.Appendf(nil, "s.%d", i+2))
		unique = append(unique, fmt.Appendf(nil, "_INBOX.me.%d", i))
	}
	check("known subjects", known, 3, 3)
	check("subjects seen once", unique, 0, 1)
}
