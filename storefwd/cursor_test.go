package storefwd

import (
	"testing"
)

// TestResetKnowsWhatWasPassedOver: what was acknowledged before it was handed out was
// passed over and forgotten while an earlier record was pending, and a reset handed it out.
func TestResetKnowsWhatWasPassedOver(t *testing.T) {
	s, l, c := tailLog(t, t.TempDir(), Retention{})
	defer s.Close()
	appendN(t, l, 6)
	for _, seq := range []uint64{3, 4} {
		c.Ack(seq)
	}
	for _, want := range [][]uint64{{1, 2, 5, 6}, {1, 2, 5, 6}} {
		var got []uint64
		for len(got) < len(want) {
			recs, err := c.Next(t.Context(), make([]Record, 0, 2))
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range recs {
				got = append(got, r.Seq)
			}
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("handed out %v, want %v", got, want)
			}
		}
		c.reset()
	}
}

// What a bound drops while it is on its way may be acknowledged all the same, and out of turn. It
// left the accounts once: a log that took it out twice had room for more than its bound from then on.
func TestAcknowledgedAfterADrop(t *testing.T) {
	s, l, c := tailLog(t, t.TempDir(), Retention{MaxMsgs: 10})
	defer s.Close()
	appendN(t, l, 10)
	take(t, c, 10)
	appendN(t, l, 5)
	for _, seq := range []uint64{4, 2, 8} {
		c.Ack(seq)
	}
	if n := l.Stats().Msgs; n != 9 {
		t.Errorf("%d messages, want 9: of 15 five were dropped and one was acknowledged", n)
	}
}
