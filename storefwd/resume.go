package storefwd

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/leafd/leafd/internal/msg"
)

// This file finds out what the hub has, before anything is sent to it.

// position is how far one stream has come in our log.
type position struct {
	filters []string
	upTo    uint64 // 0 if it is not known
}

// resume finds the stream, asks it for the last message it has of ours and
// acknowledges everything up to that. It does not end while there is no stream.
func (f *Forwarder) resume(ctx context.Context) error {
	streams, err := f.findStreams(ctx)
	if err != nil {
		return err
	}
	var names []string
	shared := false
	at := map[string]*position{}
	for i, filter := range f.o.Filters {
		for _, name := range streams[i] {
			p := at[name]
			if p == nil {
				p = &position{}
				at[name] = p
				names = append(names, name)
			}
			p.filters = append(p.filters, filter)
			upTo, ours, err := f.last(ctx, name, filter)
			if err != nil {
				return fmt.Errorf("ask stream %q for its last message: %w", name, err)
			}
			p.upTo = max(p.upTo, upTo)
			shared = shared || !ours || len(streams[i]) > 1
		}
	}
	f.mu.Lock()
	f.st.Stream, f.st.Shared = strings.Join(names, ", "), shared
	f.mu.Unlock()
	before := f.l.acknowledged()
	err = f.ackStored(at, shared && slices.ContainsFunc(streams, func(s []string) bool { return len(s) > 1 }))
	f.c.reset()
	f.mu.Lock()
	f.st.Resumed += uint64(max(0, f.l.acknowledged()-before))
	f.mu.Unlock()
	return err
}

// ackStored acknowledges what the streams at these positions have. One stream has
// all up to its position, since it got all in order; of several, each has what its
// filters match.
func (f *Forwarder) ackStored(at map[string]*position, ambiguous bool) error {
	if ambiguous {
		return nil // several streams share a filter: no telling which has what
	}
	low, high := uint64(1<<64-1), uint64(0)
	for _, p := range at {
		low, high = min(low, p.upTo), max(high, p.upTo)
	}
	f.mu.Lock()
	holes := make(map[uint64]int, len(f.holes))
	for seq, n := range f.holes {
		holes[seq] = n
	}
	f.mu.Unlock()
	f.c.ackTo(low, holes)
	for from := low + 1; from <= high; {
		recs, err := f.l.read(nil, from, high, readBytes)
		if err != nil || len(recs) == 0 {
			return err
		}
		for _, r := range recs {
			if _, hole := holes[r.Seq]; !hole && stored(at, &r) {
				f.c.Ack(r.Seq)
			}
			from = r.Seq + 1
		}
	}
	return nil
}

func stored(at map[string]*position, r *Record) bool {
	subject := string(r.Subject)
	for _, p := range at {
		if r.Seq <= p.upTo && slices.ContainsFunc(p.filters, func(f string) bool { return msg.Match(f, subject) }) {
			return true
		}
	}
	return false
}

// findStreams asks which streams capture each filter, until every one has one.
func (f *Forwarder) findStreams(ctx context.Context) (streams [][]string, err error) {
	pause := f.o.RetryMin
	for {
		streams = streams[:0]
		missing := ""
		for _, filter := range f.o.Filters {
			names, err := f.streamNames(ctx, filter)
			if err != nil {
				return nil, err
			}
			if len(names) == 0 {
				missing = filter
			}
			streams = append(streams, names)
		}
		if missing == "" {
			return streams, nil
		}
		f.noStream(missing)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
			pause = min(2*pause, f.o.RetryMax)
		}
	}
}

func (f *Forwarder) noStream(filter string) {
	name := strings.ToUpper(strings.FieldsFunc(filter+".OUTBOX", func(r rune) bool { return strings.ContainsRune(".*>$ /\\", r) })[0])
	text := fmt.Sprintf("no stream on the hub captures %s; create one there, for example: nats stream add %s --subjects '%s' --defaults", filter, name, filter)
	f.setState(NoStream, text)
	if f.quiet != text {
		f.quiet = text
		f.o.Logger.Warn("forwarder: "+text, "log", f.l.name)
	}
}

func (f *Forwarder) streamNames(ctx context.Context, filter string) ([]string, error) {
	if f.o.Stream != "" {
		return []string{f.o.Stream}, nil
	}
	var resp struct {
		Streams []string  `json:"streams"`
		Error   *apiError `json:"error"`
	}
	if err := f.ask(ctx, "STREAM.NAMES", map[string]string{"subject": filter}, &resp); err != nil {
		return nil, err
	}
	if resp.Error != nil {
		return nil, fmt.Errorf("find the stream of %s: %w", filter, resp.Error)
	}
	return resp.Streams, nil
}

// last asks a stream for the last message that filter matches. ours is false if
// that is of another source, and so says nothing about our log.
func (f *Forwarder) last(ctx context.Context, stream, filter string) (upTo uint64, ours bool, err error) {
	var resp struct {
		Message struct {
			Header string `json:"hdrs"` // base64
		} `json:"message"`
		Error *apiError `json:"error"`
	}
	if err := f.ask(ctx, "STREAM.MSG.GET."+stream, map[string]string{"last_by_subj": filter}, &resp); err != nil {
		return 0, false, err
	}
	switch {
	case resp.Error != nil && resp.Error.ErrCode == 10037: // no message found
		return 0, true, nil
	case resp.Error != nil:
		return 0, false, resp.Error
	}
	header, err := base64.StdEncoding.DecodeString(resp.Message.Header)
	if err != nil {
		return 0, false, fmt.Errorf("header of the last message: %w", err)
	}
	epoch, seq, ok := parseID(headerID(header), f.origin)
	if !ok {
		return 0, false, nil
	}
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	upTo, ours = f.l.upTo(epoch, seq)
	return upTo, ours, nil
}

// headerID is the value of Nats-Msg-Id in a header block.
func headerID(header []byte) []byte {
	for line := range bytes.SplitSeq(header, crlf) {
		if name, value, ok := bytes.Cut(line, []byte(":")); ok && bytes.Equal(name, msgID) {
			return bytes.TrimSpace(value)
		}
	}
	return nil
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

var errNoAnswer = errors.New("no answer from JetStream on the hub; is it enabled there, for this account and domain?")

// ask sends one request to the hub's JetStream API and decodes the answer.
func (f *Forwarder) ask(ctx context.Context, call string, req, resp any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	domain, _ := f.up.Hub()
	if f.o.Domain != "" {
		domain = f.o.Domain
	}
	prefix := "$JS.API."
	if domain != "" {
		prefix = "$JS." + domain + ".API."
	}
	answer := make(chan *msg.Msg, 1)
	f.mu.Lock()
	f.request++
	f.answer = answer
	reply := strconv.AppendUint(append(slices.Clone(f.inbox), 'r'), f.request, 10)
	f.mu.Unlock()
	if err := f.up.Send(&msg.Msg{Subject: []byte(prefix + call), Reply: reply, Data: body}); err != nil {
		return err
	}
	f.up.Flush()
	select {
	case m := <-answer:
		if bytes.HasPrefix(m.Header, []byte("NATS/1.0 503")) {
			return errNoAnswer
		}
		if err := json.Unmarshal(m.Data, resp); err != nil {
			return fmt.Errorf("answer to %s: %w", call, err)
		}
		return nil
	case <-time.After(f.o.AckTimeout):
		return errNoAnswer
	case <-ctx.Done():
		return ctx.Err()
	}
}

// acknowledged counts the records acknowledged since Open.
func (l *Log) acknowledged() int64 {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return int64(l.acked)
}
