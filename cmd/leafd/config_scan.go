package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The conf package turns text into values, and trusts the text: it follows an
// include that includes itself until the stack is gone, keeps the last of two
// equal keys, loses a value with a suffix it does not know, and takes a NUL for
// the end of the file. scanFile goes first. It reads the same grammar for its
// structure alone, accepts a subset of it, and so names every one of these.
//
// What the subset leaves out, each with a remedy in its error: brackets and
// quotes inside a bare key or value, a slash that begins a bare key, a number
// touching "#" or "]", and braces at the top level that do not match.

const (
	maxConfigBytes = 1 << 20 // one file; a real one is a few KB
	maxConfigDepth = 32      // nested blocks and lists
	maxConfigFiles = 64      // files read, includes counted each time
)

// keySet is the keys of one block and where each was set.
type keySet map[string]pos

// scanner reads one file. Belongs to one goroutine.
type scanner struct {
	file      string
	text      string
	at        int // next byte
	line      int
	lineStart int
	depth     int
	scan      *scan
}

// scan is what the scanners of a file and its includes share.
type scan struct {
	stack []string // files being read, for loops
	files int
	units unitSet
	errs  configErrors
}

// unitSet are the numbers with a unit, by the place of their key: conf gives 10240 for
// 10KB, and a number that counts something is not to have one.
type unitSet map[pos]string

// scanFile reads path and everything it includes and returns what is wrong with
// the structure: nil if conf may parse it.
func scanFile(path string) (unitSet, configErrors) {
	s := &scan{units: make(unitSet)}
	s.read(path, pos{file: path}, make(keySet))
	return s.units, s.errs
}

// read scans one file into keys; from is where it was asked for.
func (s *scan) read(path string, from pos, keys keySet) {
	if slices.Contains(s.stack, path) {
		s.add(from, "", fmt.Sprintf("%s includes itself (%s)", path, strings.Join(append(s.stack, path), " -> ")), "remove one of these includes")
		return
	}
	if s.files++; s.files > maxConfigFiles {
		if s.files == maxConfigFiles+1 {
			s.add(from, "", fmt.Sprintf("more than %d files are included", maxConfigFiles), "join some of them")
		}
		return
	}
	text, err := readConfigFile(path)
	if err != nil {
		s.add(from, "", err.Error(), "")
		return
	}
	s.stack = append(s.stack, path)
	s.run(path, text, keys)
	s.stack = s.stack[:len(s.stack)-1]
}

func (s *scan) run(file, text string, keys keySet) {
	sc := &scanner{file: file, text: text, line: 1, scan: s}
	if sc.checkBytes() {
		sc.block(keys, pos{})
	}
}

func (s *scan) add(at pos, key, reason, remedy string) {
	s.errs = append(s.errs, &configError{at: at, key: key, reason: reason, remedy: remedy})
}

// readConfigFile returns the text of a regular file of sensible size.
func readConfigFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		reason := err
		if pe := (*os.PathError)(nil); errors.As(err, &pe) {
			reason = pe.Err
		}
		return "", fmt.Errorf("cannot read %s: %w; check the path and that this user may read it", path, reason)
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && !st.Mode().IsRegular() {
		return "", fmt.Errorf("cannot read %s: it is not a regular file; name the file itself", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return "", fmt.Errorf("cannot read %s: %w", path, err)
	}
	if len(data) > maxConfigBytes {
		return "", fmt.Errorf("%s is larger than %d KiB; a configuration is a few: is it the right file?", path, maxConfigBytes>>10)
	}
	return string(data), nil
}

// checkBytes refuses what is not plain UTF-8 text.
func (sc *scanner) checkBytes() bool {
	if strings.HasPrefix(sc.text, "\ufeff") {
		return sc.fail("the file starts with a byte order mark", "save it as UTF-8 without one")
	}
	for i, r := range sc.text {
		reason := ""
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(sc.text[i:], "\ufffd"):
			reason = "a byte that is not UTF-8"
		case r == '\r' && !strings.HasPrefix(sc.text[i:], "\r\n"):
			reason = "a carriage return inside a line"
		case r < ' ' && r != '\t' && r != '\n' && r != '\r', r == 0x7f:
			reason = fmt.Sprintf("a control byte (0x%02x)", r)
		}
		if reason != "" {
			sc.skipTo(i)
			return sc.fail(reason, "save the file as plain text")
		}
	}
	return true
}

// skipTo moves to byte i, counting lines.
func (sc *scanner) skipTo(i int) {
	for sc.at < i {
		if sc.text[sc.at] == '\n' {
			sc.line++
			sc.lineStart = sc.at + 1
		}
		sc.at++
	}
}

func (sc *scanner) pos() pos { return pos{sc.file, sc.line, sc.at - sc.lineStart + 1} }

// fail reports at the current place and returns false: this file is given up.
func (sc *scanner) fail(reason, remedy string) bool {
	sc.scan.add(sc.pos(), "", reason, remedy)
	return false
}

// peek is the next byte, 0 at the end.
func (sc *scanner) peek() byte {
	if sc.at < len(sc.text) {
		return sc.text[sc.at]
	}
	return 0
}

func isBlank(c byte) bool   { return c == ' ' || c == '\t' }
func isNewline(c byte) bool { return c == '\n' || c == '\r' }

// skipBlank moves over spaces, and over newlines and comments if lines is set.
func (sc *scanner) skipBlank(lines bool) {
	for {
		c := sc.peek()
		switch {
		case isBlank(c), lines && isNewline(c):
			sc.skipTo(sc.at + 1)
		case lines && sc.comment():
		default:
			return
		}
	}
}

// comment moves over "# …" or "// …" up to its newline.
func (sc *scanner) comment() bool {
	if sc.peek() != '#' && !strings.HasPrefix(sc.text[sc.at:], "//") {
		return false
	}
	n := strings.IndexByte(sc.text[sc.at:], '\n')
	if n < 0 {
		n = len(sc.text) - sc.at
	}
	sc.skipTo(sc.at + n)
	return true
}

// block reads "key value" pairs up to "}", or to the end of the file when opened
// is the zero pos. A file may be one block in braces, as JSON is.
func (sc *scanner) block(keys keySet, opened pos) bool {
	top := opened.line == 0
	if top {
		if sc.skipBlank(true); sc.peek() == '{' {
			at := sc.pos()
			sc.skipTo(sc.at + 1)
			return sc.block(keys, at) && sc.nothingMore()
		}
	}
	for {
		sc.skipBlank(true)
		switch c := sc.peek(); {
		case c == 0 && top:
			return true
		case c == 0:
			return sc.fail(fmt.Sprintf("the file ends inside the block opened on line %d", opened.line), `close it with "}"`)
		case c == '}' && top:
			return sc.fail(`this "}" closes nothing`, "remove it")
		case c == '}':
			sc.skipTo(sc.at + 1)
			return true
		}
		if !sc.pair(keys) || !sc.pairEnd() {
			return false
		}
	}
}

func (sc *scanner) nothingMore() bool {
	if sc.skipBlank(true); sc.at < len(sc.text) {
		return sc.fail(`there is text after the "}" that closes the file's outer block`, "move it inside")
	}
	return true
}

// pair reads one key and its value, or one include.
func (sc *scanner) pair(keys keySet) bool {
	at := sc.pos()
	key, quoted, ok := sc.key()
	if !ok {
		return false
	}
	if !quoted && strings.EqualFold(key, "include") && (isBlank(sc.peek()) || isNewline(sc.peek())) {
		return sc.include(at, keys)
	}
	if was, dup := keys[key]; dup {
		sc.scan.add(at, key, fmt.Sprintf("set twice, first at %s:%d", was.file, was.line), "keep one of them")
	}
	keys[key] = at
	sc.skipBlank(false)
	if c := sc.peek(); c == '=' || c == ':' {
		sc.skipTo(sc.at + 1)
		sc.skipBlank(false)
	} else if isNewline(c) { // a brace may stand on the next line
		for isBlank(sc.peek()) || isNewline(sc.peek()) {
			sc.skipTo(sc.at + 1)
		}
		if sc.peek() != '{' && sc.peek() != '[' {
			sc.scan.add(at, key, "has no value", "give it one or remove it")
			return false
		}
	}
	switch c := sc.peek(); {
	case strings.IndexByte("\x00\r\n},;]#", c) >= 0, strings.HasPrefix(sc.text[sc.at:], "//"):
		sc.scan.add(at, key, "has no value", "give it one or remove it")
		return false
	}
	if quoted {
		at.col++ // where conf says that the key is
	}
	start := sc.at
	if !sc.value(false) {
		return false
	}
	sc.scan.units.note(at, sc.text[start:sc.at])
	return true
}

// note remembers v if it is a number with a unit.
func (u unitSet) note(at pos, v string) {
	if _, err := parseSize(v); err == nil && !isDigits(strings.TrimPrefix(v, "-")) {
		u[at] = v
	}
}

// key reads a bare or quoted key.
func (sc *scanner) key() (key string, quoted, ok bool) {
	if c := sc.peek(); c == '"' || c == '\'' {
		end := strings.IndexAny(sc.text[sc.at+1:], string(c)+"\n")
		if end <= 0 || sc.text[sc.at+1+end] == '\n' {
			return "", true, sc.fail("this quoted key is empty or does not end on its line", "close the quote")
		}
		key = sc.text[sc.at+1 : sc.at+1+end]
		sc.skipTo(sc.at + end + 2)
		return key, true, true
	}
	if sc.peek() == '/' { // which conf skips here and there, with what is around it
		return "", false, sc.fail("a key begins with a slash", "write // or # for a comment, or put the key in quotes")
	}
	start := sc.at
	for i, r := range sc.text[start:] {
		if r == '=' || r == ':' || unicode.IsSpace(r) {
			if r > unicode.MaxASCII {
				sc.skipTo(start + i)
				return "", false, sc.fail("a space that is not the plain one", "replace it by a plain space")
			}
			sc.skipTo(start + i)
			break
		}
		if strings.ContainsRune("{}[](),;#'\"", r) {
			sc.skipTo(start + i)
			return "", false, sc.fail(fmt.Sprintf("%q inside a key", r), "put a space before it, or the key in quotes")
		}
	}
	if key = sc.text[start:sc.at]; key == "" {
		if sc.peek() != '=' && sc.peek() != ':' {
			key = sc.text[start:]
			sc.skipTo(len(sc.text))
			return key, false, true
		}
		return "", false, sc.fail("a value without a key", "name the key before it")
	}
	return key, false, true
}

// include follows "include path". Its keys join the block it stands in.
func (sc *scanner) include(at pos, keys keySet) bool {
	sc.skipBlank(false)
	var path string
	bad := "'\"\\[({-0123456789" // what conf does not take as the start of a bare path
	if c := sc.peek(); c == '"' || c == '\'' {
		end := strings.IndexAny(sc.text[sc.at+1:], string(c)+"\n")
		if end < 0 || sc.text[sc.at+1+end] == '\n' {
			return sc.fail("the path of this include does not end on its line", "close the quote")
		}
		path, bad = sc.text[sc.at+1:sc.at+1+end], ""
		sc.skipTo(sc.at + end + 2)
	} else {
		end := strings.IndexAny(sc.text[sc.at:], " \t\r\n;}")
		if end < 0 {
			end = len(sc.text) - sc.at
		}
		path = sc.text[sc.at : sc.at+end]
		sc.skipTo(sc.at + end)
	}
	if path == "" || strings.IndexByte(bad, path[0]) >= 0 || bad != "" && strings.Contains(path, "'") {
		sc.scan.add(at, "include", "is not followed by a path", `write include "file.conf", relative to this file`)
		return false
	}
	sc.scan.read(filepath.Join(filepath.Dir(sc.file), path), at, keys)
	return true
}

// pairEnd reads what must stand between a value and the next key.
func (sc *scanner) pairEnd() bool {
	sc.skipBlank(false)
	if sc.comment() {
		return true
	}
	switch c := sc.peek(); {
	case c == ',', c == ';':
		sc.skipTo(sc.at + 1)
		return true
	case c == 0, c == '}', isNewline(c):
		return true
	}
	return sc.fail("something follows the value on this line", "put values with spaces in quotes, and one key on a line")
}

// value moves over one value.
func (sc *scanner) value(inList bool) bool {
	switch sc.peek() {
	case '{', '[':
		return sc.nested()
	case '(':
		return sc.fail("a value in parentheses", "put it in quotes")
	case '"', '\'':
		return sc.quotedValue()
	}
	return sc.bareValue(inList)
}

func (sc *scanner) nested() bool {
	if sc.depth++; sc.depth > maxConfigDepth {
		return sc.fail(fmt.Sprintf("blocks are nested deeper than %d", maxConfigDepth), "close some")
	}
	opened, open := sc.pos(), sc.peek()
	sc.skipTo(sc.at + 1)
	ok := false
	if open == '{' {
		ok = sc.block(make(keySet), opened)
	} else {
		ok = sc.list(opened)
	}
	sc.depth--
	return ok
}

// list reads values up to "]"; a comma or a newline stands between two.
func (sc *scanner) list(opened pos) bool {
	for {
		sc.skipBlank(true)
		switch sc.peek() {
		case 0:
			return sc.fail(fmt.Sprintf("the file ends inside the list opened on line %d", opened.line), `close it with "]"`)
		case ']':
			sc.skipTo(sc.at + 1)
			return true
		case ',', ';', '}':
			return sc.fail(fmt.Sprintf("%q where a list wants a value", sc.peek()), "remove it")
		}
		if !sc.value(true) {
			return false
		}
		sc.skipBlank(false)
		if sc.comment() {
			continue
		}
		switch c := sc.peek(); {
		case c == ',':
			sc.skipTo(sc.at + 1)
		case c == 0, c == ']', isNewline(c):
		default:
			return sc.fail("something follows the value in this list", "separate values by commas, and put those with spaces in quotes")
		}
	}
}

func (sc *scanner) quotedValue() bool {
	quote := sc.peek()
	for i := sc.at + 1; i < len(sc.text); i++ {
		switch c := sc.text[i]; {
		case c == '\\' && quote == '"':
			i++
		case c == quote:
			sc.skipTo(i + 1)
			return true
		case c == '\n':
			return sc.fail("this quoted value does not end on its line", "close the quote")
		}
	}
	return sc.fail("this quoted value does not end", "close the quote")
}

func (sc *scanner) bareValue(inList bool) bool {
	n := strings.IndexAny(sc.text[sc.at:], " \t\r\n;,]}")
	if n < 0 {
		n = len(sc.text) - sc.at
	}
	v := sc.text[sc.at : sc.at+n]
	number := v[0] >= '0' && v[0] <= '9' || v[0] == '-'
	switch {
	case strings.ContainsAny(v, `'"\`), number && (strings.ContainsAny(v, "#(") || strings.Contains(v, "//")):
		return sc.fail("a quote, backslash or number sign inside a bare value", "put the value in quotes")
	case isUnicodeSpace(v):
		return sc.fail("a space that is not the plain one", "replace it by a plain space")
	case v[0] == '.':
		return sc.fail("a value starting with a dot", "put it in quotes, or a 0 before it")
	}
	if number {
		if reason, remedy := checkNumber(v); reason != "" {
			return sc.fail(reason, remedy)
		}
		if next := sc.at + n; next < len(sc.text) && sc.text[next] == ']' && isDigits(v) {
			return sc.fail(fmt.Sprintf("the number %s touches %q", v, ']'), "put a space between them")
		}
	}
	sc.skipTo(sc.at + n)
	return true
}

func isUnicodeSpace(v string) bool {
	return strings.IndexFunc(v, unicode.IsSpace) >= 0
}

func isDigits(v string) bool {
	return strings.Trim(v, "0123456789") == ""
}

// sizeUnit is what the suffix of a whole number multiplies it by (nats-server
// configuration, "size suffixes"): a lone letter counts in thousands, KB, Ki and KiB
// in 1024s. ok is false for what is none.
func sizeUnit(suffix string) (n int64, ok bool) {
	if suffix = strings.ToLower(suffix); suffix == "" {
		return 1, true
	}
	power, base := strings.IndexByte("kmgtpe", suffix[0]), int64(1000)
	switch suffix[1:] {
	case "":
	case "b", "i", "ib":
		base = 1024
	default:
		return 0, false
	}
	n = base
	for range power {
		n *= base
	}
	return n, power >= 0
}

var errTooBig = errors.New("is out of range")

// parseSize reads "64MB": digits and a suffix that sizeUnit knows.
func parseSize(v string) (int64, error) {
	end := len(v)
	for i := range len(v) {
		if (v[i] < '0' || v[i] > '9') && (i > 0 || v[i] != '-') {
			end = i
			break
		}
	}
	n, err := strconv.ParseInt(v[:end], 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 0, errTooBig
	}
	unit, known := sizeUnit(strings.TrimSpace(v[end:]))
	if err != nil || !known {
		return 0, errors.New("is not a number with a unit such as KB, MB or GB")
	}
	if n > math.MaxInt64/unit || n < math.MinInt64/unit {
		return 0, errTooBig
	}
	return n * unit, nil
}

// checkNumber finds what conf would read as a number and get wrong in silence:
// one that overflows with its suffix, or has a suffix that conf drops.
func checkNumber(v string) (reason, remedy string) {
	digits := strings.TrimLeft(v, "-0123456789")
	suffix := strings.ToLower(digits)
	if v[0] == '-' && (v == "-" || strings.LastIndexByte(v, '-') > 0) {
		return fmt.Sprintf("%q looks like a number and is none", v), "put it in quotes"
	}
	if suffix != "" && (!strings.ContainsRune("kmgtpe", rune(suffix[0])) || strings.Trim(suffix[1:], "bi") != "") {
		return "", "" // a float, an address, a date or text: conf says so itself
	}
	if _, err := parseSize(v); errors.Is(err, errTooBig) {
		return fmt.Sprintf("%s is out of range", v), "write a smaller number"
	} else if err != nil {
		return fmt.Sprintf("%q has an unknown unit", v), "use one of KB, MB, GB, TB"
	}
	return "", ""
}
