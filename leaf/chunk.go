package leaf

import "sync"

// Chunks come in three pooled sizes; larger ones are made to measure.
const (
	smallChunk  = 1 << 10
	mediumChunk = 8 << 10
	largeChunk  = 64 << 10
)

var smallChunks, mediumChunks, largeChunks sync.Pool

func getChunk(n int) []byte {
	switch {
	case n <= smallChunk:
		if c, ok := smallChunks.Get().(*[smallChunk]byte); ok {
			return c[:0]
		}
		return new([smallChunk]byte)[:0]
	case n <= mediumChunk:
		if c, ok := mediumChunks.Get().(*[mediumChunk]byte); ok {
			return c[:0]
		}
		return new([mediumChunk]byte)[:0]
	case n <= largeChunk:
		if c, ok := largeChunks.Get().(*[largeChunk]byte); ok {
			return c[:0]
		}
		return new([largeChunk]byte)[:0]
	}
	return make([]byte, 0, n)
}

func putChunk(c []byte) {
	switch cap(c) {
	case smallChunk:
		smallChunks.Put((*[smallChunk]byte)(c[:smallChunk]))
	case mediumChunk:
		mediumChunks.Put((*[mediumChunk]byte)(c[:mediumChunk]))
	case largeChunk:
		largeChunks.Put((*[largeChunk]byte)(c[:largeChunk]))
	}
}
