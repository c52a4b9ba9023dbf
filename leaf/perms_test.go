package leaf

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/internal/testkit"
)

// What a subscription may be is decided about all of its subjects. nats-server
// 2.15.2 lets "s.*" stand for "s.>" here, which would deliver more than is allowed.
func TestMaySubscribe(t *testing.T) {
	for _, c := range []struct {
		allow, deny   []string
		filter, queue string
		want          bool
	}{
		{[]string{"s.*"}, nil, "s.>", "", false}, {[]string{"s.* q"}, nil, "s.>", "q", false},
		{[]string{"s.*"}, nil, "s.*", "", true}, {[]string{"s.>"}, nil, "s.*", "q", true},
		{[]string{}, nil, "a", "", false}, {nil, nil, "a", "q", true},
		{[]string{"a", "a q"}, nil, "a", "", true}, {[]string{"a", "a q"}, nil, "a", "r", false},
		{nil, []string{"a.*"}, "a.>", "", true}, {nil, []string{"a.>"}, "a.*", "", false},
		{nil, []string{"a q.*"}, "a", "q.1", false}, {nil, []string{"a q.*"}, "a", "q", true}, {nil, []string{"a q.*"}, "a", "", true},
	} {
		rt, err := newRights(&Permissions{Subscribe: SubjectList{Allow: c.allow, Deny: c.deny}})
		if err != nil {
			t.Fatal(err)
		}
		if rt.maySubscribe(c.filter, c.queue) != c.want {
			t.Errorf("allow %q deny %q: %q in %q is not %v", c.allow, c.deny, c.filter, c.queue, c.want)
		}
	}
}

func TestPermissionsAreChecked(t *testing.T) {
	for _, p := range []Permissions{
		{Publish: SubjectList{Allow: []string{"a q"}}}, {Publish: SubjectList{Deny: []string{""}}},
		{Subscribe: SubjectList{Allow: []string{"a b c"}}}, {Subscribe: SubjectList{Deny: []string{"a.>.b q"}}},
		{Subscribe: SubjectList{Deny: []string{"a q..r"}}},
	} {
		if rt, err := newRights(&p); err == nil {
			t.Errorf("%+v is taken: %+v", p, rt)
		}
	}
}

// Answers are counted and grow old, and only so many can be open.
func TestAnswers(t *testing.T) {
	now := time.Now()
	a := &answers{limits: Responses{Max: 2, Expires: time.Minute}}
	take := func(want bool, s string) {
		t.Helper()
		if a.take([]byte(s), now) != want {
			t.Errorf("%s: not %v", s, want)
		}
	}
	a.add([]byte("r1"), now)
	take(true, "r1")
	take(false, "r2")
	take(true, "r1")
	take(false, "r1")
	a.add([]byte("r1"), now)
	now = now.Add(time.Minute + 1)
	take(false, "r1")
	for i := range 3 * maxAnswers {
		a.add(fmt.Appendf(nil, "s%d", i), now)
	}
	if len(a.open) > maxAnswers || len(a.queue) > maxAnswers {
		t.Errorf("%d are open", len(a.open))
	}
	take(true, fmt.Sprintf("s%d", 3*maxAnswers-1))
	take(false, "s0")
	for i := range 100 { // what is answered does not stay in the queue for ever
		now = now.Add(2 * time.Minute)
		a.add(fmt.Appendf(nil, "t%d", i), now)
	}
	if len(a.open) != 1 || len(a.queue) != 1 {
		t.Errorf("%d are open, %d remembered", len(a.open), len(a.queue))
	}
}

func drawFilter(t *rapid.T) string {
	tokens := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "*"}), 1, 3).Draw(t, "tokens")
	if len(tokens) < 3 && rapid.Bool().Draw(t, "rest") {
		tokens = append(tokens, ">")
	}
	return strings.Join(tokens, ".")
}

func drawList(t *rapid.T, queues bool) (list []string) {
	for range rapid.IntRange(0, 3).Draw(t, "entries") {
		s := drawFilter(t)
		if queues && rapid.Bool().Draw(t, "grouped") {
			s += " " + rapid.SampledFrom([]string{"q", "q.1", "q.*", ">"}).Draw(t, "queue")
		}
		list = append(list, s)
	}
	return list
}

// received notes who got what.
type received struct {
	name string
	got  *[]string
}

func (r received) Deliver(m *msg.Msg, sub *msg.Sub) msg.Drop {
	*r.got = append(*r.got, r.name+" "+string(sub.SID))
	return msg.Taken
}

// Every way by which a message goes from one client to another, live, to members of
// queue groups, through subscriptions that a denied subject overlaps, before and
// after the match is remembered, and after permissions changed, obeys the model.
func TestPermissionsObeyModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := NewRouter()
		type party struct {
			name  string
			model testkit.Law
			port  *Port
			subs  []*msg.Sub
		}
		var got []string
		var parties []*party
		permit := func(p *party) {
			p.model = testkit.Law{
				Publish:   testkit.SubjectList{Allow: drawList(t, false), Deny: drawList(t, false)},
				Subscribe: testkit.SubjectList{Allow: drawList(t, true), Deny: drawList(t, true)}}
			rt, err := newRights(&Permissions{Publish: SubjectList(p.model.Publish), Subscribe: SubjectList(p.model.Subscribe)})
			if err != nil {
				t.Fatal(err)
			}
			ended := p.port.setRights(rt)
			kept := p.subs[:0]
			for _, s := range p.subs {
				if may := p.model.MaySubscribe(s.Subject, s.Queue); may == slices.Contains(ended, s) {
					t.Fatalf("%+v: %q %q ended: %v", p.model, s.Subject, s.Queue, may)
				} else if may {
					kept = append(kept, s)
				}
			}
			p.subs = kept
		}
		for i := range 3 {
			p := &party{name: fmt.Sprint(i)}
			p.port = r.Attach(p.name, received{p.name, &got}, EachSub)
			parties = append(parties, p)
			permit(p)
		}
		pick := func() *party { return rapid.SampledFrom(parties).Draw(t, "party") }
		t.Repeat(map[string]func(*rapid.T){
			"permit": func(*rapid.T) { permit(pick()) },
			"subscribe": func(*rapid.T) {
				p := pick()
				s := &msg.Sub{Subject: drawFilter(t), Queue: rapid.SampledFrom([]string{"", "q", "q.1", "other"}).Draw(t, "queue"), SID: fmt.Append(nil, len(p.subs))}
				err := p.port.Subscribe(s)
				if (err == nil) != p.model.MaySubscribe(s.Subject, s.Queue) {
					t.Fatalf("%+v: subscribe %q %q: %v", p.model, s.Subject, s.Queue, err)
				}
				if err == nil {
					p.subs = append(p.subs, s)
				}
			},
			"publish": func(*rapid.T) {
				p, subject := pick(), rapid.SampledFrom(testkit.LawSubjects).Draw(t, "subject")
				got = nil
				var rc msg.Receipt
				var plain []string
				groups := map[string]int{} // members that may have it
				for _, to := range parties {
					for _, s := range to.subs {
						if testkit.Matches(s.Subject, subject) && to.model.MayReceive(subject, s.Queue) {
							if s.Queue == "" {
								plain = append(plain, to.name+" "+string(s.SID))
							} else {
								groups[s.Queue]++
							}
						}
					}
				}
				rc = p.port.Publish(&msg.Msg{Subject: []byte(subject)})
				p.port.Flush()
				if may := p.model.MayPublish(subject); may == (rc.Refused == msg.Forbidden) {
					t.Fatalf("%+v: publish %q: %+v", p.model, subject, rc)
				} else if !may {
					if len(got) > 0 {
						t.Fatalf("forbidden, and %q got it", got)
					}
					return
				}
				if len(got) != len(plain)+len(groups) {
					t.Fatalf("%q went to %q; may have it: %q and one of each of %v", subject, got, plain, groups)
				}
				for _, want := range plain {
					if i := slices.Index(got, want); i < 0 {
						t.Fatalf("%q went to %q and not to %q", subject, got, want)
					} else {
						got = slices.Delete(got, i, i+1)
					}
				}
			},
		})
	})
}

// Permissions are read from a file by people; whatever they write, either it is
// refused or asking is safe, and a filter that may be subscribed to delivers
// nothing that is denied.
func FuzzPermissions(f *testing.F) {
	f.Add("a.>", "a.b q", "a.*", "a.b", "q")
	f.Add("*", "> >", "a.>", "b", "")
	f.Add("a b", "", "..", "a\x00", "q r")
	f.Add(">", "a.* *.x", "a.>", "a.b.c", "y.x")
	f.Fuzz(func(t *testing.T, allow, deny, filter, subject, queue string) {
		p := &Permissions{Publish: SubjectList{Allow: []string{allow}, Deny: []string{subject}}, Subscribe: SubjectList{Allow: []string{allow}, Deny: []string{deny}}}
		if rt, err := newRights(p); err == nil && rt.mayPublish([]byte(subject)) {
			t.Fatalf("publish %q though it is denied", subject)
		}
		p.Publish = SubjectList{}
		rt, err := newRights(p)
		if err != nil || !msg.ValidFilter(filter) || !msg.ValidSubject(subject) || queue != "" && !msg.ValidQueue(queue) {
			return
		}
		if !rt.maySubscribe(filter, queue) {
			return
		}
		if words := strings.Fields(allow); len(words) == 1 && msg.Match(filter, subject) && !msg.Match(allow, subject) {
			t.Fatalf("allow %q: %q in %q would get %q", allow, filter, queue, subject)
		}
		if msg.ValidFilter(deny) && msg.Match(deny, subject) && rt.mayReceive([]byte(subject), queue) {
			t.Fatalf("deny %q: %q gets %q", deny, filter, subject)
		}
	})
}
