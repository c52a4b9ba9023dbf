package monitor

import "strings"

// matches reports whether a literal subject matches a filter.
func matches(literal, filter string) bool {
	for {
		l, restL, moreL := strings.Cut(literal, ".")
		f, restF, moreF := strings.Cut(filter, ".")
		switch {
		case f == ">":
			return true
		case f != l && f != "*":
			return false
		case !moreL || !moreF:
			return moreL == moreF
		}
		literal, filter = restL, restF
	}
}

// collide reports whether some subject matches both filters.
func collide(a, b string) bool {
	for {
		x, restA, moreA := strings.Cut(a, ".")
		y, restB, moreB := strings.Cut(b, ".")
		switch {
		case x == ">" || y == ">":
			return true
		case x != y && x != "*" && y != "*":
			return false
		case !moreA || !moreB:
			return moreA == moreB
		}
		a, b = restA, restB
	}
}

// literal reports whether s is a subject that one may publish to.
func literal(s string) bool {
	for t := range strings.SplitSeq(s, ".") {
		if t == "" || t == "*" || t == ">" || strings.ContainsAny(t, " \t\r\n\f") {
			return false
		}
	}
	return true
}
