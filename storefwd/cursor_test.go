package storefwd

import (
	"context"
	"testing"
)

// TestNextWaitsForAStride: a drain read and sent one record for each that was
// acknowledged, and spent most of its time on the beginning of reads.
func TestNextWaitsForAStride(t *testing.T) {
	s, l, _ := tailLog(t, t.TempDir(), Retention{Keep: UntilAcked})
	defer s.Close()
	c, err := l.Cursor("stride", CursorConfig{MaxPending: 16, Ahead: true})
	if err != nil {
		t.Fatal(err)
	}
	appendN(t, l, 40)
	recs, err := c.Next(context.Background(), make([]Record, 0, 16))
	if err != nil || len(recs) != 16 {
		t.Fatalf("%d records, %v; want 16", len(recs), err)
	}
	for i, r := range recs[:8] {
		if _, _, room, err := c.want(); (room != 0) != (i >= 4) || err != nil {
			t.Errorf("%d acknowledged: room for %d, %v; want none before 4", i, room, err)
		}
		c.Ack(r.Seq)
	}
	if recs, err = c.Next(context.Background(), make([]Record, 0, 16)); err != nil || len(recs) != 8 {
		t.Errorf("%d records, %v; want 8 at once", len(recs), err)
	}
	for range 24 {
		c.Ack(c.floor + 1)
	}
	if _, _, room, err := c.want(); room == 0 || err != nil {
		t.Errorf("the last %d records have room for %d, %v", l.last-c.floor, room, err)
	}
}
