package table

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// A Table is a map, however many entries come and go.
func TestTableIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var got Table[int, string]
		want := map[int]string{}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			k := rapid.IntRange(0, 20).Draw(t, "key")
			v, ok := got.Get(k)
			if w, known := want[k]; ok != known || v != w {
				t.Fatalf("key %d is %q, %v; want %q, %v", k, v, ok, w, known)
			}
			if ok {
				got.Remove(k)
				delete(want, k)
			} else {
				v = rapid.String().Draw(t, "value")
				got.Put(k, v)
				want[k] = v
			}
			if keys := got.Keys(); got.Len() != len(want) || !slices.Equal(slices.Sorted(slices.Values(keys)), slices.Sorted(maps.Keys(want))) {
				t.Fatalf("keys %v, want %v", keys, want)
			}
		}
	})
}
