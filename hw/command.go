package hw

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// ErrValue says that a command asked for what its device cannot do.
var ErrValue = errors.New("not a value it takes")

// maxCommand is the longest command payload, in bytes. Longer ones are answered
// with an error; only so much of them is ever copied.
const maxCommand = 256

// order is a command understood.
type order struct {
	toggle bool  // the opposite of the present state
	value  Value // otherwise this
}

// parseCommand understands the payload of a command: a word (on, off, true, false,
// toggle, in any case), a number, or a JSON object {"value": one of these}. An
// object with other keys is refused: an output must not act on half of what it was
// told.
func parseCommand(p []byte) (order, error) {
	if len(p) > maxCommand {
		return order{}, fmt.Errorf("%w: the command is longer than %d bytes", ErrValue, maxCommand)
	}
	p = bytes.TrimSpace(p)
	if len(p) == 0 || p[0] != '{' {
		return parseWord(string(p))
	}
	var obj struct {
		Value json.RawMessage `json:"value"`
	}
	d := json.NewDecoder(bytes.NewReader(p))
	d.DisallowUnknownFields()
	if err := d.Decode(&obj); err != nil {
		return order{}, fmt.Errorf("%w: %w", ErrValue, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return order{}, fmt.Errorf("%w: there is more after the JSON object", ErrValue)
	}
	var word string
	if json.Unmarshal(obj.Value, &word) == nil {
		return parseWord(word)
	}
	return parseWord(string(obj.Value)) // true, false or a number, spelled as in JSON
}

func parseWord(s string) (order, error) {
	switch strings.ToLower(s) {
	case "on", "true":
		return order{value: Bool(true)}, nil
	case "off", "false":
		return order{value: Bool(false)}, nil
	case "toggle":
		return order{toggle: true}, nil
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && Number(f).Finite() {
		return order{value: Number(f)}, nil
	}
	return order{}, fmt.Errorf(`%w: %.40q; say on, off, toggle, a number, or {"value": one of these}`, ErrValue, s)
}

// wants is the state that o asks an actuator in the state now to take.
func (o order) wants(now Value) (Value, error) {
	if !o.toggle {
		return o.value, nil
	}
	on, ok := now.Bool()
	if !ok {
		return Value{}, fmt.Errorf("%w: toggle, since it is at %v, neither on nor off", ErrValue, now)
	}
	return Bool(!on), nil
}
