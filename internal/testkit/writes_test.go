package testkit

import (
	"strings"
	"testing"
)

func TestCountWritesReadsATrace(t *testing.T) {
	dir := t.TempDir()
	trace := strings.NewReplacer("DIR", dir).Replace(`7  write(5<DIR/a>, ""..., 8)    = 8
8  pwrite64(6<DIR/sub/b>, ""..., 100, 4096 <unfinished ...>
7  write(5<DIR/a>, ""..., 8 <unfinished ...>
8  <... pwrite64 resumed>)           = 100
7  <... write resumed>)              = -1 ENOSPC (No space left on device)
7  write(1</dev/null>, ""..., 50)      = 50
7  write(4<DIR-other/a>, ""..., 50)      = 50
7  write(9<socket:[123]>, ""..., 50)      = 50
8  writev(5<DIR/a>, [{iov_base=""..., iov_len=3}, {iov_base=""..., iov_len=4}], 2) = 7
8  copy_file_range(3</tmp/x>, NULL, 6<DIR/sub/b>, NULL, 10, 0) = 10
8  copy_file_range(6<DIR/sub/b>, NULL, 3</tmp/x>, NULL, 10, 0) = 10
8  ftruncate(6<DIR/sub/b>, 5)       = 0
8  truncate("DIR/a", 5)       = 0
8  mmap(NULL, 4096, PROT_READ, MAP_SHARED, 6<DIR/sub/b>, 0) = 0x7f578fa18000
8  mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f578fa18000
8  write(7<DIR/c (deleted)>, ""..., 1) = 1
7  write(5<DIR/a>, ""..., 9) = 18446744073709551615
8  write(5<DIR/a>, ""..., 9 <unfinished ...>
8  +++ killed by SIGKILL +++
`)
	w, mapped, err := countWrites(strings.NewReader(trace), dir)
	if err != nil || mapped != "" {
		t.Fatalf("mapped %q, %v", mapped, err)
	}
	if w.Calls != 7 || w.Bytes != 126 || w.Files[dir+"/a"] != 15 || w.Files[dir+"/sub/b"] != 110 || w.Files[dir+"/c"] != 1 {
		t.Errorf("counted %+v", w)
	}
	shared := `8  mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 6<` + dir + `/b>, 0) = 0x7f578fa18000`
	if _, mapped, err := countWrites(strings.NewReader(shared), dir); mapped != dir+"/b" || err != nil {
		t.Errorf("a file mapped for writing: %q, %v", mapped, err)
	}
}
