package storefwd

import (
	"fmt"
	"slices"
	"testing"
)

// Subjects are taken out of an outbox while the hub has messages of them that are not
// acknowledged. They are found there as well: 108 to 134 of 400 were stored twice.
func TestSubjectsTakenOutWhileInDoubt(t *testing.T) {
	dir := t.TempDir()
	s, _ := openWith(t, dir, "b.1", "a.1", "b.2", "b.3")
	h := &fakeHub{takes: []string{"a.>", "b.>"}}
	for i, subject := range []string{"b.1", "a.1", "b.2"} {
		h.stored = append(h.stored, fakeMsg{subject, string(appendID(nil, []byte("n/c"), s.Epoch(), uint64(i+1))), ""})
	}
	waitSafe(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, l := openWith(t, dir, "a.2")
	f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c", RetryMin: 1, RetryMax: 1})
	h.f = f
	drain(t, f, h)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	wantSubjects(t, h, "b.1", "a.1", "b.2", "b.3", "a.2")
	if st := f.Stats(); st.Duplicates > 0 {
		t.Errorf("%+v", st)
	}
}

// Many subjects were taken out, and their messages wait in turn. A session takes up many of them: it
// ended at each record, and asked for 64 subjects again.
func TestManySubjectsTakenOut(t *testing.T) {
	var want []string
	for i := range 400 {
		want = append(want, fmt.Sprint("b.", i%200))
	}
	dir := t.TempDir()
	s, _ := openWith(t, dir, want...)
	h := &fakeHub{takes: []string{"a.>", "b.>"}}
	for i, subject := range want[:100] { // in doubt
		h.stored = append(h.stored, fakeMsg{subject, string(appendID(nil, []byte("n/c"), s.Epoch(), uint64(i+1))), ""})
	}
	waitSafe(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, l := openWith(t, dir, "a.1")
	f := NewForwarder(ForwarderOptions{Log: l, Uplink: h, Filters: []string{"a.>"}, Class: "c", RetryMin: 1, RetryMax: 1})
	h.f = f
	drain(t, f, h)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	wantSubjects(t, h, slices.Concat(want, []string{"a.1"})...)
	if st := f.Stats(); f.attempt > 20 || st.Reordered > 0 {
		t.Errorf("%d sessions, %+v", f.attempt, st)
	}
}
