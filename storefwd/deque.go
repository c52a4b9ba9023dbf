package storefwd

// deque is a queue in a ring that one may also index. The zero value is empty.
type deque[T any] struct {
	ring []T // its length is a power of two
	head int
	n    int
}

func (d *deque[T]) len() int { return d.n }

// at returns a pointer to the i-th element, good until the next push.
func (d *deque[T]) at(i int) *T { return &d.ring[(d.head+i)&(len(d.ring)-1)] }

func (d *deque[T]) push(v T) {
	if d.n == len(d.ring) {
		bigger := make([]T, max(16, 2*len(d.ring)))
		for i := range d.n {
			bigger[i] = *d.at(i)
		}
		d.ring, d.head = bigger, 0
	}
	d.n++
	*d.at(d.n - 1) = v
}

// pop removes the first element and forgets it, so that it can be collected. A
// ring that has grown large is given back once empty.
func (d *deque[T]) pop() T {
	p := d.at(0)
	v := *p
	var zero T
	*p = zero
	d.head = (d.head + 1) & (len(d.ring) - 1)
	if d.n--; d.n == 0 && len(d.ring) > 4096 {
		d.ring, d.head = nil, 0
	}
	return v
}

func (d *deque[T]) clear() { *d = deque[T]{} }
