package main

import (
	"crypto/sha256"
	"time"

	"github.com/leafd/leafd/storefwd"
)

// idWindow remembers which message ids came within a span of time, maxIDs of them
// at most: when more come, the oldest are forgotten early. After a restart it knows those
// of what waits in the log. Whoever owns it guards it.
type idWindow struct {
	span time.Duration // static; 0: nothing is remembered

	seqs map[idKey]uint64
	ring []seenID // in the order in which they came, from head on
	head int
}

// idKey stands for a message id. The zero key is that of no id.
type idKey [16]byte

type seenID struct {
	key idKey
	seq uint64
	at  time.Time
}

const maxIDs = 16 << 10 // about 2 MiB, if publishers use ids at all

// keyOf is the same for the same id, and for no other.
func keyOf(id []byte) (k idKey) {
	if len(id) > 0 {
		sum := sha256.Sum256(id)
		copy(k[:], sum[:])
	}
	return k
}

// find tells under which sequence an id is known.
func (w *idWindow) find(k idKey, now time.Time) (seq uint64, ok bool) {
	if w.span == 0 || k == (idKey{}) {
		return 0, false
	}
	for w.head < len(w.ring) && now.Sub(w.ring[w.head].at) >= w.span {
		w.pop()
	}
	seq, ok = w.seqs[k]
	return seq, ok
}

func (w *idWindow) add(k idKey, seq uint64, now time.Time) {
	if w.span == 0 || k == (idKey{}) {
		return
	}
	if w.seqs == nil {
		w.seqs = map[idKey]uint64{}
	}
	for len(w.ring)-w.head >= maxIDs {
		w.pop()
	}
	if w.head > len(w.ring)/2 && len(w.ring) == cap(w.ring) {
		n := copy(w.ring, w.ring[w.head:])
		w.ring, w.head = w.ring[:n], 0
	}
	w.seqs[k] = seq
	w.ring = append(w.ring, seenID{k, seq, now})
}

// pop forgets the oldest, unless its id came again since.
func (w *idWindow) pop() {
	old := w.ring[w.head]
	w.head++
	if w.seqs[old.key] == old.seq {
		delete(w.seqs, old.key)
	}
}

// restore adds the ids of the newest maxIDs records that wait in l, those of an earlier run:
// their publishers may not have heard of it, and send them again. Where the age is not known
// none is added: one that comes again is better than a new one that is taken for it.
func (w *idWindow) restore(l *storefwd.Log, now time.Time) error {
	if w.span == 0 {
		return nil
	}
	st := l.Stats()
	recs := make([]storefwd.Record, 0, 256)
	for from := max(st.First, st.Last-min(st.Last, maxIDs-1)); ; from = recs[len(recs)-1].Seq + 1 {
		var err error
		if recs, err = l.Read(recs[:0], from); err != nil || len(recs) == 0 {
			return err
		}
		for i := range recs {
			if r := &recs[i]; r.Age >= 0 && r.Age < w.span {
				id, _ := scanHeader(r.Header)
				w.add(keyOf(id), r.Seq, now)
			}
		}
	}
}
