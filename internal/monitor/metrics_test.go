package monitor

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// sample is one line of the text format: a name, labels and a value.
type sample struct {
	name   string
	labels map[string]string
	value  float64
}

// parseMetrics reads the Prometheus text format 0.0.4 and refuses what it does not
// allow, and what Prometheus takes and warns of: a family that is interrupted, a
// sample without HELP and TYPE, the same labels twice, a counter without _total.
func parseMetrics(text string) (all []sample, err error) {
	if !strings.HasSuffix(text, "\n") {
		return nil, fmt.Errorf("the last line does not end")
	}
	kinds, done, seen := map[string]string{}, map[string]bool{}, map[string]bool{}
	helped, family := "", ""
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		fail := func(why string) ([]sample, error) { return nil, fmt.Errorf("line %d: %s: %q", i+1, why, line) }
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, help, _ := strings.Cut(rest, " ")
			if !validName(name) || help == "" || done[name] || name == family {
				return fail("HELP of a name that is wrong or was there")
			}
			done[family], helped = true, name
			continue
		}
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(rest, " ")
			if name != helped || kind != "counter" && kind != "gauge" || (kind == "counter") != strings.HasSuffix(name, "_total") {
				return fail("TYPE is wrong")
			}
			kinds[name], family = kind, name
			continue
		}
		s, err := parseSample(line)
		if err != nil {
			return fail(err.Error())
		}
		key := s.name + fmt.Sprint(s.labels)
		if s.name != family || seen[key] || kinds[family] == "counter" && s.value < 0 {
			return fail("not of the open family, or there twice, or a negative counter")
		}
		seen[key] = true
		all = append(all, s)
	}
	return all, nil
}

func parseSample(line string) (s sample, err error) {
	end := strings.IndexAny(line, "{ ")
	if end < 0 || !validName(line[:end]) {
		return s, fmt.Errorf("no name")
	}
	s.name, s.labels = line[:end], map[string]string{}
	rest := line[end:]
	if strings.HasPrefix(rest, "{") {
		if rest, err = parseLabels(rest[1:], s.labels); err != nil {
			return s, err
		}
	}
	number, ok := strings.CutPrefix(rest, " ")
	if s.value, err = strconv.ParseFloat(number, 64); err != nil || !ok {
		return s, fmt.Errorf("no value")
	}
	return s, nil
}

// parseLabels reads a="b",c="d"} and returns what follows.
func parseLabels(s string, into map[string]string) (rest string, err error) {
	for {
		name, after, ok := strings.Cut(s, `="`)
		if _, twice := into[name]; !ok || twice || !validName(name) || strings.Contains(name, ":") {
			return "", fmt.Errorf("label name %q", name)
		}
		var value strings.Builder
		i := 0
		for ; i < len(after) && after[i] != '"'; i++ {
			if after[i] == '\\' {
				if i++; i == len(after) || !strings.ContainsRune(`\"n`, rune(after[i])) {
					return "", fmt.Errorf("escape")
				}
				value.WriteString(map[byte]string{'\\': `\`, '"': `"`, 'n': "\n"}[after[i]])
				continue
			}
			value.WriteByte(after[i])
		}
		if i == len(after) {
			return "", fmt.Errorf("label value does not end")
		}
		into[name] = value.String()
		switch s = after[i+1:]; {
		case strings.HasPrefix(s, "}"):
			return s[1:], nil
		case strings.HasPrefix(s, ","):
			s = s[1:]
		default:
			return "", fmt.Errorf("after a label")
		}
	}
}

func validName(s string) bool {
	for i, r := range s {
		if !(r == '_' || r == ':' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || i > 0 && r >= '0' && r <= '9') {
			return false
		}
	}
	return s != ""
}

func TestParserIsStrict(t *testing.T) {
	head := "# HELP a h\n# TYPE a gauge\n"
	if _, err := parseMetrics(head + "a 1\na{x=\"\\\"\\\\\\n\"} 2\n"); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"a 1\n", head + "a 1", head + "b 1\n", head + "a 1\na 1\n", head + "a{x=\"\\t\"} 1\n", head + "a{x=1} 1\n", head + "a{} 1\n",
		head + "a x\n", head + "a{x=\"1\"x=\"2\"} 1\n", "# HELP a h\n# TYPE a counter\na 1\n", head + "a 1\n" + head, "# HELP a_total h\n# TYPE a_total counter\na_total -1\n",
		head + "\n", head + "a  1\n"} {
		if _, err := parseMetrics(bad); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

func TestMetrics(t *testing.T) {
	h := New(Options{
		Varz: func() Varz {
			return Varz{ServerName: "edge \"7\"\\\n\xff", Connections: 5, InMsgs: 12345678901, InClientMsgs: 11, StalledClients: 6, StaleConnections: 8, Leafd: Leafd{Version: "v2", Conns: 3, LostEvents: 13, Lookups: 14,
				Drops: map[string]uint64{"store_full": 4, "gone": 1}, MQTT: &MQTT{Faults: map[string]uint64{"quota_exceeded": 2}},
				Hardware: []Device{{Name: "air", State: "ok", Readings: 9}, {Name: "pump", State: "missing"}}}}
		},
		Uplinkz: func() Uplinkz {
			return Uplinkz{Remotes: []Remote{{State: "up", RTT: Duration(1500 * time.Microsecond)}},
				Outboxes: []Outbox{{Class: "a", State: "live", Messages: 7, OldestAge: Duration(90 * time.Second), Dropped: map[string]uint64{"rejected_by_hub": 1, "oldest_dropped": 10}, InDoubt: map[string]uint64{"oldest_dropped": 3}, Earlier: map[string]uint64{"oldest_dropped": 2}}, {Class: "b", State: "connecting", Resume: "chain", WentBack: 2}},
				Store: &Store{State: "ok", Faults: 3, Written: map[string]uint64{"journal": 4096, "fold": 8192},
					Wear: &Wear{Total: 1 << 40, Today: 5, Flash: []Flash{{"mmcblk0", "a", 20, 1}, {"mmcblk0", "b", 10, 1}}}}}
		},
	})
	w := get(t, h, "GET", "/metrics")
	if w.Code != 200 || w.Header().Get("Content-Type") != metricsType {
		t.Fatalf("%d %s", w.Code, w.Header())
	}
	all, err := parseMetrics(w.Body.String())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, s := range all {
		key := s.name
		for _, l := range slices.Sorted(maps.Keys(s.labels)) {
			key += " " + l + "=" + s.labels[l]
		}
		got[key] = s.value
	}
	for key, want := range map[string]float64{
		"leafd_info go= server_name=edge \"7\"\\\n\uFFFD version=v2": 1,
		"leafd_connections": 3, "leafd_client_messages_in_total": 11, "leafd_stalls_total": 6, "leafd_stale_connections_total": 8,
		"leafd_system_events_lost_total": 13, "leafd_match_lookups_total": 14, "leafd_messages_in_total": 12345678901, "leafd_drops_total reason=store_full": 4, "leafd_drops_total reason=gone": 1,
		"leafd_mqtt_faults_total reason=quota_exceeded": 2, "leafd_device_ok device=air": 1, "leafd_device_ok device=pump": 0,
		"leafd_link_up": 1, "leafd_link_rtt_seconds": 0.0015, "leafd_outbox_messages outbox=a": 7, "leafd_outbox_oldest_age_seconds outbox=a": 90,
		"leafd_outbox_state outbox=b state=connecting": 1, "leafd_outbox_lost_total outbox=a reason=oldest_dropped": 5,
		"leafd_outbox_resume by=chain outbox=b": 1, "leafd_outbox_hub_went_back_total outbox=b": 2, "leafd_store_faults_total": 3,
		"leafd_store_written_bytes_total cause=fold": 8192, "leafd_wear_written_bytes": 1 << 40, "leafd_flash_life_used_percent disk=mmcblk0 type=b": 10,
		"leafd_flash_spare_used disk=mmcblk0": 1,
	} {
		if v, ok := got[key]; !ok || v != want {
			t.Errorf("%q is %v (there: %v), not %v", key, v, ok, want)
		}
	}
	if !strings.Contains(w.Body.String(), "; less by the last of them after a crash.\n# TYPE leafd_wear_written_bytes gauge\n") {
		t.Error("a meter that goes back after a crash is a counter, or does not say so")
	}
	if m := got["leafd_memory_anonymous_bytes"]; m < 1<<20 || m > got["leafd_memory_resident_bytes"] {
		t.Errorf("%v bytes anonymous", m)
	}
	if _, err := parseMetrics(get(t, New(Options{}), "GET", "/metrics").Body.String()); err != nil {
		t.Errorf("of nothing: %v", err)
	}
}

func TestReadFlash(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	sys := fstest.MapFS{
		"block/mmcblk0/device/life_time":    file("0x01 0x02\n"),
		"block/mmcblk0/device/pre_eol_info": file("0x02\n"),
		"block/mmcblk1/device/name":         file("SD32G\n"), // a card has no life_time
		"block/mmcblk2/device/life_time":    file("0x00 0x0b\n"),
		"block/mmcblk3/device/life_time":    file("garbage"),
		"block/mmcblk4/device/life_time":    file("0x0c 0xff"),
		"block/sda/device/life_time":        file("0x01 0x01"),
	}
	want := []Flash{{"mmcblk0", "a", 10, 2}, {"mmcblk0", "b", 20, 2}, {"mmcblk2", "b", 110, 0}}
	if got := ReadFlash(sys); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	if got := ReadFlash(fstest.MapFS{}); got != nil {
		t.Errorf("%+v", got)
	}
}
