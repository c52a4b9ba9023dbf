//go:build amd64 || arm64 || riscv64

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// serveFUSE is the process that serves backing at mount until its standard input
// ends. A line there is the trouble from now on; it answers with how many calls
// failed, or were slow, under the one before. It must not be the process that maps
// the files: a page fault there would wait for itself.
func serveFUSE(backing, mount string) error {
	d := &fuseDisk{undo: map[uint64][]write{}}
	root := &fs.LoopbackRoot{Path: backing}
	top := &node{LoopbackNode: fs.LoopbackNode{RootData: root}, d: d}
	root.RootNode = top
	server, err := fs.Mount(mount, top, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMountStrict: true, MaxWrite: 1 << 20, FsName: "faults", Name: "faults"}})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var t trouble
		if err := json.Unmarshal(in.Bytes(), &t); err != nil {
			return err
		}
		fmt.Println(d.set(t))
	}
	return server.Unmount()
}

// fuseDisk is the state that all files of the disk share.
type fuseDisk struct {
	mu   sync.Mutex
	now  trouble            // guarded by mu
	hits int                // guarded by mu; calls that met it
	undo map[uint64][]write // guarded by mu; by inode: what was there before the writes since the last fsync
}

type write struct {
	off int64
	old []byte
}

func (d *fuseDisk) set(t trouble) (hits int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	hits, d.hits, d.now = d.hits, 0, t
	return hits
}

// answer decides how one call goes.
func (d *fuseDisk) answer(which func(trouble) syscall.Errno) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := which(d.now)
	if e == 0 || d.now.Share > 0 && rand.Float64() >= d.now.Share {
		return 0
	}
	d.hits++
	return e
}

func ofWrite(t trouble) syscall.Errno { return t.Write }
func ofSync(t trouble) syscall.Errno  { return t.Sync }
func ofMake(t trouble) syscall.Errno  { return t.Make }

// node is a directory or a file.
type node struct {
	fs.LoopbackNode
	d *fuseDisk
}

// WrapChild implements [fs.NodeWrapChilder]: what is below a node is one, too.
func (n *node) WrapChild(context.Context, fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{LoopbackNode: fs.LoopbackNode{RootData: n.RootData}, d: n.d}
}

func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if e := n.d.answer(ofMake); e == syscall.EROFS && flags&(syscall.O_WRONLY|syscall.O_RDWR) != 0 {
		return nil, 0, e
	}
	h, _, e := n.LoopbackNode.Open(ctx, flags)
	return n.wrap(h), fuse.FOPEN_KEEP_CACHE, e
}

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if e := n.d.answer(ofMake); e != 0 {
		return nil, nil, 0, e
	}
	child, h, _, e := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	return child, n.wrap(h), fuse.FOPEN_KEEP_CACHE, e
}

func (n *node) Rename(ctx context.Context, name string, parent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if e := n.d.answer(ofMake); e != 0 {
		return e
	}
	return n.LoopbackNode.Rename(ctx, name, parent, newName, flags)
}

func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	if e := n.d.answer(ofMake); e == syscall.EROFS {
		return e
	}
	return n.LoopbackNode.Unlink(ctx, name)
}

func (n *node) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if e := n.d.answer(ofMake); e != 0 {
		return e
	}
	return n.LoopbackNode.Setattr(ctx, nil, in, out)
}

func (n *node) wrap(h fs.FileHandle) fs.FileHandle {
	f, ok := h.(*fs.LoopbackFile)
	if !ok {
		return nil // the open failed
	}
	fd, _ := f.PassthroughFd()
	var st syscall.Stat_t
	syscall.Fstat(fd, &st)
	return &file{LoopbackFile: f, fd: fd, d: n.d, ino: st.Ino}
}

// file is an open file; what is not here is as on the disk behind.
type file struct {
	*fs.LoopbackFile
	fd  int
	d   *fuseDisk
	ino uint64
}

// PassthroughFd keeps the kernel from going past us.
func (f *file) PassthroughFd() (int, bool) { return 0, false }

func (f *file) Write(_ context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	if e := f.d.answer(ofWrite); e != 0 {
		return 0, e
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	old := make([]byte, len(data))
	k, _ := syscall.Pread(f.fd, old, off)
	n, err := syscall.Pwrite(f.fd, data, off)
	if list := f.d.undo[f.ino]; err == nil && len(list) < 10000 {
		f.d.undo[f.ino] = append(list, write{off, old[:max(0, min(k, n))]})
	}
	return uint32(max(0, n)), fs.ToErrno(err)
}

// Fsync makes durable what was written, or fails and forgets half of it.
func (f *file) Fsync(context.Context, uint32) syscall.Errno {
	f.d.mu.Lock()
	delay := f.d.now.Delay
	if delay > 0 {
		f.d.hits++
	}
	f.d.mu.Unlock()
	time.Sleep(delay)
	e := f.d.answer(ofSync)
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	list := f.d.undo[f.ino]
	delete(f.d.undo, f.ino)
	for i := len(list) - 1; e != 0 && i >= 0; i-- {
		if rand.IntN(2) == 0 {
			syscall.Pwrite(f.fd, list[i].old, list[i].off)
		}
	}
	return e
}

func (f *file) Allocate(ctx context.Context, off, size uint64, mode uint32) syscall.Errno {
	if e := f.d.answer(ofMake); e != 0 {
		return e
	}
	return f.LoopbackFile.Allocate(ctx, off, size, mode)
}
