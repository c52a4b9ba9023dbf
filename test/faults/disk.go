package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leafd/leafd/internal/testkit"
)

// disk is where the store lies.
type disk interface {
	// Dir is an empty directory on it.
	Dir() string
	// Break makes it fail from now on.
	Break() error
	// Mend ends that, and says how many calls failed; 0 if that is not known.
	Mend() (hits int, err error)
}

// trouble is what the FUSE disk is told to do. The zero value is a sound disk.
type trouble struct {
	Write, Sync, Make syscall.Errno // the answers to writes, to fsync, and to what makes, renames or resizes a file
	Share             float64       // of the calls that fail; 0 is all
	Delay             time.Duration // each fsync takes this long
}

// fuseMount is a disk served by a process of its own.
type fuseMount struct {
	trouble trouble
	dir     string
	in      io.WriteCloser
	out     *bufio.Reader
}

func newFUSE(t testkit.T, tr trouble) *fuseMount {
	base := t.TempDir()
	f := &fuseMount{trouble: tr, dir: filepath.Join(base, "mount")}
	backing := filepath.Join(base, "backing")
	if err := errors.Join(os.Mkdir(backing, 0o700), os.Mkdir(f.dir, 0o700)); err != nil {
		t.Fatalf("%v", err)
	}
	cmd := exec.Command("/proc/self/exe", "serve-fuse", backing, f.dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatalf("start the FUSE server: %v", err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			unix.Unmount(f.dir, unix.MNT_DETACH)
		}
	})
	f.in, f.out = in, bufio.NewReader(out)
	if _, err := f.out.ReadString('\n'); err != nil {
		t.Fatalf("the FUSE server does not start: is there /dev/fuse, and is this root? %v", err)
	}
	return f
}

func (f *fuseMount) Dir() string  { return filepath.Join(f.dir, "store") }
func (f *fuseMount) Break() error { _, err := f.tell(f.trouble); return err }
func (f *fuseMount) Mend() (hits int, err error) {
	return f.tell(trouble{})
}

func (f *fuseMount) tell(t trouble) (hits int, err error) {
	line, err := json.Marshal(t)
	if err != nil {
		return 0, err
	}
	if _, err := f.in.Write(append(line, '\n')); err != nil {
		return 0, err
	}
	answer, err := f.out.ReadString('\n')
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscan(answer, &hits)
	return hits, err
}

// loop is a small ext4 in a file.
type loop struct {
	image, dir string
	leafd      *testkit.Leafd // whose store is on it, once it runs
	break_     func(*loop) error
	mend       func(*loop) error
}

func newLoop(t testkit.T, size int64, breakIt, mend func(*loop) error) *loop {
	base := t.TempDir()
	l := &loop{image: filepath.Join(base, "image"), dir: filepath.Join(base, "mount"), break_: breakIt, mend: mend}
	f, err := os.Create(l.image)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close(), os.Mkdir(l.dir, 0o700))
	}
	if err == nil {
		err = sh("mkfs.ext4", "-q", "-m", "0", l.image)
	}
	if err == nil {
		err = l.mount()
	}
	if err != nil {
		t.Fatalf("make an ext4 on a loop device: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(l.dir, unix.MNT_DETACH) })
	return l
}

func (l *loop) mount() error {
	return sh("mount", "-o", "loop,noatime,errors=remount-ro", l.image, l.dir)
}

func (l *loop) Dir() string                 { return filepath.Join(l.dir, "store") }
func (l *loop) Break() error                { return l.break_(l) }
func (l *loop) Mend() (hits int, err error) { return 0, l.mend(l) }

// device is its name below /sys/block.
func (l *loop) device() (string, error) {
	out, err := exec.Command("losetup", "-n", "-O", "NAME", "-j", l.image).Output()
	return filepath.Base(strings.TrimSpace(string(out))), err
}

// fill leaves no free block, and free gives them back.
func (l *loop) fill() error {
	f, err := os.Create(filepath.Join(l.dir, "ballast"))
	if err != nil {
		return err
	}
	for block := make([]byte, 64<<10); len(block) >= 512; {
		if _, err := f.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
	return errors.Join(f.Sync(), f.Close())
}

func (l *loop) free() error { return os.Remove(filepath.Join(l.dir, "ballast")) }

// breakFS has ext4 find an error, after which it is read-only until it is unmounted
// and checked.
func (l *loop) breakFS() error {
	dev, err := l.device()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join("/sys/fs/ext4", dev, "trigger_fs_error"), []byte("1"), 0)
}

// check has leafd close its files, unmounts, repairs and mounts again.
func (l *loop) check() error {
	if out, err := l.leafd.Command("outbox", "release").CombinedOutput(); err != nil {
		return fmt.Errorf("leafd outbox release: %w: %s", err, out)
	}
	err := unix.Unmount(l.dir, 0)
	for end := time.Now().Add(recoverIn / 4); errors.Is(err, unix.EBUSY) && time.Now().Before(end); <-time.After(10 * time.Millisecond) {
		err = unix.Unmount(l.dir, 0) // its control socket closes after the answer
	}
	if err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	if err := sh("e2fsck", "-fy", l.image); err != nil && exitCode(err) > 1 { // 1: repaired
		return err
	}
	return l.mount()
}

func exitCode(err error) int {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return -1
}

func sh(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
