package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The strict reader: a block is one "{ … }" of the file. Each method takes the
// destination, the limits and the names a key may have, stores the value if the
// key is there, and records what is wrong with it. finish reports every key that
// nobody asked for. So a key is read, or refused: never accepted and ignored.

// pos is a place in a configuration file; the zero pos is no place.
type pos struct {
	file      string
	line, col int
}

func (p pos) String() string {
	if p.line == 0 {
		return p.file
	}
	return fmt.Sprintf("%s:%d:%d", p.file, p.line, p.col)
}

// configError is one thing wrong with a configuration.
type configError struct {
	at             pos
	key            string // with its blocks, "mqtt.listen"; may be empty
	reason, remedy string
}

func (e *configError) Error() string {
	var s strings.Builder
	if at := e.at.String(); at != "" {
		s.WriteString(at + ": ")
	}
	if e.key != "" {
		fmt.Fprintf(&s, "key %q: ", e.key)
	}
	s.WriteString(e.reason)
	if e.remedy != "" {
		s.WriteString("; " + e.remedy)
	}
	return s.String()
}

// configErrors is everything wrong with a configuration, one line each, in the
// order of the file.
type configErrors []*configError

func (es configErrors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

func (es configErrors) sort() {
	slices.SortStableFunc(es, func(a, b *configError) int {
		if c := strings.Compare(a.at.file, b.at.file); c != 0 {
			return c
		}
		if a.at.line != b.at.line {
			return a.at.line - b.at.line
		}
		return a.at.col - b.at.col
	})
}

// token is a value as conf's pedantic mode gives it.
type token interface {
	Value() any
	Line() int
	Position() int
	SourceFile() string
	IsUsedVariable() bool
}

// reader gathers the errors of one configuration. Belongs to one goroutine.
type reader struct {
	file     string
	errs     configErrors
	places   map[string]pos // where each key that was read stands, by path
	units    unitSet
	warnings []string
}

func newReader(file string) *reader {
	return &reader{file: file, places: make(map[string]pos)}
}

// fail records an error about the key at path, wherever it was read.
func (r *reader) fail(path, reason, remedy string) {
	r.errs = append(r.errs, &configError{at: r.place(path), key: path, reason: reason, remedy: remedy})
}

// place is where the key at path stands, or the nearest block around it that is
// in the file.
func (r *reader) place(path string) pos {
	for {
		if at, ok := r.places[path]; ok {
			return at
		}
		i := strings.LastIndexByte(path, '.')
		if i < 0 {
			return pos{file: r.file}
		}
		path = path[:i]
	}
}

// block is one map of the file.
type block struct {
	r     *reader
	path  string // "mqtt.authorization"; empty for the file itself
	at    pos
	m     map[string]any
	used  map[string]bool   // keys of m that were read or refused
	names []string          // every name asked for, to suggest from
	nats  map[string]string // nats-server's keys that leafd does not have, and what to do
}

func (r *reader) block(path string, at pos, m map[string]any) *block {
	return &block{r: r, path: path, at: at, m: m, used: make(map[string]bool)}
}

// value is one value with its place in the file.
type value struct {
	b    *block
	path string
	at   pos
	v    any
}

// unwrap takes a token apart; what stands inside a variable from the environment
// has no token of its own and inherits the place.
func (b *block) unwrap(path string, v any, around pos) value {
	t, ok := v.(token)
	if !ok {
		return value{b, path, around, v}
	}
	at := pos{t.SourceFile(), t.Line(), t.Position()}
	if at.file == "" {
		at.file = b.r.file
	}
	if at.line == 1 {
		at.col++ // conf counts columns from 0 on the first line, and from 1 on the others
	}
	at.col = max(at.col, 1)
	return value{b, path, at, t.Value()}
}

func (v value) fail(reason, remedy string) {
	v.b.r.errs = append(v.b.r.errs, &configError{at: v.at, key: v.path, reason: reason, remedy: remedy})
}

// wrongType never shows the value: it may be a secret.
func (v value) wrongType(want string) {
	if _, isText := v.v.(string); !isText && strings.HasPrefix(want, "text") {
		v.fail("must be "+want+", not "+kindOf(v.v), "put it in quotes")
		return
	}
	v.fail("must be "+want+", not "+kindOf(v.v), "")
}

func kindOf(v any) string {
	switch v.(type) {
	case string:
		return "text"
	case int64:
		return "a number"
	case float64:
		return "a fraction"
	case bool:
		return "true or false"
	case time.Time:
		return "a date"
	case []any:
		return "a list"
	case map[string]any:
		return "a block"
	}
	return fmt.Sprintf("%T", v)
}

func (b *block) join(key string) string {
	if b.path == "" {
		return key
	}
	return b.path + "." + key
}

// get finds the one key among names, in any case, and marks it used.
func (b *block) get(names ...string) (value, bool) {
	b.names = append(b.names, names...)
	var found value
	ok := false
	for _, name := range names {
		for key := range b.m {
			if !strings.EqualFold(key, name) || b.used[key] {
				continue
			}
			b.used[key] = true
			v := b.unwrap(b.join(key), b.m[key], b.at)
			if ok {
				v.fail(fmt.Sprintf("says the same as %q, which is set too", found.path), "keep one of them")
				continue
			}
			found, ok = v, true
			b.r.places[b.join(names[0])] = v.at
			b.r.places[v.path] = v.at
		}
	}
	return found, ok
}

// has reports whether one of names is in the block, without reading it.
func (b *block) has(names ...string) bool {
	for key := range b.m {
		if slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, key) }) {
			return true
		}
	}
	return false
}

// str reads text. Its value never appears in an error.
func (b *block) str(dst *string, names ...string) bool {
	v, ok := b.get(names...)
	if !ok {
		return false
	}
	s, isText := v.v.(string)
	switch {
	case !isText:
		v.wrongType("text")
		return false
	case s == "":
		v.fail("is empty", "give it a value or remove it")
		return false
	}
	*dst = s
	return true
}

// oneOf reads one of a few words.
func (b *block) oneOf(dst *string, words []string, names ...string) {
	v, ok := b.get(names...)
	if !ok {
		return
	}
	s, _ := v.v.(string)
	if !slices.Contains(words, s) {
		v.fail(fmt.Sprintf("must be one of %s", quoteAll(words)), "")
		return
	}
	*dst = s
}

func (b *block) boolean(dst *bool, names ...string) {
	v, ok := b.get(names...)
	if !ok {
		return
	}
	on, isBool := v.v.(bool)
	if !isBool {
		v.wrongType("true or false")
		return
	}
	*dst = on
}

// integer reads a whole number from lo to hi.
func (b *block) integer(dst *int, lo, hi int, names ...string) {
	v, ok := b.get(names...)
	if !ok {
		return
	}
	n, isInt := v.v.(int64)
	if !isInt {
		v.wrongType("a whole number")
		return
	}
	if n < int64(lo) || n > int64(hi) {
		v.fail(fmt.Sprintf("%d is out of range", n), fmt.Sprintf("use %d to %d", lo, hi))
		return
	}
	*dst = int(n)
}

// count reads how many of what there are, from lo to hi. It is no size and has no unit.
func (b *block) count(dst *int64, lo, hi int64, what string, names ...string) {
	v, ok := b.get(names...)
	if !ok {
		return
	}
	n, isInt := v.v.(int64)
	switch unit := b.r.units[v.at]; {
	case !isInt:
		v.wrongType("a number of " + what)
	case unit != "":
		v.fail(fmt.Sprintf("is a number of %s, and %s is a size", what, unit), fmt.Sprintf("write the number alone, such as %d", n))
	case n < lo || n > hi:
		v.fail(fmt.Sprintf("%d is out of range", n), fmt.Sprintf("use %d to %d %s", lo, hi, what))
	default:
		*dst = n
	}
}

// percent reads 20 or "20%".
func (b *block) percent(dst *int, names ...string) {
	v, ok := b.get(names...)
	if !ok {
		return
	}
	n, isInt := v.v.(int64)
	if s, isText := v.v.(string); isText {
		var err error
		digits, _ := strings.CutSuffix(strings.TrimSpace(s), "%")
		n, err = strconv.ParseInt(digits, 10, 64)
		isInt = err == nil
	}
	if !isInt || n < 0 || n > 100 {
		v.fail(fmt.Sprintf("%v is not a share", v.v), `use 0 to 100 percent, such as "20%"`)
		return
	}
	*dst = int(n)
}

// size reads bytes, "64MB" with or without quotes, from lo to hi.
func (b *block) size(dst *int64, lo, hi int64, names ...string) {
	v, ok := b.get(names...)
	if !ok {
		return
	}
	n, isInt := v.v.(int64)
	if s, isText := v.v.(string); isText {
		var err error
		if n, err = parseSize(s); err != nil {
			v.fail(err.Error(), `write a size such as 8MB`)
			return
		}
	} else if !isInt {
		v.wrongType("a size such as 8MB")
		return
	}
	if n < lo || n > hi {
		v.fail(fmt.Sprintf("%s is out of range", showSize(n)), fmt.Sprintf("use %s to %s", showSize(lo), showSize(hi)))
		return
	}
	*dst = n
}

// sizeInt is size for what is an int in memory.
func (b *block) sizeInt(dst *int, lo, hi int64, names ...string) {
	n := int64(*dst)
	b.size(&n, lo, min(hi, math.MaxInt), names...)
	*dst = int(n)
}

// dur reads "10s" or a number of seconds, from lo to hi.
func (b *block) dur(dst *time.Duration, lo, hi time.Duration, names ...string) {
	v, ok := b.get(names...)
	if !ok {
		return
	}
	var d time.Duration
	switch n := v.v.(type) {
	case string:
		var err error
		if d, err = time.ParseDuration(n); err != nil {
			v.fail("is not a duration", `write one such as "10s", "2m" or "250ms"`)
			return
		}
	case int64:
		if n > math.MaxInt64/int64(time.Second) || n < math.MinInt64/int64(time.Second) {
			v.fail(errTooBig.Error(), `write a duration in quotes, such as "2m"`)
			return
		}
		d = time.Duration(n) * time.Second
	case float64:
		d = time.Duration(min(max(n, -1e9), 1e9) * float64(time.Second))
	default:
		v.wrongType(`a duration such as "10s"`)
		return
	}
	if d < lo || d > hi {
		remedy := fmt.Sprintf("use %v to %v", lo, hi)
		if n, bare := v.v.(int64); bare && n >= 1e6 && n%1e6 == 0 {
			remedy += fmt.Sprintf(`; without quotes %dm is %d million seconds, with quotes "%dm" is minutes`, n/1e6, n/1e6, n/1e6)
		}
		v.fail(fmt.Sprintf("%v is out of range", d), remedy)
		return
	}
	*dst = d
}

// addr reads "host:port", ":port" or a port. A host left out is host; port -1 is
// any free one, given as 0.
func (b *block) addr(dst *string, host string, names ...string) bool {
	v, ok := b.get(names...)
	if !ok {
		return false
	}
	var port int64
	switch a := v.v.(type) {
	case int64:
		port = a
	case string:
		h, p, err := net.SplitHostPort(a)
		if err == nil {
			port, err = strconv.ParseInt(p, 10, 32)
		} else if n, perr := strconv.ParseInt(a, 10, 32); perr == nil {
			port, err = n, nil
		}
		if err != nil {
			v.fail(fmt.Sprintf("%q is not an address", a), `write "host:port" or a port; IPv6 as "[::1]:4222"`)
			return false
		}
		if h != "" {
			host = h
		}
	default:
		v.wrongType(`an address such as "127.0.0.1:4222"`)
		return false
	}
	joined, ok := v.hostPort(host, port)
	if ok {
		*dst = joined
	}
	return ok
}

func (v value) hostPort(host string, port int64) (string, bool) {
	if port == -1 {
		port = 0
	} else if port < 1 || port > 65535 {
		v.fail(fmt.Sprintf("port %d is out of range", port), "use 1 to 65535, or -1 for any free port")
		return "", false
	}
	if strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r == '/' }) {
		v.fail(fmt.Sprintf("%q is not a host", host), "write a name or an IP address")
		return "", false
	}
	return net.JoinHostPort(host, strconv.FormatInt(port, 10)), true
}

// listenOn reads "listen", or "host" and "port" in its place. With a port and no
// host it is every interface, as in nats-server.
func (b *block) listenOn(dst *string, defaultHost string, defaultPort int) bool {
	if b.addr(dst, "0.0.0.0", "listen") {
		for _, other := range []string{"host", "net", "port"} {
			if v, ok := b.get(other); ok {
				v.fail(`says the same as "listen", which is set too`, "keep one of them")
			}
		}
		return true
	}
	host, port := "", int64(defaultPort)
	hasHost := b.str(&host, "host", "net")
	pv, hasPort := b.get("port")
	if !hasHost && !hasPort {
		return false
	}
	if hasPort {
		n, isInt := pv.v.(int64)
		if !isInt {
			pv.wrongType("a number")
			return false
		}
		port = n
	} else {
		pv = value{b: b, path: b.join("host"), at: b.r.place(b.join("host"))}
	}
	if !hasHost {
		host = defaultHost
	}
	joined, ok := pv.hostPort(host, port)
	if ok {
		*dst = joined
		b.r.places[b.join("listen")] = pv.at
	}
	return ok
}

// list reads a list of text; one text alone is a list of one.
func (b *block) list(dst *[]string, names ...string) bool {
	v, ok := b.get(names...)
	if !ok {
		return false
	}
	out, ok := v.texts()
	if ok {
		*dst = out
	}
	return ok
}

func (v value) texts() ([]string, bool) {
	switch items := v.v.(type) {
	case string:
		if items != "" {
			return []string{items}, true
		}
	case []any:
		out := make([]string, 0, len(items))
		for i, item := range items {
			iv := v.b.unwrap(fmt.Sprintf("%s[%d]", v.path, i), item, v.at)
			s, isText := iv.v.(string)
			if !isText || s == "" {
				iv.wrongType("text that is not empty")
				return nil, false
			}
			out = append(out, s)
		}
		if len(out) > 0 {
			return out, true
		}
	default:
		v.wrongType("text or a list of text")
		return nil, false
	}
	v.fail("is empty", "name at least one, or remove the key")
	return nil, false
}

// sub reads an inner block, and reports its unknown keys.
func (b *block) sub(fn func(*block), names ...string) bool {
	v, ok := b.get(names...)
	if !ok {
		return false
	}
	return v.enter(fn)
}

func (v value) enter(fn func(*block)) bool {
	m, isMap := v.v.(map[string]any)
	if !isMap {
		v.wrongType("a block { … }")
		return false
	}
	inner := v.b.r.block(v.path, v.at, m)
	v.b.r.places[v.path] = v.at
	fn(inner)
	inner.finish()
	return true
}

// subs reads a list of blocks.
func (b *block) subs(fn func(*block), names ...string) {
	v, ok := b.get(names...)
	if !ok {
		return
	}
	items, isList := v.v.([]any)
	if !isList {
		v.wrongType("a list of blocks [ { … } ]")
		return
	}
	for i, item := range items {
		b.unwrap(fmt.Sprintf("%s[%d]", v.path, i), item, v.at).enter(fn)
	}
}

// each reads a block whose keys are names of the user's own, in order of name.
func (b *block) each(fn func(name string, v value)) {
	for _, key := range slices.Sorted(maps.Keys(b.m)) {
		if b.used[key] {
			continue
		}
		v := b.unwrap(b.join(key), b.m[key], b.at)
		if _, isMap := v.v.(map[string]any); !isMap && b.isVariable(key) {
			continue
		}
		b.used[key] = true
		fn(key, v)
	}
}

func (b *block) isVariable(key string) bool {
	t, ok := b.m[key].(token)
	return ok && t.IsUsedVariable()
}

// notYet names keys of nats-server that leafd does not have, to refuse them by
// name; each may be given as "key: what to do".
func (b *block) notYet(keys ...string) {
	if b.nats == nil {
		b.nats = make(map[string]string)
	}
	for _, k := range keys {
		key, remedy, _ := strings.Cut(k, ": ")
		for _, k := range strings.Fields(key) {
			b.nats[k] = remedy
		}
	}
}

// finish reports the keys that nobody read. One that a variable is taken from is
// fine.
func (b *block) finish() {
	for key, raw := range b.m {
		if b.used[key] {
			continue
		}
		v := b.unwrap(b.join(key), raw, b.at)
		if remedy, known := b.nats[strings.ToLower(key)]; known {
			v.fail("leafd does not have this nats-server key yet", cmp.Or(remedy, "remove it"))
			continue
		}
		if b.isVariable(key) {
			continue
		}
		remedy := "remove it"
		if near := nearest(key, b.names); near != "" {
			remedy = fmt.Sprintf("did you mean %q?", near)
		}
		v.fail("unknown key", remedy)
	}
}

// nearest is the name within a third of its length in edits from key, if any.
func nearest(key string, names []string) string {
	key = strings.ToLower(key)
	best, bestDist := "", max(1, min(len(key), 24)/3)+1
	for _, name := range names {
		if d := editDistance(key, name); d < bestDist {
			best, bestDist = name, d
		}
	}
	return best
}

// editDistance counts inserted, removed, replaced and swapped bytes (optimal
// string alignment), over at most 64 bytes of each.
func editDistance(a, b string) int {
	a, b = a[:min(len(a), 64)], b[:min(len(b), 64)]
	var rows [3][65]int
	before, last, row := &rows[0], &rows[1], &rows[2]
	for j := range len(b) + 1 {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

func quoteAll(words []string) string {
	q := make([]string, len(words))
	for i, w := range words {
		q[i] = strconv.Quote(w)
	}
	return strings.Join(q, ", ")
}

// showSize writes bytes as a person would: 8MB, 1500.
func showSize(n int64) string {
	for _, u := range []struct {
		unit string
		n    int64
	}{{"TB", 1 << 40}, {"GB", 1 << 30}, {"MB", 1 << 20}, {"KB", 1 << 10}} {
		if n != 0 && n%u.n == 0 {
			return strconv.FormatInt(n/u.n, 10) + u.unit
		}
	}
	return strconv.FormatInt(n, 10)
}
