package leaf

import "bytes"

// This file gathers an operation that came in several reads.

// resume goes on with the operation that carry began.
func (p *parser) resume(b []byte) (used int, o *op, err error) {
	if p.need == 0 {
		if used = bytes.IndexByte(b, '\n') + 1; used == 0 {
			used = len(b)
		}
		used = min(used, p.maxLine+lineRoom-len(p.carry)) // enough for scan to see whether the line is too long
		if err = p.keep(b[:used]); err != nil {
			return used, nil, err
		}
		if p.done, err = p.rescan(); err != nil || p.done {
			return used, &p.op, err
		}
		if p.need == 0 {
			return used, nil, nil
		}
	}
	n := min(p.need-len(p.carry), len(b)-used)
	if err = p.keep(b[used : used+n]); err != nil {
		return used, nil, err
	}
	used += n
	if len(p.carry) < p.need {
		return used, nil, nil
	}
	p.done, err = p.rescan()
	return used, &p.op, err
}

func (p *parser) rescan() (complete bool, err error) {
	n, need, err := p.scan(p.carry)
	p.need = need
	return n > 0, err
}

// keep appends to carry, which grows with what has come, not with what was
// announced. The error is ErrBudget.
func (p *parser) keep(b []byte) error {
	if want := len(p.carry) + len(b); want > cap(p.carry) {
		old := p.carry
		grown := getChunk(max(want, min(p.need, largeChunk, 2*want)))
		if err := p.budget.Hold(cap(old), cap(grown)); err != nil {
			putChunk(grown)
			return err
		}
		p.carry = append(grown, old...)
		putChunk(old)
	}
	p.carry = append(p.carry, b...)
	return nil
}

// forget gives up the memory of a split operation that was handled.
func (p *parser) forget() {
	p.budget.Hold(cap(p.carry), 0)
	putChunk(p.carry)
	p.carry, p.done, p.need = nil, false, 0
}
