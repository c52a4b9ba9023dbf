package main

import (
	"fmt"
	"strings"
)

// ok reports whether nothing is wrong. A control must lose something, which shows that
// the tester sees losses; a store that does not open is wrong even there.
func (t *tally) ok() bool {
	if t.Control {
		return t.LostIn > 0 && t.Unopened == 0
	}
	return !t.bad() && t.Faults > 0
}

// line is one part, for people who watch.
func (t *tally) line() string {
	s := fmt.Sprintf("%s: %d tried in %.1f s (%.0f/s), %d acknowledged looked for, %d lost", t.Name, t.Faults,
		t.Took.Seconds(), float64(t.Faults)/max(t.Took.Seconds(), .001), t.Checked, t.Lost)
	if gone := t.Declared + t.Tail; gone > 0 {
		s += fmt.Sprintf(", %.2f %% recovered, %d declared lost, %d from the journal's end with no trace",
			100-100*float64(gone)/float64(t.Checked), t.Declared, t.Tail)
	}
	switch {
	case t.Control && t.ok():
		s += fmt.Sprintf(": found in %d states, as it must", t.LostIn)
	case t.Control && t.LostIn == 0:
		s += ": THE TESTER IS BLIND, this must lose something"
	case !t.ok():
		s += fmt.Sprintf(": BAD in %d, such as: %.300s", t.BadFaults, t.Detail)
	}
	return s
}

// table is all of it in markdown.
func table(all []tally) string {
	var b strings.Builder
	b.WriteString("| fault | tried | acked checked | lost | duplicated | out of order | silently wrong | false alarms | not opened | declared lost | journal's end lost |\n")
	b.WriteString("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, t := range all {
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d |\n", t.Name, t.Faults, t.Checked,
			t.Lost, t.Duplicated, t.Disorder, t.Wrong, t.Alarms, t.Unopened, t.Declared, t.Tail)
	}
	return b.String()
}
