package storefwd

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// A leaf that is a branch now leads back to the root, as it may where the disk lost a write:
// bbolt's cursor goes in that circle for ever, and takes memory for each round. Found by the
// control of make crash whose syncs do nothing.
func TestCircleOfPages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	last, _ := agedFile(t, path)
	m, _ := decodeBoltMeta(last[:boltPage])
	if m1, ok := decodeBoltMeta(last[boltPage:]); ok && m1.txid > m.txid {
		m = m1
	}
	w, err := walkPages(last, m.root, recordsBucket)
	if err == nil {
		err = w.seek(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 5 { // the first leaves
		b := bytes.Clone(last)
		p := b[le.Uint64(w.top().page)*boltPage:]
		le.PutUint16(p[8:], pageBranch)
		le.PutUint16(p[10:], 1)
		le.PutUint32(p[12:], 0)
		le.PutUint32(p[pageHeader:], elemSize)
		le.PutUint32(p[pageHeader+4:], singleKey)
		le.PutUint64(p[pageHeader+8:], w.root)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if useAll(t, path) == nil {
			t.Errorf("page %d leads back to the root, and nothing is said", le.Uint64(p))
		}
		if more, err := w.turn(1); !more || err != nil {
			t.Fatal(more, err)
		}
	}
}

// A page that is older than its parent knows, whatever it was then, may be noticed or not,
// but nothing that reads or folds goes on for ever.
func TestOlderPagesAreNoticed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	last, older := agedFile(t, path)
	seen, tried, noticed := 0, 0, 0
	for id, pages := range older {
		for _, p := range pages {
			if seen++; seen%16 > 0 && p[8]^last[id*boltPage+8] != pageBranch^pageLeaf || bytes.Equal(p, last[id*boltPage:(id+1)*boltPage]) {
				continue // most of those that were not a leaf and are a branch, or the other way
			}
			b := bytes.Clone(last)
			copy(b[id*boltPage:], p)
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			tried++
			if useAll(t, path) != nil {
				noticed++
			}
		}
	}
	t.Logf("%d pages were exchanged for older ones, %d noticed", tried, noticed)
	if noticed == 0 {
		t.Error("nothing was ever noticed")
	}
}

// agedFile makes a file by many folds. Of each page it gives the contents it had.
func agedFile(t *testing.T, path string) (last []byte, older map[int][][]byte) {
	t.Helper()
	e := newBolt(path, 64<<20)
	if _, err := e.Open(); err != nil {
		t.Fatal(err)
	}
	older = map[int][][]byte{}
	random := rand.NewChaCha8([32]byte{1})
	for i := range uint64(24) {
		b := &foldBatch{states: map[uint32]logState{1: {Name: "a"}}, alone: map[uint32]bool{1: true}}
		for seq := i*40 + 1; seq <= (i+1)*40; seq++ {
			rec := recFor(1, seq)
			random.Read(rec[40:])
			b.put = append(b.put, foldRecord{1, seq, rec})
		}
		if i > 12 {
			b.remove = []seqRange{{1, 0, (i - 12) * 36}}
		}
		if _, err := e.Fold(b); err != nil {
			t.Fatal(err)
		}
		now, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for id := 2; id < len(now)/boltPage; id++ {
			p := bytes.Clone(now[id*boltPage : (id+1)*boltPage])
			if had := older[id]; i%8 == 0 && (len(had) == 0 || !bytes.Equal(had[len(had)-1], p)) {
				older[id] = append(had, p)
			}
		}
		last = now
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return last, older
}

// useAll opens a file, reads all and changes something everywhere. The error is what it
// met with first.
func useAll(t *testing.T, path string) error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		if err := checkPages(path); err != nil {
			done <- err
			return
		}
		e := newBolt(path, 64<<20)
		defer e.Close()
		_, err := e.Open()
		if err == nil {
			_, _, err = e.Load()
		}
		if err == nil {
			err = e.Read(1, 0, 1<<62, func(uint64, []byte) bool { return true })
		}
		_, err1 := e.Fold(&foldBatch{put: []foldRecord{{1, 5000, recFor(1, 5000)}}, hollow: []seqRange{{1, 800, 802}}, remove: []seqRange{{1, 0, 700}}})
		done <- errors.Join(err, err1)
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(time.Minute):
		t.Fatal("it goes on and on")
		return nil
	}
}

// A walker finds what bbolt's cursor does, in both directions and from anywhere.
func TestWalkAsBbolt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	for _, n := range []int{0, 1, 3, 30, 3000, 40000} {
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: boltPage, NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		random := rand.New(rand.NewPCG(1, uint64(n)))
		err = db.Update(func(tx *bbolt.Tx) error {
			tx.DeleteBucket(recordsBucket)
			b, err := tx.CreateBucket(recordsBucket)
			for range n {
				k := fmt.Appendf(nil, "%d", random.IntN(2*n))
				err = errors.Join(err, b.Put(k, bytes.Repeat(k, random.IntN(1+40000/n))))
			}
			return err
		})
		for range 20 { // what is left after removals, anywhere and of ranges
			err = errors.Join(err, db.Update(func(tx *bbolt.Tx) error { return thin(tx.Bucket(recordsBucket), random, n) }))
		}
		if err != nil {
			t.Fatal(err)
		}
		err = db.View(func(tx *bbolt.Tx) error {
			w, err := walkTx(db, tx, recordsBucket)
			if err != nil {
				return err
			}
			c := tx.Bucket(recordsBucket).Cursor()
			for range 50 {
				from := fmt.Appendf(nil, "%d", random.IntN(2*n+2))
				compareWalk(t, w, c, from)
			}
			return nil
		})
		if err = errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// thin removes a range and some single keys.
func thin(b *bbolt.Bucket, random *rand.Rand, n int) (err error) {
	var gone [][]byte
	c := b.Cursor()
	k, _ := c.Seek(fmt.Appendf(nil, "%d", random.IntN(2*n+1)))
	for range n / 40 {
		if k == nil {
			break
		}
		gone = append(gone, bytes.Clone(k))
		k, _ = c.Next()
	}
	for range n / 100 {
		gone = append(gone, fmt.Appendf(nil, "%d", random.IntN(2*n)))
	}
	for _, k := range gone {
		err = errors.Join(err, b.Delete(k))
	}
	return err
}

func compareWalk(t *testing.T, w *walker, c *bbolt.Cursor, from []byte) {
	t.Helper()
	if err := w.seek(from); err != nil {
		t.Fatal(err)
	}
	k, v := c.Seek(from)
	for range 200 {
		got, value, err := w.next()
		if err != nil || !bytes.Equal(got, k) || !bytes.Equal(value, v) {
			t.Fatalf("%q is next from %q, %q for bbolt: %v", got, from, k, err)
		}
		if k == nil {
			break
		}
		k, v = c.Next()
	}
	if err := w.seek(from); err != nil {
		t.Fatal(err)
	}
	if k, _ = c.Seek(from); k == nil {
		k, v = c.Last()
	} else {
		k, v = c.Prev()
	}
	for range 200 {
		got, value, err := w.prev()
		if err != nil || !bytes.Equal(got, k) || !bytes.Equal(value, v) {
			t.Fatalf("%q is before %q, %q for bbolt: %v", got, from, k, err)
		}
		if k == nil {
			break
		}
		k, v = c.Prev()
	}
	if err := w.sound(from, from); err != nil {
		t.Fatalf("around %q: %v", from, err)
	}
}
