package storefwd

import (
	"context"
	"fmt"
)

// This file notices a hub that has less than it acknowledged: after a power cut, since
// a stock nats-server syncs every two minutes, or restored from a copy. What the
// log still has of that is sent again, under the ids it had.

// giveBack takes back the acknowledgements of what the hub no longer has. Only a
// class with one stream, which keeps what was consumed, can be judged.
func (f *Forwarder) giveBack(ctx context.Context, p *place) error {
	f.mu.Lock()
	m, judged := f.mark, f.only != "" && p.blind == ""
	f.mu.Unlock()
	if !judged {
		return nil
	}
	less, err := f.hasLess(ctx, p, m)
	if err != nil || !less {
		return err
	}
	to := uint64(0)
	if p.own && p.last.ours {
		to = p.last.seq // of what others write among ours, readBack finds what is there
	}
	before := f.l.Stats().Msgs
	missing := f.c.rewind(to)
	again := f.l.Stats().Msgs - before
	if again <= 0 && m.at == 0 {
		return nil // an earlier run's: what was dropped since looks the same
	}
	lost := uint64(0)
	if m.at > 0 && missing.from > 0 {
		lost = missing.to - missing.from + 1
		f.l.lostByHub(missing, lost)
	}
	f.mu.Lock()
	f.mark = mark{}
	f.st.WentBack++
	f.mu.Unlock()
	f.o.Logger.Warn("forwarder: the hub has less than it acknowledged, it was set back; what is still here is sent again",
		"log", f.l.name, "stream", p.name, "last_there", to, "sent_again", again, "gone", lost)
	return nil
}

// hasLess compares the stream with the last acknowledgement. A sequence is never
// given twice, unless by a stream that was set back or made anew; a message that
// was deleted leaves the others theirs.
func (f *Forwarder) hasLess(ctx context.Context, p *place, m mark) (bool, error) {
	last := p.info.State.LastSeq
	switch {
	case m.at == 0:
		floor, _ := f.c.ambiguous()
		return p.own && p.last.at > 0 && p.last.at == last && p.last.seq < floor, nil
	case last < m.at:
		return true, nil
	case p.last.at >= m.at && p.last.seq >= m.seq:
		return false, nil
	}
	there, err := f.message(ctx, p.name, getMsg{Seq: m.at})
	if err != nil {
		return false, fmt.Errorf("look for seq %d: %w", m.seq, err)
	}
	return there.at == m.at && (!there.ours || there.seq != m.seq), nil
}

// lostByHub counts and declares what the hub acknowledged, lost, and nobody has any more.
func (l *Log) lostByHub(r seqRange, n uint64) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.lose(LostByHub, r.from, r.to, n)
}
