package main

import (
	"testing"

	"github.com/leafd/leafd/storefwd"
)

// An outbox that sends what comes is held up by nothing, whatever went wrong before.
func TestLiveOutboxHasNoReason(t *testing.T) {
	for _, c := range []struct{ state, detail, last, want string }{
		{storefwd.Live, "", "no answer", ""},
		{storefwd.Connecting, "", "no answer", "no answer"},
		{storefwd.NoStream, "make one", "no answer", "make one"},
	} {
		if got := whyHeldUp(&storefwd.ForwarderStats{State: c.state, Detail: c.detail, LastError: c.last}); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
