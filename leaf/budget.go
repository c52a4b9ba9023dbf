package leaf

import (
	"fmt"
	"sync/atomic"
)

// ErrBudget ends a connection that holds more than its share while all connections
// together hold more than they may.
var ErrBudget = fmt.Errorf("%w: all connections together hold too much", ErrSlowConsumer)

// Budget bounds the memory that waits for the sockets of all connections, and what they began to
// send and did not end. Those who are behind most are the first to feel it: at half of the limit publishers wait for
// whoever holds more than the others on average, above it such a connection is cut off.
// A nil Budget has no limit. Safe for all goroutines.
type Budget struct {
	limit   int64        // bytes, static
	used    atomic.Int64 // bytes
	holders atomic.Int64 // connections that hold some
	lent    atomic.Int64 // bytes; not in used
}

// NewBudget makes one of limit bytes.
func NewBudget(limit int64) *Budget { return &Budget{limit: limit} }

// Used is how many bytes wait, rounded up to whole buffers.
func (b *Budget) Used() int64 { return b.used.Load() }

// take notes n bytes more for a connection that holds held with them.
func (b *Budget) take(n, held int) {
	if b == nil {
		return
	}
	if b.used.Add(int64(n)); held == n {
		b.holders.Add(1)
	}
}

// give notes n bytes less for a connection that holds held without them.
func (b *Budget) give(n, held int) {
	if b == nil || n == 0 {
		return
	}
	if b.used.Add(-int64(n)); held == 0 {
		b.holders.Add(-1)
	}
}

// over reports whether more than part of the limit is used, and held of that by one who
// has no less than the others on average.
func (b *Budget) over(part float64, held int) bool {
	if b == nil {
		return false
	}
	used := b.used.Load()
	return float64(used) > part*float64(b.limit) && int64(held) >= used/max(1, b.holders.Load())
}

// unnoticed is what a connection may hold of what it began to send, in bytes, before that counts:
// a read ends somewhere.
const unnoticed = 8 << 10

// Hold notes that a connection's buffer for what it began to send grows or shrinks, from so many
// bytes to so many. It returns ErrBudget, and has noted nothing, if the connection must end.
func (b *Budget) Hold(from, to int) error {
	if from <= unnoticed {
		from = 0
	}
	if to <= unnoticed {
		to = 0
	}
	switch {
	case to < from:
		b.give(from-to, to)
	case to > from:
		if b.take(to-from, to); b.over(1, to) {
			b.give(to-from, from)
			return ErrBudget
		}
	}
	return nil
}

// lend takes n bytes for a buffer that is faster and not needed, or gives -n of it back. It reports
// whether there were as many: all of those together may have an eighth of the limit, on top of it,
// for nobody is cut off for them.
func (b *Budget) lend(n int) bool {
	if b == nil {
		return true
	}
	if b.lent.Add(int64(n)) > b.limit/8 && n > 0 {
		b.lent.Add(-int64(n))
		return false
	}
	return true
}
