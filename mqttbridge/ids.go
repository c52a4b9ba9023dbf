package mqttbridge

// idSet is a set of packet ids, which a client may all use at once: a bit each, 8 KB in all, in
// pages that are made when one of their ids first comes. The zero value is empty.
type idSet struct {
	pages [1 << 16 / idPage]*[idPage / 64]uint64
	n     int
}

const idPage = 1024 // ids

// at is the word that has the bit of id, and the bit.
func (s *idSet) at(id uint16) (word *uint64, bit uint64) {
	p := &s.pages[id/idPage]
	if *p == nil {
		*p = new([idPage / 64]uint64)
	}
	return &(*p)[id%idPage/64], 1 << (id % 64)
}

// add reports whether id is new.
func (s *idSet) add(id uint16) bool {
	word, bit := s.at(id)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	s.n++
	return true
}

func (s *idSet) remove(id uint16) {
	if word, bit := s.at(id); *word&bit != 0 {
		*word &^= bit
		s.n--
	}
}
