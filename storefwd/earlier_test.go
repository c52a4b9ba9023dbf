package storefwd

import "testing"

// Subjects are taken out of an outbox while the hub has messages of them that are not
// acknowledged. They are found there as well: 108 to 134 of 400 were stored twice.
func TestSubjectsTakenOutWhileInDoubt(t *testing.T) {
	dir := t.TempDir()
	s, l := openWith(t, dir, "b.1", "a.1", "b.2", "b.3")
	h := &fakeHub{takes: []string{"a.>", "b.>"}}
	for i, subject := range []string{"b.1", "a.1", "b.2"} {
		h.stored = append(h.stored, fakeMsg{subject, string(appendID(nil, []byte("n/c"), s.Epoch(), uint64(i+1))), ""})
	}
	waitSafe(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, l = openWith(t, dir, "a.2")
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
