package storefwd

import (
	"testing"

	"pgregory.net/rapid"
)

// A set of ranges answers as a set of numbers does.
func TestSpans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const most = 40
		var x spans
		is := [most + 1]bool{}
		number := rapid.Uint64Range(0, most)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				from, to := number.Draw(t, "from"), number.Draw(t, "to")
				x.add(from, to)
				for i := from; i <= to; i++ {
					is[i] = true
				}
			},
			"remove": func(t *rapid.T) {
				from, to := number.Draw(t, "from"), number.Draw(t, "to")
				x.remove(from, to)
				for i := from; i <= to; i++ {
					is[i] = false
				}
			},
			"copy": func(*rapid.T) {
				var y spans
				y.copyOf(&x)
				x = y
			},
			"": func(t *rapid.T) { checkSpans(t, &x, is[:], number.Draw(t, "from"), number.Draw(t, "to")) },
		})
	})
}

func checkSpans(t *rapid.T, x *spans, is []bool, from, to uint64) {
	n := uint64(0)
	for i, in := range is {
		if in {
			n++
		}
		if x.has(uint64(i)) != in {
			t.Fatalf("has(%d) is %v: %v", i, !in, x.s)
		}
	}
	for i, s := range x.s {
		if s.From > s.To || i > 0 && s.From <= x.s[i-1].To+1 {
			t.Fatalf("not apart and ascending: %v", x.s)
		}
	}
	if x.n != n {
		t.Fatalf("it counts %d of %d: %v", x.n, n, x.s)
	}
	if from == 0 || from > to {
		return
	}
	first, last := uint64(0), uint64(0)
	for i := from; i <= to; i++ {
		if !is[i] {
			if last = i; first == 0 {
				first = i
			}
		}
	}
	if lo, hi := x.firstGap(from, to); first == 0 && lo <= hi || first > 0 && (lo != first || hi > to || hi < lo || is[hi] || hi < to && !is[hi+1]) {
		t.Fatalf("the first gap of %d to %d is %d to %d: %v", from, to, lo, hi, x.s)
	}
	if lo, hi := x.lastGap(from, to); first == 0 && lo <= hi || first > 0 && (hi != last || lo < from || hi < lo || is[lo] || lo > from && !is[lo-1]) {
		t.Fatalf("the last gap of %d to %d is %d to %d: %v", from, to, lo, hi, x.s)
	}
}
