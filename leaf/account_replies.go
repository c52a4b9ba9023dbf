package leaf

import (
	"math/rand/v2"
	"strconv"
	"sync"
	"time"
)

// replies are the requests of other accounts that an account may still answer. Its
// services see a reply subject made here, from which the answer finds its way back.
type replies struct {
	root string // "_R_.…." of this account; empty until a service is imported; guarded by router.mu

	mu      sync.Mutex
	waiting map[string]*reply // guarded by mu; by reply subject
	queue   []*reply          // guarded by mu; all of waiting and some that are answered, oldest first
}

// reply is one request under way.
type reply struct {
	in       *replies
	key      string
	to       *Router // who asked
	subject  string  // the reply subject there
	response ResponseType
	limit    time.Duration
	until    time.Time // guarded by in.mu
}

// maxReplies bounds the requests to one account that are under way; then the
// oldest is forgotten.
const maxReplies = 16 << 10

// begin needs router.mu.
func (t *replies) begin() {
	if t.root == "" {
		t.root = "_R_." + strconv.FormatUint(rand.Uint64(), 36) + "."
	}
}

// open returns the reply subject for a request, which cannot be guessed.
func (t *replies) open(s *serviceImport, subject []byte) []byte {
	now := time.Now()
	b := append([]byte(nil), t.root...)
	b = strconv.AppendUint(b, rand.Uint64(), 36)
	b = strconv.AppendUint(b, rand.Uint64(), 36)
	w := &reply{in: t, key: string(b), to: s.from.router, subject: string(subject), response: s.response, limit: s.limit, until: now.Add(s.limit)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting == nil {
		t.waiting = map[string]*reply{}
	}
	t.waiting[w.key] = w
	t.queue = append(t.queue, w)
	for len(t.queue) > 0 {
		old := t.queue[0]
		over := t.waiting[old.key] != old || now.After(old.until)
		if !over && len(t.waiting) <= maxReplies {
			break
		}
		delete(t.waiting, old.key)
		t.queue = t.queue[1:]
	}
	if len(t.queue) > 2*maxReplies { // one that is not over keeps many that are
		t.compact()
	}
	return b
}

// compact needs mu.
func (t *replies) compact() {
	kept := make([]*reply, 0, len(t.waiting))
	for _, w := range t.queue {
		if t.waiting[w.key] == w {
			kept = append(kept, w)
		}
	}
	t.queue = kept
}

func (t *replies) find(subject []byte) *reply {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.waiting[string(subject)]
	if w == nil || time.Now().After(w.until) {
		return nil
	}
	return w
}

// take counts an answer of size bytes of data and reports whether it may go back.
func (w *reply) take(size int) bool {
	t := w.in
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting[w.key] != w {
		return false
	}
	if w.response == Singleton || w.response == Chunked && size == 0 {
		delete(t.waiting, w.key)
	} else {
		w.until = time.Now().Add(w.limit)
	}
	return true
}
