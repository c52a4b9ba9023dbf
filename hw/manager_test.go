package hw_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"periph.io/x/conn/v3/gpio"

	"github.com/leafd/leafd/hw"
	"github.com/leafd/leafd/hw/hwtest"
	"github.com/leafd/leafd/internal/msg"
)

// rig is a manager running on a fake machine with a fake broker, in a bubble.
type rig struct {
	t *testing.T
	*hw.Manager
	host   *hwtest.Host
	broker *hwtest.Broker
	log    bytes.Buffer
	stop   func() // ends Run and waits for it
}

func newRig(t *testing.T, host *hwtest.Host, devs ...hw.Device) *rig {
	t.Helper()
	r := &rig{t: t, host: host, broker: &hwtest.Broker{}}
	m, err := hw.New(hw.Options{Devices: devs, Host: host, Attach: r.broker.Attach, Log: slog.New(slog.NewTextHandler(&r.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	r.Manager = m
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, open := host.Opens(); open != 0 {
			t.Errorf("%d buses and pins were left open", open)
		}
		if ports := r.broker.Ports(); len(ports) > 0 {
			t.Errorf("ports were left open: %v", ports)
		}
	}
	t.Cleanup(r.stop)
	synctest.Wait()
	return r
}

// pass lets time pass and everybody settle.
func (r *rig) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (r *rig) health(name string) hw.DeviceHealth {
	r.t.Helper()
	for _, h := range r.Health() {
		if h.Name == name {
			return h
		}
	}
	r.t.Fatalf("no health of %q", name)
	return hw.DeviceHealth{}
}

func (r *rig) wantState(name string, want hw.State) {
	r.t.Helper()
	if h := r.health(name); h.State != want {
		r.t.Errorf("%s is %v (%s), want %v", name, h.State, h.Err, want)
	}
}

// ask sends a command and returns its one answer.
func (r *rig) ask(subject, payload string) string {
	r.t.Helper()
	r.broker.Forget()
	if said := r.broker.Send(subject, "_INBOX.1", payload); len(said) != 1 || said[0] != msg.Taken {
		r.t.Fatalf("%s %q: %v", subject, payload, said)
	}
	synctest.Wait()
	answers := r.broker.Payloads("_INBOX.1")
	if len(answers) != 1 {
		r.t.Fatalf("%s %q: answers %q", subject, payload, answers)
	}
	return answers[0]
}

func values(t *testing.T, payloads []string) (out []any) {
	t.Helper()
	for _, p := range payloads {
		var v struct {
			Value any `json:"value"`
		}
		if err := json.Unmarshal([]byte(p), &v); err != nil {
			t.Errorf("%s: %v", p, err)
		}
		out = append(out, v.Value)
	}
	return out
}

func wantValues(t *testing.T, payloads []string, want ...any) {
	t.Helper()
	got := values(t, payloads)
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
}

func simulatedSensor(name string, every time.Duration) hw.Device {
	return hw.Device{Name: name, Driver: "simulated", Subject: "sim." + name, Interval: every, Params: map[string]any{"shape": "counter", "max": 59, "unit": "s"}}
}

func TestSensorIsReadOnItsInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &hwtest.Host{}, simulatedSensor("a", time.Second), simulatedSensor("b", 0))
		r.pass(20 * time.Second)
		if got := r.broker.Payloads("sim.a"); len(got) != 21 || got[3] != `{"value":3,"unit":"s","time":"2000-01-01T00:00:03.000Z","source":"simulated"}` {
			t.Errorf("got %q", got)
		}
		wantValues(t, r.broker.Payloads("sim.b"), 0.0, 10.0, 20.0) // hw.DefaultInterval
		if h := r.health("a"); h.State != hw.OK || h.Readings != 21 || h.Failures != 0 || h.Part != "simulated counter" {
			t.Errorf("%+v", h)
		}
	})
}

func bmx(name, bus string, addr int) hw.Device {
	return hw.Device{Name: name, Driver: "bmx280", Subject: "air." + name, Params: map[string]any{"bus": bus, "address": addr}}
}

func TestBMX280OnItsSubjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := &hwtest.Registers{}
		bus.PutBME280(0x76)
		bus.PutBME280(0x77)
		bus.Put(0x77, 0xd0, 0x58) // a BMP280: no humidity
		host := &hwtest.Host{}
		host.PlugI2C("1", bus)
		host.PlugI2C("/dev/i2c-1", bus)
		r := newRig(t, host, bmx("in", "1", 0x76), bmx("out", "/dev/i2c-1", 0x77))
		r.pass(time.Second)
		wantValues(t, r.broker.Payloads("air.in.temperature"), 25.08)
		wantValues(t, r.broker.Payloads("air.in.pressure"), 1006.53)
		wantValues(t, r.broker.Payloads("air.in.humidity"), 45.4)
		wantValues(t, r.broker.Payloads("air.out.temperature"), 25.08)
		if n := len(r.broker.Published("air.>")); n != 5 {
			t.Errorf("%d readings", n)
		}
		if got := r.broker.Payloads("air.in.pressure")[0]; !strings.Contains(got, `"unit":"hPa","time":"2000-01-01T00:00:00.`) {
			t.Error(got)
		}
		if a, b := r.health("in").Part, r.health("out").Part; a != "BME280 at 0x76" || b != "BMP280 at 0x77" {
			t.Error(a, b)
		}
		// Two spellings of one bus are one goroutine, and one open bus.
		if asked, open := host.Opens(); asked != 1 || open != 1 {
			t.Errorf("asked %d, open %d", asked, open)
		}
	})
}

// The part says for ever that it is measuring. periph's driver would wait for ever,
// and with it every device on the bus.
func TestStuckPartDoesNotHoldItsBus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := &hwtest.Registers{}
		bus.PutBME280(0x76)
		bus.Put(0x76, 0xf3, 8)
		bus.PutBME280(0x77)
		host := &hwtest.Host{}
		host.PlugI2C("1", bus)
		r := newRig(t, host, bmx("stuck", "1", 0x76), bmx("good", "1", 0x77))
		r.pass(time.Minute)
		r.wantState("stuck", hw.Failed)
		if h := r.health("stuck"); !strings.Contains(h.Err, "did not finish") || h.Readings != 0 {
			t.Errorf("%+v", h)
		}
		r.wantState("good", hw.OK)
		if n := r.health("good").Readings; n < 9 {
			t.Errorf("%d readings of the good one", n)
		}
	})
}

func TestPartThatReadsNonsenseFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := &hwtest.Registers{}
		bus.PutBME280(0x76)
		bus.Put(0x76, 0xf7, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
		bus.Put(0x77, 0xd0, 0xff)
		host := &hwtest.Host{}
		host.PlugI2C("1", bus)
		r := newRig(t, host, bmx("hot", "1", 0x76), bmx("alien", "1", 0x77))
		r.pass(time.Second)
		if h := r.health("hot"); h.State != hw.Failed || !strings.Contains(h.Err, "which it cannot measure") {
			t.Errorf("%+v", h)
		}
		if h := r.health("alien"); h.State != hw.Failed || !strings.Contains(h.Err, "unexpected chip id") {
			t.Errorf("%+v", h)
		}
		if n := len(r.broker.Published(">")); n != 0 {
			t.Errorf("%d readings", n)
		}
	})
}

// A part that lost its power for a moment goes on to answer, but not with humidity.
func TestPartThatWasResetIsSetUpAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := &hwtest.Registers{}
		bus.PutBME280(0x76)
		host := &hwtest.Host{}
		host.PlugI2C("1", bus)
		r := newRig(t, host, bmx("air", "1", 0x76))
		r.pass(5 * time.Second)
		bus.Put(0x76, 0xf2, 0)                  // ctrl_hum: humidity is not measured
		bus.Put(0x76, 0xfd, 0x80, 0)            // and reads so
		r.pass(5*time.Second + hwtest.WireTime) // the second reading is due at 10 s
		r.wantState("air", hw.Failed)
		bus.PutBME280(0x76)
		r.pass(5 * time.Second)
		r.wantState("air", hw.OK)
		wantValues(t, r.broker.Payloads("air.air.humidity"), 45.4, 45.4)
	})
}

func TestMissingDeviceIsTriedAgainWithABackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &hwtest.Host{}
		r := newRig(t, host, bmx("air", "1", 0x76))
		r.wantState("air", hw.Missing)
		since := r.health("air").Since
		r.pass(10 * time.Minute)
		// 0, 1, 3, 7, 15, 31, 63 s, then each minute: 123, …, 543 … up to 600 s.
		if asked, _ := host.Opens(); asked != 7+8 {
			t.Errorf("tried %d times", asked)
		}
		if h := r.health("air"); h.Failures != 15 || h.Since != since || !strings.Contains(h.Err, "no bus 1") {
			t.Errorf("%+v", h)
		}
		bus := &hwtest.Registers{}
		bus.PutBME280(0x76)
		host.PlugI2C("1", bus)
		r.pass(time.Minute)
		r.wantState("air", hw.OK)
		bus.Remove(0x76)
		r.pass(time.Minute)
		r.wantState("air", hw.Missing)
		bus.PutBME280(0x76)
		before := r.health("air").Readings
		r.pass(time.Minute)
		r.wantState("air", hw.OK)
		if r.health("air").Readings == before {
			t.Error("no reading since it came back")
		}
		r.stop()
		want := []string{"device is missing", "device is ok", "device is missing", "device is ok"}
		lines := strings.Split(strings.TrimSpace(r.log.String()), "\n")
		if len(lines) != len(want) {
			t.Fatalf("logged %s", r.log.String())
		}
		for i, line := range lines {
			if !strings.Contains(line, want[i]) || !strings.Contains(line, "device=air driver=bmx280 subject=air.air") {
				t.Errorf("line %d: %s", i, line)
			}
		}
	})
}

// A bus that was unplugged must be opened anew, not used as it was.
func TestBusIsClosedWhileNobodyUsesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, fresh := &hwtest.Registers{}, &hwtest.Registers{}
		old.PutBME280(0x76)
		fresh.PutBME280(0x76)
		host := &hwtest.Host{}
		host.PlugI2C("1", old)
		r := newRig(t, host, bmx("air", "1", 0x76))
		r.pass(time.Second)
		old.Break(errors.New("no such device"))
		host.PlugI2C("1", fresh)
		r.pass(time.Minute)
		r.wantState("air", hw.OK)
		if fresh.Count() == 0 {
			t.Error("the new bus was never used")
		}
	})
}

func TestDeviceThatThisMachineCannotHaveIsSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &hwtest.Host{}
		host.Break(errors.ErrUnsupported)
		r := newRig(t, host, bmx("air", "1", 0x76), valve(nil), button(nil), simulatedSensor("a", 0))
		r.pass(10 * time.Minute)
		r.wantState("air", hw.Skipped)
		r.wantState("valve", hw.Skipped)
		r.wantState("button", hw.Skipped)
		r.wantState("a", hw.OK)
		if asked, _ := host.Opens(); asked != 3 {
			t.Errorf("tried %d times", asked)
		}
		if got := r.ask("barn.valve.set", "on"); !strings.Contains(got, `"error":"device \"valve\" is skipped`) {
			t.Error(got)
		}
	})
}

func device(name, driver, subject string, p map[string]any) hw.Device {
	d := hw.Device{Name: name, Driver: driver, Subject: subject, Params: map[string]any{"chip": "pinctrl", "line": 17}}
	for k, v := range p {
		d.Params[k] = v
	}
	return d
}

func valve(p map[string]any) hw.Device  { return device("valve", "gpio_output", "barn.valve", p) }
func button(p map[string]any) hw.Device { return device("button", "gpio_input", "barn.button", p) }

func wantOuts(t *testing.T, pin *hwtest.Pin, want ...gpio.Level) {
	t.Helper()
	got := pin.Outs()
	if len(got) != len(want) {
		t.Fatalf("put out %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("put out %v, want %v", got, want)
		}
	}
}

func TestOutputObeysAndAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pin := hwtest.NewPin("GPIO17", gpio.Low)
		host := &hwtest.Host{}
		host.PlugPin("pinctrl", "17", pin)
		r := newRig(t, host, valve(nil))
		wantOuts(t, pin, gpio.Low)
		wantValues(t, r.broker.Payloads("barn.valve"), false)
		const yes, no = `{"value":true,"time":"2000-01-01T00:00:00.000Z"}`, `{"value":false,"time":"2000-01-01T00:00:00.000Z"}`
		for _, c := range []struct{ say, answer string }{
			{"on", yes}, {"toggle", no}, {"toggle", yes}, {"0", no}, {`{"value":true}`, yes}, {"on", yes},
		} {
			if got := r.ask("barn.valve.set", c.say); got != c.answer {
				t.Errorf("%q: got %s", c.say, got)
			}
			if got := r.broker.Payloads("barn.valve"); len(got) != 1 {
				t.Errorf("%q: published %q", c.say, got)
			}
		}
		wantOuts(t, pin, gpio.Low, gpio.High, gpio.Low, gpio.High, gpio.Low, gpio.High, gpio.High)
		for _, bad := range []string{"open", "0.5", "", strings.Repeat("x", 1<<20)} {
			if got := r.ask("barn.valve.set", bad); !strings.HasPrefix(got, `{"error":"`) || len(got) > 300 {
				t.Errorf("%.20q: got %s", bad, got)
			}
			if got := r.broker.Payloads("barn.valve"); len(got) != 0 {
				t.Errorf("%.20q: published %q", bad, got)
			}
		}
		if h := r.health("valve"); h.State != hw.OK || h.Commands != 10 || h.Failures != 0 {
			t.Errorf("%+v", h)
		}
		// Without a reply subject, as from an MQTT client: obeyed, not answered.
		r.broker.Forget()
		r.broker.Send("barn.valve.set", "", "off")
		synctest.Wait()
		if all := r.broker.Published(">"); len(all) != 1 || string(all[0].Subject) != "barn.valve" {
			t.Errorf("published %d", len(all))
		}
		r.stop()
		wantOuts(t, pin, gpio.Low, gpio.High, gpio.Low, gpio.High, gpio.Low, gpio.High, gpio.High, gpio.Low, gpio.Low)
	})
}

func TestOutputIsSafeWhenLeafdStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		relay, pump := hwtest.NewPin("relay", gpio.Low), hwtest.NewPin("pump", gpio.Low)
		host := &hwtest.Host{}
		host.PlugPin("pinctrl", "17", relay)
		host.PlugPin("pinctrl", "18", pump)
		r := newRig(t, host,
			valve(map[string]any{"active_low": true}),
			device("pump", "gpio_output", "barn.pump", map[string]any{"line": 18, "initial": true, "safe": true}))
		// Never the other level first: a relay would click.
		wantOuts(t, relay, gpio.High)
		wantOuts(t, pump, gpio.High)
		r.ask("barn.valve.set", "on")
		r.ask("barn.pump.set", "off")
		r.broker.Forget()
		r.stop()
		wantOuts(t, relay, gpio.High, gpio.Low, gpio.High)
		wantOuts(t, pump, gpio.High, gpio.Low, gpio.High)
		wantValues(t, r.broker.Payloads("barn.valve"), false)
		wantValues(t, r.broker.Payloads("barn.pump"), true)
	})
}

func TestOutputThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pin := hwtest.NewPin("GPIO17", gpio.Low)
		host := &hwtest.Host{}
		r := newRig(t, host, valve(nil))
		if got := r.ask("barn.valve.set", "on"); !strings.Contains(got, `device \"valve\" is missing: find line 17`) {
			t.Error(got)
		}
		host.PlugPin("pinctrl", "17", pin)
		r.pass(time.Second)
		r.wantState("valve", hw.OK)
		pin.Break(errors.New("input/output error"))
		if got := r.ask("barn.valve.set", "on"); !strings.Contains(got, "set pin GPIO17 to true: input/output error") {
			t.Error(got)
		}
		r.wantState("valve", hw.Failed)
		pin.Break(nil)
		r.pass(time.Second)
		if got := r.ask("barn.valve.set", "on"); !strings.Contains(got, `"value":true`) {
			t.Error(got)
		}
		r.wantState("valve", hw.OK)
	})
}

func TestOutputRepeatsItsStateOnAnInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := hw.Device{Name: "s", Driver: "simulated_switch", Subject: "s", Interval: time.Minute}
		r := newRig(t, &hwtest.Host{}, d)
		r.pass(90 * time.Second)
		if got := r.ask("s.set", "on"); got != `{"value":true,"time":"2000-01-01T00:01:30.000Z","source":"simulated"}` {
			t.Error(got)
		}
		r.pass(time.Minute)
		wantValues(t, r.broker.Payloads("s"), true, true)
	})
}

// stuckBus is a bus on which a transaction does not end before the test says so.
type stuckBus struct {
	*hwtest.Registers
	entered, let chan struct{}
}

func (b *stuckBus) Tx(addr uint16, w, r []byte) error {
	close(b.entered)
	<-b.let
	return errors.New("timed out")
}

// While a bus is stuck, another's devices go on, stop and become safe.
func TestStuckBusDoesNotHoldTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := &stuckBus{entered: make(chan struct{}), let: make(chan struct{})}
		pin := hwtest.NewPin("GPIO17", gpio.Low)
		host := &hwtest.Host{}
		host.PlugI2C("1", bus)
		host.PlugPin("pinctrl", "17", pin)
		r := newRig(t, host, bmx("air", "1", 0x76), valve(map[string]any{"safe": true}), simulatedSensor("a", time.Second))
		<-bus.entered
		r.pass(10 * time.Second)
		if n := len(r.broker.Published("sim.a")); n != 11 {
			t.Errorf("%d readings", n)
		}
		go func() {
			synctest.Wait() // all but the stuck one have stopped
			wantOuts(t, pin, gpio.Low, gpio.High)
			close(bus.let)
		}()
		r.stop()
	})
}

// A flood of commands is refused at the door, never blocks its publisher, and each
// command taken is answered even if leafd stops first.
func TestFloodOfCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pin := &slowPin{Pin: hwtest.NewPin("GPIO17", gpio.Low), let: make(chan struct{}, 1)}
		pin.let <- struct{}{}
		host := &slowHost{Host: &hwtest.Host{}, pin: pin}
		broker := &hwtest.Broker{}
		m, err := hw.New(hw.Options{Devices: []hw.Device{valve(nil)}, Host: host, Attach: broker.Attach})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- m.Run(ctx) }()
		synctest.Wait()
		taken, refused := 0, 0
		for range 200 {
			switch said := broker.Send("barn.valve.set", "_INBOX.1", "on")[0]; said {
			case msg.Taken:
				taken++
			case msg.SlowConsumer:
				refused++
			default:
				t.Fatal(said)
			}
			synctest.Wait()
		}
		if taken != 65 || refused != 135 { // 64 in the queue, one in the stuck Set
			t.Errorf("%d taken, %d refused", taken, refused)
		}
		cancel()
		close(pin.let)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		answers := broker.Payloads("_INBOX.1")
		if len(answers) != taken || !strings.Contains(answers[len(answers)-1], "leafd is stopping") {
			t.Errorf("%d answers, the last %q", len(answers), answers[len(answers)-1])
		}
		if said := broker.Send("barn.valve.set", "", "on"); len(said) != 0 {
			t.Errorf("after the end: %v", said)
		}
	})
}

type slowHost struct {
	*hwtest.Host
	pin *slowPin
}

func (h *slowHost) Pin(string, string) (hw.Pin, error) { return h.pin, nil }

type slowPin struct {
	*hwtest.Pin
	let chan struct{}
}

func (p *slowPin) Out(l gpio.Level) error { <-p.let; return p.Pin.Out(l) }

func TestRunFailsIfTheBrokerRefuses(t *testing.T) {
	broker := &hwtest.Broker{}
	broker.Refuse(errors.New("not allowed"))
	m, err := hw.New(hw.Options{Devices: []hw.Device{valve(nil)}, Host: &hwtest.Host{}, Attach: broker.Attach})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Run(t.Context()); err == nil || !strings.Contains(err.Error(), `subscribe to "barn.valve.set": not allowed`) {
		t.Error(err)
	}
	if ports := broker.Ports(); len(ports) > 0 {
		t.Error(ports)
	}
}

func TestManagerOfNothing(t *testing.T) {
	m, err := hw.New(hw.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Run(ctx); err != nil || len(m.Health()) != 0 {
		t.Error(err, m.Health())
	}
	if _, err := hw.New(hw.Options{Devices: []hw.Device{simulatedSensor("a", 0)}}); err == nil {
		t.Error("devices, but no broker")
	}
}

func TestHealthIsJSON(t *testing.T) {
	b, err := json.Marshal(hw.DeviceHealth{Name: "a", State: hw.Missing})
	if err != nil || !strings.Contains(string(b), `"name":"a"`) || !strings.Contains(string(b), `"state":"missing"`) {
		t.Errorf("%s, %v", b, err)
	}
}
