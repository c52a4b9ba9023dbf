package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
)

// fixtureFirst is a store as the first format's leafd (commit cff4d49) left it when it
// was killed: some of it folded, some in the journal, and the list of what it had
// acknowledged, acked.json.
//
//go:embed testdata/cff4d49.tar.gz
var fixtureFirst string

const ackedFile = "acked.json"

// unpackFixture makes dir from a fixture and returns what had been acknowledged.
func unpackFixture(fixture, dir string) (acked []number, err error) {
	z, err := gzip.NewReader(bytes.NewReader([]byte(fixture)))
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return acked, nil
		} else if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		if h.Name == ackedFile {
			if err := json.Unmarshal(b, &acked); err != nil {
				return nil, err
			}
		} else if err := os.WriteFile(filepath.Join(dir, filepath.Base(h.Name)), b, 0o600); err != nil {
			return nil, err
		}
	}
}

// packFixture is the other way round.
func packFixture(dir, to string, acked []number) error {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	list, err := json.Marshal(acked)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	files := map[string][]byte{ackedFile: list}
	for _, e := range entries {
		if e.IsDir() {
			continue // the lock
		}
		if files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	for name, b := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(b))}); err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		return err
	}
	return os.WriteFile(to, out.Bytes(), 0o644)
}
