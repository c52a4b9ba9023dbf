package storefwd

import (
	"bytes"
	"fmt"
	"sort"
)

// This file reads the buckets of a bbolt file in the order of their keys. bbolt's own cursor
// believes the pages: where the disk has lost a write, one is older than its parent knows,
// and a leaf that was a branch then leads it in a circle, for ever and with ever more memory.
// Here leaves lie at one depth, and keys ascend, or the file is damaged.

// walker is a place between two elements of a bucket. Owned by one goroutine. It is good for
// as long as the transaction that it was made in, and so is what it lends.
type walker struct {
	pages []byte  // of the memory map, those that the transaction knows of
	root  uint64  // page of the bucket's root; of no use if the bucket is small
	small []byte  // the only page of a bucket that has none of its own, or nil
	path  []level // from the root to a leaf
	depth int     // of all leaves; -1 while that is not known
}

// level is a page, and the element of a branch that leads on, or that of a leaf that is next.
type level struct {
	page  []byte
	leaf  bool
	at, n int
}

// maxDepth is more than a file of any size has.
const maxDepth = 16

// walkPages finds a bucket among those that the root page of a file names.
func walkPages(pages []byte, root uint64, bucket []byte) (*walker, error) {
	w := &walker{pages: pages, root: root, depth: -1}
	if err := w.seek(bucket); err != nil {
		return nil, err
	}
	name, value, err := w.next()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(name, bucket) || len(value) < 16 {
		return nil, fmt.Errorf("%w: a bucket is missing", ErrDamaged)
	}
	if w.depth, w.root = -1, le.Uint64(value); w.root == 0 {
		w.small = value[16:]
	}
	return w, nil
}

// seek goes before the first key that is not below key.
func (w *walker) seek(key []byte) error {
	w.path = w.path[:0]
	err := w.enterRoot()
	for err == nil {
		top := w.top()
		top.at = sort.Search(top.n, func(i int) bool { return bytes.Compare(top.key(i), key) >= 0 })
		if top.leaf {
			return nil
		}
		if top.at > 0 && (top.at == top.n || !bytes.Equal(top.key(top.at), key)) {
			top.at-- // a branch has the first key of each page below
		}
		err = w.enter(top.child())
	}
	return err
}

// next passes the next element, and prev the one before. The key is nil at the end.
func (w *walker) next() (key, value []byte, err error) {
	for {
		if top := w.top(); top.at < top.n {
			top.at++
			key, value = top.element(top.at - 1)
			return key, value, nil
		}
		if more, err := w.turn(1); !more || err != nil {
			return nil, nil, err
		}
	}
}

func (w *walker) prev() (key, value []byte, err error) {
	for {
		if top := w.top(); top.at > 0 {
			top.at--
			key, value = top.element(top.at)
			return key, value, nil
		}
		if more, err := w.turn(-1); !more || err != nil {
			return nil, nil, err
		}
	}
}

// each calls fn for every element.
func (w *walker) each(fn func(key, value []byte) error) error {
	err := w.seek(nil)
	for err == nil {
		var k, v []byte
		if k, v, err = w.next(); k == nil {
			return err
		}
		if err == nil {
			err = fn(k, v)
		}
	}
	return err
}

// turn goes to the beginning of the next leaf (by 1) or to the end of the one before (by -1).
// It reports whether there is one.
func (w *walker) turn(by int) (bool, error) {
	up := len(w.path) - 2
	for up >= 0 && (w.path[up].at+by < 0 || w.path[up].at+by >= w.path[up].n) {
		up--
	}
	if up < 0 {
		return false, nil
	}
	from := *w.top()
	w.path = w.path[:up+1]
	w.top().at += by
	for !w.top().leaf {
		if err := w.enter(w.top().child()); err != nil {
			return false, err
		}
		switch top := w.top(); {
		case by < 0 && top.leaf:
			top.at = top.n
		case by < 0:
			top.at = top.n - 1
		}
	}
	low, high := from, *w.top()
	if by < 0 {
		low, high = high, low
	}
	if low.n > 0 && high.n > 0 && bytes.Compare(low.key(low.n-1), high.key(0)) >= 0 {
		return false, errDisorder
	}
	return true, nil
}

// sound looks at the pages in which keys from low to high are, or would be, and at one leaf
// before and two behind: bbolt merges a leaf with one beside it, and the first key behind
// high may go too, if it is that of a block.
func (w *walker) sound(low, high []byte) error {
	back, err := false, w.seek(low)
	if err == nil {
		back, err = w.turn(-1)
	}
	if back && err == nil {
		_, err = w.turn(1)
	}
	more, behind := true, 0
	for more && err == nil && behind < 2 {
		if more, err = w.turn(1); more && err == nil && w.top().n > 0 && bytes.Compare(w.top().key(0), high) > 0 {
			behind++
		}
	}
	return err
}

func (w *walker) top() *level { return &w.path[len(w.path)-1] }

func (w *walker) enterRoot() error {
	if w.small != nil {
		return w.add(w.small)
	}
	return w.enter(w.root)
}

// enter goes one level down.
func (w *walker) enter(id uint64) error {
	count := uint64(len(w.pages)) / boltPage
	if id < 2 || id >= count {
		return fmt.Errorf("%w: page %d is outside", ErrDamaged, id)
	}
	page := w.pages[id*boltPage:]
	more := uint64(le.Uint32(page[12:]))
	if le.Uint64(page) != id || more >= count-id {
		return fmt.Errorf("%w: page %d is not what it should be", ErrDamaged, id)
	}
	return w.add(page[:(more+1)*boltPage])
}

// add checks a page, all but the values on it, and goes there.
func (w *walker) add(page []byte) error {
	if len(page) < pageHeader {
		return fmt.Errorf("%w: a page of %d bytes", ErrDamaged, len(page))
	}
	l := level{page: page, n: int(le.Uint16(page[10:])), leaf: le.Uint16(page[8:]) == pageLeaf}
	depth := len(w.path)
	if l.leaf && w.depth < 0 {
		w.depth = depth
	}
	branch := le.Uint16(page[8:]) == pageBranch && l.n > 0 && depth < maxDepth && (w.depth < 0 || depth < w.depth)
	if !branch && !(l.leaf && depth == w.depth) || pageHeader+l.n*elemSize > len(page) {
		return fmt.Errorf("%w: page %d is not what its parent takes it for", ErrDamaged, le.Uint64(page))
	}
	if err := l.check(); err != nil {
		return err
	}
	w.path = append(w.path, l)
	return nil
}

// check reports whether all elements lie on the page, with ascending keys. Their heads do.
func (l *level) check() error {
	var last []byte
	for i := range l.n {
		at, size := l.place(i)
		if at+size > uint64(len(l.page)) {
			return fmt.Errorf("%w: an element of page %d is outside", ErrDamaged, le.Uint64(l.page))
		}
		key := l.key(i)
		if i > 0 && bytes.Compare(last, key) >= 0 {
			return errDisorder
		}
		last = key
	}
	return nil
}

// place is where the key of an element is, and how long that is with its value.
func (l *level) place(i int) (at, size uint64) {
	at = uint64(pageHeader + i*elemSize)
	head := l.page[at:]
	if l.leaf {
		return at + uint64(le.Uint32(head[4:])), uint64(le.Uint32(head[8:])) + uint64(le.Uint32(head[12:]))
	}
	return at + uint64(le.Uint32(head)), uint64(le.Uint32(head[4:]))
}

func (l *level) key(i int) []byte {
	at, size := l.place(i)
	if l.leaf {
		size = uint64(le.Uint32(l.page[pageHeader+i*elemSize+8:]))
	}
	return l.page[at : at+size : at+size]
}

// element is one of a leaf.
func (l *level) element(i int) (key, value []byte) {
	at, size := l.place(i)
	key = l.key(i)
	return key, l.page[at+uint64(len(key)) : at+size : at+size]
}

// child is the page that a branch leads on to.
func (l *level) child() uint64 { return le.Uint64(l.page[pageHeader+l.at*elemSize+8:]) }
