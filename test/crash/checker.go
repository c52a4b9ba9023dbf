package main

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/leafd/leafd/internal/msg"
	"github.com/leafd/leafd/storefwd"
)

// A checker is a child process, this program with checkerEnv set: what it opens may
// kill it. It reads requests from standard input and answers on standard output.
const checkerEnv = "LEAFD_CRASH_CHECKER"

// request is one store to be opened.
type request struct {
	Dir   string
	Again bool // open a copy of the directory, too, after something was appended
}

// finding is what was in a store. A checker that died has sent none.
type finding struct {
	Err      string // it could not be opened or read, or took nothing new
	Epoch    uint64
	Records  []found // of each log in its order
	Declared bool    // the store says that something is missing or damaged
	Health   []string
}

type found struct {
	Msg        number
	Log        uint32
	Whole      bool // subject and payload are as they were sent
	Epoch, Seq uint64
}

// logs are the outboxes of every leafd here, see config.
var logs = []string{"a", "b"}

var retention = storefwd.Retention{MaxBytes: 4 << 30, Keep: storefwd.UntilAcked}

// storeOptions are those of config.
func storeOptions() storefwd.Options {
	return storefwd.Options{Node: "crash", JournalBytes: journalBytes, CommitInterval: time.Hour, Reserve: 64 << 10}
}

// checker serves requests until its parent is gone.
func checker(in io.Reader, out io.Writer) error {
	dec, enc := gob.NewDecoder(in), gob.NewEncoder(out)
	for {
		var r request
		if err := dec.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := enc.Encode(inspect(r)); err != nil {
			return err
		}
	}
}

// inspect opens a store, reads all of it and appends to it.
func inspect(r request) *finding {
	f := &finding{}
	s, opened, err := openLogs(r.Dir)
	if err != nil {
		f.Err = fmt.Sprintf("open: %v", err)
		return f
	}
	f.Epoch = s.Epoch()
	if err := f.readLogs(opened); err != nil {
		f.Err = err.Error()
	}
	f.declarations(s, opened)
	if err := appendProbe(s, opened[0]); err != nil && f.Err == "" {
		f.Err = fmt.Sprintf("append: %v", err)
	}
	if r.Again && f.Err == "" {
		if err := probeSurvives(r.Dir, opened); err != nil {
			f.Err = fmt.Sprintf("after an append and a crash: %v", err)
		}
	}
	if err := s.Close(); err != nil && f.Err == "" {
		f.Err = fmt.Sprintf("close: %v", err)
	}
	return f
}

func openLogs(dir string) (s *storefwd.Store, opened []*storefwd.Log, err error) {
	if s, err = storefwd.Open(dir, storeOptions()); err != nil {
		return nil, nil, err
	}
	for _, name := range logs {
		l, err := s.Log("OUT/"+name, retention)
		if err != nil {
			return nil, nil, errors.Join(err, s.Close())
		}
		opened = append(opened, l)
	}
	return s, opened, nil
}

// readAll calls fn with every record of a log.
func readAll(l *storefwd.Log, fn func(storefwd.Record)) error {
	recs, from := make([]storefwd.Record, 0, 512), uint64(0)
	for {
		var err error
		if recs, err = l.Read(recs[:0], from); err != nil || len(recs) == 0 {
			return err
		}
		for _, r := range recs {
			fn(r)
			from = r.Seq + 1
		}
	}
}

// readLogs reads all logs.
func (f *finding) readLogs(opened []*storefwd.Log) error {
	return patiently(func() (err error) {
		f.Records = nil
		for i, l := range opened {
			if e := f.read(l, i); e != nil && err == nil {
				err = fmt.Errorf("read log %q: %w", l.Name(), e)
			}
		}
		return err
	})
}

// patiently reads again while the store repairs what the reading showed to be damaged.
func patiently(read func() error) error {
	for end := time.Now().Add(checkPatience / 2); ; pause(context.Background(), time.Millisecond) {
		if err := read(); err == nil || time.Now().After(end) {
			return err
		}
	}
}

func (f *finding) read(l *storefwd.Log, log int) error {
	return readAll(l, func(r storefwd.Record) {
		if string(r.Data) == probe {
			return
		}
		m, whole := whole(logs[log], r.Subject, r.Data)
		f.Records = append(f.Records, found{m, uint32(log), whole, r.Epoch, r.Seq})
	})
}

// known are hashes of subjects and payloads that were found whole before: they are met
// in thousands of states.
var (
	known    = map[uint64]number{}
	knownKey = maphash.MakeSeed()
)

// whole tells whose message this is, and whether all of it is as it was sent.
func whole(class string, subject, data []byte) (m number, ok bool) {
	key := maphash.Bytes(knownKey, data) ^ 3*maphash.Bytes(knownKey, subject)
	if m, ok := known[key]; ok {
		return m, true
	}
	m, ok = readPayload(data)
	if ok = ok && string(subject) == fmt.Sprintf("crash.%s.s%d", class, m.Src); ok && len(known) < 1<<15 {
		known[key] = m
	}
	return m, ok
}

// declarations notes whether anybody who looks would see that something is missing.
func (f *finding) declarations(s *storefwd.Store, opened []*storefwd.Log) {
	f.Health = s.Health()
	f.Declared = len(f.Health) > 0
	for _, l := range opened {
		for _, n := range l.Stats().Lost {
			f.Declared = f.Declared || n > 0
		}
	}
}

// probe is a message that shows that a store still takes some.
const probe = "probe"

func appendProbe(s *storefwd.Store, l *storefwd.Log) error {
	if _, err := l.Append(&msg.Msg{Subject: []byte("crash.a.probe"), Data: []byte(probe)}); err != nil {
		return err
	}
	done := make(chan error, 1)
	s.Barrier(func(err error) { done <- err })
	return <-done
}

// probeSurvives opens a copy of a store that is open, and looks for the probe. It waits
// for the end of repairs that the append began: while they last, files come and go.
func probeSurvives(dir string, live []*storefwd.Log) error {
	to := dir + ".copy"
	defer os.RemoveAll(to)
	err := patiently(func() error {
		for _, l := range live {
			if err := readAll(l, func(storefwd.Record) {}); err != nil {
				return err
			}
		}
		return errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(dir)))
	})
	if err != nil {
		return err
	}
	s, opened, err := openLogs(to)
	if err != nil {
		return err
	}
	there := false
	err = patiently(func() error {
		return readAll(opened[0], func(r storefwd.Record) { there = there || string(r.Data) == probe })
	})
	if err == nil && !there {
		err = errors.New("it is not there")
	}
	return errors.Join(err, s.Close())
}

// ramDir is where states are made: in RAM if the system has a place for that.
func ramDir() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return filepath.Clean(os.TempDir())
}
