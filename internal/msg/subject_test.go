package msg

import "testing"

func TestSubjectGrammar(t *testing.T) {
	for _, c := range []struct {
		s             string
		subject, filt bool
	}{
		{"a", true, true}, {"a.b.c", true, true}, {"", false, false}, {".", false, false},
		{"a.", false, false}, {".a", false, false}, {"a..b", false, false},
		{"a b", false, false}, {"a\tb", false, false}, {"a\x7f", false, false}, {"a\x00", false, false},
		{"*", false, true}, {">", false, true}, {"a.*", false, true}, {"*.a", false, true},
		{"a.>", false, true}, {"a.>.b", false, false}, {">.a", false, false},
		{"a>", true, true}, {"a*", true, true}, {"a.*b", true, true}, {"a.>b", true, true},
		{"ä.ö", true, true}, {"$SYS.x", true, true}, {"/.a", true, true},
	} {
		if got := ValidSubject(c.s); got != c.subject {
			t.Errorf("ValidSubject(%q) = %v", c.s, got)
		}
		if got := ValidFilter([]byte(c.s)); got != c.filt {
			t.Errorf("ValidFilter(%q) = %v", c.s, got)
		}
	}
}

func TestMatchAndOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b           string
		match, overlap bool
	}{
		{"a", "a", true, true}, {"a", "b", false, false}, {"a.*", "a.b", true, true},
		{"a.*", "a", false, false}, {"a.*", "a.b.c", false, false}, {"a.>", "a.b.c", true, true},
		{"a.>", "a", false, false}, {">", "a", true, true}, {"*", "a.b", false, false},
		{"a.*", "a.>", false, true}, {"a.>", "a.*", true, true}, {"*.b", "a.*", false, true},
		{"a.b", "a.*", false, true}, {"*.*", "a.b", true, true}, {"*.c", "a.b", false, false},
		{"a.*.c", "a.>", false, true},
	} {
		if got := Match(c.a, c.b); got != c.match {
			t.Errorf("Match(%q, %q) = %v", c.a, c.b, got)
		}
		if Overlap(c.a, c.b) != c.overlap || Overlap(c.b, c.a) != c.overlap {
			t.Errorf("Overlap(%q, %q) is not %v both ways", c.a, c.b, c.overlap)
		}
	}
}

func TestCloneSharesNothing(t *testing.T) {
	src := []byte("s r h d")
	m := &Msg{Subject: src[0:1], Reply: src[2:3], Header: src[4:5], Data: src[6:7], QoS: 1, Retain: true}
	c := m.Clone()
	for i := range src {
		src[i] = 'X'
	}
	if string(c.Subject)+string(c.Reply)+string(c.Header)+string(c.Data) != "srhd" || c.QoS != 1 || !c.Retain {
		t.Fatalf("clone changed with its source: %+v", c)
	}
	if c = (&Msg{Subject: []byte("s")}).Clone(); c.Reply != nil || c.Header != nil {
		t.Fatal("absent parts must stay absent")
	}
}
