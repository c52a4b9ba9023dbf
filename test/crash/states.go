package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// Sizes that a disk writes whole: a sector, and the page of a cache or of flash.
const (
	sector = 512
	page   = 4096
)

// moment is what is on the disk for certain between two operations, and what may be.
// Static: any goroutine may make states of it.
type moment struct {
	names map[string]*inode
	data  map[*inode][]byte
}

// state is one directory that a power cut may leave: a moment and the operations
// that reached the disk, some of them in part.
type state struct {
	*moment
	what string
	ops  []*op
}

func (d *disk) moment() *moment {
	m := &moment{names: maps.Clone(d.names), data: map[*inode][]byte{}}
	for _, ino := range d.names {
		m.data[ino] = ino.data
	}
	for _, o := range d.pending {
		for _, ino := range o.names {
			if ino != nil {
				m.data[ino] = ino.data
			}
		}
		if o.file != nil {
			m.data[o.file] = o.file.data
		}
	}
	return m
}

// states enumerates what a power cut may leave now. Of few pending operations it
// takes each alone and all but each, of many a sample.
func (d *disk) states(random *rand.Rand) []state {
	m, p := d.moment(), d.pending
	all := []state{{m, "nothing of what was not synced", nil}}
	add := func(what string, ops []*op) { all = append(all, state{m, what, ops}) }
	if len(p) == 0 {
		return all
	}
	add("all of it", slices.Clone(p))
	if len(p) > 1 {
		for _, i := range sample(random, len(p), 10) {
			add(fmt.Sprintf("only #%d %s", p[i].id, p[i].what), []*op{p[i]})
			if len(p) > 2 {
				add(fmt.Sprintf("all but #%d %s", p[i].id, p[i].what), slices.Delete(slices.Clone(p), i, i+1))
			}
		}
	}
	for range min(4, len(p)-2) {
		sub := slices.DeleteFunc(slices.Clone(p), func(*op) bool { return random.IntN(2) == 0 })
		add(fmt.Sprintf("%d of %d at random", len(sub), len(p)), sub)
	}
	writes := slices.DeleteFunc(slices.Clone(p), func(o *op) bool { return len(o.data) <= sector })
	if n := len(writes); n > 0 {
		d.torn(writes[n-1], 12, random, add)
		if n > 1 {
			d.torn(writes[random.IntN(n-1)], 2, random, add)
		}
	}
	return all
}

// sample draws up to n of 0…of-1, all if they are few, ascending.
func sample(random *rand.Rand, of, n int) []int {
	s := random.Perm(of)[:min(n, of)]
	slices.Sort(s)
	return s
}

// torn adds states in which one write reached the disk in part: its head or its tail,
// cut at a sector or a page, or some sectors or pages of it; among all other
// operations, and alone.
func (d *disk) torn(o *op, cuts int, random *rand.Rand, add func(string, []*op)) {
	with := func(parts ...*op) []*op {
		i := slices.Index(d.pending, o)
		return slices.Replace(slices.Clone(d.pending), i, i+1, parts...)
	}
	for _, unit := range []int{sector, page} {
		n := (len(o.data) - 1) / unit // places to cut at
		for _, i := range sample(random, n, cuts) {
			at := (i + 1) * unit
			add(fmt.Sprintf("#%d %s: head, torn at %d", o.id, o.what, at), with(o.part(0, at)))
			add(fmt.Sprintf("#%d %s: tail, torn at %d", o.id, o.what, at), with(o.part(at, len(o.data))))
		}
		if n < 2 {
			continue
		}
		for range min(cuts, 2) {
			var parts []*op
			for at := 0; at < len(o.data); at += unit {
				if random.IntN(2) == 0 {
					parts = append(parts, o.part(at, min(at+unit, len(o.data))))
				}
			}
			add(fmt.Sprintf("#%d %s: %d units of %d", o.id, o.what, len(parts), unit), with(parts...))
		}
	}
	if end := o.off + int64(len(o.data)); end > int64(len(o.file.data)) {
		add(fmt.Sprintf("#%d %s: its size alone", o.id, o.what), with(&op{id: o.id, file: o.file, off: o.off, data: make([]byte, len(o.data))}))
	}
	add(fmt.Sprintf("only the head of #%d %s", o.id, o.what), []*op{o.part(0, sector)})
}

func (o *op) part(from, to int) *op {
	return &op{id: o.id, file: o.file, off: o.off + int64(from), data: o.data[from:to]}
}

// key is the same for states that are the same directory, of one version of the disk.
func (s *state) key() uint64 {
	h := fnv.New64a()
	var b [24]byte
	for _, o := range s.ops {
		binary.LittleEndian.PutUint64(b[:], uint64(o.id))
		binary.LittleEndian.PutUint64(b[8:], uint64(o.off))
		binary.LittleEndian.PutUint64(b[16:], uint64(len(o.data)))
		h.Write(b[:])
		if len(o.data) > 0 && o.what == "" {
			h.Write(o.data[:1])
			h.Write(o.data[len(o.data)-1:])
		}
	}
	return h.Sum64()
}

// make makes the directory of the state at dir, over what is there: in RAM, too, new
// pages cost more than old ones. scratch is used and given back.
func (s *state) make(dir string, scratch []byte) ([]byte, error) {
	names := maps.Clone(s.names)
	for _, o := range s.ops {
		for name, ino := range o.names {
			setName(names, name, ino)
		}
	}
	maps.DeleteFunc(names, func(name string, ino *inode) bool {
		parent := names[parentOf(name)]
		return name != "." && (parent == nil || !parent.dir) // its directory did not make it
	})
	if err := removeOthers(dir, names); err != nil {
		return scratch, err
	}
	for _, name := range slices.Sorted(maps.Keys(names)) { // a directory before what is in it
		ino, path := names[name], filepath.Join(dir, name)
		if ino.dir {
			if err := os.MkdirAll(path, 0o700); err != nil {
				return scratch, err
			}
			continue
		}
		scratch = append(scratch[:0], s.data[ino]...)
		for _, o := range s.ops {
			if o.file == ino {
				scratch = o.apply(scratch)
			}
		}
		if err := overwrite(path, scratch); err != nil {
			return scratch, err
		}
	}
	return scratch, nil
}

// removeOthers removes from dir what is not in names.
func removeOthers(dir string, names map[string]*inode) error {
	if names["."] == nil {
		return os.RemoveAll(dir)
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if ino := names[e.Name()]; ino == nil || ino.dir || !e.Type().IsRegular() {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

func overwrite(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Truncate(int64(len(b))), f.Close())
}
