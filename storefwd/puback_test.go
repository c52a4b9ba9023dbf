package storefwd

import (
	"encoding/json"
	"strconv"
	"testing"
	"unicode/utf8"
)

// The quick reading of an acknowledgement says what the slow one does.
func FuzzPubAck(f *testing.F) {
	for _, s := range []string{
		`{"stream":"T","seq":1}`, `{"stream":"T","domain":"hub","seq":18446744073709551615,"duplicate":true}`,
		`{"stream":"T","seq":1,"seq":2}`, `{"stream":"a\"b","seq":1}`, `{"stream":"","seq":1}`, `{"stream":"T","seq":0}`,
		`{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 7"},"stream":"T","seq":0}`,
		`{"stream":"T","domain":"x`, `{"stream":"T","seq":18446744073709551616}`, `null`, `[]`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		parsePubAck(b)
		quick, ok := scanPubAck(b)
		var slow pubAck
		if !ok || !utf8.Valid(b) || json.Unmarshal(b, &slow) != nil {
			return
		}
		if string(quick.stream) != slow.Stream || string(quick.domain) != slow.Domain || quick.Seq != slow.Seq || quick.Duplicate != slow.Duplicate || slow.Error != nil {
			t.Fatalf("%q: %s %s %+v, want %+v", b, quick.stream, quick.domain, quick, slow)
		}
	})
}

// An id that is read is one that is written so, and nobody else's.
func FuzzID(f *testing.F) {
	f.Add([]byte("node/class.18446744073709551615.1"), []byte("node/class"))
	f.Add([]byte("a.b.1.2"), []byte("a.b"))
	f.Add([]byte("a..1"), []byte("a"))
	f.Add([]byte(""), []byte(""))
	f.Fuzz(func(t *testing.T, id, origin []byte) {
		epoch, seq, ok := parseID(id, origin)
		if !ok {
			return
		}
		again := appendID(nil, origin, epoch, seq)
		e, s, ok := parseID(again, origin)
		if !ok || e != epoch || s != seq || len(again) > len(id) {
			t.Fatalf("%q of %q is read as %s.%s, written as %q", id, origin, strconv.FormatUint(epoch, 10), strconv.FormatUint(seq, 10), again)
		}
	})
}
