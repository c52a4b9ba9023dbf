package storefwd

// This file lets a commit wait a moment for those whom the last one answered, as
// commit_siblings does in PostgreSQL. Publishers who wait for each answer fall into two
// halves else: while one is synced the other publishes again, and each sync carries half
// of them. Together they need half the syncs, and unless they take much longer than a sync
// to be together again they get no less done.

// siblings are guarded by Store.mu. Times are by mono, durations in ns.
type siblings struct {
	write    int64 // what a write with its sync takes, smoothed
	expected int   // the commit waits until so many barriers wait; 0: for nobody
	since    int64 // … since then
	meet     int64 // what they take to be together again, smoothed
	met      int   // so many are in the commit that waited, until it is judged; 0: it did not
	took     int64 // … and it waited so long
	skip     int   // so many commits from now on wait for nobody
	late     int   // how many it was at last
}

// mostLate is the most commits without a try whether siblings meet soon enough.
const mostLate = 1 << 8

// written notes a write that took from began to now, and has the next commit wait for as
// many as wait now, less an eighth: the last of many may be long in coming, and more is lost
// by waiting for them than by leaving them to the sync after. They are answered after it.
func (b *siblings) written(waiting int, began, now int64) {
	took := now - began
	if b.write > 0 { // one that stalls says little
		took = b.write + (min(took, 2*b.write)-b.write)/8
	}
	b.write, b.expected = took, 0
	b.judge(waiting)
	switch {
	case b.skip > 0:
		b.skip--
	case waiting > 1:
		b.expected, b.since = waiting-waiting/8, now
	}
}

// judge decides whether it was worth the wait, once those who met are written.
func (b *siblings) judge(waiting int) {
	if b.met == 0 {
		return
	}
	b.meet += (b.took - b.meet) / 8
	// Who publishes during the sync does not wait for an answer before that.
	if longest := b.write * 3 / 2; b.meet <= longest && waiting <= b.met+b.met/4 {
		b.late /= 2
	} else {
		b.late = min(2*b.late+1, mostLate)
		b.skip, b.meet = b.late, longest // the next try alone decides
	}
	b.met = 0
}

// until is when the commit waits no longer.
func (b *siblings) until() int64 { return b.since + 2*b.write }

// missing reports whether the commit that is due should wait.
func (b *siblings) missing(waiting int, now int64) bool {
	if b.expected == 0 {
		return false
	}
	if waiting < b.expected && now < b.until() {
		return true
	}
	b.met, b.took, b.expected = waiting, min(now-b.since, 2*b.write), 0
	return false
}
