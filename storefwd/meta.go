package storefwd

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// meta is the file that makes an epoch: {"format":2,"base":…,"boots":…,"node":…,"sum":…}.
// It is replaced, never changed in place, once at each open and when the time becomes known.
type meta struct {
	Format int      `json:"format"`
	Base   uint32   `json:"base"`            // random, drawn when the store was created, and on each new board
	Boots  uint64   `json:"boots"`           // opens under this base, and in the low drawBits what was drawn for this one
	Opens  uint64   `json:"opens,omitempty"` // of the store
	Node   string   `json:"node"`
	Nodes  []string `json:"nodes,omitempty"`  // names before this one, on this board
	Board  []string `json:"board,omitempty"`  // what Options.Board said since Base was drawn, the last ones
	Former []uint32 `json:"former,omitempty"` // bases before this one, the last ones
	Runs   []run    `json:"runs,omitempty"`   // the last ones, this one at the end
	Sum    string   `json:"sum"`              // crc32c of the object with an empty sum
}

const (
	metaFile   = "meta.json"
	metaFormat = 2 // 1: every record of store.db is single
	bootBits   = 32
	drawBits   = 16
	maxFormer  = 16
	maxParts   = 32
)

// epoch puts the random base above the count of opens, and what was drawn for this open below
// it. A store that was wiped and made anew has another base, and so has a copy that another
// board uses. One that was restored from a copy on its board counts on from the same number
// and draws something else, but for one case in 65,536. So the ids of none of them meet, and
// no clock has a say in it.
func (m *meta) epoch() uint64 { return uint64(m.Base)<<bootBits + m.Boots }

// next counts one more open, on this board. A store that has used its numbers up, or finds
// itself on another board, goes on under another base.
func (m *meta) next(board []string) {
	if m.Opens == 0 {
		m.Opens = min(m.Boots, 1<<24) // of a version without this count: no less
	}
	m.Opens++
	count := m.Boots>>drawBits + 1
	if count>>(bootBits-drawBits) > 0 || m.Base < leastBase || m.moved(board) {
		m.rebase()
		m.Board, count = nil, 1
	}
	m.Boots = count<<drawBits | uint64(binary.BigEndian.Uint16(random(2)))
	m.note(board)
}

// moved reports whether nothing of the board that had the store is on this one. Then it was
// copied with the card that it lay on, perhaps to a hundred boards.
func (m *meta) moved(board []string) bool {
	known := func(part string) bool { return slices.Contains(m.Board, part) }
	return len(m.Board) > 0 && len(board) > 0 && !slices.ContainsFunc(board, known)
}

// note keeps what is on this board, beside what was: a card or a port may be exchanged.
func (m *meta) note(board []string) {
	for _, part := range board {
		if !slices.Contains(m.Board, part) {
			m.Board = append(slices.Clip(m.Board), part)
		}
	}
	m.Board = m.Board[max(0, len(m.Board)-maxParts):]
}

// rename keeps the name until now: the hub has messages under it.
func (m *meta) rename(node string) {
	m.Nodes = slices.DeleteFunc(append(slices.Clone(m.Nodes), m.Node), func(n string) bool { return n == node })
	m.Nodes = m.Nodes[max(0, len(m.Nodes)-maxFormer):]
}

// keepFormer keeps a base that ids were made under before this one.
func (m *meta) keepFormer(base uint32) {
	m.Former = append(m.Former[max(0, len(m.Former)-maxFormer+1):len(m.Former):len(m.Former)], base)
}

// rebase draws another base, above this one: epochs ascend (runOf).
func (m *meta) rebase() {
	m.keepFormer(m.Base)
	above := uint64(m.Base) + 1 + uint64(binary.BigEndian.Uint32(random(4))>>12)
	switch {
	case m.Base < leastBase:
		m.Base = drawBase()
	case above <= math.MaxUint32:
		m.Base = uint32(above)
	default:
		m.Base, m.Runs = drawBase(), nil
	}
}

// run tells the opens of a store apart in its journal.
func (m *meta) run() uint16 { return uint16(m.Opens) }

// leastBase keeps epochs above those of versions that counted in 24 bits and drew nothing.
const leastBase = 1 << 24

func drawBase() uint32 { return binary.BigEndian.Uint32(random(4))>>1 | 1<<30 }

// made reports whether an epoch is of this store, or of what it was copied from.
func (m *meta) made(epoch uint64) bool {
	base := baseOf(epoch)
	return base == uint64(m.Base) || slices.ContainsFunc(m.Former, func(b uint32) bool { return uint64(b) == base })
}

// made is that of meta. What it knows grows while files are brought together.
func (s *Store) made(epoch uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.meta.made(epoch)
}

// recall takes the epoch of what lies in the files for one of ours, whatever the meta file knows: it may have
// been lost, and the hub has messages under that epoch. The caller holds mu.
func (s *Store) recall(epoch uint64) {
	if !s.meta.made(epoch) {
		s.meta.keepFormer(uint32(baseOf(epoch)))
		s.metaNews = s.metaNews || s.metaOK // else it is yet to be written
	}
}

func baseOf(epoch uint64) uint64 {
	if epoch < leastBase<<bootBits {
		return epoch >> 24
	}
	return epoch >> bootBits
}

func (m meta) encode() ([]byte, error) {
	m.Sum = ""
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	m.Sum = hex.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli)))
	b, err = json.Marshal(m)
	return append(b, '\n'), err
}

func decodeMeta(b []byte) (meta, error) {
	var m meta
	if err := json.Unmarshal(b, &m); err != nil {
		return meta{}, err
	}
	want, err := m.encode()
	if err != nil || string(want) != string(b) {
		return meta{}, errors.New("checksum does not match")
	}
	if m.Format < 1 {
		return meta{}, fmt.Errorf("format %d never was", m.Format)
	} else if m.Format > metaFormat {
		return meta{}, fmt.Errorf("%w: format %d, this version knows up to %d", errNewer, m.Format, metaFormat)
	}
	return m, nil
}

// errNewer says that a store is sound, and nothing for this version.
var errNewer = errors.New("a newer leafd made it; use that one, or another directory")

const metaGone = metaFile + " is gone, and with it when earlier runs of this store were; which ids they made is taken from its other files"

// readMeta reads the meta file and counts one more boot, which write makes durable.
// A file that cannot be read is as good as none: the base drawn instead keeps ids
// apart, and recall takes what earlier ones there were from the other files. It returns
// a note for Health about that.
func readMeta(dir, node string, board []string) (m meta, note string, err error) {
	path := filepath.Join(dir, metaFile)
	b, err := readAgain(path)
	if err == nil {
		m, err = decodeMeta(b)
	}
	if err == nil {
		err = notReleased(m.epoch())
	}
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrPermission), errors.Is(err, errNewer), errors.Is(err, errReleased):
		return m, "", err
	default:
		m = meta{Base: drawBase()}
		if _, made := os.Lstat(filepath.Join(dir, "journal")); errors.Is(err, fs.ErrNotExist) && made == nil {
			note = metaGone // it was durable before there was a journal
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			kept, moveErr := moveAside(path, m.epoch())
			note = fmt.Sprintf("%s was damaged (%v) and is kept as %s", metaFile, err, cmpOr(kept, fmt.Sprint(moveErr)))
		}
	}
	m.Format = metaFormat
	base := m.Base
	if m.next(board); m.Base != base {
		m.Nodes = nil // who has the other board has that name
	} else if node != "" && m.Node != "" && node != m.Node {
		m.rename(node)
	}
	if node != "" {
		m.Node = node
	}
	if m.Node == "" {
		m.Node = "leafd-" + hex.EncodeToString(random(4))
	}
	return m, note, validNode(m.Node)
}

// readAgain reads a file, and tries again for a second if that fails: what the disk, or the
// kernel, could not do for a moment says nothing of the file.
func readAgain(path string) (b []byte, err error) {
	for range 5 {
		var errno unix.Errno
		if b, err = os.ReadFile(path); !errors.As(err, &errno) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errno == unix.ENOTDIR {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	return b, err
}

func (m meta) write(path string) (written int, err error) {
	b, err := m.encode()
	if err != nil {
		return 0, err
	}
	return len(b), replaceFile(path, func(f *os.File) error { _, err := f.Write(b); return err })
}

var errNode = errors.New("use up to 128 bytes without white space")

func validNode(node string) error {
	if len(node) > 128 || strings.ContainsFunc(node, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return fmt.Errorf("node name %q cannot be part of a message id; %w", node, errNode)
	}
	return nil
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails: crypto/rand ends the process instead
	return b
}

// replaceFile makes path hold what fill writes, or leaves it as it was: written
// beside, synced, renamed over, and the directory synced.
// In a crash the old file or the new one is there, perhaps with path.tmp beside it,
// which the next call truncates.
func replaceFile(path string, fill func(f *os.File) error) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_RDWR|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("%w: %w", errExchanged, err)
	}
	return nil
}

// errExchanged says that a file took another's place, and that a crash may undo it.
var errExchanged = errors.New("sync of the directory")

var dirSync = (*os.File).Sync // tests put faults there

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(dirSync(d), d.Close())
}

// moveAside renames a damaged file to one that is never opened again and returns
// its new base name. Of what was moved aside earlier it keeps nothing: one copy is
// for people to look at, more would fill the disk.
func moveAside(path string, epoch uint64) (name string, err error) {
	older, _ := filepath.Glob(path + ".corrupt-*")
	to := fmt.Sprintf("%s.corrupt-%d", path, epoch)
	for i := 1; slices.Contains(older, to); i++ {
		to = fmt.Sprintf("%s.corrupt-%d-%d", path, epoch, i)
	}
	if err := os.Rename(path, to); err != nil {
		return "", err
	}
	for _, o := range older {
		os.Remove(o)
	}
	return filepath.Base(to), nil
}

// makeDir makes dir and what is missing above it. Until there is a store in it, all
// names on the way to it are made safe: a power cut could take away a new directory
// with everything that was synced in it.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(dir, metaFile)); err == nil {
		return nil
	}
	at, err := filepath.Abs(dir)
	for ; err == nil && at != filepath.Dir(at); at = filepath.Dir(at) {
		if err = syncDir(filepath.Dir(at)); errors.Is(err, fs.ErrPermission) {
			err = nil // not ours to open, so it was there before us
		}
	}
	return err
}

// lockDir takes the directory for this process until the file is closed.
//
// The lock is a directory. That of a leafd of the first format is a file, which it opens
// for writing: of a store that it cannot read it says "is a directory" and refuses the
// start, before it touches anything else. Crash states: neither, or one of the two.
func lockDir(dir string) (*os.File, error) {
	if err := makeDir(dir); err != nil {
		return nil, fmt.Errorf("it cannot be made: %w", reason(err))
	}
	path := filepath.Join(dir, "lock")
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || info.IsDir() {
		return f, err
	}
	if err := unix.Unlink(path); errors.Is(err, unix.EROFS) {
		return f, nil
	} else if err != nil {
		return nil, errors.Join(fmt.Errorf("another process uses it: %w", ErrInUse), f.Close())
	}
	defer f.Close() // and with it the old lock, once the new one is taken
	return openLock(path)
}

// openLock locks what is under path, a directory if there was nothing.
func openLock(path string) (*os.File, error) {
	made := os.Mkdir(path, 0o700)
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("it is not writable: %w", reason(cmpErr(notThere(made), err)))
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another process uses it: %w", ErrInUse), f.Close())
	}
	return f, nil
}

// notThere is err, unless that says that something is there.
func notThere(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// reason is the cause of a path error without the path, which is named already.
func reason(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
