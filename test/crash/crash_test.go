package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv(checkerEnv) != "" {
		os.Exit(checkerMain())
	}
	os.Exit(m.Run())
}

// seed makes each run of the tests another one; a failure says it.
func newSeed(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return seed
}

func check(t *testing.T, all []tally, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range all {
		t.Log(got.line())
		if !got.ok() {
			t.Fail()
		}
	}
}

// TestPowerLoss is make crash, small, with both controls: they must lose something.
func TestPowerLoss(t *testing.T) {
	all, err := power(t.Context(), powerOptions{states: 1500, lies: 100, scale: .12, small: true, seed: newSeed(t), repro: filepath.Join("../../bin/crash-repro", t.Name())})
	if len(all) != 3 || !all[1].Control || !all[2].Control {
		t.Fatalf("%d parts instead of the states and two controls: %v", len(all), err)
	}
	check(t, all, err)
}

func TestKills(t *testing.T) {
	all, restarts, err := kills(t.Context(), killOptions{kills: 10, rigs: 1, seed: newSeed(t), repro: filepath.Join("../../bin/crash-repro", t.Name())})
	check(t, all, err)
	t.Logf("restart to first acknowledgement: %s", quantiles(restarts))
}

func TestDamage(t *testing.T) {
	all, err := flips(t.Context(), flipOptions{flips: 99, leafds: 5, seed: 1, repro: filepath.Join("../../bin/crash-repro", t.Name())})
	check(t, all, err)
}

// A tester that takes a payload for whole when it is not would find nothing.
func TestPayloadKnowsItself(t *testing.T) {
	for size := payloadHead; size < 200; size += 7 {
		b := payload(number{3, 9}, size)
		if m, whole := readPayload(b); !whole || m != (number{3, 9}) || len(b) != size {
			t.Fatalf("a payload of %d bytes is not its own", size)
		}
		for i := range b {
			b[i] ^= 1
			if m, whole := readPayload(b); whole && m == (number{3, 9}) {
				t.Fatalf("byte %d of %d may be another", i, size)
			}
			b[i] ^= 1
		}
	}
}

// The oracle must see each kind of violation.
func TestJudge(t *testing.T) {
	rec := func(n uint32, epoch, seq uint64) found { return found{number{1, n}, 0, true, epoch, seq} }
	must := &expect{Must: []number{{1, 0}, {1, 1}}, Epochs: []uint64{4}}
	for name, c := range map[string]struct {
		finding
		want verdict
	}{
		"good":       {finding{Epoch: 5, Records: []found{rec(0, 4, 1), rec(1, 4, 2)}}, verdict{}},
		"lost":       {finding{Epoch: 5, Records: []found{rec(0, 4, 1)}}, verdict{Lost: 1}},
		"twice":      {finding{Epoch: 5, Records: []found{rec(0, 4, 1), rec(1, 4, 2), rec(1, 4, 3)}}, verdict{Duplicated: 1}},
		"order":      {finding{Epoch: 5, Records: []found{rec(1, 4, 1), rec(0, 4, 2)}}, verdict{Disorder: 1}},
		"id":         {finding{Epoch: 5, Records: []found{rec(0, 4, 1), rec(1, 4, 1)}}, verdict{Wrong: 1}},
		"epoch":      {finding{Epoch: 4, Records: []found{rec(0, 3, 1), rec(1, 3, 2)}}, verdict{Wrong: 1}},
		"alarm":      {finding{Epoch: 5, Records: []found{rec(0, 4, 1), rec(1, 4, 2)}, Declared: true}, verdict{Alarms: 1}},
		"not opened": {finding{Err: "no", Epoch: 5, Records: []found{rec(0, 4, 1), rec(1, 4, 2)}}, verdict{Unopened: 1}},
	} {
		got := judge(must, &c.finding)
		if got.Detail = ""; got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// A call whose thread was killed before strace could ask for its result is none that is
// known to have succeeded, however strace says so.
func TestTraceOfKilled(t *testing.T) {
	for line, want := range map[string]bool{
		`(19<\x73>, "\x40\x02", 2) = 2`:                                true,
		`(19<\x73>, 0xf45152bc000, 65536) = ?`:                         false,
		`(19<\x73>, 0xf45152bc000, 65536) = 18446744073709551615`:      false,
		`(19<\x73>, "\x40", 1) = -1 (errno 18446744073709551615)`:      false,
		`(19<\x73>, 0x1, 1) = -1 EAGAIN (Resource temporarily absent)`: false,
	} {
		c := &call{name: "write"}
		if got, err := c.parse([]byte(line)); err != nil || got != want {
			t.Errorf("%s: succeeded %v, error %v", line, got, err)
		}
	}
}

// A sync covers what was done before it and nothing else, names apart from data.
func TestDiskKnowsWhatIsSynced(t *testing.T) {
	d := newDisk("/r", false)
	root, file := &inode{dir: true}, &inode{}
	d.rename(map[string]*inode{".": root}, "..", 1, "mkdir")
	d.rename(map[string]*inode{"f": file}, ".", 2, "create")
	d.write(file, 0, []byte("one"), 3, "write")
	d.write(file, 3, []byte("two"), 9, "write") // still under way when the sync begins
	d.sync("/r/f", 5)
	if string(file.data) != "one" || string(file.cache) != "onetwo" || len(d.names) != 0 {
		t.Fatalf("after the file's sync: %q, %q, %d names", file.data, file.cache, len(d.names))
	}
	d.sync("/r", 10)
	d.sync("/", 10)
	if d.names["f"] != file || d.names["."] != root || len(d.pending) != 1 {
		t.Fatalf("after the directories' syncs: %v, %d pending", d.names, len(d.pending))
	}
}
