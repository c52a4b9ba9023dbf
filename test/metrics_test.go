package test

import (
	"io"
	"net/http"
	"regexp"
	"strconv"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leafd/leafd/internal/testkit"
)

// metric reads one sample of /metrics.
func metric(t *testing.T, l *testkit.Leafd, sample string) float64 {
	t.Helper()
	res, err := http.Get(l.HTTPURL() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(sample) + ` (\S+)$`).FindSubmatch(body)
	if m == nil {
		t.Fatalf("%s is not in\n%s", sample, body)
	}
	v, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestMetrics publishes into an outbox and reads what a running leafd counts; the
// wear meter goes on over a restart.
func TestMetrics(t *testing.T) {
	l := testkit.StartLeafd(t, testkit.LeafdOptions{Config: pubackConfig, Env: map[string]string{"LEAFD_HUB_URL": "nats-leaf://127.0.0.1:1"}})
	js, err := jetstream.New(connect(t, l.NATSURL()))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := js.Publish(t.Context(), "box.a", []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	js.Publish(t.Context(), "small.a", nil)
	if _, err := js.Publish(t.Context(), "small.a", nil); err == nil {
		t.Error("taken by a full outbox")
	}
	for sample, want := range map[string]float64{
		`leafd_outbox_messages{outbox="box"}`: 3, `leafd_outbox_state{outbox="box",state="connecting"}`: 1, `leafd_link_up`: 0,
		`leafd_outbox_lost_total{outbox="small",reason="log_full"}`: 1, `leafd_drops_total{reason="store_full"}`: 1,
		`leafd_connections`: 1, `leafd_store_state{state="ok"}`: 1,
	} {
		if got := metric(t, l, sample); got != want {
			t.Errorf("%s is %v, not %v", sample, got, want)
		}
	}
	total, journal := metric(t, l, "leafd_wear_written_bytes"), metric(t, l, `leafd_store_written_bytes_total{cause="journal"}`)
	if journal < 4*512 || total < journal || metric(t, l, "leafd_wear_today_bytes") != total {
		t.Errorf("%v bytes to the journal, %v in all", journal, total)
	}
	l.Stop()
	l.Restart()
	if again := metric(t, l, "leafd_wear_written_bytes"); again < total {
		t.Errorf("%v bytes in all, %v before the restart", again, total)
	}
}
