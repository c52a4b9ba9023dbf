package main

import (
	"crypto/sha256"
	"time"
)

// idWindow remembers which message ids came within a span of time, maxIDs of them
// at most: when more come, the oldest are forgotten early. Nothing of it survives a
// restart. Whoever owns it guards it.
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
