package msg

import "strings"

// Subjects are tokens separated by dots. "*" stands for one token, ">" at the end
// for one or more. (NATS protocol documentation, "Subject-Based Messaging".)

// Bytes is text in either of the forms the hot and the cold path hold it.
type Bytes interface{ ~string | ~[]byte }

// ValidSubject reports whether s names a subject one may publish to: no empty
// token, no white space, no control byte, no wildcard token.
func ValidSubject[T Bytes](s T) bool {
	ok, wild := checkSubject(s)
	return ok && !wild
}

// ValidFilter reports whether s may be subscribed to: as ValidSubject, with
// wildcard tokens allowed and ">" only as the last.
func ValidFilter[T Bytes](s T) bool {
	ok, _ := checkSubject(s)
	return ok
}

// ValidQueue reports whether s may name a queue group: not empty, no white space.
func ValidQueue[T Bytes](s T) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return false
		}
	}
	return len(s) > 0
}

func checkSubject[T Bytes](s T) (ok, wild bool) {
	start := 0
	for i := 0; ; i++ {
		if i < len(s) && s[i] != '.' {
			if s[i] <= ' ' || s[i] == 0x7f {
				return false, wild
			}
			continue
		}
		switch {
		case i == start:
			return false, wild
		case i == start+1 && s[start] == '*':
			wild = true
		case i == start+1 && s[start] == '>':
			return i == len(s), true
		}
		if i == len(s) {
			return true, wild
		}
		start = i + 1
	}
}

// HasWildcard reports whether s has a token "*" or a last token ">".
func HasWildcard(s string) bool {
	_, wild := checkSubject(s)
	return wild
}

// Match reports whether the valid filter covers the valid subject. The subject's
// own wildcards are taken literally, so Match("a.*", "a.>") is false and
// Match("a.>", "a.*") is true.
func Match(filter, subject string) bool {
	for {
		f, frest, fmore := strings.Cut(filter, ".")
		if f == ">" {
			return true
		}
		s, srest, smore := strings.Cut(subject, ".")
		if f != s && (f != "*" || s == ">") || fmore != smore {
			return false
		}
		if !fmore {
			return true
		}
		filter, subject = frest, srest
	}
}

// Overlap reports whether some subject is matched by both valid filters.
func Overlap(a, b string) bool {
	for {
		at, arest, amore := strings.Cut(a, ".")
		bt, brest, bmore := strings.Cut(b, ".")
		if at == ">" || bt == ">" {
			return true
		}
		if at != bt && at != "*" && bt != "*" || amore != bmore {
			return false
		}
		if !amore {
			return true
		}
		a, b = arest, brest
	}
}
