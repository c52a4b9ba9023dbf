package storefwd

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// This file declares losses where they are missed: in the stream, by a message of
// the log's own, a gap marker. It goes the way of all others, durable and once. It
// names the sequences that it is about, as they stand in message ids.

// gap is what was lost for one reason and is not declared yet, and the body of the
// marker that declares it.
type gap struct {
	Outbox string    `json:"outbox,omitempty"`
	From   uint64    `json:"from"` // sequences; what is missing is among them
	To     uint64    `json:"to"`
	Count  uint64    `json:"count"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since,omitzero"`  // when the first was lost, if the clock knew
	Doubt  []span    `json:"doubt,omitempty"` // with first: dropped before it, and perhaps at the hub
	First  uint64    `json:"first,omitempty"` // all others before this one are acknowledged, or declared by now
}

// covers reports whether more is part of g.
func (g gap) covers(more gap) bool {
	return g.Count >= more.Count && g.From <= more.From && g.To >= more.To && g.Count > 0
}

// add makes g what it and more are together.
func (g *gap) add(more gap) {
	if g.Count == 0 {
		g.From, g.To = more.From, more.To
	}
	g.From, g.To, g.Count = min(g.From, more.From), max(g.To, more.To), g.Count+more.Count
}

const (
	gapEvery  = 5 * time.Second // between markers of a log
	gapLatest = time.Hour       // … that the hub does not take
	mostDoubt = 256             // ranges in one

	mostMarkers = 64 // that are kept in mind
)

// lose counts a loss, and remembers it for a marker.
func (l *Log) lose(why Loss, from, to, count uint64) {
	l.lost[why] += count
	if l.ret.GapSubject != "" {
		l.addGap(gap{From: from, To: to, Count: count, Reason: why.String()})
	}
}

// loseDamaged counts and declares what cannot be read. Of a log that was not opened yet it is not
// known whether losses are declared.
func (l *Log) loseDamaged(from, to, count uint64) {
	l.lost[LostDamaged] += count
	if !l.claimed || l.ret.GapSubject != "" {
		l.addGap(gap{From: from, To: to, Count: count, Reason: LostDamaged.String()})
	}
}

func (l *Log) addGap(g gap) {
	if l.gaps == nil {
		l.gaps = map[string]gap{}
	}
	l.gapNews, l.notTaken = true, 0
	l.s.dirty()
	have, ok := l.gaps[g.Reason]
	if !ok {
		if g.Since.IsZero() && l.s.thisRun().Wall != 0 {
			g.Since = l.s.o.Clock.Now()
		}
		l.gaps[g.Reason] = g
		if l.drains {
			l.s.wakeBy(l.gapDue())
		}
		return
	}
	have.add(g)
	l.gaps[g.Reason] = have
}

// certain is what is not in doubt of the losses.
func (l *Log) certain() (all []gap) {
	for reason, g := range l.gaps {
		if d := l.doubt.of(reason).Count; g.Count > d {
			g.Count -= d
			all = append(all, g)
		}
	}
	return all
}

// gapDue is when the committer declares what was lost, by mono: while the log drains,
// so that markers do not fill it in an outage, and never in quick succession. In a backlog
// there are those of one time, until the hub has them or they are dropped.
func (l *Log) gapDue() int64 {
	inBacklog := !l.live && l.marker >= l.first && !l.wasAcked(l.marker)
	if !l.drains || inBacklog || l.ret.GapSubject == "" || len(l.certain()) == 0 {
		return 1<<63 - 1
	}
	if l.declaredAt == 0 {
		return 1
	}
	return l.declaredAt + int64(max(gapEvery, l.notTaken))
}

// declare appends the markers that are due. They are beyond the log's bounds: a full
// log takes them, and nothing is dropped for them.
func (l *Log) declare(now int64) {
	s := l.s
	if now < l.gapDue() || s.closed || s.failed != nil {
		return
	}
	l.declaredAt = now
	l.onDisk()
	first, doubt, all := l.first, l.doubt.seqs().s, l.certain()
	for i, g := range all {
		g.Outbox, g.First, g.Doubt = l.name, 0, nil
		if i == len(all)-1 && len(doubt) <= mostDoubt {
			g.First, g.Doubt = first, doubt // the last of these markers tells that all is declared
		}
		body, err := json.Marshal(g)
		m := &msg.Msg{Subject: []byte(l.ret.GapSubject), Header: []byte("NATS/1.0\r\nLeafd-Gap: " + g.Reason + "\r\n\r\n"), Data: body, QoS: 1}
		if size := int64(recordSize(m)); err != nil || s.unsafeBytes+size > s.limit {
			return // the next look finds more room
		}
		l.declaring = append(l.declaring, seqGap{l.last + 1, g})
		delete(l.gaps, g.Reason)
		l.late.forget(g.Reason)
		if left := l.doubt.of(g.Reason); left.Count > 0 {
			l.gaps[g.Reason] = left
		}
		l.gapNews = true
		l.marker = l.last + 1
		l.place(m, int64(s.o.Clock.Boot()), flagGap)
	}
}

// beforeMarker is last, or what is before a marker that is not on the disk yet: what a
// crash made the log forget would be declared again. A disk that fails is not waited for.
func (l *Log) beforeMarker(last uint64) uint64 {
	switch {
	case l.marker <= max(l.journaled, l.folded) || l.ret.Memory:
	case l.s.failed != nil || l.s.retryAt != 0:
		l.marker = 0
	default:
		return min(last, l.marker-1)
	}
	return last
}

// keepMarker keeps in mind what the hub's stream declares, should the hub lose that.
func (l *Log) keepMarker(m seqGap) {
	if n := len(l.markers); n == 0 || l.markers[n-1].seq < m.seq { // it may be acknowledged again
		l.markers = lastMarkers(l.markers, m)
	}
}

// lastMarkers is all and m, but for the oldest that are too many.
func lastMarkers(all []seqGap, m seqGap) []seqGap {
	return append(all[max(0, len(all)+1-mostMarkers):], m)
}

// undeclare takes back a marker that is itself dropped.
func (l *Log) undeclare(g gap) {
	if g.First, g.Doubt = 0, nil; l.ret.GapSubject != "" {
		l.addGap(g)
	}
}

// undeclareUntaken takes back a marker that the hub does not take. The stream may be changed, so
// there is another one later: soon if there is another loss, or the hub was asked anew. It reports
// false if the marker cannot be read now.
func (l *Log) undeclareUntaken(seq uint64) bool {
	var g gap
	marker := false
	if err := l.lookAt(seq, func(b []byte) { g, marker = gapOf(b) }); err != nil {
		return false
	}
	if marker && l.once(seq) {
		wait := l.notTaken
		l.undeclare(g)
		l.notTaken = min(max(2*wait, gapEvery), gapLatest)
	}
	return true
}

// gapOf is what a marker's bytes declare; ok is false for any other record.
func gapOf(b []byte) (g gap, ok bool) {
	if len(b) < recHeader || b[33]&flagGap == 0 {
		return g, false
	}
	if !wellFormed(b) || json.Unmarshal(viewRecord(b).Data, &g) != nil {
		return g, false
	}
	return g, true
}

// declares is what r declares, if it is a marker.
func (r *Record) declares() (g gap, ok bool) {
	return g, r.gap && json.Unmarshal(r.Data, &g) == nil
}

// ref is what the accounts need of r, which is in the log.
func (r *Record) ref() ref {
	o := ref{seq: r.Seq, size: int64(r.size)}
	if g, ok := r.declares(); ok {
		o.gap = &g
	}
	return o
}

// seqGap is a marker: its sequence, and what it declares.
type seqGap struct {
	seq uint64
	gap
}

// gapState is what the engine is to know of the losses: what markers declare that are not on the disk
// yet as well, of which the first is at marker.
func (l *Log) gapState() (all map[string]gap, marker uint64) {
	l.onDisk()
	l.gapFolding, l.gapNews = l.gapNews, len(l.declaring) > 0
	if all = maps.Clone(l.gaps); len(l.declaring) == 0 {
		return all, 0
	}
	if all == nil {
		all = map[string]gap{}
	}
	for _, m := range l.declaring {
		g := m.gap
		g.Outbox, g.First, g.Doubt = "", 0, nil
		if have, ok := all[g.Reason]; ok {
			have.add(g)
			g = have
		}
		all[g.Reason] = g
	}
	return all, l.declaring[0].seq
}

// onDisk forgets the markers that are on the disk, or at the hub, by now.
func (l *Log) onDisk() {
	l.declaring = slices.DeleteFunc(l.declaring, func(m seqGap) bool { return m.seq < l.first || m.seq <= max(l.journaled, l.folded) })
}

// replayGap takes out of what was lost what a marker in the journal declares, unless the
// engine knew that.
func (l *Log) replayGap(seq uint64, b []byte) {
	g, ok := gapOf(b)
	if !ok {
		return
	}
	var doubt spans
	for _, s := range g.Doubt {
		doubt.add(s.From, min(s.To, seq))
	}
	if g.First > l.declared {
		l.declared, l.undeclared = min(g.First, l.last), doubt
	}
	l.declaredIn.add(g.From, max(g.From, g.To))
	l.later = lastMarkers(l.later, seqGap{seq, g})
	switch {
	case l.pendingFrom > 0 && seq >= l.pendingFrom && seq <= l.knownTo:
		l.takeGap(g)
	case seq <= l.knownTo:
	case g.First > 0: // and all others with it
		l.onlyDoubted(&doubt)
	default:
		l.takeGap(g)
	}
}

func (l *Log) takeGap(g gap) {
	have, ok := l.gaps[g.Reason]
	switch {
	case !ok:
	case have.Count <= g.Count:
		delete(l.gaps, g.Reason)
	default:
		have.Count -= g.Count
		l.gaps[g.Reason] = have
	}
}
