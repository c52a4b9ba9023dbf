package mqttbridge

import (
	"strings"
	"testing"

	"github.com/leafd/leafd/internal/msg"
)

// The notation of nats-server, as its users see it.
func TestTopicToSubject(t *testing.T) {
	for _, c := range []struct{ topic, subject string }{
		{"foo/bar", "foo.bar"}, {"/foo/bar", "/.foo.bar"}, {"foo/", "foo./"}, {"/foo/", "/.foo./"},
		{"foo//bar", "foo./.bar"}, {"foo.", "foo//"}, {"//foo", "/./.foo"}, {"foo//", "foo././"},
		{"foo///bar", "foo././.bar"}, {"/", "/./"}, {"a.b/c", "a//b.c"},
		{"spBv1.0/g/NDATA/e", "spBv1//0.g.NDATA.e"},
		{"foo/*/bar", "foo.*.bar"}, {"foo/>", "foo.>"}, {"ä/€", "ä.€"}, {"$SYS/x", "$SYS.x"},
		{strings.Repeat("a", maxSubject), strings.Repeat("a", maxSubject)},
	} {
		got, err := appendSubject(nil, []byte(c.topic))
		if err != nil || string(got) != c.subject {
			t.Errorf("%q becomes %q, %v; want %q", c.topic, got, err, c.subject)
		}
		if back, ok := appendTopic(nil, got); !ok || string(back) != c.topic {
			t.Errorf("%q comes back as %q, %v", c.topic, back, ok)
		}
	}
	for _, bad := range []string{"a b", "a\tb", "a\nb", "a\rb", "a\fb", "a\x7fb", " ", "a/ ", "a\x01", strings.Repeat("a", maxSubject+1), strings.Repeat(".", maxSubject/2+1)} {
		if got, err := appendSubject(nil, []byte(bad)); err == nil {
			t.Errorf("%q becomes %q", bad, got)
		}
	}
}

func TestFilterToSubjects(t *testing.T) {
	for _, c := range []struct{ filter, subject, above string }{
		{"#", ">", ""}, {"foo/#", "foo.>", "foo"}, {"foo/+/bar", "foo.*.bar", ""}, {"/+", "/.*", ""},
		{"foo//+", "foo./.*", ""}, {"spBv1.0/+/DDATA/#", "spBv1//0.*.DDATA.>", "spBv1//0.*.DDATA"},
		{"+", "*", ""}, {"+/#", "*.>", "*"}, {"/#", "/.>", ""}, {"//#", "/./.>", "/./"}, {"foo//#", "foo./.>", "foo./"},
		{"+/", "*./", ""}, {"foo/*", "foo.*", ""}, {"foo/>", "foo.>", ""}, {"foo", "foo", ""}, {"$share/g/foo", "$share.g.foo", ""},
	} {
		subject, above, err := filterSubjects(c.filter)
		if err != nil || subject != c.subject || above != c.above {
			t.Errorf("%q becomes %q and %q, %v; want %q and %q", c.filter, subject, above, err, c.subject, c.above)
		}
	}
	for _, bad := range []string{"", "a+", "+a", "a/b+/c", "#/a", "a#", "a/#/b", "a/##", "a b", "a/\t", "foo/>/bar", strings.Repeat("a", maxSubject+1), strings.Repeat("+/", maxSubject)} {
		if subject, _, err := filterSubjects(bad); err == nil {
			t.Errorf("%q becomes %q", bad, subject)
		}
	}
}

func TestSubjectToTopic(t *testing.T) {
	for _, c := range []struct{ subject, topic string }{
		{"foo.bar", "foo/bar"}, {"foo/bar", "foobar"}, {"foo/", "foo"}, {"a///b", "a.b"}, {"a/.b", "a/b"}, {"a.*", "a/*"},
		{"/", ""}, {"a.+", ""}, {"a#", ""}, {"\xff", ""}, {"a.\xed\xa0\x80", ""}, {strings.Repeat("a", 65536), ""},
	} {
		got, ok := appendTopic(nil, []byte(c.subject))
		if ok != (c.topic != "") || ok && string(got) != c.topic {
			t.Errorf("%q becomes %q, %v; want %q", c.subject, got, ok, c.topic)
		}
	}
}

// ruleSubject is the mapping once more, as the eight rules it is published as.
func ruleSubject(topic string) string {
	out, converted := "", false
	for i, c := range topic {
		switch {
		case c == '/' && (i == 0 || strings.HasSuffix(out, ".")):
			out, converted = out+"/.", true
		case c == '/' && (i == len(topic)-1 || topic[i+1] == '/'):
			out, converted = out+"./", true
		case c == '/':
			out, converted = out+".", true
		case c == '.':
			out, converted = out+"//", true
		default:
			out += string(c)
		}
	}
	if converted && strings.HasSuffix(out, ".") {
		out += "/"
	}
	return out
}

// Every topic over "a", "." and "/" up to seven bytes: it has the subject the
// rules give, a valid one that no other topic has, and it comes back.
func TestTopicsAreLossless(t *testing.T) {
	seen := map[string]string{}
	var walk func(topic string)
	walk = func(topic string) {
		if topic != "" {
			b, err := appendSubject(nil, []byte(topic))
			subject := string(b)
			back, ok := appendTopic(nil, b)
			switch {
			case err != nil || subject != ruleSubject(topic):
				t.Fatalf("%q becomes %q, %v; the rules say %q", topic, subject, err, ruleSubject(topic))
			case !msg.ValidSubject(subject):
				t.Fatalf("%q becomes %q, which is no subject", topic, subject)
			case !ok || string(back) != topic:
				t.Fatalf("%q becomes %q and comes back as %q", topic, subject, back)
			case seen[subject] != "":
				t.Fatalf("%q and %q both become %q", topic, seen[subject], subject)
			}
			seen[subject] = topic
		}
		if len(topic) < 7 {
			for _, c := range []string{"a", ".", "/"} {
				walk(topic + c)
			}
		}
	}
	walk("")
	if len(seen) != 3279 {
		t.Fatalf("%d topics, want 3279", len(seen))
	}
}

// topicMatches is 4.7 without subjects: levels against levels.
func topicMatches(filter, topic string) bool {
	f, n := strings.Split(filter, "/"), strings.Split(topic, "/")
	for i, level := range f {
		if level == "#" {
			return true
		}
		if i >= len(n) || level != "+" && level != n[i] {
			return false
		}
	}
	return len(f) == len(n)
}

// A filter matches a topic exactly if one of its subjects matches the topic's.
func TestFiltersMatchWhatMQTTSays(t *testing.T) {
	var topics []string
	var walk func(s string, n int, alphabet string, visit func(string))
	walk = func(s string, n int, alphabet string, visit func(string)) {
		if s != "" {
			visit(s)
		}
		if len(s) < n {
			for _, c := range alphabet {
				walk(s+string(c), n, alphabet, visit)
			}
		}
	}
	walk("", 4, "a./", func(s string) { topics = append(topics, s) })
	walk("", 4, "a./+#", func(filter string) {
		subject, above, err := filterSubjects(filter)
		if err != nil {
			return
		}
		for _, topic := range topics {
			b, _ := appendSubject(nil, []byte(topic))
			got := msg.Match(subject, string(b)) || above != "" && msg.Match(above, string(b))
			if got != topicMatches(filter, topic) {
				t.Fatalf("filter %q (%q, %q) and topic %q (%q): matched is %v", filter, subject, above, topic, b, got)
			}
		}
	})
}

func TestDollarIsHiddenFromWildcards(t *testing.T) {
	for _, c := range []struct {
		filter, subject string
		hidden          bool
	}{
		{"#", "$SYS.x", true}, {"+/x", "$SYS.x", true}, {"$SYS/#", "$SYS.x", false}, {"$SYS/+", "$SYS.x", false},
		{"#", "a.$SYS", false}, {"+/x", "a.x", false},
	} {
		subscribed, _, err := filterSubjects(c.filter)
		if err != nil || hidden(subscribed, []byte(c.subject)) != c.hidden {
			t.Errorf("%q and %q: hidden is not %v (%v)", c.filter, c.subject, c.hidden, err)
		}
	}
}

func FuzzTopic(f *testing.F) {
	for _, s := range []string{"a/b", "/", "//.", "a.+", "foo/#", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if subject, err := appendSubject(nil, []byte(s)); err == nil && s != "" {
			if literal := strings.NewReplacer("*", "x", ">", "x").Replace(string(subject)); !msg.ValidSubject(literal) {
				t.Fatalf("%q becomes %q", s, subject)
			}
			if back, ok := appendTopic(nil, subject); ok && string(back) != s {
				t.Fatalf("%q becomes %q and comes back as %q", s, subject, back)
			}
		}
		if subject, above, err := filterSubjects(s); err == nil && (!msg.ValidFilter(subject) || above != "" && !msg.ValidFilter(above)) {
			t.Fatalf("filter %q becomes %q and %q", s, subject, above)
		}
		if topic, ok := appendTopic(nil, []byte(s)); ok && (len(topic) == 0 || strings.ContainsAny(string(topic), "+#\x00")) {
			t.Fatalf("subject %q becomes %q", s, topic)
		}
	})
}
