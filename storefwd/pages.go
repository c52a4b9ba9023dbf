package storefwd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"os"
	"slices"
)

// This file reads the pages of a bbolt file without bbolt, which trusts what it
// reads: on a broken file it panics, asks for absurd amounts of memory or reads outside its
// memory map. Here every number is checked before it is used.
//
//	page     0 id (u64)   8 flags (u16)   10 count (u16)   12 overflow (u32)   16 elements
//	leaf     0 flags      4 position, from the element     8 key length   12 value length
//	branch   0 position   4 key length                     8 page
//	meta    16 magic  20 version  24 page size  32 root  48 freelist  56 pages  64 transaction  72 FNV-1a of 16…72

// ErrDamaged says that a file's contents cannot be what was written.
var ErrDamaged = errors.New("damaged")

const (
	pageHeader = 16
	elemSize   = 16

	pageBranch   = 1
	pageLeaf     = 2
	pageFreelist = 16

	boltMagic = 0xED0CDAED
)

var le = binary.LittleEndian

type boltMeta struct {
	root, freelist, pages, txid uint64
}

// decodeBoltMeta reads a meta page.
func decodeBoltMeta(p []byte) (m boltMeta, ok bool) {
	if len(p) < 80 || le.Uint32(p[16:]) != boltMagic || le.Uint32(p[20:]) != 2 || le.Uint32(p[24:]) != boltPage {
		return m, false
	}
	sum := fnv.New64a()
	sum.Write(p[16:72])
	return boltMeta{root: le.Uint64(p[32:]), freelist: le.Uint64(p[48:]), pages: le.Uint64(p[56:]), txid: le.Uint64(p[64:])},
		sum.Sum64() == le.Uint64(p[72:])
}

// eachLeaf calls fn for the elements of a leaf page with all its overflow. It
// reports whether p is such a page; elements that do not lie in it are left out.
func eachLeaf(p []byte, fn func(flags uint32, key, value []byte)) bool {
	if len(p) < pageHeader || le.Uint16(p[8:]) != pageLeaf {
		return false
	}
	l := level{page: p, leaf: true}
	for i := range int(le.Uint16(p[10:])) {
		head := pageHeader + i*elemSize
		if head+elemSize > len(p) {
			return false
		}
		if at, size := l.place(i); at+size <= uint64(len(p)) {
			key, value := l.element(i)
			fn(le.Uint32(p[head:]), key, value)
		}
	}
	return true
}

// checker walks the tree of a file down to its leaves, which it does not read:
// whoever reads a record checks it anyway.
type checker struct {
	f    io.ReaderAt
	meta boltMeta
	used []uint64 // a bit for each page that has one purpose already
	page []byte
}

// checkPages looks at the structure of a bbolt file: the error is ErrDamaged, or
// that of the disk.
func checkPages(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	c := &checker{f: f, page: make([]byte, boltPage)}
	if err := c.readMeta(); err != nil {
		return err
	}
	if c.meta.pages < 4 || c.meta.pages > uint64(info.Size())/boltPage {
		return fmt.Errorf("%w: %d pages are more than the file has", ErrDamaged, c.meta.pages)
	}
	c.used = make([]uint64, c.meta.pages/64+1)
	if err := c.checkFreelist(); err != nil {
		return err
	}
	return c.checkBuckets()
}

func (c *checker) readMeta() error {
	found := false
	for i := range int64(2) {
		if _, err := c.f.ReadAt(c.page, i*boltPage); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		if m, ok := decodeBoltMeta(c.page); ok && (!found || m.txid > c.meta.txid) {
			c.meta, found = m, true
		}
	}
	if !found {
		return fmt.Errorf("%w: both meta pages", ErrDamaged)
	}
	return nil
}

// freeSpace is how much of a bbolt file holds nothing: pages that were let go, and what
// lies behind the last one. It is 0 if that cannot be found out.
func freeSpace(f io.ReaderAt, size int64) int64 {
	c := &checker{f: f, page: make([]byte, boltPage)}
	if c.readMeta() != nil || c.meta.pages > uint64(size)/boltPage {
		return 0
	}
	free := size - int64(c.meta.pages)*boltPage
	if c.meta.freelist >= c.meta.pages {
		return free
	}
	if _, err := f.ReadAt(c.page, int64(c.meta.freelist)*boltPage); err != nil || le.Uint16(c.page[8:]) != pageFreelist {
		return free
	}
	n := uint64(le.Uint16(c.page[10:]))
	if n == 0xFFFF {
		n = le.Uint64(c.page[pageHeader:])
	}
	return free + int64(min(n, c.meta.pages))*boltPage
}

// read fetches a page whose type must be among flags, with its overflow, and
// claims these pages.
func (c *checker) read(id uint64, flags uint16) ([]byte, error) {
	if err := c.claim(id); err != nil {
		return nil, err
	}
	if _, err := c.f.ReadAt(c.page, int64(id)*boltPage); err != nil {
		return nil, err
	}
	more := uint64(le.Uint32(c.page[12:]))
	if le.Uint64(c.page) != id || le.Uint16(c.page[8:])&flags == 0 || id+more >= c.meta.pages || more > c.meta.pages/256+1 {
		return nil, fmt.Errorf("%w: page %d is not what it should be", ErrDamaged, id)
	}
	if more == 0 {
		return c.page, nil
	}
	p := make([]byte, (more+1)*boltPage)
	for i := range more {
		if err := c.claim(id + 1 + i); err != nil {
			return nil, err
		}
	}
	_, err := c.f.ReadAt(p, int64(id)*boltPage)
	return p, err
}

func (c *checker) claim(id uint64) error {
	if id < 2 || id >= c.meta.pages || c.used[id/64]>>(id%64)&1 != 0 {
		return fmt.Errorf("%w: page %d is used twice, or outside", ErrDamaged, id)
	}
	c.used[id/64] |= 1 << (id % 64)
	return nil
}

// checkFreelist claims all free pages: a live one among them would be overwritten.
func (c *checker) checkFreelist() error {
	if c.meta.freelist == math.MaxUint64 {
		return nil // bbolt will look for itself
	}
	p, err := c.read(c.meta.freelist, pageFreelist)
	if err != nil {
		return err
	}
	n, at := uint64(le.Uint16(p[10:])), uint64(pageHeader)
	if n == 0xFFFF {
		n, at = le.Uint64(p[pageHeader:]), pageHeader+8
	}
	if n > (uint64(len(p))-at)/8 {
		return fmt.Errorf("%w: the freelist is longer than its pages", ErrDamaged)
	}
	for ; n > 0; n, at = n-1, at+8 {
		if err := c.claim(le.Uint64(p[at:])); err != nil {
			return err
		}
	}
	return nil
}

// checkBuckets walks the root and the buckets in it.
func (c *checker) checkBuckets() (err error) {
	root, err := c.read(c.meta.root, pageLeaf|pageBranch)
	if err != nil {
		return err
	}
	var roots []uint64
	names := 0
	ok := eachLeaf(root, func(flags uint32, key, value []byte) {
		if flags == 1 && len(value) >= 16 && (bytes.Equal(key, recordsBucket) || bytes.Equal(key, stateBucket)) {
			names++
			if r := le.Uint64(value); r != 0 { // 0: the bucket is small and lies in value
				roots = append(roots, r)
			}
		}
	})
	if !ok || names != 2 {
		return fmt.Errorf("%w: a bucket is missing", ErrDamaged)
	}
	for _, r := range roots {
		depth, err := c.depth(r)
		if err == nil {
			err = c.walk(r, depth)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// depth is how many branch pages lie above each leaf.
func (c *checker) depth(id uint64) (n int, err error) {
	head := make([]byte, pageHeader+elemSize)
	for n < 16 {
		if id >= c.meta.pages {
			break
		}
		if _, err := c.f.ReadAt(head, int64(id)*boltPage); err != nil {
			return 0, err
		}
		switch le.Uint16(head[8:]) {
		case pageLeaf:
			return n, nil
		case pageBranch:
			id = le.Uint64(head[pageHeader+8:])
			n++
			continue
		}
		break
	}
	return 0, fmt.Errorf("%w: page %d is neither branch nor leaf", ErrDamaged, id)
}

func (c *checker) walk(id uint64, depth int) error {
	if depth == 0 {
		return c.claim(id)
	}
	p, err := c.read(id, pageBranch)
	if err != nil {
		return err
	}
	n := int(le.Uint16(p[10:]))
	if n == 0 || pageHeader+n*elemSize > len(p) {
		return fmt.Errorf("%w: branch page %d has %d elements", ErrDamaged, id, n)
	}
	children := make([]uint64, 0, n)
	l := level{page: p, n: n}
	if err := l.check(); err != nil {
		return err
	}
	for l.at = range n {
		children = append(children, l.child())
	}
	for _, child := range children {
		if err := c.walk(child, depth-1); err != nil {
			return err
		}
	}
	return nil
}

// scanPages calls fn with the key and value of every element of a leaf page that
// can be read in f, wherever it lies, current or left behind. The bytes are lent. It
// returns how many pages could not be read at all.
func scanPages(f io.ReaderAt, size int64, fn func(key, value []byte) error) (unreadable int, err error) {
	pages := (size + boltPage - 1) / boltPage
	page := make([]byte, boltPage)
	var long []byte
	for id := int64(0); id < pages; {
		n, readErr := readPages(f, page, id)
		if n < pageHeader {
			if readErr != nil && readErr != io.EOF {
				unreadable++
			}
			id++
			continue
		}
		p, more := page[:n], int64(le.Uint32(page[12:]))
		if le.Uint64(p) != uint64(id) || le.Uint16(p[8:]) != pageLeaf || more > maxRecord/boltPage {
			id++
			continue
		}
		if more > 0 {
			long = slices.Grow(long[:0], int(more+1)*boltPage)[:(more+1)*boltPage]
			n, _ := readPages(f, long, id)
			p = long[:n]
		}
		good := false
		visit := func(flags uint32, key, value []byte) {
			if err == nil && flags == 0 {
				good = good || len(key) == singleKey && isRecord(value) || len(key) == blockKey && isBlock(value)
				err = fn(key, value)
			}
		}
		eachLeaf(p, func(flags uint32, key, value []byte) {
			if flags != 0 && len(value) > 16 && le.Uint64(value) == 0 { // a small bucket, which lies here
				eachLeaf(value[16:], visit)
			}
			visit(flags, key, value)
		})
		if err != nil {
			return unreadable, err
		}
		if id++; good {
			id += more // its overflow holds no pages
		}
	}
	return unreadable, nil
}

// readPages reads what it can of b from page id on; a disk that fails is asked again.
func readPages(f io.ReaderAt, b []byte, id int64) (n int, err error) {
	for range 3 {
		if n, err = f.ReadAt(b, id*boltPage); err == nil || err == io.EOF {
			break
		}
	}
	return n, err
}

func isBlock(b []byte) bool {
	_, _, err := parseBlock(b)
	return err == nil
}

func isRecord(b []byte) bool {
	_, _, err := parseRecord(b)
	return err == nil
}
