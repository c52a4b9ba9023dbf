package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/leafd/leafd/storefwd"
)

// This file is the form of an export: a line of JSON for each message. An import reads it
// from outside, so a line has a bound, and what is not a record is an error that
// names the line.

// boxRecord is a message of an outbox, and a line of an export, with header and data in
// base64. At an import subject, header, data, qos and retain come back, and the time takes what has passed
// off a Nats-TTL.
type boxRecord struct {
	Seq        uint64    `json:"seq"`
	Time       time.Time `json:"time,omitzero"` // left out if it is not known
	Subject    string    `json:"subject"`
	RawSubject []byte    `json:"subject_base64,omitempty"` // in place of Subject: JSON has no text that is not UTF-8
	Header     []byte    `json:"header,omitempty"`
	Data       []byte    `json:"data"`
	QoS        uint8     `json:"qos,omitempty"`
	Retain     bool      `json:"retain,omitempty"`

	line int // of the file that it is from
}

// newBoxRecord borrows the bytes of r.
func newBoxRecord(r *storefwd.Record) boxRecord {
	b := boxRecord{Seq: r.Seq, Time: r.Time, Header: r.Header, Data: r.Data, QoS: r.QoS, Retain: r.Retain}
	if utf8.Valid(r.Subject) {
		b.Subject = string(r.Subject)
	} else {
		b.RawSubject = r.Subject
	}
	return b
}

func (r *boxRecord) subject() []byte {
	if len(r.RawSubject) > 0 {
		return r.RawSubject
	}
	return []byte(r.Subject)
}

// validHeader reports whether h is no header or a block of them: "NATS/1.0" and a status
// or none, lines of a name, a colon and a value, and an empty line at the end and nowhere
// else. Any other would not reach the hub: the forwarder leaves it out.
func validHeader(h []byte) bool {
	if len(h) == 0 {
		return true
	}
	lines, ended := bytes.CutSuffix(h, []byte("\r\n\r\n"))
	first, rest, more := bytes.Cut(lines, []byte("\r\n"))
	status, begun := bytes.CutPrefix(first, []byte("NATS/1.0"))
	if !begun || !ended || len(status) > 0 && status[0] != ' ' || bytes.ContainsAny(status, "\r\n") {
		return false
	}
	for more {
		var line []byte
		line, rest, more = bytes.Cut(rest, []byte("\r\n"))
		if bytes.IndexByte(line, ':') < 1 || bytes.ContainsAny(line, "\r\n") {
			return false
		}
	}
	return true
}

// maxLine bounds a line that leafd itself writes: a record of 64 MiB in base64, and its
// names.
const maxLine = 96 << 20

// importLine bounds a line of an import, and so the memory that it takes: in base64 the
// largest record that half a journal holds is two thirds of it, and the rest is names.
func (c *Config) importLine() int {
	return int(min(c.Store.JournalSize+512<<10, maxLine))
}

// parseLine reads one line. What it does not know is an error: "payload" in place of "data"
// would be a message without data.
func parseLine(b []byte) (*boxRecord, error) {
	rec := &boxRecord{}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(rec); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, errors.New("something stands behind it")
	}
	if rec.QoS > 2 {
		return nil, fmt.Errorf("there is no qos %d", rec.QoS)
	}
	return rec, nil
}

// recordLines reads what read and an export write, in lines of up to most bytes. Each
// call returns the next record, which is the caller's, or io.EOF at the end.
func recordLines(r io.Reader, most int) func() (*boxRecord, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, min(64<<10, most)), most)
	n := 0
	return func() (*boxRecord, error) {
		for lines.Scan() {
			if n++; len(lines.Bytes()) == 0 {
				continue
			}
			rec, err := parseLine(lines.Bytes())
			if err != nil {
				return nil, &boxError{fmt.Sprintf("line %d is not a record of an export: %v", n, err)}
			}
			rec.line = n
			return rec, nil
		}
		switch err := lines.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			return nil, &boxError{fmt.Sprintf("line %d has more than %d bytes, which is more than any message that fits the store; if it is one of an export, enlarge store.journal_size", n+1, most)}
		case err != nil:
			return nil, fmt.Errorf("after line %d: %w", n, err)
		}
		return nil, io.EOF
	}
}
