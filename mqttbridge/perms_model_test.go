package mqttbridge

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/leafd/leafd/internal/testkit"
	"github.com/leafd/leafd/leaf"
	"github.com/leafd/leafd/mqttbridge/packet"
)

// modelDevice is a device and what the model knows of it.
type modelDevice struct {
	*client
	name string
	law  testkit.Law
	subs map[string]*modelFilter // by topic filter
}

// modelFilter is a topic filter as subjects: with "#" at its end, the level above is
// one of its own.
type modelFilter struct {
	at, above       string // above is empty if there is none
	hasAt, hasAbove bool   // is subscribed to now
}

func newModelFilter(filter string) *modelFilter {
	at := strings.NewReplacer("/", ".", "+", "*", "#", ">").Replace(filter)
	f := &modelFilter{at: at}
	if above, ok := strings.CutSuffix(at, ".>"); ok {
		f.above = above
	}
	return f
}

// matches counts the copies of a message on a subject that come by the filter.
func (f *modelFilter) matches(subject string) (n int) {
	if f.hasAt && testkit.Matches(f.at, subject) {
		n++
	}
	if f.hasAbove && testkit.Matches(f.above, subject) {
		n++
	}
	return n
}

// permit gives the device another law: what is not allowed any more has ended.
func (d *modelDevice) permit(law testkit.Law) {
	d.law = law
	for _, f := range d.subs {
		f.hasAt = f.hasAt && law.MaySubscribe(f.at, "")
		f.hasAbove = f.hasAbove && law.MaySubscribe(f.above, "")
	}
}

// subscribed is what becomes of a SUBSCRIBE.
func (d *modelDevice) subscribed(filter string) (code byte) {
	f := d.subs[filter]
	if f == nil {
		f = newModelFilter(filter)
	}
	if !d.law.MaySubscribe(f.at, "") {
		return packet.SubackFailure
	}
	d.subs[filter], f.hasAt = f, true
	f.hasAbove = f.above != "" && d.law.MaySubscribe(f.above, "")
	return 0
}

// copies of a message on a subject that the device may have.
func (d *modelDevice) copies(subject string) (n int) {
	if !d.law.MayReceive(subject, "") {
		return 0
	}
	for _, f := range d.subs {
		n += f.matches(subject)
	}
	return n
}

// heard returns how many messages came, all of which are on the topic.
func (d *modelDevice) heard(topic string) (n int) {
	d.t.Helper()
	d.send([]byte{0xc0, 0})
	for {
		b, err := d.read()
		switch {
		case err != nil:
			d.t.Fatalf("%s: %v", d.name, err)
		case b[0] == 0xd0:
			return n
		case b[0]>>4 == byte(packet.PUBACK):
		case b[0] == 0x30 && string(b[4:4+int(b[3])]) == topic:
			n++
		default:
			d.t.Fatalf("%s: % x in place of a message on %s", d.name, b, topic)
		}
	}
}

// answer wants an answer. A PUBACK may come at any time.
func (d *modelDevice) answer(want ...byte) {
	d.t.Helper()
	b, err := d.read()
	for err == nil && b[0]>>4 == byte(packet.PUBACK) {
		b, err = d.read()
	}
	if err != nil || !slices.Equal(b, want) {
		d.t.Fatalf("%s: % x, %v; want % x", d.name, b, err, want)
	}
}

// drawSubject draws a filter of subjects, or a topic filter.
func drawSubject(t *rapid.T, one, rest, sep string) string {
	tokens := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", one}), 1, 3).Draw(t, "tokens")
	if len(tokens) < 3 && rapid.Bool().Draw(t, "rest") {
		tokens = append(tokens, rest)
	}
	return strings.Join(tokens, sep)
}

func drawLaw(t *rapid.T) testkit.Law {
	list := func() (all []string) {
		for range rapid.IntRange(0, 3).Draw(t, "entries") {
			all = append(all, drawSubject(t, "*", ">", "."))
		}
		return all
	}
	return testkit.Law{Publish: testkit.SubjectList{Allow: list(), Deny: list()}, Subscribe: testkit.SubjectList{Allow: list(), Deny: list()}}
}

// Whatever devices may do, by random permissions that change under them, each message
// comes to exactly those that may have it: published at either level, to be retained or
// not, by a device, by a NATS client, or as the will of a device that is gone.
func TestPermissionsObeyModel(t *testing.T) {
	b := startBroker(t, Options{Barrier: func(fn func(error)) { fn(nil) }})
	auth := b.opts.Load().Auth
	devices := []*modelDevice{{name: "d0"}, {name: "d1"}, {name: "d2"}}
	permit := func(t *rapid.T) {
		cfg := leaf.AuthConfig{}
		for _, d := range devices {
			cfg.Users = append(cfg.Users, leaf.User{Name: d.name, Password: "p", Permissions: &leaf.Permissions{
				Publish: leaf.SubjectList(d.law.Publish), Subscribe: leaf.SubjectList(d.law.Subscribe)}})
		}
		if err := auth.Apply(cfg); err != nil {
			t.Fatal(err)
		}
	}
	login := func(d *modelDevice, id, will string) *client {
		p := packet.Connect{Version: packet.V311, CleanStart: true, ClientID: []byte(id), HasUser: true, Username: []byte(d.name), HasPass: true, Password: []byte("p")}
		if will != "" {
			p.HasWill, p.Will = true, packet.Will{Topic: []byte(will), Payload: []byte("gone"), QoS: 1, Retain: true}
		}
		return b.connectWith(p)
	}
	rapid.Check(t, func(t *rapid.T) {
		for _, d := range devices {
			d.law = drawLaw(t)
		}
		permit(t)
		for _, d := range devices {
			d.subs, d.client = map[string]*modelFilter{}, login(d, d.name, "") // takes over from the check before
		}
		pick := func() *modelDevice { return rapid.SampledFrom(devices).Draw(t, "device") }
		reaches := func(what, subject string, may bool, first ...*modelDevice) { // first is whose answer says that it was routed
			topic := strings.ReplaceAll(subject, ".", "/")
			others := slices.DeleteFunc(slices.Clone(devices), func(d *modelDevice) bool { return slices.Contains(first, d) })
			for _, d := range append(first, others...) {
				want := 0
				if may {
					want = d.copies(subject)
				}
				if got := d.heard(topic); got != want {
					t.Fatalf("%s on %s: %d copies came to %s, want %d; it may %+v and has %v", what, subject, got, d.name, want, d.law, d.filters())
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"permit": func(t *rapid.T) {
				pick().permit(drawLaw(t))
				permit(t)
			},
			"subscribe": func(t *rapid.T) {
				d, filter := pick(), drawSubject(t, "+", "#", "/")
				p := packet.Subscribe{ID: 1}
				p.Add([]byte(filter), 0)
				d.send(p.Append(nil, packet.V311))
				d.answer(0x90, 3, 0, 1, d.subscribed(filter))
			},
			"unsubscribe": func(t *rapid.T) {
				d := pick()
				if len(d.subs) == 0 {
					t.Skip("it has no subscription")
				}
				filter := rapid.SampledFrom(d.filters()).Draw(t, "filter")
				d.send(append([]byte{0xa2, byte(4 + len(filter)), 0, 1, 0, byte(len(filter))}, filter...))
				d.answer(0xb0, 2, 0, 1)
				delete(d.subs, filter)
			},
			"publish": func(t *rapid.T) {
				d, subject := pick(), rapid.SampledFrom(testkit.LawSubjects).Draw(t, "subject")
				p := packet.Publish{Topic: []byte(strings.ReplaceAll(subject, ".", "/")), Payload: []byte("1"), Retain: rapid.Bool().Draw(t, "retain")}
				if rapid.Bool().Draw(t, "QoS 1") {
					p.QoS, p.ID = 1, 9
				}
				d.send(p.Append(nil, packet.V311))
				reaches("by "+d.name, subject, d.law.MayPublish(subject), d)
			},
			"publish by NATS": func(t *rapid.T) {
				subject := rapid.SampledFrom(testkit.LawSubjects).Draw(t, "subject")
				b.publish(subject, "1")
				reaches("by a NATS client", subject, true)
			},
			"will": func(t *rapid.T) {
				d, subject := pick(), rapid.SampledFrom(testkit.LawSubjects).Draw(t, "subject")
				before := b.Stats().Wills
				login(d, "dying", strings.ReplaceAll(subject, ".", "/")).nc.Close()
				testkit.Eventually(b.t, func() bool { return b.Stats().Wills > before }, "the will")
				reaches("the will of "+d.name, subject, d.law.MayPublish(subject))
			},
		})
	})
}

func (d *modelDevice) filters() (all []string) {
	for filter := range d.subs {
		all = append(all, filter)
	}
	slices.Sort(all)
	return all
}
