package main

import (
	"encoding/binary"
	"math/rand/v2"
)

// number names a message: who sent it, and the how manieth it was.
type number struct{ Src, N uint32 }

// A payload is a magic, the number and the length, and bytes that follow from these:
// who reads one knows all of what it must be.
const (
	payloadMagic = "LFCR"
	payloadHead  = 16
)

// payload makes the payload of m, size bytes long, payloadHead at least.
func payload(m number, size int) []byte {
	size = max(size, payloadHead)
	b := append(make([]byte, 0, size+8), payloadMagic...)
	b = binary.LittleEndian.AppendUint32(b, m.Src)
	b = binary.LittleEndian.AppendUint32(b, m.N)
	b = binary.LittleEndian.AppendUint32(b, uint32(size))
	random := rand.NewPCG(uint64(m.Src)<<32|uint64(m.N), uint64(size))
	for len(b) < size {
		b = binary.LittleEndian.AppendUint64(b, random.Uint64())
	}
	return b[:size]
}

// readPayload tells whose payload b is. whole is false if it is not all that was sent.
func readPayload(b []byte) (m number, whole bool) {
	if len(b) < payloadHead || string(b[:4]) != payloadMagic {
		return m, false
	}
	m = number{binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:])}
	size := int(binary.LittleEndian.Uint32(b[12:]))
	return m, size == len(b) && string(payload(m, size)) == string(b)
}

// sizes draws payload lengths as sensors and the odd picture have them: most are small.
func sizes(seed uint64) func() int {
	random := rand.New(rand.NewPCG(seed, 1))
	return func() int {
		switch random.IntN(10) {
		case 0:
			return 2000 + random.IntN(6000)
		case 1, 2, 3:
			return 300 + random.IntN(900)
		default:
			return payloadHead + random.IntN(120)
		}
	}
}
