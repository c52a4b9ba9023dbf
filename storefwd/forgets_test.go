package storefwd

import (
	"testing"
	"time"
)

func TestForgot(t *testing.T) {
	at := func(seq uint64, subject, rollup string) stored {
		return stored{ours: true, epoch: 2, seq: seq, subject: subject, rollup: rollup}
	}
	found := []stored{at(10, "a", ""), at(12, "b", ""), at(14, "a", ""), at(16, "a", ""), at(18, "c", "")}
	l := &Log{s: &Store{}, last: 40, epochs: []epochStart{{1, 1}, {2, 5}, {3, 30}}}
	for _, c := range []struct {
		name  string
		set   func(*place)
		found []stored
		whole bool
		took  map[string][]uint64 // of a subject
		not   map[string][]uint64
	}{
		{"keeps all", func(*place) {}, found, true, nil, map[string][]uint64{"a": {9, 13}, "x": {1}}},
		{"lost its beginning", func(*place) {}, found, false, map[string][]uint64{"a": {9}, "x": {1}}, map[string][]uint64{"a": {11}, "x": {17}}},
		{"has none", func(p *place) { p.info.Config.MaxPerSubject = 1 }, nil, false, nil, map[string][]uint64{"a": {9}}},
		{"last value", func(p *place) { p.info.Config.MaxPerSubject = 1 }, found, true,
			map[string][]uint64{"a": {9, 15}, "b": {11}}, map[string][]uint64{"b": {13}, "a": {17}, "x": {1}}},
		{"two values", func(p *place) { p.info.Config.MaxPerSubject = 2 }, found, true,
			map[string][]uint64{"a": {9, 13}}, map[string][]uint64{"a": {15}, "b": {11}, "c": {1}}},
		{"takes no third", func(p *place) { p.info.Config.MaxPerSubject, p.info.Config.DiscardPerSubject = 1, true }, found, true,
			nil, map[string][]uint64{"a": {9, 15}, "b": {11}}},
		{"stores under other subjects", func(p *place) { p.info.Config.MaxPerSubject, p.info.Config.Transform = 1, []byte(`{}`) }, found, true,
			nil, map[string][]uint64{"a": {9, 15}}},
		{"rollup of a subject", func(p *place) { p.info.Config.Rollup = true }, []stored{at(10, "a", "sub"), at(12, "b", "")}, true,
			map[string][]uint64{"a": {9}}, map[string][]uint64{"b": {9, 11}, "a": {11}}},
		{"rollup of all", func(p *place) { p.info.Config.Rollup = true }, []stored{at(10, "a", "all"), at(12, "b", "")}, true,
			map[string][]uint64{"a": {9}, "b": {9}}, map[string][]uint64{"b": {11}}},
		{"lost its beginning before that", func(p *place) { p.info.State.FirstTime = time.Unix(898, 0) }, found, false,
			nil, map[string][]uint64{"a": {9}, "x": {1}}},
		{"does not say its time", func(p *place) { p.info.Now = time.Time{} }, found, false,
			nil, map[string][]uint64{"a": {9}, "x": {1}}},
	} {
		p := &place{top: 18, filters: []string{">"}}
		p.info.Now = time.Unix(1000, 0)
		p.info.State.FirstTime = time.Unix(900, 0)
		c.set(p)
		p.gone = p.forgot(l, c.found, c.whole)
		for want, by := range map[bool]map[string][]uint64{true: c.took, false: c.not} {
			for subject, seqs := range by {
				for _, seq := range seqs {
					if got := p.took(&Record{Seq: seq, Subject: []byte(subject), Age: 101 * time.Second}); got != want {
						t.Errorf("%s: took %s %d: %v", c.name, subject, seq, got)
					}
				}
			}
		}
		if p.took(&Record{Seq: 19, Subject: []byte("a")}) || p.gone.below > 0 || p.gone.all > 0 || p.gone.of != nil {
			t.Errorf("%s: what is above all that was found: %+v", c.name, p.gone)
		}
	}
}

// What a run wrote is known by its end: a crash may have made the log forget what the hub has,
// and the next run gave the sequences again.
func TestBehind(t *testing.T) {
	l := &Log{s: &Store{}, last: 40, epochs: []epochStart{{2, 5}, {3, 30}}}
	for _, c := range []struct {
		m     stored
		bound uint64
		wrote bool
	}{
		{stored{ours: true, epoch: 2, seq: 5}, 5, true},
		{stored{ours: true, epoch: 2, seq: 29}, 29, true},
		{stored{ours: true, epoch: 2, seq: 30}, 30, false},
		{stored{ours: true, epoch: 2, seq: 99}, 30, false},
		{stored{ours: true, epoch: 3, seq: 30}, 30, true},
		{stored{ours: true, epoch: 3, seq: 40}, 40, true},
		{stored{ours: true, epoch: 3, seq: 41}, 41, false},
		{stored{ours: true, epoch: 3, seq: 99}, 41, false},
		{stored{ours: true, epoch: 3, seq: 29}, 29, false},
		{stored{ours: true, epoch: 1, seq: 3}, 0, false},
		{stored{ours: true, epoch: 4, seq: 35}, 0, false},
		{stored{epoch: 3, seq: 35}, 0, false},
	} {
		if bound, wrote := l.behind(c.m); bound != c.bound || wrote != c.wrote {
			t.Errorf("%+v: %d %v, want %d %v", c.m, bound, wrote, c.bound, c.wrote)
		}
	}
}

// A run of which nothing is left here, for the hub had acknowledged all before it was written, was
// behind what earlier runs wrote all the same: a stream of last values got 200 older ones again.
func TestBehindARunThatIsGone(t *testing.T) {
	l := &Log{s: &Store{epoch: 9}, last: 40, epochs: []epochStart{{88, 2}, {2, 5}, {5, 30}}} // 88 is of another base
	for _, epoch := range []uint64{1, 2, 3, 5, 6, 7, 8, 9} {
		l.s.meta.Runs = append(l.s.meta.Runs, run{Epoch: epoch})
	}
	for epoch, want := range map[uint64]uint64{1: 5, 3: 30, 4: 0, 6: 41, 8: 41, 9: 0, 12: 0} {
		if bound, wrote := l.behind(stored{ours: true, epoch: epoch, seq: 35}); bound != want || wrote {
			t.Errorf("run %d: %d %v, want %d", epoch, bound, wrote, want)
		}
	}
}

// An outbox that keeps the newest of each subject does not send what a crash brings back, if the stream has
// a newer one, in whatever order it sends.
func TestSupersededByWhatTheHubHas(t *testing.T) {
	l := &Log{s: &Store{}, last: 40, epochs: []epochStart{{2, 5}}}
	p := &place{top: 18, filters: []string{">"}, gone: forgotten{mixed: true}}
	p.gone.supersedes(l, []stored{{ours: true, epoch: 2, seq: 18, subject: "a"}, {ours: true, epoch: 2, seq: 10, subject: "a"}, {ours: true, epoch: 2, seq: 12, subject: "b"}})
	for _, c := range []struct {
		subject string
		seq     uint64
		want    bool
	}{{"a", 20, false}, {"a", 17, true}, {"b", 11, true}, {"b", 13, false}, {"c", 5, false}} {
		if got := p.took(&Record{Seq: c.seq, Subject: []byte(c.subject)}); got != c.want {
			t.Errorf("%s %d: %v", c.subject, c.seq, got)
		}
	}
}
