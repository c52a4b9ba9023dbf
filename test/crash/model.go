package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// disk models a directory on a file system that promises as little as it may: data
// is safe once the file was synced, names once their directory was, and whatever is
// not may be there or not, each for itself. Names are relative to the root, which is
// "."; what is not under it is nobody's business here. Owned by one goroutine.
type disk struct {
	root    string            // static
	names   map[string]*inode // synced
	cache   map[string]*inode // as processes see them
	pending []*op             // not synced, in order
	version int               // counts syncs that changed something
	cursor  map[*inode]int64  // where the next write(2) goes
	ops     int
	lying   bool // static; syncs do nothing: the control
}

// inode is a file or a directory. data is never written in place: snapshots share it.
type inode struct {
	dir   bool
	data  []byte // synced
	cache []byte // as processes see it
}

// op is a change that is not synced yet: of a file's data, or of names.
type op struct {
	id   int
	what string // for people
	done int    // line of the log by which a sync covers it

	file *inode // nil: names change
	off  int64
	data []byte // written at off; nil: the size becomes off

	names  map[string]*inode // nil: the name goes
	parent string            // directory whose sync makes that safe
}

func newDisk(root string, lying bool) *disk {
	return &disk{root: root, names: map[string]*inode{}, cache: map[string]*inode{}, cursor: map[*inode]int64{}, lying: lying}
}

// load takes a directory that is there and synced.
func (d *disk) load() error {
	return filepath.WalkDir(d.root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := d.rel(path)
		ino := &inode{dir: e.IsDir()}
		if !e.IsDir() {
			if ino.data, err = os.ReadFile(path); err != nil {
				return err
			}
			ino.cache = slices.Clone(ino.data)
		}
		d.names[name], d.cache[name] = ino, ino
		return nil
	})
}

// rel is the name of a path under the root.
func (d *disk) rel(path string) (name string, ok bool) {
	if path == d.root {
		return ".", true
	}
	name, ok = strings.CutPrefix(path, d.root+"/")
	return name, ok
}

// parentOf names the directory that holds a name; that of the root is "..".
func parentOf(name string) string {
	if name == "." {
		return ".."
	}
	return filepath.Dir(name)
}

func (d *disk) add(o *op) {
	d.ops++
	o.id = d.ops
	d.pending = append(d.pending, o)
}

// write is a change of a file's data: of its size to off if data is nil.
func (d *disk) write(ino *inode, off int64, data []byte, done int, what string) {
	o := &op{file: ino, off: off, data: data, done: done, what: what}
	ino.cache = o.apply(ino.cache)
	d.add(o)
}

// apply makes the change to b, in place if there is room.
func (o *op) apply(b []byte) []byte {
	end := o.off + int64(len(o.data))
	if o.data == nil && int64(len(b)) > end {
		return b[:end:end]
	}
	if grow := end - int64(len(b)); grow > 0 {
		b = append(b, make([]byte, grow)...)
	}
	copy(b[o.off:], o.data)
	return b
}

// rename is any change of names.
func (d *disk) rename(names map[string]*inode, parent string, done int, what string) {
	for name, ino := range names {
		setName(d.cache, name, ino)
	}
	d.add(&op{names: names, parent: parent, done: done, what: what})
}

func setName(m map[string]*inode, name string, ino *inode) {
	if ino == nil {
		delete(m, name)
	} else {
		m[name] = ino
	}
}

// sync makes safe what had been done to a file, or to the names in a directory,
// before line from.
func (d *disk) sync(path string, from int) {
	if d.lying {
		return
	}
	dir := ".."
	var file *inode
	if name, ok := d.rel(path); ok {
		dir = ""
		if file = d.cache[name]; file != nil && file.dir {
			dir = name
		}
	} else if path != filepath.Dir(d.root) {
		return
	}
	var data []byte
	had := len(d.pending)
	d.pending = slices.DeleteFunc(d.pending, func(o *op) bool {
		switch {
		case o.done >= from:
			return false
		case o.file != nil && o.file == file:
			if data == nil {
				data = append(make([]byte, 0, len(file.cache)), file.data...)
			}
			data = o.apply(data)
			return true
		case o.file == nil && o.parent == dir:
			for name, ino := range o.names {
				setName(d.names, name, ino)
			}
			return true
		}
		return false
	})
	if data != nil {
		file.data = data
	}
	if len(d.pending) < had {
		d.version++
	}
}

// step plays one call. changed says that crash states before and after it differ; an
// error is a call that the model does not know.
func (d *disk) step(c *call) (changed bool, err error) {
	switch c.name {
	case "rename", "link", "unlink", "mkdir", "rmdir", "renameat", "renameat2", "linkat", "symlinkat", "unlinkat", "mkdirat":
		return d.stepNames(c)
	case "openat":
		return d.stepOpen(c)
	case "sync", "syncfs", "truncate", "creat":
		return false, fmt.Errorf("line %d: %s is not in the model", c.from, c.name)
	}
	i := 0
	if c.name == "mmap" {
		if !bytes.Contains(c.args[2], []byte("WRITE")) || !bytes.Contains(c.args[3], []byte("SHARED")) {
			return false, nil
		}
		i = 4
	}
	path := c.fd(i)
	if c.name == "copy_file_range" || c.name == "splice" {
		path = c.fd(2)
	}
	if c.name == "fsync" || c.name == "fdatasync" {
		if !c.injected {
			d.sync(path, c.from)
		}
		return true, nil
	}
	name, ok := d.rel(path)
	if !ok || c.name == "read" {
		return false, nil
	}
	ino := d.cache[name]
	if ino == nil {
		return false, fmt.Errorf("line %d: %s of %s, which is not there", c.from, c.name, name)
	}
	return true, d.stepData(c, ino, name)
}

func (d *disk) stepData(c *call, ino *inode, name string) error {
	switch c.name {
	case "pwrite64":
		d.write(ino, c.number(3), c.text(1)[:c.ret], c.to, fmt.Sprintf("write %s %d+%d", name, c.number(3), c.ret))
	case "write", "writev":
		at := d.cursor[ino]
		d.write(ino, at, c.text(1)[:c.ret], c.to, fmt.Sprintf("write %s %d+%d", name, at, c.ret))
		d.cursor[ino] = at + c.ret
	case "ftruncate":
		d.write(ino, c.number(1), nil, c.to, fmt.Sprintf("truncate %s to %d", name, c.number(1)))
	case "fallocate":
		mode, end := string(c.args[1]), c.number(2)+c.number(3)
		switch {
		case mode == "0" && end > int64(len(ino.cache)):
			d.write(ino, end, nil, c.to, fmt.Sprintf("allocate %s to %d", name, end))
		case strings.Contains(mode, "PUNCH_HOLE"):
			end = min(end, int64(len(ino.cache)))
			if off := c.number(2); off < end {
				d.write(ino, off, make([]byte, end-off), c.to, fmt.Sprintf("punch %s %d+%d", name, off, end-off))
			}
		case mode != "0" && mode != "FALLOC_FL_KEEP_SIZE":
			return fmt.Errorf("line %d: fallocate mode %s is not in the model", c.from, mode)
		}
	default:
		return fmt.Errorf("line %d: %s of %s is not in the model", c.from, c.name, name)
	}
	return nil
}

func (d *disk) stepOpen(c *call) (changed bool, err error) {
	name, ok := d.rel(c.retPath)
	flags := string(c.args[2])
	if !ok || !strings.Contains(flags, "O_CREAT") && !strings.Contains(flags, "O_TRUNC") {
		return false, nil
	}
	ino := d.cache[name]
	switch {
	case ino == nil:
		ino = &inode{}
		d.rename(map[string]*inode{name: ino}, parentOf(name), c.to, "create "+name)
	case strings.Contains(flags, "O_TRUNC") && len(ino.cache) > 0:
		d.write(ino, 0, nil, c.to, "truncate "+name)
	default:
		changed = true
	}
	d.cursor[ino] = 0
	if strings.Contains(flags, "O_APPEND") {
		d.cursor[ino] = int64(len(ino.cache))
	}
	return !changed, nil
}

// stepNames plays a call whose operands are paths. The at-calls have a directory
// before each.
func (d *disk) stepNames(c *call) (changed bool, err error) {
	var paths []string
	for i := range c.args {
		if c.args[i][0] == '"' {
			paths = append(paths, string(c.text(i)))
		}
	}
	var names []string
	for _, p := range paths {
		name, ok := d.rel(p)
		if !ok {
			return false, nil
		}
		names = append(names, name)
	}
	first := names[0]
	what := strings.Join(append([]string{c.name}, names...), " ")
	switch kind := strings.TrimSuffix(strings.TrimSuffix(c.name, "2"), "at"); kind {
	case "mkdir":
		d.rename(map[string]*inode{first: {dir: true}}, parentOf(first), c.to, what)
	case "unlink", "rmdir":
		d.rename(map[string]*inode{first: nil}, parentOf(first), c.to, what)
	case "rename", "link":
		if parentOf(first) != parentOf(names[1]) || d.cache[first] == nil || d.cache[first].dir {
			return false, fmt.Errorf("line %d: %s is not in the model", c.from, what)
		}
		set := map[string]*inode{names[1]: d.cache[first]}
		if kind == "rename" {
			set[first] = nil
		}
		d.rename(set, parentOf(first), c.to, what)
	default:
		return false, fmt.Errorf("line %d: %s is not in the model", c.from, what)
	}
	return true, nil
}

// check compares the model with the directory as it really is.
func (d *disk) check() error {
	real := newDisk(d.root, false)
	if err := real.load(); err != nil {
		return err
	}
	for name := range maps.Keys(d.cache) {
		if real.cache[name] == nil {
			return fmt.Errorf("the model is wrong: %s is not there", name)
		}
	}
	for name, ino := range real.cache {
		have := d.cache[name]
		if have == nil {
			return fmt.Errorf("the model is wrong: it has no %s", name)
		}
		if have.dir != ino.dir || !bytes.Equal(have.cache, ino.cache) {
			return fmt.Errorf("the model is wrong: %s differs at %d (%d bytes, really %d)", name, differs(have.cache, ino.cache), len(have.cache), len(ino.cache))
		}
	}
	return nil
}

// differs is the first offset at which a and b differ.
func differs(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
