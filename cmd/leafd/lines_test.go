package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/leafd/leafd/storefwd"
)

// Whatever an import is given, each record that it takes is the same after an export and
// another import, and none is larger than the bound on a line.
func FuzzRecordLines(f *testing.F) {
	const most = 4 << 10
	f.Add([]byte(`{"seq":1,"time":"2026-11-24T10:00:00Z","subject":"a.b","header":"TkFUUy8xLjANCg0K","data":"eA==","qos":1,"retain":true}` + "\n\n" +
		`{"subject":"a","data":null}` + "\r\n"))
	f.Add([]byte(`{"subject":"","subject_base64":"/y5i","data":"AAEC/w=="}`))
	f.Add([]byte(`{"subject":"a\u0000\ud800","data":"eA"}`))
	f.Add([]byte(`{"time":"9999-12-31T23:59:59.999999999+23:59","subject":"a"}`))
	f.Add([]byte(`{"seq":-1}` + "\n" + `{"seq":1e3}` + "\n[[[[[[" + "\n"))
	f.Add([]byte(`{"subject":"` + strings.Repeat("\U0001F600", most/4) + `"}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		var taken []boxRecord
		var out bytes.Buffer
		enc := json.NewEncoder(&out)
		for next := recordLines(bytes.NewReader(in), most); ; {
			r, err := next()
			if err != nil {
				var bad *boxError
				if !errors.Is(err, io.EOF) && (!errors.As(err, &bad) || !strings.HasPrefix(bad.text, "line ")) {
					t.Fatalf("an error that names no line: %v", err)
				}
				break
			}
			if n := len(r.Subject) + len(r.RawSubject) + len(r.Header) + len(r.Data); n > 2*most {
				t.Fatalf("a record of %d bytes from lines of %d", n, most)
			}
			taken = append(taken, boxRecord{Subject: r.Subject, RawSubject: r.RawSubject, Header: r.Header, Data: r.Data, QoS: r.QoS, Retain: r.Retain})
			if err := enc.Encode(&taken[len(taken)-1]); err != nil {
				t.Fatal(err)
			}
		}
		next := recordLines(&out, maxLine)
		for i := range taken {
			r, err := next()
			if err != nil {
				t.Fatalf("record %d, exported: %v", i, err)
			}
			taken[i].normal()
			if r.normal(); !reflect.DeepEqual(*r, taken[i]) {
				t.Fatalf("record %d was %+v and is %+v", i, taken[i], *r)
			}
		}
		if r, err := next(); !errors.Is(err, io.EOF) {
			t.Fatalf("one record too many: %+v, %v", r, err)
		}
	})
}

// normal makes no difference between no bytes and none given, nor between lines.
func (r *boxRecord) normal() {
	r.line = 0
	for _, b := range []*[]byte{&r.RawSubject, &r.Header, &r.Data} {
		if len(*b) == 0 {
			*b = nil
		}
	}
}

// A subject may be any bytes; in a text of JSON those that are not UTF-8 would become others.
func TestExportKeepsSubject(t *testing.T) {
	for _, subject := range []string{"a.b", "grüße.<&>", "\xff\xfe.b", "a.\xed\xa0\x80"} {
		rec := newBoxRecord(&storefwd.Record{Subject: []byte(subject), Data: []byte{1}})
		line, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		back, err := recordLines(bytes.NewReader(line), 4<<10)()
		if err != nil || string(back.subject()) != subject {
			t.Errorf("%q came back as %+v, %v: %s", subject, back, err, line)
		}
	}
}

// What a line has that no export has is an error, and not left out.
func TestStrangeLines(t *testing.T) {
	for _, line := range []string{`{"subject":"a","payload":"eA=="}`, `{"subject":"a","data":"eA==","qos":7}`,
		`{"subject":"a","data":"eA=="}{}`, `{"subject":"a","data":"eA=="} x`, `[]`, `{"subject":7}`} {
		if rec, err := recordLines(strings.NewReader(line), 4<<10)(); err == nil || !strings.Contains(err.Error(), "line 1 is not a record") {
			t.Errorf("%s: %+v, %v", line, rec, err)
		}
	}
}

// A line that is too long is not read into memory, and the error says what to do.
func TestLongLine(t *testing.T) {
	cfg := defaultConfig()
	most := cfg.importLine()
	in := &endless{}
	_, err := recordLines(in, most)()
	if err == nil || !strings.Contains(err.Error(), "line 1 has more than") || !strings.Contains(err.Error(), "journal_size") {
		t.Errorf("%v", err)
	}
	if in.read > 2*most {
		t.Errorf("%d bytes were read of a line that may have %d", in.read, most)
	}
}

// endless is a line without an end.
type endless struct{ read int }

func (e *endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	e.read += len(b)
	return len(b), nil
}
