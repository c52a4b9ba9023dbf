package hw

import (
	"encoding/json"
	"errors"
	"math"
	"testing"
	"time"
)

func TestReadingIsJSON(t *testing.T) {
	at := time.Date(2026, 1, 2, 4, 4, 5, 678_900_000, time.FixedZone("CET", 3600))
	for _, c := range []struct {
		r      Reading
		source string
		want   string
	}{
		{Reading{Value: Number(21.5), Unit: "°C", Time: at}, "", `{"value":21.5,"unit":"°C","time":"2026-01-02T03:04:05.678Z"}`},
		{Reading{Value: Bool(true), Time: at}, "", `{"value":true,"unit":"","time":"2026-01-02T03:04:05.678Z"}`},
		{Reading{Value: Bool(false), Time: at}, "simulated", `{"value":false,"unit":"","time":"2026-01-02T03:04:05.678Z","source":"simulated"}`},
		{Reading{Value: Number(0.1 + 0.2), Unit: "\"\\\n", Time: at}, "", `{"value":0.3,"unit":"\"\\\u000a","time":"2026-01-02T03:04:05.678Z"}`},
		{Reading{Value: Number(123456789012345), Unit: "\xff", Time: at}, "", `{"value":123456789012345,"unit":"�","time":"2026-01-02T03:04:05.678Z"}`},
	} {
		got, err := appendReading(nil, c.r, c.source)
		if err != nil || string(got) != c.want {
			t.Errorf("got %s, %v, want %s", got, err, c.want)
		}
		if !json.Valid(got) {
			t.Errorf("not JSON: %s", got)
		}
	}
}

func TestReadingThatCannotBeSaid(t *testing.T) {
	for _, f := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64} {
		b, err := appendReading([]byte("before"), Reading{Value: Number(f)}, "")
		if err == nil || string(b) != "before" {
			t.Errorf("%v: got %q, %v", f, b, err)
		}
	}
}

func TestNumbersAreJSONAndExact(t *testing.T) {
	for _, f := range []float64{0, -0.5, 1e-9, 1e15, 1e300, -1e-300, 1000000, 99.99} {
		var back float64
		if err := json.Unmarshal([]byte(Number(f).String()), &back); err != nil || math.Abs(back-f) > math.Abs(f)*1e-14 {
			t.Errorf("%v is said as %s: %v", f, Number(f), err)
		}
	}
}

func TestAnswer(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if got := string(appendAnswer(nil, Bool(true), at, "", nil)); got != `{"value":true,"time":"2026-01-02T03:04:05.000Z"}` {
		t.Error(got)
	}
	if got := string(appendAnswer(nil, Bool(true), at, "", errors.New(`no "x"`))); got != `{"error":"no \"x\""}` {
		t.Error(got)
	}
}
