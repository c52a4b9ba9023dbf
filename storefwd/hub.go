package storefwd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// This file asks the hub's JetStream API. (NATS, JetStream wire API: $JS.API.)

// streamInfo is what matters of STREAM.INFO.
type streamInfo struct {
	Config struct {
		Retention string            `json:"retention"` // limits, interest, workqueue
		Window    time.Duration     `json:"duplicate_window"`
		Subjects  []string          `json:"subjects"`
		Sources   []json.RawMessage `json:"sources"`           // other streams that it copies
		Transform json.RawMessage   `json:"subject_transform"` // stores under other subjects
		NoAck     bool              `json:"no_ack"`
		TTL       bool              `json:"allow_msg_ttl"`
		Counter   bool              `json:"allow_msg_counter"` // takes increments, and no expectation with them
		Persist   string            `json:"persist_mode"`      // async: acknowledges first, and writes then

		MaxPerSubject     int64 `json:"max_msgs_per_subject"` // 0 or less: no limit
		DiscardPerSubject bool  `json:"discard_new_per_subject"`
		Rollup            bool  `json:"allow_rollup_hdrs"`
	} `json:"config"`
	State struct {
		Messages uint64 `json:"messages"`
		FirstSeq uint64 `json:"first_seq"`
		LastSeq  uint64 `json:"last_seq"` // of the last that was ever stored

		FirstTime time.Time `json:"first_ts"`
		LastTime  time.Time `json:"last_ts"` // of the last that is left
		Bytes     uint64    `json:"bytes"`
	} `json:"state"`
	Made time.Time `json:"created"` // by the hub's clock, as the next
	Now  time.Time `json:"ts"`      // zero: it does not say
}

// made is when the stream was made, Unix nanoseconds; 0: the hub does not say.
func (i *streamInfo) made() int64 {
	if i.Made.IsZero() {
		return 0
	}
	return i.Made.UnixNano()
}

// stored is one message in a stream: its place there, and which of ours it is.
type stored struct {
	at         uint64 // sequence in the stream; 0: there is none
	ours       bool   // it has an id of this outbox, and of this store
	epoch, seq uint64 // of our log

	subject, rollup string
}

var (
	errNoAnswer = errors.New("no answer from JetStream on the hub; is it enabled there, for this account and domain?")
	errDecode   = errors.New("not understood")
	errDeaf     = errors.New(`the hub's answers do not pass: its permissions for the link's user, or deny_imports here, leave out "_INBOX.>"`)
)

const (
	noMessage = 10037 // no message found
	noStream  = 10059 // stream not found
)

func (f *Forwarder) streamNames(ctx context.Context, filter string) ([]string, error) {
	var resp struct {
		Streams []string `json:"streams"`
	}
	if err := f.ask(ctx, "STREAM.NAMES", map[string]string{"subject": filter}, &resp); err != nil {
		hint := ""
		if errors.Is(err, errNoAnswer) && f.jsDomain() == "" {
			hint = " If JetStream is behind another server, set the outbox's domain to that of JetStream there or, where it has none, its stream"
		}
		return nil, fmt.Errorf("find the stream of %s: %w%s", filter, err, hint)
	}
	return resp.Streams, nil
}

func (f *Forwarder) streamInfo(ctx context.Context, stream string) (i streamInfo, err error) {
	if err = f.ask(ctx, "STREAM.INFO."+stream, struct{}{}, &i); err != nil {
		err = fmt.Errorf("ask stream %q where it stands: %w", stream, err)
	}
	return i, err
}

// getMsg is a request for one message of a stream.
type getMsg struct {
	Seq    uint64 `json:"seq,omitempty"`          // this one, or with NextOf the first from here on
	NextOf string `json:"next_by_subj,omitempty"` // a filter
	LastOf string `json:"last_by_subj,omitempty"` // a filter

	anyone bool // what others have under other subjects is no sign that the stream is shared
}

// message asks the leader of a stream for a message; at is 0 if there is none.
func (f *Forwarder) message(ctx context.Context, stream string, req getMsg) (m stored, err error) {
	var resp struct {
		Message struct {
			Subject string `json:"subject"`
			Seq     uint64 `json:"seq"`
			Header  []byte `json:"hdrs"` // base64
		} `json:"message"`
	}
	err = f.ask(ctx, "STREAM.MSG.GET."+stream, req, &resp)
	var refused *apiError
	switch {
	case errors.As(err, &refused) && refused.ErrCode == noMessage:
		return stored{}, nil
	case err != nil:
		return stored{}, fmt.Errorf("ask stream %q for a message: %w", stream, err)
	}
	m.at, m.subject = resp.Message.Seq, resp.Message.Subject
	m.rollup = string(headerValue(resp.Message.Header, []byte("Nats-Rollup")))
	epoch, seq, named := f.parseID(headerValue(resp.Message.Header, msgID))
	m.epoch, m.seq, m.ours = epoch, seq, named && f.s.made(epoch)
	if mark := f.l.getMark(); (!named || !m.ours && mark.At > 0 && m.at > mark.At) && !(req.anyone && !f.asksFor(m.subject)) {
		f.mu.Lock()
		f.foreign[stream] = true // a store that was here before this one wrote nothing behind it
		f.mu.Unlock()
		f.l.noteForeign(stream)
	}
	return m, nil
}

// parseID reads an id of this gateway, under the name that it has or one that it had.
func (f *Forwarder) parseID(id []byte) (epoch, seq uint64, ok bool) {
	for _, origin := range f.origins {
		if epoch, seq, ok = parseID(id, origin); ok {
			return epoch, seq, true
		}
	}
	return 0, 0, false
}

// parseID is the reverse of appendID for ids of one origin.
func parseID(id, origin []byte) (epoch, seq uint64, ok bool) {
	rest, ok := bytes.CutPrefix(id, origin)
	if !ok || len(rest) == 0 || rest[0] != '.' {
		return 0, 0, false
	}
	e, s, _ := bytes.Cut(rest[1:], []byte("."))
	epoch, ok1 := parseUint(e)
	seq, ok2 := parseUint(s)
	return epoch, seq, ok1 && ok2
}

// ask sends one request to the hub's JetStream API and decodes the answer; the
// error may be an *apiError. Several may be under way at once.
func (f *Forwarder) ask(ctx context.Context, call string, req, resp any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	prefix := "$JS.API."
	if domain := f.jsDomain(); domain != "" {
		prefix = "$JS." + domain + ".API."
	}
	number, answer := f.expectAnswer()
	defer f.forget(number)
	reply := strconv.AppendUint(append(slices.Clone(f.inbox), 'r'), number, 10)
	m := &msg.Msg{Subject: []byte(prefix + call), Reply: reply, Data: body}
	for range 5 { // a stream without a leader hears nothing
		if err := f.up.Send(m); err != nil {
			return err
		}
		f.up.Flush()
		m, err := f.hear(ctx, answer)
		switch {
		case err != nil:
			return err
		case m != nil:
			return decodeAnswer(m, resp)
		}
	}
	return errNoAnswer
}

// hear waits for an answer. nil: the hub has had a tenth of AckTimeout for it and more, all that it sent
// until then has come, and it is not there. On a line that moves an answer is waited for as long as it takes:
// to ask again would only put the same behind it once more.
func (f *Forwarder) hear(ctx context.Context, answer chan *msg.Msg) (*msg.Msg, error) {
	soon := f.o.AckTimeout / 10
	for range 2 { // a PONG tells that the hub has the question, the next that there is no answer
		pong := make(chan struct{})
		again := time.NewTimer(soon)
		defer again.Stop()
		for asked := false; pong != nil; {
			select {
			case m := <-answer:
				return m, nil
			case <-pong:
				pong = nil
			case <-again.C:
				if asked {
					f.waitLong()
				} else if err := f.ping(func() { close(pong) }); err != nil {
					return nil, err
				}
				asked = true
				again.Reset(2 * soon)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	select {
	case m := <-answer: // it came just before
		return m, nil
	default:
		return nil, nil
	}
}

// ping has answered called once the hub has had all that was sent so far, and what it sent until
// then has come. It is called by who receives it, and not at all if the link goes down first.
func (f *Forwarder) ping(answered func()) error {
	err := f.up.Ping(func(error) { answered() })
	f.up.Flush()
	return err
}

// waitLong says, while a session begins, what keeps an answer of the hub.
func (f *Forwarder) waitLong() {
	text := "an answer of the hub is on its way, on a line that is slow or carries much else"
	if quiet := f.up.Quiet(); quiet >= f.o.AckTimeout {
		text = fmt.Sprintf("no answer from JetStream on the hub, from which nothing at all has come for %v", quiet.Round(time.Second))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.st.State == Resuming {
		f.st.Detail = text
	}
}

// jsDomain is the JetStream domain of the hub; empty if it has none.
func (f *Forwarder) jsDomain() string {
	if f.o.Domain != "" {
		return f.o.Domain
	}
	domain, _ := f.up.Hub()
	return domain
}

func decodeAnswer(m *msg.Msg, resp any) error {
	if bytes.HasPrefix(m.Header, []byte("NATS/1.0 503")) {
		return errNoAnswer
	}
	var refused struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &refused); err != nil {
		return fmt.Errorf("%w: %w", errDecode, err)
	}
	if refused.Error != nil {
		return refused.Error
	}
	if err := json.Unmarshal(m.Data, resp); err != nil {
		return fmt.Errorf("%w: %w", errDecode, err)
	}
	return nil
}

// expectAnswer makes room for an answer, forget gives it back.
func (f *Forwarder) expectAnswer() (number uint64, answer chan *msg.Msg) {
	answer = make(chan *msg.Msg, 1)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.request++
	f.answers[f.request] = answer
	return f.request, answer
}

func (f *Forwarder) forget(number uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.answers, number)
}

// answered hands m to who asked request number.
func (f *Forwarder) answered(number uint64, m *msg.Msg) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.answers[number]; c != nil {
		c <- m.Clone() // holds one
		delete(f.answers, number)
	}
}
