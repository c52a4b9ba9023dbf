package table

// Table is a map that is a plain list while it is short: most connections have a
// handful of subscriptions, and a map costs them some 200 bytes. The zero value is
// empty. Its owner guards it.
type Table[K comparable, V any] struct {
	list []pair[K, V]
	more map[K]V // once there are too many for list, which is empty then
}

type pair[K comparable, V any] struct {
	key   K
	value V
}

const shortTable = 8

// Len is how many there are.
func (t *Table[K, V]) Len() int { return len(t.list) + len(t.more) }

func (t *Table[K, V]) find(key K) int {
	for i := range t.list {
		if t.list[i].key == key {
			return i
		}
	}
	return -1
}

// Get returns the value for key, if there is one.
func (t *Table[K, V]) Get(key K) (v V, ok bool) {
	if i := t.find(key); i >= 0 {
		return t.list[i].value, true
	}
	v, ok = t.more[key]
	return v, ok
}

// Put adds what is not there yet.
func (t *Table[K, V]) Put(key K, v V) {
	switch {
	case t.more != nil:
		t.more[key] = v
	case len(t.list) < shortTable:
		t.list = append(t.list, pair[K, V]{key, v})
	default:
		t.more = make(map[K]V, 2*shortTable)
		for _, p := range t.list {
			t.more[p.key] = p.value
		}
		t.more[key] = v
		t.list = nil
	}
}

// Remove forgets key.
func (t *Table[K, V]) Remove(key K) {
	if i := t.find(key); i >= 0 {
		last := len(t.list) - 1
		t.list[i] = t.list[last]
		t.list[last] = pair[K, V]{}
		t.list = t.list[:last]
	}
	if delete(t.more, key); len(t.more) == 0 {
		t.more = nil
	}
}

// Keys returns a copy of the keys, in no order.
func (t *Table[K, V]) Keys() []K {
	all := make([]K, 0, t.Len())
	for _, p := range t.list {
		all = append(all, p.key)
	}
	for k := range t.more {
		all = append(all, k)
	}
	return all
}
