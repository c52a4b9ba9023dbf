package hw_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"periph.io/x/conn/v3/gpio"

	"github.com/leafd/leafd/hw"
	"github.com/leafd/leafd/hw/hwtest"
)

func inputRig(t *testing.T, level gpio.Level, every time.Duration, p map[string]any) (*rig, *hwtest.Pin) {
	t.Helper()
	pin := hwtest.NewPin("GPIO17", level)
	host := &hwtest.Host{}
	host.PlugPin("pinctrl", "17", pin)
	d := button(p)
	d.Interval = every
	return newRig(t, host, d), pin
}

func TestInputPublishesItsEdges(t *testing.T) {
	for _, c := range []struct {
		name   string
		params map[string]any
		want   []any
	}{
		{"both", nil, []any{false, true, false, true}},
		{"rising", map[string]any{"edge": "rising"}, []any{true, true}},
		{"falling", map[string]any{"edge": "falling"}, []any{false}},
		{"active low", map[string]any{"active_low": true, "pull": "up"}, []any{true, false, true, false}},
		{"active low rising", map[string]any{"active_low": true, "edge": "rising"}, []any{true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, pin := inputRig(t, gpio.Low, 0, c.params)
				pin.Set(gpio.High)
				pin.Set(gpio.Low) // a pulse that is over before anybody looked
				r.pass(2 * time.Minute)
				pin.Set(gpio.High)
				synctest.Wait()
				wantValues(t, r.broker.Payloads("barn.button"), c.want...)
				r.wantState("button", hw.OK)
				if c.params["pull"] == "up" && pin.Pull() != gpio.PullUp {
					t.Error(pin.Pull())
				}
			})
		})
	}
}

func TestInputDebounce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, pin := inputRig(t, gpio.Low, 0, map[string]any{"debounce": "50ms"})
		bounce := func(last gpio.Level) { // 5 edges in 20 ms, at last the level
			for i := range 5 {
				pin.Set(last == (i%2 == 0))
				r.pass(4 * time.Millisecond)
			}
		}
		bounce(gpio.High)
		r.pass(45 * time.Millisecond)
		wantValues(t, r.broker.Payloads("barn.button"), false) // stable for 49 ms only
		r.pass(time.Millisecond)
		wantValues(t, r.broker.Payloads("barn.button"), false, true)
		// It became so when it stopped bouncing, not when leafd was sure.
		if got := r.broker.Payloads("barn.button")[1]; !strings.Contains(got, "00:00:00.016Z") {
			t.Error(got)
		}
		pin.Set(gpio.Low) // a glitch
		r.pass(10 * time.Millisecond)
		pin.Set(gpio.High)
		r.pass(time.Second)
		wantValues(t, r.broker.Payloads("barn.button"), false, true)
		bounce(gpio.Low)
		r.pass(time.Second)
		wantValues(t, r.broker.Payloads("barn.button"), false, true, false)
	})
}

// The edge back got lost: what was about to be published is not true any more.
func TestInputDebounceLooksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, pin := inputRig(t, gpio.Low, 0, map[string]any{"debounce": "50ms"})
		pin.Set(gpio.High)
		r.pass(10 * time.Millisecond)
		pin.SetUnseen(gpio.Low)
		r.pass(time.Second)
		wantValues(t, r.broker.Payloads("barn.button"), false)
	})
}

func TestInputFindsAnEdgeThatGotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, pin := inputRig(t, gpio.Low, 0, nil)
		pin.SetUnseen(gpio.High)
		r.pass(10 * time.Second)
		pin.SetUnseen(gpio.Low)
		r.pass(10 * time.Second)
		wantValues(t, r.broker.Payloads("barn.button"), false, true, false)
	})
}

func TestInputRepeatsItsState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, pin := inputRig(t, gpio.High, 10*time.Second, map[string]any{"edge": "rising", "debounce": "20ms"})
		r.pass(25 * time.Second)
		pin.Set(gpio.Low)
		r.pass(10 * time.Second)
		wantValues(t, r.broker.Payloads("barn.button"), true, true, false)
		if n := r.health("button").Readings; n != 3 {
			t.Errorf("%d readings", n)
		}
	})
}

func TestInputThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, pin := inputRig(t, gpio.High, 0, nil)
		pin.Break(errors.New("no such device"))
		synctest.Wait()
		if h := r.health("button"); h.State != hw.Failed || !strings.Contains(h.Err, "watch pin GPIO17: no such device") {
			t.Errorf("%+v", h)
		}
		// No state was made up for the line that could not be read.
		wantValues(t, r.broker.Payloads("barn.button"), true)
		pin.Break(nil)
		r.pass(time.Second)
		r.wantState("button", hw.OK)
		wantValues(t, r.broker.Payloads("barn.button"), true, true)
		r.host.PlugPin("pinctrl", "17", nil)
		pin.Break(errors.New("no such device"))
		r.pass(10 * time.Minute)
		r.wantState("button", hw.Missing)
		if f := r.health("button").Failures; f > 20 {
			t.Errorf("%d failures: no backoff", f)
		}
	})
}
