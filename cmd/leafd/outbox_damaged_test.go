package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leafd/leafd/storefwd"
)

const boltPage = 4096

// leftBehind is what a gateway leaves that was killed: 500 messages in store.db, 3 in the
// journal, and the beginning of a batch that was being written. conf is its configuration.
func leftBehind(t *testing.T) (dir, conf string) {
	t.Helper()
	at, own := t.TempDir(), t.TempDir()
	dir, conf = filepath.Join(own, "store"), filepath.Join(own, "leafd.conf")
	text := fmt.Sprintf("server_name: n\nleafnodes { remotes: [ { url: \"nats-leaf://hub:7422\" } ] }\nstore { dir: %q }\noutbox { box { subjects: [\"box.>\"] } }\n", dir)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	seq := 0
	open := func() (s *storefwd.Store, put func(n int)) {
		s, err := storefwd.Open(at, storefwd.Options{JournalBytes: 256 << 10})
		if err != nil {
			t.Fatal(err)
		}
		l, err := s.Log(logPrefix+"box", storefwd.Retention{Keep: storefwd.UntilAcked})
		if err != nil {
			t.Fatal(err)
		}
		return s, func(n int) {
			for range n {
				seq++
				if _, err := (&storeBoxes{store: s}).addOne(l, &boxRecord{Subject: "box.a", Data: payloadOf(seq)}); err != nil {
					t.Fatal(err)
				}
			}
			if err := (&storeBoxes{store: s}).safe(); err != nil {
				t.Fatal(err)
			}
		}
	}
	s, put := open()
	put(500)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, put = open()
	defer s.Close()
	put(3)
	if err := os.CopyFS(dir, os.DirFS(at)); err != nil {
		t.Fatal(err)
	}
	put(5)
	tear(t, filepath.Join(dir, "journal"), filepath.Join(at, "journal"))
	return dir, conf
}

// payloadOf cannot be compressed, so it is found in the files.
func payloadOf(seq int) []byte {
	b := make([]byte, 1000)
	rand.NewChaCha8([32]byte{byte(seq), byte(seq >> 8)}).Read(b)
	return b
}

// tear takes over the first sector that is new in another journal.
func tear(t *testing.T, path, newer string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n, err := os.ReadFile(newer)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(b); at += 512 {
		if !bytes.Equal(b[at:at+512], n[at:at+512]) {
			overwrite(t, path, at, n[at:at+512])
			return
		}
	}
	t.Fatal("nothing is new")
}

func overwrite(t *testing.T, path string, at int, with []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(with, int64(at)); err != nil {
		t.Fatal(err)
	}
}

// placeOf is where the message is in store.db, and where the leaf begins that it lies in.
func placeOf(t *testing.T, path string, seq int) (at, leaf int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if at = bytes.Index(b, payloadOf(seq)); at < 0 {
		t.Fatal("the message is not in store.db as it is")
	}
	for leaf = at &^ (boltPage - 1); binary.LittleEndian.Uint64(b[leaf:]) != uint64(leaf/boltPage) || b[leaf+8] != 2; {
		leaf -= boltPage
	}
	return at, leaf
}

// A leafd that runs shows what it can read, and that it is not all is an error, once: from then
// on what is damaged counts as lost.
func TestDamagedRecordIsSaidByWhoRuns(t *testing.T) {
	dir, _ := leftBehind(t)
	at, _ := placeOf(t, filepath.Join(dir, "store.db"), 250)
	overwrite(t, filepath.Join(dir, "store.db"), at, []byte{^payloadOf(250)[0]})
	s, err := storefwd.Open(dir, storefwd.Options{JournalBytes: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Log(logPrefix+"box", storefwd.Retention{Keep: storefwd.UntilAcked}); err != nil {
		t.Fatal(err)
	}
	b := behindSocket(t, &storeBoxes{archive: s, store: s})
	read := func() (n int, err error) {
		err = b.read("box", 0, 0, func(*boxRecord) error { n++; return nil })
		return n, err
	}
	n, err := read()
	if n < 400 || err == nil || !strings.Contains(err.Error(), `1 messages of outbox "box" cannot be read`) {
		t.Errorf("%d messages, %v", n, err)
	}
	if again, err := read(); again != n || err != nil {
		t.Errorf("again: %d messages, %v", again, err)
	}
}

// What can be read of a damaged store is shown, and that it is not all is an error: who
// exports it and then deletes the store would lose the rest. It was no error, and of 503
// messages there were 3.
func TestDamagedStoreIsNotShownAsWhole(t *testing.T) {
	for _, c := range []struct {
		name        string
		damage      func(t *testing.T, db string)
		least, most int // messages that are shown
		says        string
		ls          bool // says so, too, which reads no message
	}{
		{"sound", func(*testing.T, string) {}, 503, 503, "", false},
		{"both meta pages", func(t *testing.T, db string) { overwrite(t, db, 0, make([]byte, 2*boltPage)) }, 3, 300, "store.db cannot be read: damaged: both meta pages", true},
		{"a bit", func(t *testing.T, db string) {
			at, _ := placeOf(t, db, 250)
			overwrite(t, db, at, []byte{^payloadOf(250)[0]})
		}, 400, 502, "fail their checksum", false},
		{"a leaf", func(t *testing.T, db string) {
			_, leaf := placeOf(t, db, 250)
			overwrite(t, db, leaf, make([]byte, boltPage))
		}, 64, 250, "store.db cannot be read: ", true},
		{"salvage waits", func(t *testing.T, db string) {
			if err := os.Rename(db, db+".salvage-1-0"); err != nil {
				t.Fatal(err)
			}
		}, 3, 300, "is not salvaged yet", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, conf := leftBehind(t)
			c.damage(t, filepath.Join(dir, "store.db"))
			for verb, wrong := range map[string]bool{"export box": c.says != "", "peek box -n 1000": c.says != "", "ls": c.ls} {
				var out, errOut bytes.Buffer
				code := runOutbox(append(strings.Fields(verb), "-c", conf), nil, &out, &errOut)
				if n := strings.Count(out.String(), "\n"); verb == "ls" && n != 2 || verb != "ls" && (n < c.least || n > c.most) {
					t.Errorf("%s: %d lines", verb, n)
				}
				text := errOut.String()
				if !wrong && (code != 0 || text != "") || wrong && (code != 1 || strings.Count(text, "\n") != 1 || !strings.Contains(text, c.says) || !strings.Contains(text, "may not be all: start leafd")) {
					t.Errorf("%s: exit %d, %q", verb, code, text)
				}
			}
		})
	}
}
