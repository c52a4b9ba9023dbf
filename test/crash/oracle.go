package main

import (
	"fmt"
	"slices"
)

// expect is what a store must hold when it is opened, and must not do.
type expect struct {
	Must   []number // acknowledged, and not with the hub: must be there
	Epochs []uint64 // that were used: the next must be another
	What   string   // how the store came to be as it is
	Lossy  bool     // what is missing may be so if the store says it: damage, not a crash
	Tail   bool     // the journal is damaged: the newest may be missing without a trace
}

// verdict is what is wrong with an opened store. The zero value is a good one.
type verdict struct {
	Lost       int // acknowledged and not there, undeclared
	Tail       int // of a damaged journal: the same, but all that is newer is missing, too
	Declared   int // the same, and the store says so
	Duplicated int
	Disorder   int
	Wrong      int    // bytes that nobody sent, an id of two messages
	Alarms     int    // said to be damaged, and is not
	Unopened   int    // it could not be opened, or took nothing new
	Detail     string // the first of these, for people
}

func (v *verdict) bad() bool {
	return v.Lost+v.Duplicated+v.Disorder+v.Wrong+v.Alarms+v.Unopened > 0
}

func (v *verdict) note(count *int, format string, args ...any) {
	*count++
	if v.Detail == "" {
		v.Detail = fmt.Sprintf(format, args...)
	}
}

// judge holds what a checker found against what must be.
//
// The newest batch of a journal has no proof until the next one, or until the journal has
// rested: a store that lost nothing but that looks as it did before it came. It is counted
// apart.
func judge(e *expect, got *finding) (v verdict) {
	if got.Err != "" {
		v.note(&v.Unopened, "%s", got.Err)
	}
	if !e.Lossy && got.Declared {
		v.note(&v.Alarms, "nothing was damaged, and it says %q", got.Health)
	}
	if slices.Contains(e.Epochs, got.Epoch) {
		v.note(&v.Wrong, "epoch %d is used again", got.Epoch)
	}
	seen := make(map[number]bool, len(got.Records))
	ids := make(map[[3]uint64]bool, len(got.Records))
	last := map[uint32]uint32{}
	for _, r := range got.Records {
		id := [3]uint64{uint64(r.Log), r.Epoch, r.Seq}
		switch {
		case !r.Whole:
			v.note(&v.Wrong, "record %d of epoch %d is not what was sent", r.Seq, r.Epoch)
			continue
		case ids[id] || r.Epoch == got.Epoch:
			v.note(&v.Wrong, "two records have the id %d.%d", r.Epoch, r.Seq)
		case seen[r.Msg]:
			v.note(&v.Duplicated, "message %d of source %d is there twice", r.Msg.N, r.Msg.Src)
		case last[r.Msg.Src] > r.Msg.N:
			v.note(&v.Disorder, "message %d of source %d stands behind %d", r.Msg.N, r.Msg.Src, last[r.Msg.Src]-1)
		}
		seen[r.Msg], ids[id], last[r.Msg.Src] = true, true, r.Msg.N+1
	}
	for _, m := range e.Must {
		switch {
		case seen[m]:
		case e.Lossy && got.Declared:
			v.Declared++
		case e.Tail && m.N >= last[m.Src]:
			v.Tail++
		default:
			v.note(&v.Lost, "message %d of source %d was acknowledged and is not there (%d records are)", m.N, m.Src, len(got.Records))
		}
	}
	return v
}
