package main

import "testing"

// A lone letter counts in thousands, with b, i or ib behind it in 1024s (nats-server
// configuration, "size suffixes").
func TestSizes(t *testing.T) {
	for i, letter := range "kmgtpe" {
		thousands, binary := int64(1), int64(1)<<(10*(i+1))
		for range i + 1 {
			thousands *= 1000
		}
		for suffix, want := range map[string]int64{"": thousands, "b": binary, "i": binary, "ib": binary, "IB": binary} {
			if n, err := parseSize("-3" + string(letter) + suffix); err != nil || n != -3*want {
				t.Errorf("-3%c%s: %d, %v, want %d", letter, suffix, n, err, -3*want)
			}
		}
	}
	for _, v := range []string{"3b", "3i", "3ib", "3kk", "3kbb", "3bk", "3x", "k", "10e", "9pib3"} {
		if n, err := parseSize(v); err == nil {
			t.Errorf("%s: %d", v, n)
		}
	}
	if n, err := parseSize("3"); n != 3 || err != nil {
		t.Error(n, err)
	}
}
